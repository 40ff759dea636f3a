"""What people take away: tags, manifests, blobs. All through the door, none past a seal (promise 6).

Deleting by digest takes the tags that mean it along. Rows go; bytes of blobs go later, when no row of any repository
names them (`server.storage.garbage_collection`). What merely speaks of a sealed image (a signature, an SBOM) may be taken back for a day
by whoever pushed it, and by an admin at any time; that is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.errors import ErrorCode, SealedDelete
from boltseal.ledger.entry import EntryKind
from boltseal.policy import refusal_message
from boltseal.server.registry import sequencer
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.registry.preconditions import check_conditions
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown
from boltseal.server.storage.metadata import queries

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import Conditions
    from boltseal.server.registry.refusals import RefusalLog
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
    from boltseal.server.storage.metadata.queries import ManifestRow

TAKE_BACK_US: Final = 24 * 3600 * 1_000_000


class ContentProtected(SealedDelete):
    """A seal covers this manifest or blob."""

    code: ClassVar[ErrorCode | None] = ErrorCode.DENIED


class Deletes:
    """Every delete that comes over the wire."""

    def __init__(self, database: Metadata, door: TagWriter, refusals: RefusalLog) -> None:
        self._database = database
        self._door = door
        self._refusals = refusals

    async def tag(self, repository: Repository, tag: Tag, conditions: Conditions, actor: Actor) -> None:
        """Take a tag away (end-9); what it meant stays pullable by digest. ManifestUnknown, TagProtected, ..."""

        def job(tx: UnitOfWork) -> None:
            place = self._place(tx, repository)
            if place is None or not self._door.delete(tx, place, tag, actor, conditions):
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")

        with self._refusals.told("delete", repository, (tag,), None, actor):
            await self._database.write(job)

    async def manifest(self, repository: Repository, digest: Digest, conditions: Conditions, actor: Actor) -> None:
        """Take a manifest away, and every tag that means it (end-9). ManifestUnknown, ContentProtected, TagProtected."""

        def job(tx: UnitOfWork) -> None:
            place = self._place(tx, repository)
            row = None if place is None else queries.find_manifest(tx, place.id, str(digest))
            if place is None or row is None:
                raise ManifestUnknown(f"{repository} holds no manifest {digest}")
            check_conditions(conditions, f"manifest {digest.short}", row.digest)
            taken_back = self._check_manifest(tx, place, digest, row, actor)
            self._door.delete_meaning(tx, place, digest, actor)
            tx.invalidates_caches = True
            queries.remove_manifest(tx, place.id, row.digest)
            if taken_back is not None:
                self._record_taken_back(tx, place, row, taken_back, actor)

        with self._refusals.told("delete", repository, (), digest, actor):
            await self._database.write(job)

    async def blob(self, repository: Repository, digest: Digest, actor: Actor) -> None:
        """Let the repository hold a blob no more (end-10). BlobUnknown, ContentProtected."""

        def job(tx: UnitOfWork) -> None:
            place = self._place(tx, repository)
            if place is None or queries.blob_size(tx, place.id, str(digest)) is None:
                raise BlobUnknown(f"{repository} holds no blob {digest}")
            keeping = self._door.protectors(tx, place, digest, through_subjects=True)
            if keeping:
                raise ContentProtected(refusal_message.delete_protected("blob", digest, repository, keeping))
            tx.invalidates_caches = True
            queries.remove_blob(tx, place.id, str(digest))

        with self._refusals.told("delete", repository, (), digest, actor):
            await self._database.write(job)

    def _check_manifest(
        self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, row: ManifestRow, actor: Actor
    ) -> str | None:
        """Refuse what a seal covers. Returns the sealed subject when this is a referrer that may be taken back."""
        keeping = self._door.protectors(tx, place, digest, through_subjects=False)
        if keeping:
            directly = self._door.own_protectors(tx, place, digest)
            deletable = self._door.deletable(tx, place, digest)
            raise ContentProtected(
                refusal_message.delete_protected("manifest", digest, place.repository, keeping, directly, deletable)
            )
        keeping = self._door.protectors(tx, place, digest, through_subjects=True)
        if not keeping:
            return None
        if row.subject is None:
            raise ContentProtected(refusal_message.delete_signature(digest, place.repository, keeping))
        own = row.pushed_by == actor.name and tx.now_us - row.pushed_us < TAKE_BACK_US
        if not own and not actor.admin:
            raise ContentProtected(refusal_message.delete_referrer(digest, place.repository, keeping))
        return row.subject

    def _record_taken_back(
        self, tx: UnitOfWork, place: RepositoryRow, row: ManifestRow, subject: str, actor: Actor
    ) -> None:
        sequencer.append(
            tx,
            EntryKind.TAG_DELETED,
            repository=place.repository,
            digest=row.digest,
            media_type=row.media_type,
            size_bytes=row.size,
            actor=actor.name,
            reason="a referrer of a sealed image was taken back",
            extra={"subject": subject},
        )

    def _place(self, tx: UnitOfWork, repository: Repository) -> RepositoryRow | None:
        found = queries.lock_repository(tx, repository)
        return None if found is None else RepositoryRow(repository, found)
