"""Find mounts below a folder in the mount table of a process (proc_pid_mountinfo(5)).

A bind mount of the same file system has the same `st_dev` as what it hides, so `stat` can't reveal it. The kernel
identifies mounts by IDs: that of a descriptor is in proc_pid_fdinfo(5), those of a mount and its parent are in the
table. A mount is below a folder if its parent is the folder's mount and its mount point is below the folder's path.
This leaves out mounts that other mounts hide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreUnreadable, explained

MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
"""More than the kernel's limit of 100,000 mounts takes."""
TRIES: Final = 5
"""Podman bind-mounts its layer folder on itself for its first container, and unmounts it after the last one."""
SELF: Final = Path("/proc/self")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_ESCAPED: Final = re.compile(rb"[ \t\n\\]")
_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*([0-9]+)$", re.MULTILINE)


class Mount(NamedTuple):
    """A line of a mount table. `device`: MAJOR:MINOR; `root`: the folder or file of that file system; `point`: where."""

    id: bytes
    parent: bytes
    device: bytes
    root: bytes
    point: bytes


def mount_points_below(root: Path, folder: bytes) -> list[bytes]:
    """Return the mount points below a folder of a store, relative to it, without mounts on those mounts.

    Raises: StoreUnreadable: the kernel does not list them; StoreMissing, StoreMalformed as `SafeFolder`.
    """
    for _ in range(TRIES):
        with open_store(root) as files:
            fd = files.folder(folder)
            path, mount, table = path_of(fd), mount_id(fd), _own_table()
            if b"\n%s " % mount in b"\n" + table or mount == _mount_of_root():
                return sorted({each.point[len(path) + 1 :] for each in below(table, path) if each.parent == mount})
    raise StoreUnreadable(
        f"mounts in {root} can't be determined: it is in another mount namespace, or was unmounted meanwhile"
    )


def below(table: bytes, path: bytes) -> Iterator[Mount]:
    """Yield the mounts of a table whose mount points are below a path, hidden ones included."""
    start = path.rstrip(b"/") + b"/"
    written = _ESCAPED.sub(lambda found: b"\\%03o" % found[0][0], start)
    for line in table.split(b"\n") if written in table else ():  # a path in it may have a carriage return
        fields = line.split(b" ", 5)
        if len(fields) == 6 and fields[4].startswith(written):
            yield _parsed(fields)


def mounts(table: bytes) -> Iterator[Mount]:
    """Yield all mounts of a table."""
    for line in table.split(b"\n"):
        fields = line.split(b" ", 5)
        if len(fields) == 6:
            yield _parsed(fields)


def _parsed(fields: list[bytes]) -> Mount:
    root, point = (_ESCAPE.sub(lambda each: bytes([int(each[1], 8) & 0xFF]), fields[at]) for at in (3, 4))
    return Mount(fields[0], fields[1], fields[2], root, point)


def path_of(fd: int) -> bytes:
    """Return the path of an open folder as the table spells it: from this process's root.

    Raises: StoreUnreadable.
    """
    try:
        return os.fsencode((SELF / "fd" / str(fd)).readlink())
    except OSError as error:
        raise _not_seen(error) from error


def _mount_of_root() -> bytes:
    """Return the mount ID of this process's root. In a chroot the table may lack this mount."""
    try:
        fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _not_seen(error) from error
    try:
        return mount_id(fd)
    finally:
        os.close(fd)


def mount_id(fd: int) -> bytes:
    """Return the ID of the mount of an open folder.

    Raises: StoreUnreadable.
    """
    try:
        found = _MOUNT_ID.search((SELF / "fdinfo" / str(fd)).read_bytes())
    except OSError as error:
        raise _not_seen(error) from error
    if found is None:
        raise StoreUnreadable("mounts in this store can't be determined: the kernel does not report mount IDs")
    return found[1]


def _own_table() -> bytes:
    try:
        return mount_table(SELF)
    except OSError as error:
        raise _not_seen(error) from error


def mount_table(process: Path) -> bytes:
    """Return the mount table of a process. `process`: its folder in /proc.

    Raises: OSError, StoreUnreadable.
    """
    with (process / "mountinfo").open("rb") as file:
        raw = file.read(MAX_TABLE_BYTES + 1)
    if len(raw) > MAX_TABLE_BYTES:
        raise StoreUnreadable(f"{process}/mountinfo has more than {MAX_TABLE_BYTES >> 20} MiB")
    return raw


def _not_seen(error: OSError) -> StoreUnreadable:
    return StoreUnreadable(f"mounts in this store can't be determined: {explained(error, str(SELF)).message}")
