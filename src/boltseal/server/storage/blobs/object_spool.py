"""Bodies of uploads on their way to an object store: a little in memory, the rest in files without a name.

An object is written as a whole once its body has arrived and been hashed, so the body waits in a file of the folder
`DATA/spool`, not in memory. The file never has a name: nothing is left of a process that ended. All bodies of a process
together have a limit; a body that does not fit any more is refused with 503, and the session stays as it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, is_no_space, make_folders
from boltseal.server.storage.blobs.protocol import StoreBroken

SPOOL_NAME: Final = "spool"
_GIB: Final = 1024**3

Part = bytes | bytearray


class SpoolFull(Unavailable):
    """No space is left for bodies that wait for the object store. The session is as it was; try again later."""


class Spool:
    """The folder and the limit for all bodies of this process. Used by the event loop and by the threads of the store."""

    def __init__(self, folder: Path, limit_bytes: int, disk: Disk) -> None:
        self.disk = disk
        self._folder = folder
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def make_folder(self) -> None:
        """Create the folder if it is missing."""
        make_folders(self.disk, self._folder)

    def reserve(self, size: int) -> None:
        """Count bytes that are about to be written. On the event loop. Raises: SpoolFull."""
        if self.held_bytes + size > self._limit_bytes:
            raise SpoolFull(
                f"too many uploads wait for the registry's object store ({self.held_bytes / _GIB:.1f} of "
                f"{self._limit_bytes / _GIB:.1f} GiB): nothing of this request was kept; push again in a moment"
            )
        self.held_bytes += size

    def free(self, size: int) -> None:
        """Count bytes whose file is closed. On the event loop."""
        self.held_bytes -= size

    def open(self) -> int:
        """Return a new file without a name. In a thread. Raises: SpoolFull, StoreBroken."""
        try:
            fd, path = tempfile.mkstemp(dir=self._folder)
            os.unlink(path)  # noqa: PTH108 - a plain string
        except OSError as error:
            raise spool_error(error) from error
        return fd


def path_of(fd: int) -> Path:
    """Return a path by which this process opens a file without a name again."""
    return Path(f"/dev/fd/{fd}")


def spool_error(error: OSError) -> SpoolFull | StoreBroken:
    """Return the error for the client, without paths."""
    reason = error.strerror or type(error).__name__
    if is_no_space(error):
        return SpoolFull(
            f"no space left for uploads that wait for the registry's object store ({reason}): nothing of this request was "
            "kept; push again in a moment"
        )
    return StoreBroken(f"the registry can't keep the upload for its object store ({reason}); push again later")


class SpooledBody:
    """The bytes of one request. The event loop adds parts; a thread moves them to the file, one job at a time."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._fd = -1
        self._reserved = 0
        self.in_file = 0
        self.parts: list[Part] = []

    @property
    def size(self) -> int:
        """Bytes of the request so far."""
        return self.in_file + sum(map(len, self.parts))

    @property
    def path(self) -> Path:
        """The file, for a reader of this process, while the body is open."""
        return path_of(self._fd)

    def reserve(self, size: int) -> None:
        """Count bytes that `append` will write. On the event loop. Raises: SpoolFull."""
        self._spool.reserve(size)
        self._reserved += size

    def append(self, parts: Sequence[Part]) -> None:
        """Write parts to the file; `spilled` counts them. In a thread. Raises: SpoolFull, StoreBroken."""
        if self._fd < 0:
            self._fd = self._spool.open()
        try:
            self._spool.disk.append(self._fd, parts)
        except OSError as error:
            raise spool_error(error) from error

    def spilled(self) -> None:
        """Drop the parts, all of which `append` has written. On the event loop."""
        self.in_file += sum(map(len, self.parts))
        self.parts = []

    def read_at(self, start: int, length: int) -> bytes:
        """Return bytes of the request, fewer than asked for at the end of the file or of what is in memory.

        On the event loop, which also closes the file. The bytes were written a moment ago, so they are in memory.
        """
        if start < self.in_file:
            return os.pread(self._fd, min(length, self.in_file - start), start)
        return b"".join(self.parts)[start - self.in_file :][:length]

    def close(self) -> None:
        """Drop the bytes. On the event loop, when no thread is at work. Idempotent."""
        fd, self._fd = self._fd, -1
        self.parts = []
        self.in_file = 0
        self._spool.free(self._reserved)
        self._reserved = 0
        if fd >= 0:
            os.close(fd)
