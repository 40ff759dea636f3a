"""What the entries about one repository say together. Pure.

`check` takes them as a registry gave them, index and bytes, the oldest first, and finds what can't be: a line that is no
entry or of another repository, an order that is none, a chain of `previous` with a link missing, a bound name that
means something else. Whether they are in the ledger's tree is for whoever has the tree.

An entry that the registry keeps back from the middle of a name's chain breaks the chain. One kept back from its end does
not; that is found by what the tag means now (`meaning_now`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from boltseal.ledger.audit import GOES, Audit, ObservationAudit
from boltseal.ledger.entry import CHANGES, Entry
from boltseal.ledger.merkle import leaf_hash


@dataclass(frozen=True, slots=True)
class EntryAt:
    """An entry where it stands. `leaf`: the hash of its bytes as a leaf of the tree."""

    index: int
    entry: Entry
    leaf: bytes

    @property
    def gone(self) -> bool:
        """Whether the tag means nothing after it."""
        return self.entry.kind in GOES

    @property
    def changes(self) -> bool:
        """Whether it changed its tag; otherwise it only says something of an image, such as how that was built."""
        return self.entry.kind in CHANGES


@dataclass(frozen=True, slots=True)
class RepositoryHistory:
    """The entries about a repository, the oldest first, and a sentence for everything that can't be."""

    repository: str
    said: tuple[EntryAt, ...]
    problems: tuple[str, ...]

    def of(self, tag: str) -> tuple[EntryAt, ...]:
        """The entries of one tag, also those that only say something of an image that it means or meant."""
        return tuple(one for one in self.said if one.entry.tag == tag)

    def changes_of(self, tag: str) -> tuple[EntryAt, ...]:
        """The entries that changed one tag; the last one says what it means."""
        return tuple(one for one in self.of(tag) if one.changes)

    def at(self, time_us: int) -> Mapping[str, EntryAt]:
        """The last entry of each tag that was there then, by tag."""
        last = {
            one.entry.tag: one for one in self.said if one.entry.tag and one.changes and one.entry.time_us <= time_us
        }
        return {tag: one for tag, one in sorted(last.items()) if not one.gone}

    def also(self, digest: str, tag: str) -> tuple[str, ...]:
        """The other tags that ever meant this digest."""
        found = {one.entry.tag for one in self.said if one.entry.digest == digest and one.changes and not one.gone}
        return tuple(sorted(found - {tag, ""}))


def check(repository: str, lines: Iterable[tuple[int, bytes]], *, observed: bool = False) -> RepositoryHistory:
    """Read and compare. What is no entry is left out, and said. `observed`: they are of a log of observations."""
    audit = ObservationAudit(partial=True) if observed else Audit(partial=True)
    said: list[EntryAt] = []
    problems: list[str] = []
    for index, line in lines:
        problems += [f"entry {index}: {problem}" for problem in audit.take(index, line)]
        if audit.last is None:
            continue
        if audit.last.repository != repository:
            problems.append(f"entry {index}: it is about {audit.last.repository or 'no repository'}, not {repository}")
            continue
        said.append(EntryAt(index, audit.last, leaf_hash(line)))
    return RepositoryHistory(repository, tuple(said), tuple(problems))


def meaning_now(history: Sequence[EntryAt], now: str) -> str | None:
    """What is wrong with a tag that means `now` ("": nothing) behind these entries of it, None if nothing is."""
    last = next((one for one in reversed(history) if one.changes), None)
    said = "" if last is None or last.gone else last.entry.digest
    if said == now:
        return None
    where = "the ledger says nothing of it" if last is None else f"its last entry {last.index} says {said or 'nothing'}"
    return f"the tag means {now or 'nothing'}, and {where}"
