"""What upstreams' tags meant, written down: the row of a tag and the entry about it change together, or not at all.

Whether there is anything to write is judged by `policy/moves`, inside the transaction, by what the row says then. Only what
upstream has gets a row, and only what is new an entry: nobody can make either grow by asking.

`was` of an entry is what the tag was last recorded to mean here, so that a log can be read on its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from boltseal.errors import ErrorCode, NotFound, Precondition, Unavailable
from boltseal.ledger.entry import MAX_TIME_US, Entry, EntryKind, parse
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import upstream_moves
from boltseal.policy.upstream_moves import KnownTag, MoveDecision, MoveEvent, UpstreamAnswer
from boltseal.policy.upstreams import OnGone
from boltseal.server.registry import sequencer
from boltseal.server.storage.metadata import foreign_tags, ledger_store
from boltseal.server.storage.metadata.protocol import OBSERVATIONS, ForeignTagRow, Snapshot

if TYPE_CHECKING:
    from boltseal.policy.upstreams import MoveTerms
    from boltseal.server.auth.actor import Actor
    from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork


LOOKED_BACK: Final = 20
"""How many entries of a tag are looked at for what it meant before."""


class NoHeldChange(NotFound):
    """There is nothing to accept: the tag was never seen here, or means what upstream says."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_UNKNOWN


class HeldOther(Precondition):
    """What is held back is not what was to be accepted."""


class ObservationMissing(Unavailable):
    """The last entry about a tag is not there; so what it says can't be gone on from."""


@dataclass(frozen=True, slots=True)
class ObservedTag:
    """How an upstream's tag stands here. `asked_us`: when upstream answered last. `entry`: its last entry's index."""

    known: KnownTag
    asked_us: int
    entry: int


@dataclass(frozen=True, slots=True)
class ObservationResult:
    """What came of an answer: how the tag stands now (None: it was never there), what it was, and who is told of what."""

    now: ObservedTag | None
    before: KnownTag | None = None
    told: MoveEvent = MoveEvent.NOTHING
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HeldTag:
    """A tag of which something is held back."""

    repository: str
    tag: str
    known: KnownTag


class Observations:
    """What this store has seen of upstreams' tags."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def look(self, repository: Repository, tag: Tag) -> ObservedTag | None:
        """How a tag stands, by the last commit; on the event loop's thread. None: it was never there."""
        row = await self._database.lookups.foreign_tag(repository, tag)
        return None if row is None else _stands(row)

    async def note(
        self,
        repository: Repository,
        tag: Tag,
        answer: UpstreamAnswer | None,
        terms: MoveTerms,
        actor: Actor,
        on_gone: OnGone = OnGone.ALERT,
    ) -> ObservationResult:
        """Upstream has answered: judge, and write down what is new. LedgerFrozen, LedgerMissing, ClockBehind, Full."""

        def job(tx: UnitOfWork) -> ObservationResult:
            return note(tx, repository, tag, answer, terms, actor, on_gone=on_gone)

        return await self._database.write(job)

    async def accept(
        self, repository: Repository, tag: Tag, digest: Digest | None, actor: Actor, reason: str
    ) -> ObservationResult:
        """Let through what is held back of a tag. NoHeldChange; HeldOther where that is not `digest`."""

        def job(tx: UnitOfWork) -> ObservationResult:
            row = foreign_tags.find(tx, repository, tag)
            stands = None if row is None else _stands(row)
            if stands is None:
                raise NoHeldChange(f"{repository}:{tag} was never seen here; nothing of it is held")
            judged = upstream_moves.accept(stands.known, tx.now_us)
            if judged is None or judged.entry is None:
                means = "nothing" if stands.known.serves is None else str(stands.known.serves.digest)
                raise NoHeldChange(f"nothing is held of {repository}:{tag}; it means {means}")
            if digest is not None and judged.entry.digest != digest:
                raise HeldOther(f"what is held of {repository}:{tag} is {judged.entry.digest}, not {digest}")
            return _write(tx, repository, tag, stands, judged, stands.asked_us, actor, reason)

        return await self._database.write(job)

    async def meant_before(self, repository: Repository, tag: Tag, now: Digest) -> list[Digest]:
        """What a tag was served as before it meant `now`, by its last entries, the newest first and each once."""

        def query(snapshot: Snapshot) -> list[Digest]:
            kinds = [str(EntryKind.OBSERVED), str(EntryKind.ACCEPTED)]
            lines = ledger_store.newest_entries(
                snapshot, repository, tag, kinds, before_us=MAX_TIME_US + 1, since_us=-1, log=OBSERVATIONS
            )
            found = (parse(line).digest for line in itertools.islice(lines, LOOKED_BACK))
            return [Digest.parse(digest) for digest in dict.fromkeys(found) if digest not in ("", str(now))]

        return await self._database.read(query)

    async def held(self) -> list[HeldTag]:
        """All tags of which something is held back."""

        def query(snapshot: Snapshot) -> list[HeldTag]:
            return [
                HeldTag(name, tag, _stands(row).known)
                for name, tag, row in foreign_tags.tags_with_held_change(snapshot)
            ]

        return await self._database.read(query)


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
    """The same in a transaction that is under way."""
    row = foreign_tags.find(tx, repository, tag)
    stands = None if row is None else _stands(row)
    judged = upstream_moves.judge(None if stands is None else stands.known, answer, terms, tx.now_us, on_gone)
    if judged.change is not None:
        return _write(tx, repository, tag, stands, judged, tx.now_us, actor, reason or judged.reason)
    if stands is None:
        return ObservationResult(None)
    foreign_tags.set_asked(tx, repository, tag, tx.now_us)
    return ObservationResult(replace(stands, asked_us=tx.now_us), stands.known)


