"""A blob store in a folder: plain files, which the kernel can send and any tool can read.

`local_layout` draws the folders and renames a session to a blob, `local_uploads` keeps the sessions, `local_upload` writes
the bytes of one, and `local_maintenance` goes through the files. `files.atomic_files` makes the system calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.local_layout import LocalLayout
from boltseal.server.storage.blobs.local_maintenance import LocalMaintenance
from boltseal.server.storage.blobs.local_partial import store_error
from boltseal.server.storage.blobs.local_upload import UploadResources, result_of
from boltseal.server.storage.blobs.local_uploads import LocalUploads
from boltseal.server.storage.blobs.protocol import (
    PIECE_BYTES,
    BlobMaintenance,
    RedirectUrl,
    StoreBroken,
    StoredBlob,
    StoreUpkeep,
    UploadCleanup,
    UploadSessions,
)
from boltseal.server.storage.object_manifests import ObjectManifests
from boltseal.server.storage.upload_admission import MemoryBudget
from boltseal.server.storage.worker_threads import WorkerPool

SHARED_PIECE_BYTES: Final = 256 * 1024
"""The largest piece when there are several long readers; a server may hold two or three for each stalled client."""


class LocalBlobs:
    """`BlobStore` in a folder. `create=False` changes nothing on the disk, for reading beside a running server.

    `memory_bytes`: what all writers together may buffer. `lock_wait_s`: how long a request waits for its session.
    """

    def __init__(
        self,
        data: Path,
        *,
        create: bool = True,
        disk: Disk | None = None,
        memory_bytes: int = 32 * 1024 * 1024,
        lock_wait_s: float = 2.0,
        bulk_threads: int = 4,
        quick_threads: int = 8,
    ) -> None:
        disk = disk or Disk()
        self._resources = UploadResources(
            disk=disk,
            budget=MemoryBudget(memory_bytes),
            quick=WorkerPool(quick_threads, "boltseal-quick"),
            bulk=WorkerPool(bulk_threads, "boltseal-bulk"),
            syncs=ThreadPoolExecutor(bulk_threads, "boltseal-syncs"),
        )
        self._layout = LocalLayout(data, disk)
        self._long_readers = 0
        uploads = LocalUploads(self._layout, self._resources, lock_wait_s)
        self.uploads: UploadSessions = uploads
        self.upload_cleanup: UploadCleanup = uploads
        self.maintenance: BlobMaintenance = LocalMaintenance(self._layout, disk)
        self.redirect: RedirectUrl | None = None
        self.upkeep: StoreUpkeep | None = None
        self.manifests: ObjectManifests | None = None
        if create:
            self._layout.make_folders()

    def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        self._resources.quick.close()
        self._resources.bulk.close()
        self._resources.syncs.shutdown()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that all writers together have in memory now."""
        return self._resources.budget.held_bytes

    async def stat(self, digest: Digest) -> StoredBlob | None:
        """Look at the file: one system call, which costs less than a hand-over to a thread."""
        return self._layout.look(digest)

    def path(self, digest: Digest) -> Path | None:
        """Return the path of the blob's file, which may not exist."""
        return Path(self._layout.blob(digest))

    async def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield pieces. One long reader is fastest with large pieces read at once; several would make each other wait."""
        fd = self._layout.open_blob(digest)
        is_long = length > SHARED_PIECE_BYTES
        self._long_readers += is_long
        try:
            position, end = start, start + length
            while position < end:
                alone = not is_long or self._long_readers == 1
                size = min(PIECE_BYTES if alone else SHARED_PIECE_BYTES, end - position)
                piece = await self._read_piece(fd, size, position, digest, at_once=alone)
                position += len(piece)
                yield piece
        finally:
            self._long_readers -= is_long
            self._resources.disk.close(fd)

    async def _read_piece(self, fd: int, size: int, position: int, digest: Digest, *, at_once: bool) -> bytes:
        """Read on the event loop if the bytes are in memory and there is no other long reader, else in a thread."""
        try:
            piece = self._resources.disk.read_cached_at(fd, size, position) if at_once else None
            if piece is None:
                piece = await result_of(self._resources.quick.launch(self._resources.disk.read_at, fd, size, position))
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be read") from error
        if not piece:
            raise StoreBroken(
                f"blob {digest} is shorter than its size: damaged; run `boltseal admin fsck`, push it again"
            )
        return piece

    async def delete(self, stored: StoredBlob) -> bool:
        """Delete as `maintenance` does, in a thread."""
        deleted: bool = await result_of(self._resources.quick.launch(self.maintenance.delete, stored))
        return deleted
