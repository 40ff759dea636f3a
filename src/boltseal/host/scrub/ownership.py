"""Whose files are whose: how owners in a layer's headers became owners on the disk, with user namespaces and without."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from boltseal.engines.subordinate_ids import id_maps


@dataclass(frozen=True, slots=True)
class IdMap:
    """How owners in headers became owners on the disk: `(inside, outside, count)` each; none: as they are."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def outside(self, number: int) -> int | None:
        """The id on the disk, or None where no range holds it."""
        if not self.ranges:
            return number
        return next((o + number - i for i, o, count in self.ranges if i <= number < i + count), None)


@dataclass(frozen=True, slots=True)
class Ownership:
    """The maps of a layer's users and groups. `whole`: False where some may be missing, since nobody says them.

    `devices`: whether there are device nodes; only root may make them.
    """

    users: IdMap = field(default_factory=IdMap)
    groups: IdMap = field(default_factory=IdMap)
    whole: bool = True
    devices: bool = True


def ownership_in(store: Path) -> Ownership:
    """Of a store's layers, where its metadata has no maps: those of the user that it belongs to. OSError."""
    maps = id_maps(store)
    if maps is None:
        return Ownership()
    users, groups, whole = maps
    return Ownership(IdMap(users), IdMap(groups), whole, devices=False)
