"""The `InterprocessLock` of one host: byte-range locks in the empty file `LOCK_FILE` of the data folder.

A key is a byte of the file, chosen by a hash; two keys with the same byte would wait for each other, which is harmless. The
locks are open file description locks, so they belong to this process's descriptor. The kernel releases them when the process
ends.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable

LOCK_FILE: Final = "interprocess.lock"
LOOK_EVERY_S: Final = 0.02
_FLOCK: Final = "hhqqi0q"  # struct flock of 64-bit Linux: type, whence, start, length, pid (0 for these locks)


class LockNotAcquired(Unavailable):
    """Another task or process held the lock for longer than the caller waited; nothing was done."""


class LockUnusable(Unavailable):
    """A lock file can't be opened, read or locked."""


class FileInterprocessLock:
    """The locks of one data folder. Closed once."""

    def __init__(self, data: Path) -> None:
        self._path = data / LOCK_FILE
        self._fd: int | None = None
        self._here: set[int] = set()

    def close(self) -> None:
        """Release every lock. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @asynccontextmanager
    async def taken(self, key: str, wait_s: float) -> AsyncIterator[None]:
        """Hold the lock of a key inside the block. LockNotAcquired after `wait_s` seconds, LockUnusable."""
        at = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
        until_s = asyncio.get_running_loop().time() + wait_s
        while not self._take(at):
            if asyncio.get_running_loop().time() >= until_s:
                raise LockNotAcquired("another request does the same work and takes long; try again in a moment")
            await asyncio.sleep(LOOK_EVERY_S)
        try:
            yield
        finally:
            self._here.discard(at)
            self._lock(at, fcntl.F_UNLCK)

    def _take(self, at: int) -> bool:
        if at in self._here or not self._lock(at, fcntl.F_WRLCK):
            return False
        self._here.add(at)
        return True

    def _lock(self, at: int, kind: int) -> bool:
        """Set or release the lock of a byte without waiting. Returns False when another process holds it."""
        try:
            if self._fd is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._path, flags, 0o640)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, at, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise LockUnusable(f"{self._path.name} can't be used: {error.strerror}") from error
        return True
