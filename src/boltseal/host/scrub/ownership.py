"""Maps owners in a layer's headers to owners on disk, with and without user namespaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from boltseal.engines.subordinate_ids import id_maps


@dataclass(frozen=True, slots=True)
class IdMap:
    """A map from owners in headers to owners on disk: ranges `(inside, outside, count)`; without ranges ids are equal."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def outside(self, number: int) -> int | None:
        """Return the id on disk, None if no range has it."""
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
    """Return the ownership of a store's layers without maps in its metadata: that of the user who owns the store.

    Raises: OSError.
    """
    maps = id_maps(store)
    if maps is None:
        return Ownership()
    users, groups, whole = maps
    return Ownership(IdMap(users), IdMap(groups), whole, devices=False)
