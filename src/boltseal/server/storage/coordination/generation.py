"""The store's generation: lets every process keep answers in memory and drop them the moment they may be wrong.

One file of eight bytes, mapped by every process of a store. It is a sequence lock:

    even   the caches filled under this number are right
    odd    a transaction that takes something away (delete, unseal, purge; what a tag of an upstream meant) is being
           committed: no cache is used or filled

The one writer (it holds the database's write lock) makes the number odd before COMMIT and even, two higher, after it.
COMMIT lets go of the write lock, so the file has a lock of its own from the first to the second: else the next writer's
odd number would be made even by the one before, while its own COMMIT is still to come. Taken after the write lock
always, and never waited for by whoever holds it. A process that dies in between leaves the number odd, which costs
speed and nothing else (the kernel opens its lock); the next start or the next such transaction makes it even again.
A reader tags what it caches with the number it read BEFORE it asked the database. Reading costs about 100 ns, a
hundredth of a look-up.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Self

_NUMBER = struct.Struct("<Q")


class FileGeneration:
    """The mapped number of one store. Only the holder of the database's write lock may call begin, end and repair."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self._fd = fd
        self._memory = memory

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file, making it when it is not there."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            if os.fstat(fd).st_size < _NUMBER.size:
                os.ftruncate(fd, _NUMBER.size)
            return cls(fd, mmap.mmap(fd, _NUMBER.size))
        except BaseException:
            os.close(fd)
            raise

    def read(self) -> int:
        """The number now. Odd: use and fill no cache."""
        value: int = _NUMBER.unpack_from(self._memory)[0]
        return value

    def begin(self) -> None:
        """Before the COMMIT of a transaction that takes something away. Waits for the `end` of the one before."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._write(self.read() | 1)

    def end(self) -> None:
        """After the COMMIT or its failure: even, and another number than any before."""
        self._write((self.read() | 1) + 1)
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def repair(self) -> None:
        """At a start, under the write lock: a process may have died between begin and end."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if self.read() & 1:
                self._write(self.read() + 1)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unmap, and let go of the file."""
        self._memory.close()
        os.close(self._fd)

    def _write(self, value: int) -> None:
        # One aligned eight-byte store: another process sees the old number or the new one, never half of each.
        _NUMBER.pack_into(self._memory, 0, value)