def recall(tx: UnitOfWork, size: int) -> None:
    """Set tags whose last entry is lost, of a log of `size` entries, back to what the one before says."""
    for repository, tag, row in list(foreign_tags.all_tags(tx)):
        if row.entry_index < size:
            continue
        left = ledger_store.entries_of(tx, repository, tag, after=-1, limit=size, until=size, log=OBSERVATIONS)
        if not left:
            foreign_tags.remove(tx, repository, tag)
            continue
        index, line = left[-1]
        stand(tx, Repository(repository), Tag(tag), index, parse(line))


def stand(tx: UnitOfWork, repository: Repository, tag: Tag, index: int, entry: Entry) -> None:
    """Set a tag to what its last entry says; upstream is asked again before anything else is believed."""
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
    stands: ObservedTag | None,
    judged: MoveDecision,
    asked_us: int,
    actor: Actor,
    reason: str,
) -> ObservationResult:
    if judged.change is None:
        raise AssertionError("there is nothing to write")
    sequencer.check_recordable(tx, OBSERVATIONS)  # before the log is read: what is doubted may lack what is looked for
    about = judged.entry
    index = sequencer.append(
        tx,
        EntryKind(judged.change.value),
        repository=repository,
        tag=tag,
        digest="" if about is None else str(about.digest),
        media_type="" if about is None else about.media_type,
        size_bytes=0 if about is None else max(0, about.size),
        was="" if stands is None else _recorded(tx, stands.entry),
        previous=-1 if stands is None else stands.entry,
        actor=actor.name,
        reason=reason,
        extra={} if judged.told is MoveEvent.NOTHING else {upstream_moves.TOLD: str(judged.told)},
        log=OBSERVATIONS,
    )
    now = ObservedTag(judged.known, asked_us, index)
    foreign_tags.put(tx, repository, tag, _row(now))
    return ObservationResult(now, None if stands is None else stands.known, judged.told, reason)


def _recorded(tx: UnitOfWork, index: int) -> str:
    """What a tag was last recorded to mean, "" for nothing: an entry of kind `held` changes nothing of it."""
    for _, line in ledger_store.lines(tx, index, until=index + 1, log=OBSERVATIONS):
        entry = parse(line)
        return entry.was if entry.kind is EntryKind.HELD else entry.digest
    raise ObservationMissing(f"the log of observations lacks entry {index}: run `boltseal fsck`")


def _stands(row: ForeignTagRow) -> ObservedTag:
    return ObservedTag(
        KnownTag(
            serves=_seen(row.digest, row.media_type, row.size),
            held=_seen(row.held_digest, row.held_media_type, row.held_size),
            held_us=row.held_us,
            gone_us=row.gone_us,
            changes=row.changes,
            changes_since_us=row.changes_since_us,
        ),
        row.asked_us,
        row.entry_index,
    )


def _seen(digest: str | None, media_type: str | None, size: int | None) -> UpstreamAnswer | None:
    return (
        None if digest is None else UpstreamAnswer(Digest.parse(digest), media_type or "", -1 if size is None else size)
    )


def _row(stands: ObservedTag) -> ForeignTagRow:
    serves, held = stands.known.serves, stands.known.held
    return ForeignTagRow(
        digest=None if serves is None else str(serves.digest),
        media_type=None if serves is None else serves.media_type,
        size=None if serves is None else serves.size,
        held_digest=None if held is None else str(held.digest),
        held_media_type=None if held is None else held.media_type,
        held_size=None if held is None else held.size,
        held_us=stands.known.held_us,
        gone_us=stands.known.gone_us,
        asked_us=stands.asked_us,
        entry_index=stands.entry,
        changes=stands.known.changes,
        changes_since_us=stands.known.changes_since_us,
    )
