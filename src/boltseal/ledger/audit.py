"""The rules that a ledger of tags keeps, checked entry by entry: by fsck at home, by a monitor from outside.

An `Audit` takes the entries in order and remembers, of each name, what a following entry has to agree with. Pure.

1. Every entry is canonical (`entry.parse` reads nothing else) and stands at the index that it is taken at.
2. Times only rise, and every entry names this ledger's origin.
3. `previous` is the index of the last entry of the same name, and `was` the digest that the name meant after it.
4. A name that was ever sealed is bound: no later entry lets it mean another digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from boltseal.ledger.entry import Entry, EntryInvalid, Kind, parse

_GOES = frozenset({Kind.TAG_DELETED, Kind.TAG_PURGED, Kind.TAG_EXPIRED})
_NAMES = frozenset(kind for kind in Kind if kind.startswith("tag."))


@dataclass(slots=True)
class NameSaid:
    """The ledger's last word on a name. `digest` "": it is not there. `bound` "": it was never sealed."""

    index: int
    digest: str
    bound: str


@dataclass(slots=True)
class Audit:
    """Everything that was taken so far. `origin` "": the first entry says it."""

    origin: str = ""
    size: int = 0
    last_time_us: int = 0
    names: dict[tuple[str, str], NameSaid] = field(default_factory=dict)

    def take(self, index: int, line: bytes) -> Iterator[str]:
        """Take the next entry; yields a sentence for every rule that it breaks."""
        if index != self.size:
            yield f"expected entry {self.size} here: something is missing"
        self.size = index + 1
        try:
            entry = parse(line)
        except EntryInvalid as error:
            yield error.message
            return
        if entry.time_us <= self.last_time_us:
            yield "it is not later than the entry before it"
        self.last_time_us = max(self.last_time_us, entry.time_us)
        self.origin = self.origin or entry.registry
        if entry.registry != self.origin:
            yield f"it is of the ledger {entry.registry}, this is {self.origin}"
        if entry.kind in _NAMES and entry.tag:
            yield from self._name(index, entry)

    def _name(self, index: int, entry: Entry) -> Iterator[str]:
        said = self.names.setdefault((entry.repository, entry.tag), NameSaid(-1, "", ""))
        if entry.previous != said.index:
            yield f"its previous is {entry.previous}, the last entry of {entry.repository}:{entry.tag} is {said.index}"
        if entry.was != said.digest:
            yield f"it says the tag meant {entry.was or 'nothing'} before; the ledger says {said.digest or 'nothing'}"
        goes = entry.kind in _GOES
        if goes and entry.digest != said.digest:
            yield f"it takes {entry.digest} away, but the tag meant {said.digest or 'nothing'}"
        if not goes and said.bound and entry.digest != said.bound:
            yield f"the name is bound to {said.bound}, and this lets it mean {entry.digest}"
        said.index = index
        said.digest = "" if goes else entry.digest
        if not goes and not said.bound and entry.extra.get("mode") == "sealed":
            said.bound = entry.digest
