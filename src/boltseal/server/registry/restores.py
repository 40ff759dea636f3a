"""Restores a mutable tag to an earlier digest: named by that digest, by a ledger entry, or by a time.

Only a digest that the tag itself resolved to before can be restored, as its ledger entries say; anything else is a push.
A restore is a move: the tag writer applies the rules now in force, a sealed tag stays sealed, and the ledger records the
actor and the reason. The digest before the restore stays pullable (guarantee 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from boltseal.errors import ErrorCode, Invalid, NotFound
from boltseal.ledger.audit import REMOVALS
from boltseal.ledger.entry import CHANGES, Entry, EntryKind, format_time, parse
from boltseal.oci.digest import Digest
from boltseal.oci.digest_prefix import DigestAmbiguous, DigestPrefix
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.seal import Identity
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.dry_run import undone
from boltseal.server.registry.evidence_checks import EvidenceChecks
from boltseal.server.registry.models import UNCONDITIONAL, Conditions, JudgedEvidence, PushedManifest, RepositoryRow
from boltseal.server.registry.pulls import Pulls
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.metadata import ledger_store, queries
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork

_SETS_DIGEST: Final = frozenset({EntryKind.TAG_CREATED, EntryKind.TAG_MOVED, EntryKind.TAG_RESTORED})
_PAGE: Final = 500


class NeverResolved(NotFound):
    """The tag never resolved to that digest, or did not exist at that time."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class NoLongerStored(NotFound):
    """The tag resolved to a manifest that was deleted since."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class EntryOfOtherTag(Invalid):
    """The ledger entry does not set the digest of this tag."""


@dataclass(frozen=True, slots=True)
class ByIndex:
    """The digest in the ledger entry with this index."""

    index: int


@dataclass(frozen=True, slots=True)
class ByTime:
    """The digest that the tag resolved to at this time, in microseconds since the epoch."""

    time_us: int


RestoreTarget = Digest | DigestPrefix | ByIndex | ByTime
"""What to restore. A prefix of decimal digits may be the index of an entry as well."""


@dataclass(frozen=True, slots=True)
class RestoredTag:
    """The result of a restore. `was`: the digest before, None when the tag did not exist. `changed`: whether it moved."""

    digest: Digest
    was: Digest | None
    entry_index: int
    changed: bool


class IndexedEntry(NamedTuple):
    """A ledger entry and its index."""

    entry_index: int
    entry: Entry


class Restores:
    """Restores tags through the tag writer."""

    def __init__(self, database: Metadata, tag_writer: TagWriter, pulls: Pulls) -> None:
        self._database = database
        self._tag_writer = tag_writer
        self._pulls = pulls
        self._evidence = EvidenceChecks(tag_writer.rules, pulls)

    async def restore(
        self,
        repository: Repository,
        tag: Tag,
        target: RestoreTarget,
        actor: Actor,
        reason: str,
        *,
        conditions: Conditions = UNCONDITIONAL,
        dry_run: bool = False,
    ) -> RestoredTag:
        """Let a tag resolve to an earlier digest again. `dry_run`: only return what that would do.

        Raises:
            ConditionFailed: a condition does not hold.
            NeverResolved: the tag never resolved to it, or did not exist then.
            NoLongerStored: the repository no longer has that manifest.
            EntryOfOtherTag: the entry does not set the digest of this tag.
            DigestAmbiguous: the tag resolved to several digests with this prefix.
            SealedPut, ReferencesMissing, EvidenceChanged: as `TagWriter.publish`.
        """

        # Not in the transaction, which all other writes wait for: a tag may have any number of entries, and none changes.
        digest = await self._database.read(lambda snapshot: _resolve(snapshot, repository, tag, target))
        evidence = await self._judged(repository, tag, digest)

        def job(tx: UnitOfWork) -> RestoredTag:
            number = queries.lock_repository(tx, repository)
            if number is None:
                raise NeverResolved(f"nothing was ever pushed to {repository}")
            row = RepositoryRow(repository, number)
            stored = queries.manifest_bytes(tx, row.id, str(digest))
            if stored is None:
                raise NoLongerStored(
                    f"tag {tag} of {repository} resolved to {digest}, which is no longer stored: push that image again"
                )
            identity = Identity(Digest.of(stored.raw), stored.media_type)
            pushed = PushedManifest(digest, identity, parse_manifest(stored.raw, stored.media_type))
            change = self._tag_writer.change(
                tx, row, tag, actor, reason=reason, conditions=conditions, may_settle=False, evidence=evidence
            )
            result = self._tag_writer.publish(tx, change, pushed, EntryKind.TAG_RESTORED)
            if result is None:
                raise AssertionError("a restored manifest is never stored as a part of the tag's image")
            return RestoredTag(digest, change.current, result.entry_index, result.changed)

        return await self._database.write(undone(job) if dry_run else job, repository=repository)

    async def _judged(self, repository: Repository, tag: Tag, digest: Digest) -> JudgedEvidence | None:
        stored = await self._pulls.stored_manifest(repository, digest)
        if stored is None:  # which the transaction reports
            return None
        return await self._evidence.judged(repository, Identity(Digest.of(stored.raw), stored.media_type), (tag,))


def _resolve(snapshot: Snapshot, repository: Repository, tag: Tag, target: RestoreTarget) -> Digest:
    if not queries.repository_exists(snapshot, repository):
        raise NeverResolved(f"nothing was ever pushed to {repository}")
    match target:
        case Digest():
            return _digest_with(snapshot, repository, tag, DigestPrefix(target.algorithm, target.hex))
        case DigestPrefix():
            return _digest_with(snapshot, repository, tag, target)
        case ByIndex(index):
            lines = list(ledger_store.lines(snapshot, index, until=index + 1))
            found = parse(lines[0][1]) if lines else None
            if found is None or (found.repository, found.tag) != (repository, tag) or found.kind not in _SETS_DIGEST:
                what = ""
                if found is not None and found.repository == repository:  # of others the client may see nothing
                    what = f"is a {found.kind} of {found.tag} and " if found.tag else f"is a {found.kind} and "
                raise EntryOfOtherTag(
                    f"entry {index} {what}does not set the digest of {repository}:{tag}; expected one that does, as `boltseal "
                    "history` lists them"
                )
            return Digest.parse(found.digest)
        case ByTime(time_us):
            return _digest_at(snapshot, repository, tag, time_us)


def _digest_with(snapshot: Snapshot, repository: Repository, tag: Tag, prefix: DigestPrefix) -> Digest:
    """Return the digest with this prefix, among those that the tag resolved to."""
    index = int(prefix.hex) if prefix.hex.isdecimal() and not prefix.algorithm and len(prefix.hex) <= 18 else -1
    candidates = [
        Digest.parse(entry.digest)
        for at, entry in changes_of(snapshot, repository, tag)
        if entry.kind in _SETS_DIGEST and (at == index or prefix.fits(Digest.parse(entry.digest)))
    ]
    found = prefix.choose(candidates) if index < 0 else _only(candidates, prefix)
    if found is None:
        raise NeverResolved(f"tag {tag} of {repository} never resolved to {prefix}; see `boltseal history`")
    return found


def _only(candidates: list[Digest], prefix: DigestPrefix) -> Digest | None:
    """Return the only digest of a prefix that may be an index too. Raises: DigestAmbiguous."""
    if len(set(candidates)) > 1:
        named = ", ".join(map(str, dict.fromkeys(candidates)))
        raise DigestAmbiguous(
            f"{prefix} is the index of an entry and fits a digest; write more digits of one of {named}"
        )
    return candidates[0] if candidates else None


def _digest_at(snapshot: Snapshot, repository: Repository, tag: Tag, time_us: int) -> Digest:
    last: Entry | None = None
    for _, entry in changes_of(snapshot, repository, tag):
        if entry.time_us > time_us:
            break
        last = entry
    when = format_time(time_us)
    if last is None:
        raise NeverResolved(f"tag {tag} of {repository} did not exist yet at {when}")
    if last.kind in REMOVALS:
        raise NeverResolved(f"tag {tag} of {repository} did not exist at {when}: it had been deleted")
    return Digest.parse(last.digest)


def changes_of(snapshot: Snapshot, repository: Repository, tag: Tag) -> Iterator[IndexedEntry]:
    """Yield every ledger entry that changed a tag, the oldest first. Records about the tag are left out."""
    after = -1
    while True:
        rows = ledger_store.entries_of(
            snapshot, repository, tag, after=after, limit=_PAGE, until=2**63 - 1, kinds=CHANGES
        )
        yield from (IndexedEntry(index, parse(line)) for index, line in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]
