"""Background work on an object store: delete dead objects, and join the objects of a blob. It lists nothing.

- A dead key was marked in the transaction that removed its last row, and is deleted when it is due. If that fails, it stays
  marked, and is deleted the next time.
- A blob that a client sent in many requests is several objects. They are read into the spool, hashed and written as one, whose key was
  recorded before; then one transaction lets the blob's row name it, if the blob is the same as before. What fails before
  that is deleted a day later.
- The key of a request is in the row of its session before its object is written. What a killed request leaves is marked dead
  when another request takes the session, or when the session is dropped after a day (`upload_progress`). An object that is
  written later still, by a request that was stopped for days, is found by `admin gc --full` (`discard`).

`trouble` is for the event loop; every other method blocks. One process of a store does this at a time; several would only do the same work.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.object_spool import Spool, path_of
from boltseal.server.storage.blobs.object_upload import index_document, index_key, new_key
from boltseal.server.storage.bucket_owner import BucketOwner, refuse_rebuilding
from boltseal.server.storage.metadata import blob_keys, bucket_rows, object_names
from boltseal.server.storage.metadata.blob_keys import BlobRow, ObjectPart
from boltseal.server.storage.metadata.object_names import INDEX, MANIFESTS
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.object_client import ObjectClient
from boltseal.server.storage.object_manifests import ObjectManifests

AT_ONCE: Final = 500
HEALTH_KEY: Final = "health"
HEALTH_WITHIN_S: Final = 5.0
HEALTH_FOR_S: Final = 5.0
"""How long a written byte shows that something can be stored: clients without a login may ask for readiness, and each write costs."""


class _Health(NamedTuple):
    """Why nothing could be stored, None if something could. `known_s`: since when that is known (monotonic).

    `failures`: of the client before that was tried. Any later one ends what is known.
    """

    known_s: float
    trouble: str | None
    failures: int


class ObjectUpkeep:
    """`StoreUpkeep` of an object store."""

    def __init__(self, database: Metadata, client: ObjectClient, spool: Spool, owner: BucketOwner) -> None:
        self._database = database
        self._client = client
        self._spool = spool
        self._owner = owner
        self._manifests = ObjectManifests(database, client)
        self._checking = asyncio.Lock()
        self._health = _Health(-math.inf, None, 0)

    async def trouble(self) -> str | None:
        """Return why nothing can be stored now, None if a byte was written within the last HEALTH_FOR_S seconds.

        Callers that wait at the same time share one write. A failure is not kept: the next caller writes again. Nor is a success,
        once another request of this process to the bucket has failed.
        """
        asked_s = time.monotonic()
        async with self._checking:
            known_s, trouble, failures = self._health
            kept_s = HEALTH_FOR_S if trouble is None and failures == self._client.failures else 0.0
            if asked_s - known_s > kept_s:
                failures = self._client.failures
                trouble = await self._write_byte()
                self._health = _Health(time.monotonic(), trouble, failures)
            return self._health.trouble

    async def _write_byte(self) -> str | None:
        try:
            async with asyncio.timeout(HEALTH_WITHIN_S):
                await self._client.put(HEALTH_KEY, b"1")
        except TimeoutError:
            return f"the object store has not answered for {HEALTH_WITHIN_S:g} seconds"
        except BoltsealError as error:
            return error.message
        return None

    def run(self, now_us: int) -> int:
        """Do all of the work. Returns how many objects were written or deleted."""
        # First, so that each manifest has an object when its former one is deleted.
        written = self._manifests.write_missing()
        return written + self.delete_dead(now_us) + self.join_objects()

    def delete_dead(self, now_us: int) -> int:
        """Delete the objects that are due. Returns how many.

        Raises: StoreBroken, Unavailable. BucketTaken: they may be named by the rows of the registry that has the bucket now.
        """
        deleted = 0
        while keys := self._database.read_and_wait(partial(blob_keys.dead, now_us=now_us, limit=AT_ONCE)):
            self._owner.check()
            self._client.delete_and_wait(keys)
            self._database.write_and_wait(partial(blob_keys.forget_dead, keys=keys))
            deleted += len(keys)
        return deleted

    def join_objects(self) -> int:
        """Write each blob of several objects as one. Returns how many blobs. A blob that can't be read is left as it is."""
        after, joined = "", 0
        while digests := self._database.read_and_wait(partial(blob_keys.of_many_keys, after=after, limit=AT_ONCE)):
            for digest in digests:
                joined += self._join(Digest.parse(digest))
            after = digests[-1]
        return joined

    def discard(self, names: Sequence[str]) -> list[str]:
        """Mark objects dead that no row names; `delete_dead` deletes them. Returns which were marked.

        Raises: BucketTaken, RebuildUnfinished: they may be those of another registry, or get rows.
        """
        if names:
            self._owner.check()
        marked: list[str] = []
        for some in batches(names, AT_ONCE):
            marked += self._database.write_and_wait(partial(_mark_unnamed_dead, keys=some))
        return marked

    def replace(self, names: Sequence[str]) -> int:
        """Write missing index objects again, and let `run` write the missing objects of manifests. Returns how many."""
        replaced = 0
        for name in names:
            if name.startswith(MANIFESTS):
                replaced += self._database.write_and_wait(partial(bucket_rows.forget_object, key=name))
            elif name.startswith(INDEX):
                replaced += self._write_index(object_names.digest_of(name), name)
        return replaced

    def _write_index(self, digest: str, missing: str) -> bool:
        row, parts = self._database.read_and_wait(partial(_blob, digest=digest))
        if row is None or row.index_key != missing:
            return False
        index = index_key(Digest.parse(digest))
        self._database.write_and_wait(partial(blob_keys.announce, keys=[index]))
        self._client.put_and_wait(index, index_document(Digest.parse(digest), parts), "application/json")
        return self._database.write_and_wait(partial(blob_keys.replace_index, row=row, before=parts, index_key=index))

    def _join(self, digest: Digest) -> int:
        row, parts = self._database.read_and_wait(partial(_blob, digest=str(digest)))
        if row is None or len(parts) < 2:
            return 0
        joined, index = ObjectPart(new_key(), row.size), index_key(digest)
        self._database.write_and_wait(partial(blob_keys.announce, keys=[joined.key, index]))
        try:
            fd = self._spool.open()
        except BoltsealError:
            return 0
        try:
            if self._copy(digest, parts, fd) != digest.hex:  # damaged, which `admin fsck` reports
                return 0
            self._client.put_file_and_wait(joined.key, path_of(fd), row.size)
            self._client.put_and_wait(index, index_document(digest, [joined]), "application/json")
        except (BoltsealError, OSError):
            return 0
        finally:
            self._spool.disk.close(fd)
        replace = partial(blob_keys.replace_keys, row=row, before=parts, part=joined, index_key=index)
        return int(self._database.write_and_wait(replace))

    def _copy(self, digest: Digest, parts: list[ObjectPart], fd: int) -> str:
        """Write the bytes of a blob to a file, and return their digest. Raises: StoreBroken, OSError."""
        hasher = digest.hasher()
        for part in parts:
            for piece in self._client.scan(part.key):
                hasher.update(piece)
                self._spool.disk.append(fd, [piece])
        return hasher.hexdigest()


def _mark_unnamed_dead(tx: UnitOfWork, keys: Sequence[str]) -> list[str]:
    refuse_rebuilding(tx)
    return blob_keys.mark_unnamed_dead(tx, keys)


def _blob(snapshot: Snapshot, digest: str) -> tuple[BlobRow | None, list[ObjectPart]]:
    return blob_keys.find(snapshot, digest), blob_keys.keys_of(snapshot, digest)
