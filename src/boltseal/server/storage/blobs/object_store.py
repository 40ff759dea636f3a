"""A blob store in an object store (S3 or compatible): objects under random keys, and rows that name them.

    PREFIX/blobs/<32 hex>                             the bytes of one request; written once, never copied or renamed
    PREFIX/index/<algorithm>/<hex>/<32 hex>           JSON: digest, size and keys of a blob, for a rebuild without rows
    PREFIX/manifests/<32 hex>                         a manifest of one repository (`object_manifests`)
    PREFIX/owner, PREFIX/owner.probe                  which registry deletes objects here (`bucket_owner`)
    PREFIX/health                                     one byte, written again by readiness checks

The rows decide (`metadata.blob_keys`, `metadata.upload_progress`): a blob is what its row names, and an object that no row names
is nothing. So a commit is one transaction, after the objects have been written. A deletion removes the rows in one
transaction and the objects after it. `object_uploads` keeps the sessions, `object_upload` writes the bytes of one,
`object_maintenance` goes through the store, `object_upkeep` deletes and joins objects in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.blob_places import BlobPlaces
from boltseal.server.storage.blobs.object_failures import ObjectAbsent
from boltseal.server.storage.blobs.object_maintenance import ObjectMaintenance, stored_blob
from boltseal.server.storage.blobs.object_spool import SPOOL_NAME, Spool
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.blobs.object_upload import ObjectResources
from boltseal.server.storage.blobs.object_uploads import ObjectUploads
from boltseal.server.storage.blobs.protocol import (
    BlobAbsent,
    BlobMaintenance,
    RedirectUrl,
    StoreBroken,
    StoredBlob,
    StoreUpkeep,
    UploadCleanup,
    UploadSessions,
)
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.object_client import ObjectClient
from boltseal.server.storage.object_manifests import ObjectManifests
from boltseal.server.storage.upload_admission import MemoryBudget
from boltseal.server.storage.worker_threads import WorkerPool

SPOOL_BYTES: Final = 8 * 1024**3
BULK_THREADS: Final = 4


class ObjectBlobs:
    """`BlobStore` in an object store. `data`: the folder with the spool. `redirect`: clients fetch large blobs from the store.

    `memory_bytes`: what all writers together may buffer, half of it before the spool, about as much behind it. `spool_bytes`:
    what bodies that are not in the store yet may take. `lock_wait_s`: how long a request waits for its session.
    """

    def __init__(
        self,
        database: Metadata,
        client: ObjectClient,
        data: Path,
        *,
        redirect: bool = False,
        memory_bytes: int = 32 * 1024 * 1024,
        spool_bytes: int = SPOOL_BYTES,
        lock_wait_s: float = 2.0,
        disk: Disk | None = None,
    ) -> None:
        self._places = BlobPlaces(database)
        self._client = client
        spool = Spool(data / SPOOL_NAME, spool_bytes, disk or Disk())
        self._resources = ObjectResources(
            database, client, spool, MemoryBudget(memory_bytes // 2), WorkerPool(BULK_THREADS, "boltseal-spool")
        )
        uploads = ObjectUploads(self._resources, lock_wait_s)
        self.uploads: UploadSessions = uploads
        self.upload_cleanup: UploadCleanup = uploads
        owner = BucketOwner(database, client, "the bucket of [storage] blobs")
        self.maintenance: BlobMaintenance = ObjectMaintenance(database, client, owner)
        self.manifests: ObjectManifests | None = ObjectManifests(database, client)
        self.upkeep: StoreUpkeep | None = ObjectUpkeep(database, client, spool, owner)
        self.redirect: RedirectUrl | None = ObjectRedirect(self._places, client) if redirect else None
        spool.make_folder()

    def close(self) -> None:
        """Wait for what is being written to the spool, and end the threads. Idempotent."""
        self._resources.bulk.close()

    @property
    def spooled_bytes(self) -> int:
        """Bytes of bodies that are in the spool now."""
        return self._resources.spool.held_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes that all writers together have in memory now."""
        return self._resources.budget.held_bytes

    async def stat(self, digest: Digest) -> StoredBlob | None:
        """Compare the row with its objects: one request for each."""
        found = await self._places.find(digest)
        if found is None:
            return None
        row, parts = found
        return stored_blob(row, parts, await asyncio.gather(*(self._client.size(part.key) for part in parts)))

    def path(self, digest: Digest) -> Path | None:
        """Return None: there are no files."""
        return None

    async def read(self, digest: Digest, start: int, length: int) -> AsyncGenerator[bytes]:
        """Yield the bytes of one object after the other. Raises: BlobAbsent, also if the first object is missing."""
        found = await self._places.find(digest)
        if found is None:
            raise BlobAbsent(f"blob {digest} is not in the store")
        left, began = length, False
        for part in found[1]:
            wanted = min(left, part.size - start)
            if wanted > 0:
                async with aclosing(self._client.read(part.key, start, wanted)) as pieces:
                    try:
                        async for piece in pieces:
                            began = True
                            yield piece
                    except ObjectAbsent as error:
                        if began:
                            raise
                        raise BlobAbsent(f"bytes of blob {digest} are missing in the store; push it again") from error
                left -= wanted
            start = max(0, start - part.size)
        if left > 0:
            raise StoreBroken(
                f"blob {digest} is shorter than its size: damaged; run `boltseal admin fsck`, push it again"
            )

    async def delete(self, stored: StoredBlob) -> bool:
        """Delete as `maintenance` does, in a thread."""
        return await asyncio.to_thread(self.maintenance.delete, stored)


class ObjectRedirect:
    """`RedirectUrl` for blobs that are one object."""

    def __init__(self, places: BlobPlaces, client: ObjectClient) -> None:
        self._places = places
        self._client = client

    async def redirect_url(self, digest: Digest, expires_s: int) -> str | None:
        """Return a signed address of the blob's object, None if it has none or several."""
        found = await self._places.find(digest)
        parts = [] if found is None else found.parts
        return await self._client.signed_url(parts[0].key, expires_s) if len(parts) == 1 else None
