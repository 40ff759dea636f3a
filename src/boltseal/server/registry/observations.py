"""Records which digests upstreams' tags resolved to. A tag's row and its log entry are written in one transaction.

`policy.upstream_moves` decides inside the transaction, from the current row, whether there is something to write. Only a
tag that exists upstream gets a row, and only a change gets an entry, so requests cannot make either grow.

`was` of an entry is the digest that was last recorded for the tag, so the log can be read on its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from boltseal.errors import ErrorCode, NotFound, Precondition, Unavailable
from boltseal.ledger.entry import MAX_TIME_US, Entry, EntryKind, parse
from boltseal.oci.digest import Digest
from boltseal.oci.digest_prefix import DigestPrefix
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import upstream_moves
from boltseal.policy.upstream_moves import KnownTag, MoveDecision, MoveEvent, UpstreamAnswer
from boltseal.policy.upstreams import MoveTerms, OnGone
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import sequencer
from boltseal.server.registry.dry_run import undone
from boltseal.server.storage.metadata import foreign_tags, ledger_store
from boltseal.server.storage.metadata.protocol import OBSERVATIONS, ForeignTagRow, Metadata, Snapshot, UnitOfWork

EARLIER_ENTRIES: Final = 20
"""How many entries of a tag are searched for its earlier digests."""


class NoHeldChange(NotFound):
    """There is nothing to accept: the tag was never seen, or no change of it is held back."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class ObservationMissing(Unavailable):
    """The log lacks the last entry about a tag, so no entry can follow it."""


@dataclass(frozen=True, slots=True)
class ObservedTag:
    """The state of an upstream's tag. `asked_us`: when upstream answered last. `entry`: the index of its last entry."""

    known: KnownTag
    asked_us: int
    entry: int


@dataclass(frozen=True, slots=True)
class ObservationResult:
    """The result of recording an answer of upstream.

    `now`: the state of the tag, None if it never existed. `before`: what was known. `event`: what to notify about.
    """

    now: ObservedTag | None
    before: KnownTag | None = None
    event: MoveEvent = MoveEvent.NOTHING
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HeldTag:
    """A tag with a change that is held back."""

    repository: str
    tag: str
    known: KnownTag


@dataclass(frozen=True, slots=True)
class HeldPage:
    """Some held tags. `following`: the repository and tag after which the next ones may be; None: there are no others."""

    tags: tuple[HeldTag, ...]
    following: tuple[str, str] | None


