"""Operations of an admin on sealed tags: seal, unseal, purge, expire.

The ledger records each with its reason. None of them lets a sealed tag resolve to another manifest. The offline commands
call these on the data folder, beside a running server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from boltseal.errors import ErrorCode, Invalid, Precondition, Unavailable
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import refusal_message
from boltseal.policy.refusals import RefusalDetail, RefusalReason
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.absent_tags import consistently
from boltseal.server.registry.dry_run import undone
from boltseal.server.registry.host_reports import why_running
from boltseal.server.registry.models import UNCONDITIONAL, Conditions, RepositoryRow, TagChange
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.registry.seal_results import (
    ConfirmedPurge,
    ExpiredTag,
    Expiry,
    KeptPart,
    KeptTag,
    OtherCopy,
    Purged,
    SealChange,
)
from boltseal.server.registry.tag_refusals import ContentProtected
from boltseal.server.registry.tag_writer import TAGS_AT_ONCE, OverdueTag, TagWriter
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.protocol import BlobStore, StoreBroken, StoredBlob
from boltseal.server.storage.metadata import image_parts, links, queries, unreferenced
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.tag_states import StoredTag

MAX_LISTED: Final = 20
"""Tags that a message lists."""


class NeverSealed(Invalid):
    """The tag is mutable, so there is no seal to lift."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_INVALID


class BytesLeft(Unavailable):
    """A purge removed the rows of an image, but not all of its bytes."""


class PurgeTargetChanged(Precondition):
    """The purge would delete another image, other tags, or further parts than a person confirmed."""


@dataclass(frozen=True, slots=True)
class _PurgeStep:
    """The result of one transaction of a purge: the tags that it deleted, and at the end everything."""

    digest: Digest
    tags: list[Tag]
    purged: Purged | None = None


class _Planned(Exception):
    """Rolls a transaction back, and carries what it would have changed. `twins`: the digests of the image in `row`."""

    def __init__(self, row: RepositoryRow, twins: list[Digest], purged: Purged) -> None:
        super().__init__()
        self.row = row
        self.twins = twins
        self.purged = purged


