"""The differences of one layer while they are gathered: later entries may take back what earlier ones have shown."""

from __future__ import annotations

from dataclasses import dataclass, field

from boltseal.scrub.differences import MAX_PER_LAYER, Difference, Kind


@dataclass(slots=True)
class Findings:
    """What differs in one layer. At most MAX_PER_LAYER are kept, all are counted."""

    kept: dict[bytes, list[Difference]] = field(default_factory=dict)
    count: int = 0
    unreadable: list[str] = field(default_factory=list)

    def add(self, found: Difference, path: bytes) -> None:
        self.count += 1
        if self.count <= MAX_PER_LAYER:
            self.kept.setdefault(path, []).append(found)

    def drop(self, path: bytes, kinds: frozenset[Kind] | None = None) -> None:
        """Forget what an entry that is replaced, or whose attributes are, has shown."""
        before = self.kept.pop(path, [])
        after = [each for each in before if kinds is not None and each.kind not in kinds]
        self.count -= len(before) - len(after)
        if after:
            self.kept[path] = after

    def all(self) -> list[Difference]:
        return [each for found in self.kept.values() for each in found]
