"""Check a ledger's entries one by one: for fsck inside the server, and for a monitor outside. Pure.

An `Audit` takes the entries in order and keeps, for each tag, what the next entry has to agree with.

1. Every entry is canonical (`entry.parse` reads nothing else) and has the index at which it is taken.
2. Times only rise, and every entry names this ledger's origin, which only an entry of kind `recovered` changes.
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

from boltseal.ledger.entry import CHANGES, OF_EVERY_LOG, OF_OBSERVATIONS, Entry, EntryInvalid, EntryKind, parse

GOES: Final = frozenset({EntryKind.TAG_DELETED, EntryKind.TAG_PURGED, EntryKind.TAG_EXPIRED})
"""Kinds after which the tag resolves to nothing."""
_NEEDS_IT_THERE: Final = frozenset({EntryKind.TAG_MOVED, EntryKind.TAG_SEALED, EntryKind.TAG_UNSEALED})


@dataclass(slots=True)
class AuditedTag:
    """What the ledger last recorded of a tag. For a tag that does not exist `digest` and `media_type` are "".

    `bound` and `bound_type`: what it was sealed at, "" when it never was; `bound_by`: by whom. `keep`: how long it is
    protected, "" when it never was sealed; `kept_us`: when that was last said. `actor`, `changed_us`: of the last entry.
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


@dataclass(slots=True)
class Audit:
    """Everything that was taken so far. `origin` "": the first entry says it. `rules_sha256`: of the rules last recorded.

    `last`: the entry taken last, None when it could not be read. `partial`: only the entries about some names are taken,
    so that indices rise with gaps, and what changed the origin may be in one.
    """

    origin: str = ""
    size: int = 0
    last_time_us: int = 0
    rules_sha256: str = ""
    last: Entry | None = None
    names: dict[tuple[str, str], AuditedTag] = field(default_factory=dict)
    partial: bool = False

    def take(self, index: int, line: bytes) -> list[str]:
        """Take the next entry; a sentence for every rule that it breaks."""
        problems: list[str] = []
        # 1
        if self.partial and index < self.size:
            problems.append("it stands behind one with a higher index")
        if not self.partial and index != self.size:
            problems.append(f"expected entry {self.size} here: something is missing")
        self.size = index + 1
        self.last = None
        try:
            entry = self.last = parse(line)
        except EntryInvalid as error:
            problems.append(error.message)
            return problems
        # 2
        if entry.time_us <= self.last_time_us:
            problems.append("it is not later than the entry before it")
        self.last_time_us = max(self.last_time_us, entry.time_us)
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

    def keep(self, entry: Entry, said: AuditedTag) -> None:
        """Store the tag's new state. Here `said` is the object that `recall` returned, so nothing is left to do."""

    def _content(self, index: int, entry: Entry, problems: list[str]) -> None:
        """Check the entry's content, beyond its position."""
        if entry.kind in CHANGES and entry.tag:
            self._name(index, entry, problems)

    def _name(self, index: int, entry: Entry, problems: list[str]) -> None:
        said = self.recall(entry)
        problems += _unchained(entry, said, "ledger")  # 3
        goes = entry.kind in GOES
        if goes and entry.digest != said.digest:
            problems.append(f"it removes {entry.digest}, but the tag resolved to {said.digest or 'nothing'}")
        # 4
        if not goes and said.bound and entry.digest != said.bound:
            problems.append(f"the tag is sealed at {said.bound}, and this entry lets it resolve to {entry.digest}")
        # 5, as far as the sentences above have not said it
        if entry.was == said.digest and not goes:
            problems += _unfit(entry, said)
        self._remember(said, index, entry, goes=goes)
        self.keep(entry, said)

    @staticmethod
    def _remember(said: AuditedTag, index: int, entry: Entry, *, goes: bool) -> None:
        said.index = index
        said.actor, said.changed_us = entry.actor, entry.time_us
        said.digest, said.media_type = ("", "") if goes else (entry.digest, entry.type)
        if goes or entry.extra.get("mode") != "sealed":
            return
        said.keep, said.kept_us = entry.extra.get("keep", ""), entry.time_us
        if not said.bound:
            said.bound, said.bound_type, said.bound_by = entry.digest, entry.type, entry.actor


class ObservationAudit(Audit):
    """The audit of a log of observations."""

    __slots__ = ()

    def _content(self, index: int, entry: Entry, problems: list[str]) -> None:
        if entry.kind in OF_EVERY_LOG:
            return
        if entry.kind not in OF_OBSERVATIONS or not entry.tag:
            problems.append(f"it is a {entry.kind}, which has no place in a log of observations")
            return
        said = self.recall(entry)
        problems += _unchained(entry, said, "log")
        if not entry.digest and entry.kind is not EntryKind.OBSERVED:
            problems.append(f"it is a {entry.kind} of nothing")
        said.index, said.actor, said.changed_us = index, entry.actor, entry.time_us
        if entry.kind is not EntryKind.HELD:
            said.digest, said.media_type = entry.digest, entry.type
        self.keep(entry, said)


def _unchained(entry: Entry, said: AuditedTag, log: str) -> Iterator[str]:
    if entry.previous != said.index:
        yield f"its previous is {entry.previous}, the last entry of {entry.repository}:{entry.tag} is {said.index}"
    if entry.was != said.digest:
        yield f"it says the tag resolved to {entry.was or 'nothing'} before; the {log} says {said.digest or 'nothing'}"


def _unfit(entry: Entry, said: AuditedTag) -> Iterator[str]:
    if entry.kind is EntryKind.TAG_CREATED and said.digest:
        yield f"it creates a tag that exists and resolves to {said.digest}"
    if entry.kind in _NEEDS_IT_THERE and not said.digest:
        yield f"it is a {entry.kind} of a tag that does not exist"
    if entry.kind is EntryKind.TAG_UNSEALED and not said.bound:
        yield "it unseals a tag that was never sealed"
