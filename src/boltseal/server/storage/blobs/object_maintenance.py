"""Every blob of an object store, for garbage collection and fsck: `BlobMaintenance`. Every method blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs import object_comparison
from boltseal.server.storage.blobs.object_failures import ObjectAbsent
from boltseal.server.storage.blobs.protocol import BlobAbsent, ComparedPage, StoredBlob
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.blob_keys import BlobRow, ObjectPart
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.object_client import ObjectClient

ROWS_AT_ONCE: Final = 500
DELETED_AT_ONCE: Final = 8
"""Each takes two requests and two transactions; those that wait at the same time share a COMMIT."""


class ObjectMaintenance:
    """`BlobMaintenance` in an object store."""

    def __init__(self, database: Metadata, client: ObjectClient, owner: BucketOwner) -> None:
        self._database = database
        self._client = client
        self._owner = owner

    def look(self, digest: Digest, *, by_row: bool = False) -> StoredBlob | None:
        """Compare the row with its objects: one request for each. `by_row`: none."""
        row, parts = self._database.read_and_wait(partial(_blob, digest=str(digest)))
        if row is None:
            return None
        if by_row:
            return StoredBlob(digest, row.size, row.stored_us, row.version)
        return stored_blob(row, parts, [self._client.size_and_wait(part.key) for part in parts])

    def scan(self, digest: Digest) -> Iterator[bytes]:
        """Yield the objects that the row names now."""
        row, parts = self._database.read_and_wait(partial(_blob, digest=str(digest)))
        if row is None:
            raise BlobAbsent(f"blob {digest} is not in the store")
        for number, part in enumerate(parts):
            try:
                yield from self._client.scan(part.key)
            except ObjectAbsent as error:
                if number:
                    raise
                raise BlobAbsent(f"bytes of blob {digest} are missing in the store") from error

    def walk(self, after: str = "") -> Iterator[StoredBlob]:
        """Yield the rows in order, without a request to the object store."""
        while rows := self._database.read_and_wait(partial(_blobs_after, after=after)):
            yield from (StoredBlob(Digest.parse(row.digest), row.size, row.stored_us, row.version) for row in rows)
            after = rows[-1].digest

    def compare(self, after: str = "", *, contents: bool = False) -> Iterator[ComparedPage]:
        """Compare the objects below the prefix with the rows: a listing of the whole store."""
        yield from object_comparison.compare(self._database, self._client, after, contents=contents)

    @property
    def deleted_at_once(self) -> int:
        """Return how many calls of `delete` a collection makes at the same time."""
        return DELETED_AT_ONCE

    def delete(self, stored: StoredBlob) -> bool:
        """Remove the rows, then delete the objects. What is not deleted then, `ObjectUpkeep` deletes later.

        Raises: BucketTaken: the rows of the registry that has the bucket now may name the objects; they stay, and so do the rows.
        """

        def job(tx: UnitOfWork) -> list[str] | None:
            return blob_keys.remove_version(tx, str(stored.digest), stored.version, due_us=tx.now_us)

        self._owner.check()
        dead = self._database.write_and_wait(job)
        if dead is None:
            return False
        self._client.delete_and_wait(dead)
        self._database.write_and_wait(lambda tx: blob_keys.forget_dead(tx, dead))
        return True


def stored_blob(row: BlobRow, parts: Sequence[ObjectPart], sizes: Sequence[int | None]) -> StoredBlob | None:
    """Return a blob as it is in the store: None if an object is missing; its real size if one has another size."""
    present = [size for size in sizes if size is not None]
    if len(present) < len(parts):
        return None
    return StoredBlob(Digest.parse(row.digest), sum(present), row.stored_us, row.version)


def _blob(snapshot: Snapshot, digest: str) -> tuple[BlobRow | None, list[ObjectPart]]:
    return blob_keys.find(snapshot, digest), blob_keys.keys_of(snapshot, digest)


def _blobs_after(snapshot: Snapshot, after: str) -> list[BlobRow]:
    return blob_keys.blobs_after(snapshot, after, ROWS_AT_ONCE)