class Seals:
    """Runs the admin operations, each in one transaction."""

    def __init__(self, database: Metadata, blobs: BlobStore, tag_writer: TagWriter) -> None:
        self._database = database
        self._blobs = blobs
        self._tag_writer = tag_writer

    async def seal(
        self,
        repository: Repository,
        tag: Tag,
        actor: Actor,
        reason: str,
        *,
        conditions: Conditions = UNCONDITIONAL,
        dry_run: bool = False,
    ) -> SealChange:
        """Seal a tag at its current digest and protect it for ever. `dry_run`: only return what that would do.

        Raises:
            ManifestUnknown: there is no such tag.
            ConditionFailed: a condition does not hold.
            ReferencesMissing: the repository lacks content under the manifest.
        """

        def job(tx: UnitOfWork) -> SealChange:
            change = self._change(tx, repository, tag, actor, reason, conditions)
            result = self._tag_writer.seal(tx, change)
            if result is None or change.current is None:
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")
            return SealChange(change.current, result.changed, result.entry_index)

        async with consistently(self._database, repository, tag):
            return await self._database.write(undone(job) if dry_run else job, repository=repository)

    async def unseal(
        self,
        repository: Repository,
        tag: Tag,
        actor: Actor,
        reason: str,
        *,
        conditions: Conditions = UNCONDITIONAL,
        dry_run: bool = False,
    ) -> SealChange:
        """Allow a sealed tag to be deleted. It still cannot move. `dry_run`: only return what that would do.

        Raises:
            ManifestUnknown: there is no such tag.
            ConditionFailed: a condition does not hold.
            NeverSealed: the tag is mutable.
        """

        def job(tx: UnitOfWork) -> SealChange:
            change = self._change(tx, repository, tag, actor, reason, conditions)
            result = self._tag_writer.unseal(tx, change)
            if change.current is None:
                raise ManifestUnknown(f"there is no tag {tag} in {repository}")
            if result is None:
                raise NeverSealed(f"tag {tag} of {repository} was never sealed: there is nothing to unseal")
            return SealChange(change.current, result.changed, result.entry_index)

        async with consistently(self._database, repository, tag):
            return await self._database.write(undone(job) if dry_run else job, repository=repository)

    async def plan_purge(self, repository: Repository, reference: Tag | Digest, actor: Actor) -> Purged:
        """Return what `purge` would delete now; changes nothing. Raises: as `purge`, except BytesLeft."""

        def job(tx: UnitOfWork) -> Purged:
            row, digest = self._find_image(tx, repository, reference)
            twins = _all_digests(tx, row, digest)
            tagged = [tag for twin in twins if (tag := self._tag_writer.first_tag_at(tx, row, twin)) is not None]
            raise _Planned(row, twins, self._purge_image(tx, row, twins, tagged, actor, "planned"))

        try:
            return await self._database.write(job, repository=repository)
        except _Planned as planned:  # it rolled the transaction back
            found = planned

        def all_tags(snapshot: Snapshot) -> tuple[Tag, ...]:  # any number, so not in a write
            return tuple(tag for twin in found.twins for tag in self._tag_writer.tags_at(snapshot, found.row, twin))

        tags = await self._database.read(all_tags)
        return await self._with_copies(repository, replace(found.purged, tags=tags))

    async def purge(
        self,
        repository: Repository,
        reference: Tag | Digest,
        actor: Actor,
        reason: str,
        *,
        confirmed: ConfirmedPurge | None = None,
    ) -> Purged:
        """Delete a manifest, its tags, and every part that nothing else needs, with the bytes. Tags stay sealed.

        This deletes the manifest under all of its digests. A signature of a sealed image is not a part of that image.
        If there are many tags, each transaction deletes some, the last one the rest. `confirmed`: nothing else may be purged.

        Raises:
            PurgeTargetChanged: it would delete another image, other tags, or further parts than the confirmed ones.
            ManifestUnknown: the repository has no such manifest.
            SealedDelete: another sealed image contains it; that one has to be purged first.
            BytesLeft: the image is removed, but the store failed to delete some of its bytes.
        """

        gone: list[Tag] = []
        digest: Digest | None = None

        def job(tx: UnitOfWork) -> _PurgeStep:
            row, found = self._find_image(tx, repository, digest or reference)
            return self._purge_step(tx, row, found, gone, actor, reason, confirmed)

        while True:
            step = await self._database.write(job, repository=repository)
            if step.purged is not None:
                break
            digest, gone = step.digest, gone + step.tags
        await self._delete_bytes(step.purged.blobs)
        return await self._with_copies(repository, step.purged)

    async def expire(self, actor: Actor, *, dry_run: bool = False) -> Expiry:
        """Delete the tags whose keep time is over; they can return only with the same digest. `dry_run`: only return them.

        A tag whose image runs on a host, by its report of any age, stays.
        """

        # The time of a transaction, as every other decision about keep times has it.
        now_us = await self._database.write(lambda tx: tx.now_us)
        overdue = await self._database.read(lambda snapshot: self._tag_writer.overdue(snapshot, now_us))
        return await self._expire(overdue, actor, dry_run=dry_run)

    async def expire_some(self, tags: Iterable[StoredTag], actor: Actor, *, dry_run: bool) -> Expiry:
        """Do what `expire` does, for the overdue ones of these tags."""
        now_us = await self._database.write(lambda tx: tx.now_us)
        overdue = [
            OverdueTag(RepositoryRow(Repository(each.repository), each.repository_id), Tag(each.name))
            for each in tags
            if each.row.overdue_at(now_us)
        ]
        return await self._expire(overdue, actor, dry_run=dry_run)

    async def _expire(self, overdue: Sequence[OverdueTag], actor: Actor, *, dry_run: bool) -> Expiry:
        done = Expiry([], [])
        for some in batches(overdue, TAGS_AT_ONCE):

            def plan(snapshot: Snapshot, some: tuple[OverdueTag, ...] = some) -> Expiry:
                kept = list(self._kept(snapshot, some))
                staying = {(each.repository, each.tag) for each in kept}
                going = [ExpiredTag(row.name, tag) for row, tag in some if (row.name, tag) not in staying]
                return Expiry(going, kept)

            def job(tx: UnitOfWork, some: tuple[OverdueTag, ...] = some) -> Expiry:
                going, kept = plan(tx, some)
                names = frozenset(going)
                gone = [
                    ExpiredTag(row.name, tag)
                    for row, tag in some
                    if (row.name, tag) in names and self._tag_writer.expire(tx, row, tag, actor)
                ]
                return Expiry(gone, kept)

            found = await (self._database.read(plan) if dry_run else self._database.write(job))
            done.expired.extend(found.expired)
            done.kept.extend(found.kept)
        return done

    def _kept(self, snapshot: Snapshot, overdue: Iterable[OverdueTag]) -> Iterator[KeptTag]:
        for row, tag in overdue:
            digest = self._tag_writer.digest_of(snapshot, row, tag)
            reason = "" if digest is None else why_running(snapshot, row, digest)
            if reason:
                yield KeptTag(row.name, tag, reason)

    def _find_image(
        self, tx: UnitOfWork, repository: Repository, reference: Tag | Digest
    ) -> tuple[RepositoryRow, Digest]:
        row = _find(tx, repository)
        digest = reference if isinstance(reference, Digest) else self._tag_writer.digest_of(tx, row, reference)
        if digest is None or queries.find_manifest(tx, row.id, str(digest)) is None:
            raise ManifestUnknown(f"{repository} has no {reference}")
        return row, digest

    def _change(
        self, tx: UnitOfWork, repository: Repository, tag: Tag, actor: Actor, reason: str, conditions: Conditions
    ) -> TagChange:
        """Return a change of a tag whose conditions hold. Raises: ManifestUnknown, ConditionFailed, LedgerInDoubt."""
        change = self._tag_writer.change(tx, _find(tx, repository), tag, actor, reason=reason)
        conditions.check(f"tag {tag} of {repository}", change.current)
        return change

    def _purge_step(
        self,
        tx: UnitOfWork,
        repository: RepositoryRow,
        digest: Digest,
        gone: list[Tag],
        actor: Actor,
        reason: str,
        confirmed: ConfirmedPurge | None,
    ) -> _PurgeStep:
        """Delete some of the image's tags, or the last ones and the image. `gone`: the tags that earlier steps deleted."""
        twins = _all_digests(tx, repository, digest)
        self._refuse_part_of_sealed(tx, repository, twins)
        if confirmed is not None and not gone:
            every = [tag for twin in twins for tag in self._tag_writer.tags_at(tx, repository, twin)]
            _refuse_other_image(repository.name, digest, every, confirmed)
        tags: list[Tag] = []
        for twin in twins:
            tags += self._tag_writer.purge_tags_at(tx, repository, twin, actor, reason)
            if confirmed is not None and not confirmed.tags.issuperset(tags):
                raise PurgeTargetChanged(
                    f"{repository.name} has a new tag of {digest.short}; {len(gone)} tags were deleted; run the command again"
                )
            if self._tag_writer.first_tag_at(tx, repository, twin) is not None:
                return _PurgeStep(digest, tags)
        purged = self._purge_image(tx, repository, twins, [*gone, *tags], actor, reason)
        if confirmed is not None:
            _refuse_further_parts(repository.name, purged, confirmed, len(gone))
        unreferenced.note_purged(tx, [str(blob) for blob in purged.blobs])
        return _PurgeStep(digest, tags, purged)

    def _purge_image(
        self,
        tx: UnitOfWork,
        repository: RepositoryRow,
        twins: list[Digest],
        tags: list[Tag],
        actor: Actor,
        reason: str,
    ) -> Purged:
        """Delete a manifest and every part that nothing else needs. `tags`: resolve to it, or did until this purge."""
        digest = twins[0]
        self._refuse_part_of_sealed(tx, repository, twins)
        if not tags:  # no entry about a tag records this purge
            _record_purge(tx, repository, digest, actor, reason)
        tx.invalidates_caches = True
        waiting = links.digests(tx, links.closure(repository.id, str(digest)))
        removed = {str(twin) for twin in twins}
        waiting -= removed
        manifests, blobs, kept = [*twins], list[Digest](), list[KeptPart]()
        while removed:  # a part goes when nothing that is left contains it; each round can free parts of the next level
            below = image_parts.children(tx, repository.id, removed) & waiting
            image_parts.remove_manifests(tx, repository.id, removed)
            freed = below - image_parts.contained(tx, repository.id, below)
            waiting -= freed
            images = image_parts.manifests(tx, repository.id, freed)
            uses = self._other_uses(tx, repository, images, twins)
            kept += uses
            removed = images - {str(part.digest) for part in uses}
            manifests += sorted(map(Digest.parse, removed))
            unused = image_parts.blobs(tx, repository.id, freed - images)
            image_parts.remove_blobs(tx, repository.id, unused)
            blobs += sorted(map(Digest.parse, unused))
        kept += (
            KeptPart(part, f"it is also part of {self._parent(tx, repository, part)}")
            for part in sorted(map(Digest.parse, image_parts.contained(tx, repository.id, waiting)))
        )
        return Purged(digest, tuple(tags), tuple(manifests), tuple(blobs), tuple(kept), ())

    def _parent(self, snapshot: Snapshot, repository: RepositoryRow, part: Digest) -> str | None:
        """Describe one manifest that contains this part, with a tag that resolves to it; None when none does."""
        parent = links.parent(snapshot, repository.id, str(part))
        if parent is None:
            return None
        return parent.digest if parent.tag is None else f"{parent.digest} (tag {parent.tag})"

    async def _with_copies(self, purged_from: Repository, purged: Purged) -> Purged:
        """Return the result with the copies in other repositories. Every repository may have some, so after the transaction."""

        def query(snapshot: Snapshot) -> tuple[OtherCopy, ...]:
            return tuple(self._other_copies(snapshot, purged_from, (*purged.manifests, *purged.blobs)))

        return replace(purged, elsewhere=await self._database.read(query))

    def _other_copies(
        self, snapshot: Snapshot, purged_from: Repository, purged: Collection[Digest]
    ) -> Iterator[OtherCopy]:
        for row in queries.rows_of_any_repository(snapshot, [str(digest) for digest in purged]):
            if row.repository == purged_from:
                continue
            repository, digest = RepositoryRow(Repository(row.repository), row.repository_id), Digest.parse(row.digest)
            parent = self._parent(snapshot, repository, digest)
            part_of = f", as part of {parent}" if parent else ""
            yield OtherCopy(repository.name, digest, f"{repository.name} has it too{part_of}")

    def _refuse_part_of_sealed(self, tx: UnitOfWork, repository: RepositoryRow, twins: list[Digest]) -> None:
        """Refuse a manifest that another sealed image contains. The manifest's own tags are deleted with it."""
        for twin in twins:
            protecting = self._tag_writer.protecting_tags(tx, repository, twin, through_subjects=False, besides=twins)
            if protecting:
                message = refusal_message.delete_protected("manifest", twin, repository.name, protecting)
                raise ContentProtected(message, RefusalDetail(RefusalReason.PROTECTED, protecting.first[0], twin))

    def _other_uses(
        self, tx: UnitOfWork, repository: RepositoryRow, parts: Collection[str], twins: list[Digest]
    ) -> list[KeptPart]:
        """Return the manifests that something besides a parent, and the purged manifest, keeps, and what it is."""
        tagged = image_parts.tagged(tx, repository.id, parts)
        kept = [KeptPart(part, self._tag_use(tx, repository, part)) for part in sorted(map(Digest.parse, tagged))]
        others = set(parts) - tagged
        if not queries.has_aliases(tx, repository.id):  # else the tag of another digest of the same bytes may keep it
            others = image_parts.referring(tx, repository.id, others)
        for part in sorted(map(Digest.parse, others)):
            signed = self._tag_writer.protecting_tags(tx, repository, part, through_subjects=True, besides=twins)
            if signed:
                kept.append(KeptPart(part, f"it signs or describes the image sealed by tag {signed.first[0]}"))
        return kept

    def _tag_use(self, tx: UnitOfWork, repository: RepositoryRow, part: Digest) -> str:
        return f"tag {self._tag_writer.first_tag_at(tx, repository, part)} resolves to it"

    async def _delete_bytes(self, digests: Iterable[Digest]) -> None:
        """Delete the bytes of blobs that no row of any repository refers to.

        After the transaction that removed the rows, because a deletion can't be rolled back. An upload that stored the same
        bytes before `release_again` gets no row (`uploads`); one that stores them after it has another version. A failure to
        delete one blob does not keep the others.
        """
        stored: list[StoredBlob] = []
        left: dict[Digest, str] = {}
        digests = tuple(digests)
        for digest in digests:
            try:
                found = await self._blobs.stat(digest)
            except StoreBroken as error:
                left[digest] = error.message
            else:
                stored += [found] if found is not None else []

        def job(tx: UnitOfWork) -> list[StoredBlob]:
            return [found for found in stored if unreferenced.release_again(tx, str(found.digest))]

        for found in await self._database.write(job):
            try:
                await self._blobs.delete(found)
            except StoreBroken as error:
                left[found.digest] = error.message
        done = [str(digest) for digest in digests if digest not in left]
        if done:
            await self._database.write(lambda tx: unreferenced.forget_purged(tx, done))
        if left:
            raise BytesLeft(
                f"the image is removed, but the bytes of {', '.join(map(str, left))} are still stored "
                f"({next(iter(left.values()))}); the running server tries again every hour and at its start, `boltseal admin gc` at once"
            )


