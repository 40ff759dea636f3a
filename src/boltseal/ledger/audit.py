"""Check a ledger's entries one by one: for fsck inside the server, and for a monitor outside. Pure.

An `Audit` takes the entries in order and keeps, for each tag, what the next entry has to agree with.

1. Every entry is canonical (`entry.parse` reads nothing else) and has the index at which it is taken.
2. Times only rise, and every entry names this ledger's origin; only an entry of kind `recovered` changes the origin, or
   lets time step back to a corrected clock.
3. `previous` is the index of the last entry of the same tag, and `was` the digest that the tag resolved to after it.
4. A tag that was ever sealed never resolves to another digest in a later entry.
5. The kind fits: only a missing tag is created; only an existing tag moves, is sealed, unsealed or removed.

A log of observations (`ObservationAudit`) keeps the first three only, since upstream tags are not sealed here. Its `was` is
the digest last recorded for the tag, and an entry of kind `held` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from boltseal.ledger.entry import (
    CHANGES,
    MODE_SEALED,
    MODE_SETTLING,
    OF_EVERY_LOG,
    OF_OBSERVATIONS,
    SETTLES,
    Entry,
    EntryInvalid,
    EntryKind,
    parse,
    parse_time,
)

REMOVALS: Final = frozenset({EntryKind.TAG_DELETED, EntryKind.TAG_PURGED, EntryKind.TAG_EXPIRED})
"""Kinds after which the tag resolves to nothing."""
_NEEDS_IT_THERE: Final = frozenset({EntryKind.TAG_MOVED, EntryKind.TAG_SEALED, EntryKind.TAG_UNSEALED})


@dataclass(slots=True)
class AuditedTag:
    """What the ledger last recorded of a tag. For a tag that does not exist `digest` and `media_type` are "".

    `bound`, `bound_type`: the digest and media type that it was sealed at; `bound_by`: the actor. `keep`: how long it is
    protected; `kept_us`: when that was last recorded. All are "" or 0 if the tag was never sealed. `settles_us`: when a tag
    that is settling is sealed, 0 for any other; `keep` is then how long it will be protected. `actor`, `changed_us`: of the
    last entry.
    """

    index: int = -1
    digest: str = ""
    media_type: str = ""
    bound: str = ""
    bound_type: str = ""
    bound_by: str = ""
    keep: str = ""
    kept_us: int = 0
    actor: str = ""
    changed_us: int = 0
    settles_us: int = 0


@dataclass(slots=True)
class Audit:
    """The state of a ledger after the entries taken so far. `origin`: "" until the first entry, which sets it.

    `rules_sha256`: the hash of the rules last recorded. `last`: the entry taken last, None when it could not be read.
    `partial`: only entries about some tags are taken, so that indices rise with gaps, and a gap may hide an entry of kind
    `recovered`.
    """

    origin: str = ""
    size: int = 0
    last_time_us: int = 0
    rules_sha256: str = ""
    last: Entry | None = None
    names: dict[tuple[str, str], AuditedTag] = field(default_factory=dict)
    partial: bool = False

    def take(self, index: int, line: bytes) -> list[str]:
        """Check the next entry and add it to the state. Return a sentence for every rule that it breaks."""
        problems: list[str] = []
        # 1
        if self.partial and index < self.size:
            problems.append("it follows an entry with a higher index")
        if not self.partial and index != self.size:
            problems.append(f"expected entry {self.size} here: something is missing")
        may_hide_recovery = self.partial and index > self.size
        self.size = index + 1
        self.last = None
        try:
            entry = self.last = parse(line)
        except EntryInvalid as error:
            problems.append(error.message)
            return problems
        # 2
        may_step_back = entry.kind is EntryKind.RECOVERED or may_hide_recovery
        if entry.time_us <= self.last_time_us and not may_step_back:
            problems.append("it is not later than the entry before it")
        self.last_time_us = entry.time_us if may_step_back else max(self.last_time_us, entry.time_us)
        if entry.kind is EntryKind.RECOVERED or self.partial:
            self.origin = entry.registry
        self.origin = self.origin or entry.registry
        if entry.registry != self.origin:
            problems.append(f"it is of the ledger {entry.registry}, this is {self.origin}")
        if entry.kind is EntryKind.RULES_CHANGED:
            self.rules_sha256 = entry.extra.get("rules_sha256", "")
        self._content(index, entry, problems)
        return problems

    def recall(self, entry: Entry) -> AuditedTag:
        """Return the state of the tag that an entry is about. Subclasses with another memory replace this and `keep`."""
        return self.names.setdefault((entry.repository, entry.tag), AuditedTag())

    def keep(self, entry: Entry, state: AuditedTag) -> None:
        """Store the tag's new state. Here `state` is the object that `recall` returned, which is already stored."""

    def _content(self, index: int, entry: Entry, problems: list[str]) -> None:
        """Check the entry's content, beyond its position."""
        if entry.kind in CHANGES and entry.tag:
            self._name(index, entry, problems)

    def _name(self, index: int, entry: Entry, problems: list[str]) -> None:
        state = self.recall(entry)
        problems += _unchained(entry, state, "ledger")  # 3
        removed = entry.kind in REMOVALS
        if removed and entry.digest != state.digest:
            problems.append(f"it removes {entry.digest}, but the tag resolved to {state.digest or 'nothing'}")
        # 4
        if not removed and state.bound and entry.digest != state.bound:
            problems.append(f"the tag is sealed at {state.bound}, and this entry lets it resolve to {entry.digest}")
        # 5, unless a problem above already covers it
        if entry.was == state.digest and not removed:
            problems += _unfit(entry, state)
        problems += self._remember(state, index, entry, removed=removed)
        self.keep(entry, state)

    @staticmethod
    def _remember(state: AuditedTag, index: int, entry: Entry, *, removed: bool) -> Iterator[str]:
        state.index = index
        state.actor, state.changed_us = entry.actor, entry.time_us
        state.digest, state.media_type = ("", "") if removed else (entry.digest, entry.type)
        state.settles_us = 0
        if not removed and entry.extra.get("mode") == MODE_SETTLING:
            state.keep = entry.extra.get("keep", "")
            try:
                state.settles_us = parse_time(entry.extra.get(SETTLES, ""))
            except EntryInvalid as error:
                yield f"it says that the tag settles, but not when: {error.message}"
        if removed or entry.extra.get("mode") != MODE_SEALED:
            return
        state.keep, state.kept_us = entry.extra.get("keep", ""), entry.time_us
        if not state.bound:
            state.bound, state.bound_type, state.bound_by = entry.digest, entry.type, entry.actor


