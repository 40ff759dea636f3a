"""The differences of one layer while they are gathered: later entries may take back what earlier ones have shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference


@dataclass(slots=True)
class Findings:
    """What differs in one layer, and what can't be read. At most MAX_PER_LAYER of each are kept, all differences counted."""

    layer: str
    kept: dict[bytes, list[Difference]] = field(default_factory=dict)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, kind: DifferenceKind, path: bytes, expected: object, got: object) -> None:
        """Something differs at a path."""
        self.count += 1
        if self.count <= MAX_PER_LAYER:
            self.kept.setdefault(path, []).append(difference(kind, path, expected, got, self.layer))

    def not_read(self, why: str) -> None:
        """Something could not be read, so that the layer is not proven."""
        if len(self.unreadable) < MAX_PER_LAYER and why not in self.unreadable[-1:]:
            self.unreadable.append(why)

    def drop(self, path: bytes, kinds: frozenset[DifferenceKind] | None = None) -> None:
        """Forget what an entry that is replaced, or whose attributes are, has shown."""
        before = self.kept.pop(path, [])
        after = [each for each in before if kinds is not None and each.kind not in kinds]
        self.count -= len(before) - len(after)
        if after:
            self.kept[path] = after

    def drop_below(self, folder: bytes) -> None:
        """Forget what entries in a folder have shown that is none any more."""
        for path in [each for each in self.kept if each.startswith(folder + b"/")]:
            self.drop(path)

    def has(self, path: bytes, *kinds: DifferenceKind) -> bool:
        """Whether such a difference stands at a path."""
        return any(each.kind in kinds for each in self.kept.get(path, ()))

    def all(self) -> list[Difference]:
        """What is kept, in the order in which it was found."""
        return [each for found in self.kept.values() for each in found]
