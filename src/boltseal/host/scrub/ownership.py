"""Maps owners in a layer's headers to owners on disk, with and without user namespaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.engines.subordinate_ids import id_maps, user_ranges

_ALL_IDS: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class IdMap:
    """A map from owners in headers to owners on disk: ranges `(inside, outside, count)`; without ranges ids are equal."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def outside(self, number: int) -> int | None:
        """Return the id on disk, None if no range has it."""
        if not self.ranges:
            return number
        return next((o + number - i for i, o, count in self.ranges if i <= number < i + count), None)

    def inside(self, number: int) -> int | None:
        """The id in headers that became this one on the disk, or None where no range holds it."""
        if not self.ranges:
            return number
        return next((i + number - o for i, o, count in self.ranges if o <= number < o + count), None)

    def is_part_of(self, other: IdMap) -> bool:
        """Whether the other map says all that this one says. A map without ranges is part of none."""
        return bool(self.ranges) and all(
            any(outside - inside == o - i and i <= inside and inside + count <= i + more for i, o, more in other.ranges)
            for inside, outside, count in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Ownership:
    """The maps of a layer's users and groups. `whole`: False where some may be missing, since nobody says them.

    `devices`: whether there are device nodes; only root may make them. `unproven`: why the maps can't be relied on, where
    they are the store's own word: whoever changes owners in the store can change such a map with them.
    """

    users: IdMap = field(default_factory=IdMap)
    groups: IdMap = field(default_factory=IdMap)
    whole: bool = True
    devices: bool = True
    unproven: str = ""


def ownership_in(store: Path) -> Ownership:
    """Return the ownership of a store's layers without maps in its metadata: that of the user who owns the store.

    Raises: OSError.
    """
    maps = id_maps(store)
    if maps is None:
        return Ownership()
    users, groups, whole = maps
    return Ownership(IdMap(users), IdMap(groups), whole, devices=False)


def is_confirmed(store: Path, users: IdMap, groups: IdMap) -> bool:
    """Whether a map that a store has written for a copy of an image is also that of a user of its disk. OSError.

    In root's store: part of what /etc/subuid and /etc/subgid give to one user. In a user's own store: `--userns=keep-id`,
    where the user keeps the own ids and those before them move up by one.
    """
    maps = id_maps(store)
    if maps is None:
        known = [(IdMap(ids), IdMap(group_ids)) for ids, group_ids in user_ranges(store)]
    else:
        owner = store.stat()
        known = [(_keep_id(owner.st_uid), _keep_id(owner.st_gid))]
    return any(users.is_part_of(ids) and groups.is_part_of(group_ids) for ids, group_ids in known)


def _keep_id(own: int) -> IdMap:
    """From the ids in a container to those in its user's namespace, where root is the user."""
    return IdMap(((0, 1, own), (own, 0, 1), (own + 1, own + 1, _ALL_IDS)))
