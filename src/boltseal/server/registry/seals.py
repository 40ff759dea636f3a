"""What an admin may do to a seal: put one on, lift its protection, purge what must not exist, let what is over expire.

Each is recorded with its reason. None of them lets a sealed name mean something else, ever. These calls are made by
the offline verbs, on the data folder, beside a running server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from boltseal.errors import ErrorCode, Invalid, SealedDelete
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy import refusal_message
from boltseal.server.registry import sequencer
from boltseal.server.registry.models import RepositoryRow
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.storage.metadata import queries

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from boltseal.oci.reference import Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import EntryResult
    from boltseal.server.registry.tag_writer import TagWriter
    from boltseal.server.storage.blobs.protocol import BlobStore, StoredBlob
    from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork


class NeverSealed(Invalid):
    """The tag floats, so there is no seal to lift."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_INVALID


class PartOfSealed(SealedDelete):
    """What is to be purged is part of another sealed image."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    `kept`: parts that stay because something else in the repository needs them, with what that is. `elsewhere`: what
    went here and other repositories hold too, with what it is there: they are walls, so a purge ends at them.
    """

    digest: Digest
    tags: tuple[Tag, ...]
    manifests: tuple[Digest, ...]
    blobs: tuple[Digest, ...]
    kept: tuple[tuple[Digest, str], ...]
    elsewhere: tuple[tuple[Repository, Digest, str], ...]


