"""The history of one repository, checked. Pure.

`check` takes entries as a registry returned them (index and bytes, the oldest first) and reports contradictions: a line
that is no entry or of another repository, a wrong order, a missing link in a chain of `previous`, a sealed tag that
resolves to another digest. Inclusion in the ledger's tree is checked by the caller.

An entry that the registry omits from the middle of a tag's chain breaks the chain. One omitted at the end does not; that
is found by what the tag resolves to now (`contradiction`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from boltseal.ledger.audit import REMOVALS, Audit, ObservationAudit
from boltseal.ledger.entry import CHANGES, Entry
from boltseal.ledger.merkle import leaf_hash


@dataclass(frozen=True, slots=True)
class EntryAt:
    """An entry and its index. `leaf`: its leaf hash in the tree."""

    index: int
    entry: Entry
    leaf: bytes

    @property
    def gone(self) -> bool:
        """Whether the tag no longer exists after it."""
        return self.entry.kind in REMOVALS

    @property
    def changes(self) -> bool:
        """Whether it changed its tag; otherwise it is a record about an image, such as how that was built."""
        return self.entry.kind in CHANGES


@dataclass(frozen=True, slots=True)
class RepositoryHistory:
    """The entries about a repository, the oldest first, and a sentence for each contradiction."""

    repository: str
    entries: tuple[EntryAt, ...]
    problems: tuple[str, ...]

    def of(self, tag: str) -> tuple[EntryAt, ...]:
        """Return the entries of one tag, records about its images included."""
        return tuple(one for one in self.entries if one.entry.tag == tag)

    def changes_of(self, tag: str) -> tuple[EntryAt, ...]:
        """Return the entries that changed one tag; the last one says what it resolves to."""
        return tuple(one for one in self.of(tag) if one.changes)

    def at(self, time_us: int) -> Mapping[str, EntryAt]:
        """Return the last entry of each tag that existed at a time (microseconds since the epoch), by tag."""
        last = {
            one.entry.tag: one for one in self.entries if one.entry.tag and one.changes and one.entry.time_us <= time_us
        }
        return {tag: one for tag, one in sorted(last.items()) if not one.gone}

    def tags_by_digest(self) -> Mapping[str, tuple[str, ...]]:
        """Return the tags that ever resolved to each digest, in order."""
        found: dict[str, set[str]] = {}
        for one in self.entries:
            if one.changes and not one.gone and one.entry.tag:
                found.setdefault(one.entry.digest, set()).add(one.entry.tag)
        return {digest: tuple(sorted(tags)) for digest, tags in found.items()}


def check(repository: str, lines: Iterable[tuple[int, bytes]], *, observed: bool = False) -> RepositoryHistory:
    """Check entries of a repository. Lines that are no entry are reported and left out. `observed`: of a log of observations."""
    audit = ObservationAudit(partial=True) if observed else Audit(partial=True)
    entries: list[EntryAt] = []
    problems: list[str] = []
    for index, line in lines:
        problems += [f"entry {index}: {problem}" for problem in audit.take(index, line)]
        if audit.last is None:
            continue
        if audit.last.repository != repository:
            problems.append(f"entry {index}: it is about {audit.last.repository or 'no repository'}, not {repository}")
            continue
        entries.append(EntryAt(index, audit.last, leaf_hash(line)))
    return RepositoryHistory(repository, tuple(entries), tuple(problems))


def contradiction(history: Sequence[EntryAt], now: str) -> str | None:
    """Return the contradiction between a tag's entries and what it resolves to `now` ("": nothing); None without one."""
    last = next((one for one in reversed(history) if one.changes), None)
    recorded = "" if last is None or last.gone else last.entry.digest
    if recorded == now:
        return None
    where = (
        "the ledger says nothing of it" if last is None else f"its last entry {last.index} says {recorded or 'nothing'}"
    )
    return f"the tag resolves to {now or 'nothing'}, and {where}"