class Observations:
    """The observations of upstreams' tags in this store."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def find(self, repository: Repository, tag: Tag) -> ObservedTag | None:
        """Return the committed state of a tag, None if it never existed. Call it on the event loop's thread."""
        row = await self._database.lookups.upstreams.foreign_tag(repository, tag)
        return None if row is None else _observed(row)

    async def note(
        self,
        repository: Repository,
        tag: Tag,
        answer: UpstreamAnswer | None,
        terms: MoveTerms,
        actor: Actor,
        on_gone: OnGone = OnGone.ALERT,
        last_asked_us: int | None = None,
    ) -> ObservationResult:
        """Record an answer of upstream; None: it has no such tag.

        `last_asked_us`: when the tag had been asked for last as this request was sent, -1: never. If another process has recorded an
        answer since, this one may be older, and what is recorded stays. None: nothing is compared.

        Raises:
            LedgerFrozen, LedgerMissing, ClockBehind, Full: nothing can be recorded.
        """

        def job(tx: UnitOfWork) -> ObservationResult:
            row = None if last_asked_us is None else foreign_tags.find(tx, repository, tag)
            if row is not None and row.asked_us != last_asked_us:
                observed = _observed(row)
                return ObservationResult(observed, observed.known)
            return note(tx, repository, tag, answer, terms, actor, on_gone=on_gone)

        return await self._database.write(job, repository=repository)

    async def accept(
        self,
        repository: Repository,
        tag: Tag,
        digest: Digest | DigestPrefix | None,
        actor: Actor,
        reason: str,
        *,
        dry_run: bool = False,
    ) -> ObservationResult:
        """Accept the change of a tag that is held back. `digest`: the only one to accept, or a prefix of it.

        `dry_run`: only return what that would do.

        Raises:
            NoHeldChange: no change is held back.
            Precondition: the change is not to `digest`.
        """

        def job(tx: UnitOfWork) -> ObservationResult:
            row = foreign_tags.find(tx, repository, tag)
            observed = None if row is None else _observed(row)
            if observed is None:
                raise NoHeldChange(f"{repository}:{tag} was never seen here, so no change of it is held back")
            judged = upstream_moves.accept(observed.known, tx.now_us)
            if judged is None or judged.entry is None:
                current = "nothing" if observed.known.serves is None else str(observed.known.serves.digest)
                raise NoHeldChange(f"no change of {repository}:{tag} is held back; it resolves to {current}")
            held = judged.entry.digest
            if digest is not None and not (held and DigestPrefix(digest.algorithm, digest.hex).fits(held)):
                raise Precondition(
                    f"the change of {repository}:{tag} that is held back is to {judged.entry.digest}, not to {digest}"
                )
            return _write(tx, repository, tag, observed, judged, observed.asked_us, actor, reason)

        return await self._database.write(undone(job) if dry_run else job, repository=repository)

    async def earlier_digests(self, repository: Repository, tag: Tag, now: Digest) -> list[Digest]:
        """Return the digests that a tag resolved to before `now`, from its last entries: the newest first, each once."""

        def query(snapshot: Snapshot) -> list[Digest]:
            kinds = [str(EntryKind.OBSERVED), str(EntryKind.ACCEPTED)]
            lines = ledger_store.newest_entries(
                snapshot, repository, tag, kinds, before_us=MAX_TIME_US + 1, since_us=-1, log=OBSERVATIONS
            )
            found = (parse(line).digest for _, line in itertools.islice(lines, EARLIER_ENTRIES))
            return [Digest.parse(digest) for digest in dict.fromkeys(found) if digest not in ("", str(now))]

        return await self._database.read(query)

    async def held(self) -> list[HeldTag]:
        """Return all tags with a change that is held back."""

        def query(snapshot: Snapshot) -> list[HeldTag]:
            return [
                HeldTag(name, tag, _observed(row).known)
                for name, tag, row in foreign_tags.tags_with_held_change(snapshot)
            ]

        return await self._database.read(query)

    async def held_after(self, after: tuple[str, str], n: int) -> HeldPage:
        """Look at the next `n` tags after a repository and tag, and return those with a change that is held back."""
        found = await self._database.read(lambda snapshot: foreign_tags.tags_after(snapshot, after, n))
        tags = (HeldTag(name, tag, _observed(row).known) for name, tag, row in found)
        following = (found[-1].repository, found[-1].tag) if len(found) == n else None
        return HeldPage(tuple(each for each in tags if each.known.held is not None), following)

    async def tags_of(self, repository: Repository, after: str, n: int) -> tuple[list[tuple[str, ObservedTag]], bool]:
        """Return at most `n` tags of an upstream's repository after the tag `after`, with their names, and whether others follow."""
        found = await self._database.read(
            lambda snapshot: foreign_tags.tags_after(snapshot, (repository, after), n + 1)
        )
        tags = [(tag, _observed(row)) for name, tag, row in found if name == repository]
        return tags[:n], len(tags) > n


def note(
    tx: UnitOfWork,
    repository: Repository,
    tag: Tag,
    answer: UpstreamAnswer | None,
    terms: MoveTerms,
    actor: Actor,
    reason: str = "",
    on_gone: OnGone = OnGone.ALERT,
) -> ObservationResult:
    """Record an answer of upstream within a transaction. Raises as `Observations.note`.

    `reason`: for the entry; by default the reason of the policy.
    """
    row = foreign_tags.find(tx, repository, tag)
    observed = None if row is None else _observed(row)
    judged = upstream_moves.judge(None if observed is None else observed.known, answer, terms, tx.now_us, on_gone)
    if judged.change is not None:
        return _write(tx, repository, tag, observed, judged, tx.now_us, actor, reason or judged.reason)
    if observed is None:
        return ObservationResult(None)
    foreign_tags.set_asked(tx, repository, tag, tx.now_us)
    return ObservationResult(replace(observed, asked_us=tx.now_us), observed.known)


