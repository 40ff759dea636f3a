"""Deletion of tags, manifests and blobs over HTTP. The tag writer decides; nothing that a seal covers goes (guarantee 6).

Deleting a manifest by digest deletes the tags that resolve to it. Rows go at once. The bytes of a blob go later, when no
row of any repository references them (`server.storage.garbage_collection`). A referrer of a sealed image (a signature,
an SBOM) can be deleted by its pusher for 24 hours, and by an admin at any time; the ledger records that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import refusal_message
from boltseal.policy.refusal_message import SomeTags
from boltseal.policy.refusals import RefusalDetail, RefusalReason
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.absent_tags import consistently
from boltseal.server.registry.models import Conditions, RepositoryRow
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.tag_refusals import ContentProtected
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.batches import batches
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.queries import ManifestRow

REFERRER_DELETE_US: Final = 24 * 3600 * 1_000_000
CHECKED_AT_ONCE: Final = 100
"""Signature tags that one transaction checks: each names another image, whose seals are looked up."""


class _StoredManifest(NamedTuple):
    """A manifest that the repository has."""

    repository: RepositoryRow
    manifest: ManifestRow


class Deletes:
    """Every delete request of the distribution API."""

    def __init__(self, database: Metadata, tag_writer: TagWriter, refusals: RefusalLog) -> None:
        self._database = database
        self._tag_writer = tag_writer
        self._refusals = refusals

    async def tag(self, repository: Repository, tag: Tag, conditions: Conditions, actor: Actor) -> None:
        """Delete a tag (end-9); its manifest stays pullable by digest.

        Raises:
            ManifestUnknown: there is no such tag.
            Precondition, SealedDelete: as `TagWriter.delete`.
        """

        def job(tx: UnitOfWork) -> None:
            row = _find(tx, repository)
            if row is None:
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")
            change = self._tag_writer.change(tx, row, tag, actor, conditions=conditions)
            if not self._tag_writer.delete(tx, change):
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")

        async with consistently(self._database, repository, tag):
            with self._refusals.logged("delete", repository, (tag,), None, actor):
                await self._database.write(job, repository=repository)

    async def manifest(self, repository: Repository, digest: Digest, conditions: Conditions, actor: Actor) -> None:
        """Delete a manifest and every tag that resolves to it (end-9).

        If there are many tags, each transaction deletes some, the last one the manifest. The first and the last check whether a
        seal covers the manifest; each checks the tags that it deletes. Tags of signature tools, which another image's seal may protect,
        are all checked before any tag is deleted.

        Raises:
            ManifestUnknown: the repository has no such manifest.
            Precondition: a precondition does not hold.
            SealedDelete: a seal covers the manifest or protects one of its tags.
        """

        def check(tx: UnitOfWork, names: Sequence[str]) -> None:
            row, manifest = self._find_manifest(tx, repository, digest, conditions)
            self._check_manifest(tx, row, digest, manifest, actor)
            self._tag_writer.check_deletable(tx, row, names)

        def job(tx: UnitOfWork, *, first: bool) -> bool:
            """Return whether the manifest is deleted, and not only some of its tags."""
            row, manifest = self._find_manifest(tx, repository, digest, conditions)
            sealed_subject = self._check_manifest(tx, row, digest, manifest, actor) if first else None
            if not self._tag_writer.delete_tags_at(tx, row, digest, actor):
                return False
            if not first:  # its own tags are deleted now, and none of them was protected
                sealed_subject = self._check_manifest(tx, row, digest, manifest, actor)
            tx.invalidates_caches = True
            queries.remove_manifest(tx, row.id, manifest.digest)
            if sealed_subject is not None:
                sequencer.append(
                    tx,
                    EntryKind.TAG_DELETED,
                    repository=repository,
                    digest=manifest.digest,
                    media_type=manifest.media_type,
                    size_bytes=manifest.size,
                    actor=actor.recorded,
                    reason="a referrer of a sealed image was taken back",
                    extra={"subject": sealed_subject},
                )
            return True

        with self._refusals.logged("delete", repository, (), digest, actor):
            signing = await self._database.read(
                lambda snapshot: self._tag_writer.signature_tags_at(snapshot, repository, digest)
            )
            for names in batches(signing, CHECKED_AT_ONCE):
                await self._database.write(partial(check, names=names), durable=False, repository=repository)
            first = True
            while not await self._database.write(partial(job, first=first), repository=repository):
                first = False

    async def blob(self, repository: Repository, digest: Digest, actor: Actor) -> None:
        """Remove a blob from the repository (end-10).

        Raises:
            BlobUnknown: the repository has no such blob.
            SealedDelete: a seal covers it.
        """

        def job(tx: UnitOfWork) -> None:
            row = _find(tx, repository)
            found = None if row is None else queries.find_blob(tx, row.id, str(digest))
            if row is None or found is None or found.hidden:
                raise BlobUnknown(f"{repository} has no blob {digest}")
            protecting = self._tag_writer.protecting_tags(tx, row, digest, through_subjects=True)
            if protecting:
                message = refusal_message.delete_protected("blob", digest, repository, protecting)
                raise ContentProtected(message, _protected(digest, protecting))
            tx.invalidates_caches = True
            queries.remove_blob(tx, row.id, str(digest))

        with self._refusals.logged("delete", repository, (), digest, actor):
            await self._database.write(job, repository=repository)

    def _find_manifest(
        self, tx: UnitOfWork, repository: Repository, digest: Digest, conditions: Conditions
    ) -> _StoredManifest:
        """Return a manifest of the repository. Raises: ManifestUnknown, Precondition."""
        row = _find(tx, repository)
        manifest = None if row is None else queries.find_manifest(tx, row.id, str(digest))
        if row is None or manifest is None:
            raise ManifestUnknown(f"{repository} has no manifest {digest}")
        conditions.check(f"manifest {digest.short}", digest)
        return _StoredManifest(row, manifest)

    def _check_manifest(
        self, tx: UnitOfWork, repository: RepositoryRow, digest: Digest, row: ManifestRow, actor: Actor
    ) -> str | None:
        """Refuse a manifest that a seal covers. Return the sealed subject when this is a referrer that may be deleted."""
        writer = self._tag_writer
        protecting = writer.protecting_tags(tx, repository, digest, through_subjects=False)
        if protecting:
            own = writer.protecting_tags_at(tx, repository, digest)
            deletable = writer.deletable_tags_at(tx, repository, digest)
            message = refusal_message.delete_protected("manifest", digest, repository.name, protecting, own, deletable)
            raise ContentProtected(message, _protected(digest, own or protecting))
        protecting = writer.protecting_tags(tx, repository, digest, through_subjects=True)
        if not protecting:
            return None
        if row.subject is None:
            message = refusal_message.delete_signature(digest, repository.name, protecting)
            raise ContentProtected(message, _protected(digest, protecting))
        own_recent = row.pushed_by == actor.name and tx.now_us - row.pushed_us < REFERRER_DELETE_US
        if not own_recent and not actor.admin:
            message = refusal_message.delete_referrer(digest, repository.name, protecting)
            raise ContentProtected(message, _protected(digest, protecting))
        return row.subject


def _protected(digest: Digest, protecting: SomeTags) -> RefusalDetail:
    return RefusalDetail(RefusalReason.PROTECTED, protecting.first[0], digest)


def _find(tx: UnitOfWork, repository: Repository) -> RepositoryRow | None:
    number = queries.lock_repository(tx, repository)
    return None if number is None else RepositoryRow(repository, number)
