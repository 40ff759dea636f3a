"""Which ids of this host stand for those in a user's containers, when no root is behind them ("rootless").

The user is root inside; the ids from 1 on are the ranges that /etc/subuid and /etc/subgid give to the user, one after the
other (subuid(5): NAME-OR-ID:FIRST:COUNT). Both lie on the disk that the store lies on, which may be that of another host.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

Range = tuple[int, int, int]
"""First id inside, first id outside, how many."""

MAX_BYTES: Final = 1024 * 1024
MAX_RANGES: Final = 340
"""As many as a user namespace takes."""


def id_maps(store: Path) -> tuple[tuple[Range, ...], tuple[Range, ...], bool] | None:
    """The maps of users and groups of a store that a plain user owns, and whether the ranges of that user are known.

    None for a store of root's. OSError where the store can't be looked at.
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
    return tuple(users[:MAX_RANGES]), tuple(groups[:MAX_RANGES]), len(users) > 1 and len(groups) > 1


def user_ranges(store: Path) -> list[tuple[tuple[Range, ...], tuple[Range, ...]]]:
    """The ranges of users and groups that the store's disk gives to each of its users, counted from 0 inside.

    A container of root's has this map where it has a user's ids: Podman's `--subuidname`, or `--uidmap` with these numbers.
    """
    etc = _etc_of(store)
    if etc is None:
        return []
    of_users, of_groups = (_ranges(etc, file) for file in ("subuid", "subgid"))
    return [(tuple(ranges), tuple(of_groups[name])) for name, ranges in of_users.items() if name in of_groups]


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
    """The nearest `etc` above a store that has a passwd of root's: a user could lay one into the own home."""
    for above in store.resolve().parents:
        try:
            found = (above / "etc/passwd").stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0:
            return above / "etc"
    return None


def _fields(etc: Path, name: str) -> list[list[bytes]]:
    """The lines of a file of root's, at their colons; none where it can't be read."""
    try:
        fd = os.open(etc / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0:
            return []
        return [line.split(b":") for line in file.read(MAX_BYTES).splitlines()]