def _refuse_other_image(repository: Repository, digest: Digest, tags: list[Tag], confirmed: ConfirmedPurge) -> None:
    """Raise PurgeTargetChanged if a purge deletes another image, or other tags, than a person confirmed."""
    if digest != confirmed.digest:
        change = f"the tag of {repository} has moved to {digest} (expected {confirmed.digest})"
    elif confirmed.tags != set(tags):
        change = (
            f"the tags of {repository} have changed: {_listed(tags)} would go with it "
            f"(expected {_listed(sorted(confirmed.tags))})"
        )
    else:
        return
    raise PurgeTargetChanged(f"{change}; nothing was deleted; run the command again")


def _refuse_further_parts(repository: Repository, purged: Purged, confirmed: ConfirmedPurge, deleted_tags: int) -> None:
    """Raise PurgeTargetChanged if a purge would delete parts that a person has not confirmed, such as those of a later push.

    A confirmed part that stays, because something needs it now, does not refuse the purge: the result names it.
    """
    further = sorted({*purged.manifests, *purged.blobs} - confirmed.parts)
    if further:
        done = f"{deleted_tags} tags were deleted" if deleted_tags else "nothing was deleted"
        raise PurgeTargetChanged(
            f"the parts of {purged.digest.short} in {repository} have changed: {_listed(further)} would go with it as well; {done}; "
            "run the command again"
        )