def recall(tx: UnitOfWork, size: int) -> None:
    """Reset tags whose last entry is lost to their last remaining entry. `size`: the entries that the log has."""
    for repository, tag, row in list(foreign_tags.all_tags(tx)):
        if row.entry_index < size:
            continue
        left = ledger_store.entries_of(tx, repository, tag, after=-1, limit=size, until=size, log=OBSERVATIONS)
        if not left:
            foreign_tags.remove(tx, repository, tag)
            continue
        index, line = left[-1]
        reset(tx, Repository(repository), Tag(tag), index, parse(line))


def reset(tx: UnitOfWork, repository: Repository, tag: Tag, index: int, entry: Entry) -> None:
    """Set a tag to the state in its last entry. Upstream is asked again at the next request."""
    about = UpstreamAnswer(Digest.parse(entry.digest), entry.type, entry.size) if entry.digest else None
    before = UpstreamAnswer(Digest.parse(entry.was), "", -1) if entry.was else None
    if entry.kind is EntryKind.HELD:
        known = KnownTag(before, held=about, held_us=entry.time_us)
    elif about is None:
        known = KnownTag(before, gone_us=entry.time_us)
    else:
        known = KnownTag(about)
    foreign_tags.put(tx, repository, tag, _row(ObservedTag(known, 0, index)))


def _write(
    tx: UnitOfWork,
    repository: Repository,
    tag: Tag,
    observed: ObservedTag | None,
    judged: MoveDecision,
    asked_us: int,
    actor: Actor,
    reason: str,
) -> ObservationResult:
    if judged.change is None:
        raise AssertionError("the decision has no change to write")
    sequencer.check_recordable(tx, OBSERVATIONS)  # before `_recorded` reads it: a frozen log may lack the entry
    about = judged.entry
    index = sequencer.append(
        tx,
        EntryKind(judged.change.value),
        repository=repository,
        tag=tag,
        digest="" if about is None else str(about.digest),
        media_type="" if about is None else about.media_type,
        size_bytes=0 if about is None else max(0, about.size),
        was="" if observed is None else _recorded(tx, observed.entry),
        previous=-1 if observed is None else observed.entry,
        actor=actor.recorded,
        reason=reason,
        extra={} if judged.event is MoveEvent.NOTHING else {upstream_moves.EVENT_KEY: str(judged.event)},
        log=OBSERVATIONS,
    )
    now = ObservedTag(judged.known, asked_us, index)
    foreign_tags.put(tx, repository, tag, _row(now))
    return ObservationResult(now, None if observed is None else observed.known, judged.event, reason)


def _recorded(tx: UnitOfWork, index: int) -> str:
    """Return the digest last recorded for a tag, "" for none. An entry of kind `held` does not change it."""
    for _, line in ledger_store.lines(tx, index, until=index + 1, log=OBSERVATIONS):
        entry = parse(line)
        return entry.was if entry.kind is EntryKind.HELD else entry.digest
    raise ObservationMissing(f"the log of observations lacks entry {index}: run `boltseal admin fsck`")


def _observed(row: ForeignTagRow) -> ObservedTag:
    return ObservedTag(
        KnownTag(
            serves=_answer(row.digest, row.media_type, row.size),
            held=_answer(row.held_digest, row.held_media_type, row.held_size),
            held_us=row.held_us,
            gone_us=row.gone_us,
            changes=row.changes,
            changes_since_us=row.changes_since_us,
        ),
        row.asked_us,
        row.entry_index,
    )


def _answer(digest: str | None, media_type: str | None, size: int | None) -> UpstreamAnswer | None:
    return (
        None if digest is None else UpstreamAnswer(Digest.parse(digest), media_type or "", -1 if size is None else size)
    )


def _row(observed: ObservedTag) -> ForeignTagRow:
    serves, held = observed.known.serves, observed.known.held
    return ForeignTagRow(
        digest=None if serves is None else str(serves.digest),
        media_type=None if serves is None else serves.media_type,
        size=None if serves is None else serves.size,
        held_digest=None if held is None else str(held.digest),
        held_media_type=None if held is None else held.media_type,
        held_size=None if held is None else held.size,
        held_us=observed.known.held_us,
        gone_us=observed.known.gone_us,
        asked_us=observed.asked_us,
        entry_index=observed.entry,
        changes=observed.known.changes,
        changes_since_us=observed.known.changes_since_us,
    )