class Seals:
    """The admin's side of the door."""

    def __init__(self, database: Metadata, blobs: BlobStore, door: TagWriter) -> None:
        self._database = database
        self._blobs = blobs
        self._door = door

    async def seal(self, repository: Repository, tag: Tag, actor: Actor, reason: str) -> EntryResult:
        """Bind a tag to what it means and protect it for ever. ManifestUnknown, ReferencesMissing."""
        return await self._change(repository, tag, lambda tx, place: self._door.seal(tx, place, tag, actor, reason))

    async def unseal(self, repository: Repository, tag: Tag, actor: Actor, reason: str) -> EntryResult:
        """Allow a sealed tag to be deleted; it still can't move. ManifestUnknown, NeverSealed."""

        def job(tx: UnitOfWork, place: RepositoryRow) -> EntryResult | None:
            standing = self._door.unseal(tx, place, tag, actor, reason)
            if standing is None and self._door.meaning(tx, place, tag) is not None:
                raise NeverSealed(f"tag {tag} of {repository} was never sealed: there is nothing to unseal")
            return standing

        return await self._change(repository, tag, job)

    async def purge(self, repository: Repository, reference: Tag | Digest, actor: Actor, reason: str) -> Purged:
        """Remove a manifest, its tags and every part that nothing else needs, bytes included; names stay bound.

        A manifest is gone when it is gone by all of its digests. A signature of a sealed image is not a part.
        ManifestUnknown; PartOfSealed when another sealed image contains it: that one has to be purged first.
        """

        def job(tx: UnitOfWork) -> Purged:
            place = self._place(tx, repository)
            digest = reference if isinstance(reference, Digest) else self._door.meaning(tx, place, reference)
            if digest is None or queries.find_manifest(tx, place.id, str(digest)) is None:
                raise ManifestUnknown(f"{repository} holds no {reference}")
            return self._purge(tx, place, digest, actor, reason)

        purged = await self._database.write(job)
        await self._delete_bytes(purged.blobs)
        return purged

    async def expire(self, actor: Actor, *, dry_run: bool = False) -> list[tuple[Repository, Tag]]:
        """Take away the tags whose stated time to be kept is over; names stay bound. Returns those, also in a dry run."""

        def job(tx: UnitOfWork) -> list[tuple[Repository, Tag]]:
            return [
                (place.repository, tag)
                for place, tag in self._door.overdue(tx)
                if dry_run or self._door.expire(tx, place, tag, actor)
            ]

        return await self._database.write(job)

    async def _change(
        self, repository: Repository, tag: Tag, change: Callable[[UnitOfWork, RepositoryRow], EntryResult | None]
    ) -> EntryResult:
        def job(tx: UnitOfWork) -> EntryResult:
            standing = change(tx, self._place(tx, repository))
            if standing is None:
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")
            return standing

        return await self._database.write(job)

    def _place(self, tx: UnitOfWork, repository: Repository) -> RepositoryRow:
        found = queries.lock_repository(tx, repository)
        if found is None:
            raise ManifestUnknown(f"nothing was ever pushed to {repository}")
        return RepositoryRow(repository, found)

    def _purge(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, actor: Actor, reason: str) -> Purged:
        twins = self._twins(tx, place, digest)
        tags = tuple(tag for twin in twins for tag in self._door.purge_meaning(tx, place, twin, actor, reason))
        self._refuse_part_of_sealed(tx, place, twins)
        if not tags:  # no tag's entry tells of it, so one of its own does
            self._record(tx, place, digest, actor, reason)
        tx.invalidates_caches = True
        under = {Digest.parse(text) for text in queries.digests(tx, queries.closure(place.id, str(digest)))}
        manifests, blobs, kept = [*twins], [], []
        for twin in twins:
            queries.remove_manifest(tx, place.id, str(twin))
        waiting = under - set(twins)
        while True:  # a part goes when nothing that is left contains it; each round may free parts of the next level
            freed = {part for part in waiting if not queries.parents(tx, place.id, str(part))}
            if not freed:
                break
            waiting -= freed
            for part in sorted(freed):
                if queries.find_manifest(tx, place.id, str(part)) is not None:
                    needed = self._needed_beyond(tx, place, part)
                    if needed is not None:
                        kept.append((part, needed))
                        continue
                    queries.remove_manifest(tx, place.id, str(part))
                    manifests.append(part)
                elif queries.blob_size(tx, place.id, str(part)) is not None:
                    queries.remove_blob(tx, place.id, str(part))
                    blobs.append(part)
        kept += ((part, f"it is also part of {self._parent(tx, place, part)}") for part in sorted(waiting))
        elsewhere = self._elsewhere(tx, (*manifests, *blobs))
        return Purged(digest, tags, tuple(manifests), tuple(blobs), tuple(kept), tuple(elsewhere))

    def _parent(self, tx: UnitOfWork, place: RepositoryRow, part: Digest) -> str | None:
        """One manifest that contains it, with a tag that means that; None when nothing does."""
        parents = queries.parents(tx, place.id, str(part))
        if not parents:
            return None
        parent = min(parents)
        name = self._door.first_name(tx, place, Digest.parse(parent))
        return parent if name is None else f"{parent} (tag {name})"

    def _elsewhere(self, tx: UnitOfWork, gone: Collection[Digest]) -> Iterator[tuple[Repository, Digest, str]]:
        for number, name, text in queries.rows_of_any_repository(tx, [str(digest) for digest in gone]):
            place, digest = RepositoryRow(Repository(name), number), Digest.parse(text)
            parent = self._parent(tx, place, digest)
            yield place.repository, digest, f"{name} holds it too" + (f", as part of {parent}" if parent else "")

    def _refuse_part_of_sealed(self, tx: UnitOfWork, place: RepositoryRow, twins: list[Digest]) -> None:
        """Its own tags are gone by now, so what seals it still is something that contains it."""
        for twin in twins:
            keeping = self._door.protectors(tx, place, twin, through_subjects=False)
            if keeping:
                raise PartOfSealed(refusal_message.delete_protected("manifest", twin, place.repository, keeping))

    def _needed_beyond(self, tx: UnitOfWork, place: RepositoryRow, part: Digest) -> str | None:
        """What else than its parents wants a manifest to stay, in words; None: nothing does."""
        name = self._door.first_name(tx, place, part)
        if name is not None:
            return f"tag {name} means it"
        signed = self._door.protectors(tx, place, part, through_subjects=True)
        return f"it speaks of what tag {signed.first[0]} seals" if signed else None

    def _twins(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest) -> list[Digest]:
        """The digest itself, then every other digest under which the same bytes are held."""
        row = queries.find_manifest(tx, place.id, str(digest))
        called = [] if row is None else queries.digests_of_bytes(tx, place.id, row.canonical)
        return [digest, *(other for other in map(Digest.parse, called) if other != digest)]

    def _record(self, tx: UnitOfWork, place: RepositoryRow, digest: Digest, actor: Actor, reason: str) -> None:
        held = queries.find_manifest(tx, place.id, str(digest))
        sequencer.append(
            tx,
            EntryKind.TAG_PURGED,
            repository=place.repository,
            digest=str(digest),
            media_type=held.media_type if held is not None else "",
            size_bytes=held.size if held is not None else 0,
            actor=actor.name,
            reason=reason,
        )

    async def _delete_bytes(self, digests: Iterable[Digest]) -> None:
        """Delete the bytes of blobs that no row of any repository refers to.

        After the transaction that removed the rows, because a deletion can't be rolled back. An upload that stored the same
        bytes before `release_again` gets no row (`uploads`); one that stores them after it has another version.
        """
        stored = [found for digest in digests if (found := await self._blobs.stat(digest)) is not None]

        def job(tx: UnitOfWork) -> list[StoredBlob]:
            return [found for found in stored if queries.release_again(tx, str(found.digest))]

        for found in await self._database.write(job):
            await self._blobs.delete(found)