def _listed(named: Sequence[Tag] | Sequence[Digest]) -> str:
    more = f" and {len(named) - MAX_LISTED} more" if len(named) > MAX_LISTED else ""
    return (", ".join(map(str, named[:MAX_LISTED])) or "no tag") + more


def _find(tx: UnitOfWork, repository: Repository) -> RepositoryRow:
    number = queries.lock_repository(tx, repository)
    if number is None:
        raise ManifestUnknown(f"nothing was ever pushed to {repository}")
    return RepositoryRow(repository, number)


def _all_digests(tx: UnitOfWork, repository: RepositoryRow, digest: Digest) -> list[Digest]:
    """Return the digest, then every other digest under which the repository has the same bytes."""
    row = queries.find_manifest(tx, repository.id, str(digest))
    others = [] if row is None else queries.digests_of_bytes(tx, repository.id, row.canonical)
    return [digest, *(other for other in map(Digest.parse, others) if other != digest)]


def _record_purge(tx: UnitOfWork, repository: RepositoryRow, digest: Digest, actor: Actor, reason: str) -> None:
    row = queries.find_manifest(tx, repository.id, str(digest))
    sequencer.append(
        tx,
        EntryKind.TAG_PURGED,
        repository=repository.name,
        digest=str(digest),
        media_type=row.media_type if row is not None else "",
        size_bytes=row.size if row is not None else 0,
        actor=actor.recorded,
        reason=reason,
    )