class ObservationAudit(Audit):
    """The audit of a log of observations."""

    __slots__ = ()

    def _content(self, index: int, entry: Entry, problems: list[str]) -> None:
        if entry.kind in OF_EVERY_LOG:
            return
        if entry.kind not in OF_OBSERVATIONS or not entry.tag:
            problems.append(f"it is a {entry.kind}, which has no place in a log of observations")
            return
        state = self.recall(entry)
        problems += _unchained(entry, state, "log")
        if not entry.digest and entry.kind is not EntryKind.OBSERVED:
            problems.append(f"it is a {entry.kind} of nothing")
        state.index, state.actor, state.changed_us = index, entry.actor, entry.time_us
        if entry.kind is not EntryKind.HELD:
            state.digest, state.media_type = entry.digest, entry.type
        self.keep(entry, state)


def _unchained(entry: Entry, state: AuditedTag, log: str) -> Iterator[str]:
    if entry.previous != state.index:
        yield f"its previous is {entry.previous}, the last entry of {entry.repository}:{entry.tag} is {state.index}"
    if entry.was != state.digest:
        yield f"it says the tag resolved to {entry.was or 'nothing'} before; the {log} says {state.digest or 'nothing'}"


def _unfit(entry: Entry, state: AuditedTag) -> Iterator[str]:
    if entry.kind is EntryKind.TAG_CREATED and state.digest:
        yield f"it creates a tag that exists and resolves to {state.digest}"
    if entry.kind in _NEEDS_IT_THERE and not state.digest:
        yield f"it is a {entry.kind} of a tag that does not exist"
    if entry.kind is EntryKind.TAG_UNSEALED and not state.bound:
        yield "it unseals a tag that was never sealed"
