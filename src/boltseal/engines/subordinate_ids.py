"""ID mappings of rootless containers: the host's user and group IDs for those inside.

The user is root inside; IDs from 1 on are the ranges that /etc/subuid and /etc/subgid assign to the user, in order
(subuid(5): NAME-OR-ID:FIRST:COUNT). Both files are on the disk of the store, which may be that of another host.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

Range = tuple[int, int, int]
"""First ID inside, first ID outside, count."""

MAX_BYTES: Final = 1024 * 1024
MAX_RANGES: Final = 340
"""The kernel's limit for a user namespace."""


class IdMaps(NamedTuple):
    """User and group maps. `complete`: whether the ranges that are assigned to the user are known."""

    users: tuple[Range, ...]
    groups: tuple[Range, ...]
    complete: bool = True


def id_maps(store: Path) -> IdMaps | None:
    """Return the user and group maps of a rootless store, None for root's store.

    Raises: OSError: the store can't be read.
    """
    owner = store.stat()
    if owner.st_uid == 0:
        return None
    users: list[Range] = [(0, owner.st_uid, 1)]
    groups: list[Range] = [(0, owner.st_gid, 1)]
    etc = _etc_of(store)
    names = {str(owner.st_uid).encode()}
    for fields in _fields(etc, "passwd") if etc is not None else ():
        if len(fields) > 2 and fields[2] == str(owner.st_uid).encode():
            names.add(fields[0])
    for file, ranges in (("subuid", users), ("subgid", groups)):
        for fields in _fields(etc, file) if etc is not None else ():
            if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
                inside = ranges[-1][0] + ranges[-1][2]
                ranges.append((inside, int(fields[1]), int(fields[2])))
    return IdMaps(tuple(users[:MAX_RANGES]), tuple(groups[:MAX_RANGES]), len(users) > 1 and len(groups) > 1)


def is_in_home_of_owner(store: Path) -> bool:
    """Return whether a store is in the home folder that /etc/passwd on its disk names for the owner of the store's folder.

    Raises: OSError: the store can't be read.
    """
    owner, etc = str(store.stat().st_uid).encode(), _etc_of(store)
    if etc is None:
        return False
    homes = [
        Path(os.fsdecode(fields[5]))
        for fields in _fields(etc, "passwd")
        if len(fields) > 5 and fields[2] == owner and fields[5].strip(b"/")
    ]
    at = store.resolve()
    return any(at.is_relative_to(each.resolve()) or at.is_relative_to(_on_disk(etc.parent, each)) for each in homes)


def _on_disk(disk: Path, path: Path) -> Path:
    return disk / path.relative_to(path.anchor)


def user_ranges(store: Path) -> list[IdMaps]:
    """Return the subordinate user and group IDs that /etc on the store's disk assigns to each user, from 0 inside.

    A rootful container that runs with a user's subordinate IDs has these maps: Podman's `--subuidname`, or `--uidmap` with
    the same numbers.
    """
    etc = _etc_of(store)
    if etc is None:
        return []
    of_users, of_groups = (_ranges(etc, file) for file in ("subuid", "subgid"))
    return [IdMaps(tuple(ranges), tuple(of_groups[name])) for name, ranges in of_users.items() if name in of_groups]


def _ranges(etc: Path, file: str) -> dict[bytes, list[Range]]:
    found: dict[bytes, list[Range]] = {}
    for fields in _fields(etc, file):
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            ranges = found.setdefault(fields[0], [])
            inside = ranges[-1][0] + ranges[-1][2] if ranges else 0
            if len(ranges) < MAX_RANGES:
                ranges.append((inside, int(fields[1]), int(fields[2])))
    return found


def _etc_of(store: Path) -> Path | None:
    """Return the nearest `etc` above a store with a passwd owned by root: a user could put another one into their home."""
    for above in store.resolve().parents:
        try:
            found = (above / "etc/passwd").stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0:
            return above / "etc"
    return None


def _fields(etc: Path, name: str) -> list[list[bytes]]:
    """Return the colon-separated lines of a file owned by root; none if it can't be read."""
    try:
        fd = os.open(etc / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0:
            return []
        return [line.split(b":") for line in file.read(MAX_BYTES).splitlines()]
