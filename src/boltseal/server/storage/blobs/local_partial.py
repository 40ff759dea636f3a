"""A session's file, read while somebody else writes to it; and what the disk's errors are called in this store.

The descriptor keeps the file that it was opened on: a session that becomes a blob is read on as that blob, and one that
is dropped says so. Nothing here knows whether the bytes are those of any digest.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from boltseal.files.atomic_files import is_no_space
from boltseal.server.storage.blobs.local_upload import finished
from boltseal.server.storage.blobs.protocol import NoSpace, StoreBroken

if TYPE_CHECKING:
    from boltseal.files.atomic_files import Disk
    from boltseal.server.storage.worker_threads import WorkerThread


class LocalPartial:
    """`PartialReader` on an open file."""

    def __init__(self, disk: Disk, lane: WorkerThread, fd: int) -> None:
        self._disk = disk
        self._lane = lane
        self._fd = fd

    def available(self) -> int:
        """The file's size, -1 when no name leads to it."""
        found = os.fstat(self._fd)
        return found.st_size if found.st_nlink else -1

    async def read_unverified(self, start: int, length: int) -> bytes:
        """At once if the bytes are in memory, as they are just after they came; else in a thread."""
        try:
            piece = self._disk.read_cached_at(self._fd, length, start)
            if piece is not None:
                return piece
            return await finished(self._lane.launch(self._disk.read_at, self._fd, length, start))
        except OSError as error:
            raise told(error, "what has arrived can't be read") from error

    def close(self) -> None:
        """Closes the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)


def told(error: OSError, what: str) -> NoSpace | StoreBroken:
    """The error in words, without paths."""
    reason = error.strerror or type(error).__name__
    if is_no_space(error):
        return NoSpace(f"{what}: no space left in the registry's store ({reason}); push again when there is room")
    return StoreBroken(f"{what}: the registry's store failed ({reason}); try again later")
