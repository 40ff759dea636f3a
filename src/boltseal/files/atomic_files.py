"""Files and folders that survive a power cut: the system calls by which the store changes the disk.

A file is durable when its own fsync has returned, and its name when the fsync of its folder has. No path is followed through
a symbolic link at its last component. Files are 0640 and folders 0750 at most. The calls are methods of `Disk`, so that a
test can pass a disk that fails on demand, before or after the call's effect. The callers decide what is written.
"""

# System calls on descriptors and plain strings, where pathlib would cost more than the calls do:
# ruff: noqa: PTH102, PTH104, PTH108, PTH112

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
LOOK_EVERY_S: Final = 0.02
"""How often a process that waits for a lock for a limited time looks whether it is free."""
_MOST_PARTS: Final = 1024  # IOV_MAX on Linux and macOS
_CAN_READ_CACHED: Final = hasattr(os, "RWF_NOWAIT")
_PROBE_EVERY_BYTES: Final = 64 * 1024
_RELEASE: Final = re.compile(r"([0-9]+)\.([0-9]+)").match
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def locked(path: str, mode: int = FILE_MODE) -> Iterator[None]:
    """Hold the lock of a file, which is created if missing, against other processes inside the block.

    Raises: OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def lock_within(path: str, mode: int, wait_s: float, *, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a file as `locked` does, or yield False if another process holds it for longer than `wait_s`.

    `shared`: beside others that hold it so. Raises: OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        yield _lock_by(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, time.monotonic() + wait_s)
    finally:
        os.close(fd)


def _lock_by(fd: int, kind: int, ends_s: float) -> bool:
    """Return whether the lock of an open file was free until this time."""
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_s:
                return False
            time.sleep(LOOK_EVERY_S)
        else:
            return True


def is_no_space(error: OSError) -> bool:
    """Return whether the disk, the quota or the file is full, so that a repetition may succeed later."""
    return error.errno in _NO_SPACE


class Disk:
    """The system calls. A method that raises OSError may have had its effect anyway."""

    def create(self, path: str, mode: int = FILE_MODE) -> int:
        """Create a new, empty file for reading and appending; FileExistsError if the name is taken."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)

    def open_to_append(self, path: str) -> int:
        """Open an existing file for reading and appending."""
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_to_read(self, path: str) -> int:
        """Open an existing file for reading."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close a descriptor, and so release the lock that it holds."""
        os.close(fd)

    def append(self, fd: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Append all parts. After an error some of them may be appended."""
        rest = [memoryview(part) for part in parts if part]
        while rest:
            written = os.writev(fd, rest[:_MOST_PARTS])
            done = 0
            while done < len(rest) and written >= len(rest[done]):
                written -= len(rest[done])
                done += 1
            del rest[:done]
            if written:
                rest[0] = rest[0][written:]

    def read_at(self, fd: int, size: int, position: int) -> bytes:
        """Return at most `size` bytes from `position` on; none at the end of the file."""
        return os.pread(fd, size, position)

    def read_cached_at(self, fd: int, size: int, position: int) -> bytes | None:
        """Read as `read_at` does, but without waiting for the disk: None if the bytes are not in memory, or that is not known.

        Reads one byte in each 64 KiB first, since the kernel loads and evicts far more than that at once. Reading all of it without
        waiting would cost a copy more.
        """
        if not _CAN_READ_CACHED:
            return None
        byte = bytearray(1)
        try:
            for probed in (*range(position, position + size, _PROBE_EVERY_BYTES), position + size - 1):
                os.preadv(fd, [byte], probed, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        return os.pread(fd, size, position)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def touch(self, fd: int) -> None:
        """Set the file's times to now."""
        os.utime(fd)

    def sync_data(self, fd: int) -> None:
        """Make the file's bytes and size durable."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """Make all of the file durable."""
        os.fsync(fd)

    def rename(self, source: str, target: str) -> None:
        """Rename a file atomically, in place of a file of that name."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Give the file a second name; FileExistsError if that is taken."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        """Remove a name of a file."""
        os.unlink(path)

    def make_folder(self, path: str) -> None:
        """Create the folder if there is none; its parent must exist."""
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def lock_folder(self, path: str, *, exclusive: bool) -> int:
        """Open a folder and lock it, waiting for the lock. Return the descriptor; closing it releases the lock."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def durable_at_end(folder: Path) -> Iterator[None]:
    """Make all files and names that the block wrote under a folder durable when it ends: many small ones cost one wait.

    Raises: OSError.
    """
    # Opened before the writes: the file system reports the errors of writes since then.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
        if not _sync_file_system(fd):
            sync_tree(folder)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make every file and name under a folder durable, one by one. Raises: OSError."""
    disk = Disk()
    for path, _, names in os.walk(folder):
        for name in names:
            fd = disk.open_to_read(f"{path}/{name}")
            try:
                disk.sync(fd)
            finally:
                disk.close(fd)
        disk.sync_folder(path)


def _sync_file_system(fd: int) -> bool:
    """Sync the file system of a folder. Returns False where the system cannot, or would not report errors. Raises: OSError."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if call is None or not _reports_errors(os.uname().release):
        return False
    if call(fd) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True


def _reports_errors(release: str) -> bool:
    """Return whether `syncfs` of this kernel reports failed writes: since Linux 5.8."""
    found = _RELEASE(release)
    return found is not None and (int(found[1]), int(found[2])) >= (5, 8)


def make_folders(disk: Disk, path: Path) -> None:
    """Create a folder and its missing parents; each name is durable when this returns. Raises: OSError."""
    if path.is_dir():
        return
    make_folders(disk, path.parent)
    disk.make_folder(os.fspath(path))
    disk.sync_folder(os.fspath(path.parent))


def write_file(
    disk: Disk,
    path: Path,
    content: bytes,
    mode: int = FILE_MODE,
    *,
    whatever_umask: bool = False,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a whole small file in place of `path`, or leave that as it was. OSError.

    Steps: 1. write beside it, 2. fsync, 3. rename over it, 4. fsync the folder. `whatever_umask`: do not reduce `mode`.
    `owner`: user and group, if this user may set them.
    """
    beside = f"{path}.{os.getpid()}.{os.urandom(6).hex()}.new"
    try:
        fd = disk.create(beside, mode)
        try:
            if owner is not None:
                with suppress(PermissionError):
                    os.fchown(fd, *owner)
            if whatever_umask:  # after the owner, whose change removes set-user-id
                os.fchmod(fd, mode)
            disk.append(fd, [content])
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(beside, os.fspath(path))
    except OSError:
        if os.path.lexists(beside):
            disk.unlink(beside)
        raise
    disk.sync_folder(os.fspath(path.parent))
