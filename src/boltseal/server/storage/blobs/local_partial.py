"""A session's file, read while another task writes to it; and the errors of this store by their system errors.

The descriptor keeps the file that it was opened on: a session that becomes a blob is read on as that blob, and one that is
removed is reported as removed. The bytes are not verified.
"""

from __future__ import annotations

import os

from boltseal.files.atomic_files import Disk, is_no_space
from boltseal.server.storage.blobs.local_upload import result_of
from boltseal.server.storage.blobs.protocol import NoSpace, StoreBroken
from boltseal.server.storage.worker_threads import WorkerPool


class LocalPartial:
    """`PartialReader` on an open file."""

    def __init__(self, disk: Disk, pool: WorkerPool, fd: int) -> None:
        self._disk = disk
        self._pool = pool
        self._fd = fd

    def available(self) -> int:
        """Return the file's size, -1 if it has no name any more."""
        found = os.fstat(self._fd)
        return found.st_size if found.st_nlink else -1

    async def read_unverified(self, start: int, length: int) -> bytes:
        """Read on the event loop if the bytes are in memory, as they are just after they came; else in a thread."""
        try:
            piece = self._disk.read_cached_at(self._fd, length, start)
            if piece is not None:
                return piece
            return await result_of(self._pool.launch(self._disk.read_at, self._fd, length, start))
        except OSError as error:
            raise store_error(error, "the bytes that have arrived can't be read") from error

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._disk.close(fd)


def store_error(error: OSError, what: str) -> NoSpace | StoreBroken:
    """Return the error for the client, without paths."""
    reason = error.strerror or type(error).__name__
    if is_no_space(error):
        return NoSpace(f"{what}: no space left in the registry's store ({reason}); push again when there is space")
    return StoreBroken(f"{what}: the registry's store failed ({reason}); try again later")
