"""Find mounts below a folder in the mount table of this process (proc_pid_mountinfo(5)).

A bind mount of the same file system has the same `st_dev` as what it hides, so `stat` can't reveal it. The kernel
identifies mounts by IDs: that of a descriptor is in proc_pid_fdinfo(5), those of a mount and its parent are in the
table. A mount is below a folder if its parent is the folder's mount and its mount point is below the folder's path.
This leaves out mounts that other mounts hide.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreUnreadable, explained

MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
"""More than the kernel's limit of 100,000 mounts takes."""
TRIES: Final = 5
"""Podman bind-mounts its layer folder on itself for its first container, and unmounts it after the last one."""
_SELF: Final = Path("/proc/self")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")
_ESCAPED: Final = re.compile(rb"[ \t\n\\]")
_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*([0-9]+)$", re.MULTILINE)


def mount_points_below(root: Path, folder: bytes) -> list[bytes]:
    """Return the mount points below a folder of a store, relative to it, without mounts on those mounts.

    Raises: StoreUnreadable: the kernel does not list them; StoreMissing, StoreMalformed as `SafeFolder`.
    """
    for _ in range(TRIES):
        with SafeFolder(root) as files:
            fd = files.folder(folder)
            path, mount, table = _path(fd), _mount_id(fd), _table()
            if b"\n%s " % mount in b"\n" + table or mount == _mount_of_root():
                return _points(table, mount, path)
    raise StoreUnreadable(
        f"mounts in {root} can't be determined: it is in another mount namespace, or was unmounted meanwhile"
    )


def _points(table: bytes, mount: bytes, path: bytes) -> list[bytes]:
    """Return the mount points of a table below `path`. `mount`: ID of the mount that contains the folder."""
    start = path.rstrip(b"/") + b"/"
    written = _ESCAPED.sub(lambda found: b"\\%03o" % found[0][0], start)
    found = set()
    for line in table.split(b"\n") if written in table else ():  # a path in it may have a carriage return
        fields = line.split(b" ", 5)
        if len(fields) == 6 and fields[1] == mount and fields[4].startswith(written):
            found.add(_ESCAPE.sub(lambda each: bytes([int(each[1], 8) & 0xFF]), fields[4])[len(start) :])
    return sorted(found)


def _path(fd: int) -> bytes:
    """Return the path of an open folder as the table spells it: from this process's root."""
    try:
        return os.fsencode((_SELF / "fd" / str(fd)).readlink())
    except OSError as error:
        raise _not_seen(error) from error


def _mount_of_root() -> bytes:
    """Return the mount ID of this process's root. In a chroot the table may lack this mount."""
    try:
        fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise _not_seen(error) from error
    try:
        return _mount_id(fd)
    finally:
        os.close(fd)


def _mount_id(fd: int) -> bytes:
    try:
        found = _MOUNT_ID.search((_SELF / "fdinfo" / str(fd)).read_bytes())
    except OSError as error:
        raise _not_seen(error) from error
    if found is None:
        raise StoreUnreadable("mounts in this store can't be determined: the kernel does not report mount IDs")
    return found[1]


def _table() -> bytes:
    try:
        with (_SELF / "mountinfo").open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise _not_seen(error) from error
    if len(raw) > MAX_TABLE_BYTES:
        raise StoreUnreadable(f"{_SELF}/mountinfo has more than {MAX_TABLE_BYTES >> 20} MiB")
    return raw


def _not_seen(error: OSError) -> StoreUnreadable:
    return StoreUnreadable(f"mounts in this store can't be determined: {explained(error, str(_SELF)).message}")
