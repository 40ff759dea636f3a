"""The differences of one layer while they are collected: later entries can retract those of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference


@dataclass(slots=True)
class Findings:
    """The differences of one layer and what can't be read: at most MAX_PER_LAYER of each; `count`: of all differences."""

    layer: str
    kept: dict[bytes, list[Difference]] = field(default_factory=dict)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, kind: DifferenceKind, path: bytes, expected: object, got: object) -> None:
        """Add a difference at a path."""
        self.count += 1
        if self.count <= MAX_PER_LAYER:
            self.kept.setdefault(path, []).append(difference(kind, path, expected, got, self.layer))

    def not_read(self, why: str) -> None:
        """Add something that could not be read, so that the layer is not proven."""
        if len(self.unreadable) < MAX_PER_LAYER and why not in self.unreadable[-1:]:
            self.unreadable.append(why)

    def drop(self, path: bytes, kinds: frozenset[DifferenceKind] | None = None) -> None:
        """Retract the differences of an entry that is replaced; with `kinds`, only those."""
        before = self.kept.pop(path, [])
        after = [each for each in before if kinds is not None and each.kind not in kinds]
        self.count -= len(before) - len(after)
        if after:
            self.kept[path] = after

    def drop_below(self, folder: bytes) -> None:
        """Retract the differences of all entries in a folder that is replaced by a file."""
        for path in [each for each in self.kept if each.startswith(folder + b"/")]:
            self.drop(path)

    def has(self, path: bytes, *kinds: DifferenceKind) -> bool:
        """Return whether a path has a difference of these kinds."""
        return any(each.kind in kinds for each in self.kept.get(path, ()))

    def all(self) -> list[Difference]:
        """Return the kept differences, in the order in which they were found."""
        return [each for found in self.kept.values() for each in found]
