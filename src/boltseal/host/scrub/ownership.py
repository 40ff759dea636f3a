"""Maps owners in a layer's headers to owners on disk, with and without user namespaces."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.engines.subordinate_ids import id_maps, is_in_home_of_owner, user_ranges

_ALL_IDS: Final = 1 << 32
_NOT_AT_HOME: Final = (
    "the owners of its files are compared as those of a store of user {}, the owner of the store's folder, but it is not in the "
    "home folder that /etc/passwd on its disk names for this user"
)


@dataclass(frozen=True, slots=True)
class IdMap:
    """A map from IDs in tar headers to IDs on disk: ranges `(inside, outside, count)`. Without ranges both are equal."""

    ranges: tuple[tuple[int, int, int], ...] = ()

    def outside(self, number: int) -> int | None:
        """Return the ID on disk, None if no range has it."""
        if not self.ranges:
            return number
        return next((o + number - i for i, o, count in self.ranges if i <= number < i + count), None)

    def inside(self, number: int) -> int | None:
        """Return the ID in headers for an ID on disk, None if no range has it."""
        if not self.ranges:
            return number
        return next((i + number - o for i, o, count in self.ranges if o <= number < o + count), None)

    def is_part_of(self, other: IdMap) -> bool:
        """Return whether the other map maps every ID of this one alike. A map without ranges is part of no map."""
        return bool(self.ranges) and all(
            any(outside - inside == o - i and i <= inside and inside + count <= i + more for i, o, more in other.ranges)
            for inside, outside, count in self.ranges
        )


@dataclass(frozen=True, slots=True)
class Ownership:
    """The maps of a layer's users and groups.

    `whole`: False if ranges may be missing, because no file lists them. `devices`: whether the layer can have device nodes;
    only root may create them. `unproven`: why the maps can't be relied on, "" if they can: an attacker who changes owners in
    a store can also change the maps in its metadata.
    """

    users: IdMap = field(default_factory=IdMap)
    groups: IdMap = field(default_factory=IdMap)
    whole: bool = True
    devices: bool = True
    unproven: str = ""


def ownership_in(store: Path) -> Ownership:
    """Return the ownership of a store's layers without maps in its metadata: that of the user who owns the store.

    The owner of the store's folder is part of the store. An attacker who gives root's store and all files in it to a user
    makes root's engine run containers in which that user owns every file. So the user's map is relied on only in the user's
    home, and in a check by the same user.

    Raises: OSError.
    """
    maps = id_maps(store)
    if maps is None:
        return Ownership()
    owner = store.stat().st_uid
    proven = owner == os.geteuid() or is_in_home_of_owner(store)
    unproven = "" if proven else _NOT_AT_HOME.format(owner)
    return Ownership(IdMap(maps.users), IdMap(maps.groups), maps.complete, devices=False, unproven=unproven)


def is_confirmed(store: Path, users: IdMap, groups: IdMap) -> bool:
    """Return whether the maps that a store records for a copy of an image are those of a user of the store's disk.

    In root's store: part of the ranges that /etc/subuid and /etc/subgid assign to one user. In a user's own store:
    `--userns=keep-id`, where the user keeps the same ID and all IDs below it are shifted up by one.

    Raises: OSError.
    """
    maps = id_maps(store)
    if maps is None:
        known = [(IdMap(each.users), IdMap(each.groups)) for each in user_ranges(store)]
    else:
        owner = store.stat()
        known = [(_keep_id(owner.st_uid), _keep_id(owner.st_gid))]
    return any(users.is_part_of(ids) and groups.is_part_of(group_ids) for ids, group_ids in known)


def _keep_id(own: int) -> IdMap:
    """Return the `--userns=keep-id` map from IDs in a container to IDs in its user's namespace, where the user is root."""
    return IdMap(((0, 1, own), (own, 0, 1), (own + 1, own + 1, _ALL_IDS)))
