"""One upload session in an object store while a request writes to it, and the commit.

How this module keeps the promises of `blobs.protocol` (numbers in brackets):

- The bytes of a request become one object under a key that was drawn for this request, and is in the session's row since the
  request began, as is the key of the index object. `flush` writes the object, then lets the row name it; until then the session
  is as it was [3].
- `commit` compares the digest before anything is sent. Then it writes the object of the last bytes and the blob's small index
  object, and last one transaction makes the session's objects those of the blob [1, 2]. Nothing is copied.
- The transaction compares the writer in the row. A request that was stopped, and whose session another one took over,
  changes nothing [5].
- A running hash is kept in memory, and the row has the digest of all bytes so far where it is known. So a commit reads the
  objects again only when the chunks went to several processes, or when the algorithm was another one.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest, DigestInvalid, Hasher
from boltseal.server.storage.blobs.local_upload import SessionHash, result_of
from boltseal.server.storage.blobs.object_session import SessionView
from boltseal.server.storage.blobs.object_spool import Part, Spool, SpooledBody
from boltseal.server.storage.blobs.protocol import UploadBusy, UploadKey, UploadUnknown
from boltseal.server.storage.metadata import blob_keys, upload_progress
from boltseal.server.storage.metadata.blob_keys import BlobRow, ObjectPart
from boltseal.server.storage.metadata.object_names import INDEX
from boltseal.server.storage.metadata.protocol import Job, Metadata, UnitOfWork
from boltseal.server.storage.metadata.upload_progress import ProgressRow
from boltseal.server.storage.object_client import ObjectClient
from boltseal.server.storage.upload_admission import MemoryBudget
from boltseal.server.storage.worker_threads import WorkerPool

BLOBS: Final = "blobs/"
_SMALL_PART_BYTES: Final = 16 * 1024
_HASHED_AT_ONCE_BYTES: Final = 64 * 1024
"""Up to this size hashing costs less than a hand-over to a thread."""
_READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ObjectResources:
    """What all writers of a store share. `bulk`: threads that hash and write to the spool."""

    database: Metadata
    client: ObjectClient
    spool: Spool
    budget: MemoryBudget
    bulk: WorkerPool


def new_key() -> str:
    """Return a key for bytes, which is unused and never used again."""
    return f"{BLOBS}{uuid.uuid4().hex}"


def index_key(digest: Digest) -> str:
    """Return a key for a small object that names the objects of a blob; another one at each call."""
    return f"{index_prefix(digest)}{uuid.uuid4().hex}"


def index_prefix(digest: Digest) -> str:
    """Return what the keys of these objects begin with."""
    return f"{INDEX}{digest.algorithm}/{digest.hex}/"


def index_document(digest: Digest, parts: list[ObjectPart]) -> bytes:
    """Return the content of the small object."""
    keys = [{"key": part.key, "size": part.size} for part in parts]
    return json.dumps({"digest": str(digest), "size": sum(part.size for part in parts), "keys": keys}).encode()


class ObjectUploadWriter:
    """`UploadWriter` on an object store. `row`: of the session, whose writer this request is.

    `running`: the hash of the session's bytes, None if it is not known.
    """

    def __init__(
        self,
        resources: ObjectResources,
        key: UploadKey,
        view: SessionView,
        row: ProgressRow,
        running: SessionHash | None,
    ) -> None:
        self.writer = row.writer or ""
        self.written: set[str] = set()
        """Keys of objects that were written, or perhaps were, and that no row names but the session's as its writer's."""
        self._resources = resources
        self._key = key
        self._view = view
        self._acknowledged_hash = running
        self._hash = None if running is None else running.copy()
        self._digest = row.digest
        self._index = row.index_key
        self._received = 0
        self._buffered = 0
        self._ended = False
        self.recorded = False
        self._body = self._new_body()
        resources.budget.writers += 1

    @property
    def offset(self) -> int:
        """Bytes of the session, including those of this request."""
        return self._view.size + self._body.size

    @property
    def is_committed(self) -> bool:
        """Whether the session has become a blob."""
        return self._ended

    async def write(self, chunk: bytes) -> None:
        """Gather the chunk; move a full batch to the spool."""
        if not chunk:
            return
        if self._ended:
            raise self._unknown()
        admission = self._resources.budget.admission
        admission.arrived(self, len(chunk))
        self._gather(chunk)
        if self._resources.budget.is_due(self._buffered, len(chunk)):
            await self._undone_if_failed(self._spill())
        self._received += len(chunk)
        await admission.admit(self, self._received)

    async def expose(self) -> None:
        """Do nothing: readers of this process see the bytes that arrive, and others see objects."""

    async def flush(self) -> None:
        """Write the object of this request, then let the session's row name it."""
        self._resources.budget.admission.leave(self)
        if self._ended:
            raise self._unknown()
        if self._body.size:
            await self._undone_if_failed(self._append_object())

    async def rollback(self) -> None:
        """Drop the bytes of this request."""
        self._drop_body()
        self._hash = None if self._acknowledged_hash is None else self._acknowledged_hash.copy()

    async def commit(
        self, digest: Digest, verified: Callable[[], None] | None = None, record: Job[None] | None = None
    ) -> int:
        """1. hash and compare, 2. write the last object and the index object, 3. one transaction, which also does `record`."""
        self._resources.budget.admission.leave(self)
        if self._ended:
            raise self._unknown()
        size = self.offset
        await self._undone_if_failed(self._commit(digest, size, verified, record))
        return size

    def close(self) -> SessionHash | None:
        """Drop what was not acknowledged. Returns the running hash of the session, None if it ended or is not known."""
        self._drop_body()
        self._view.body = None
        self._resources.budget.admission.leave(self)
        self._resources.budget.writers -= 1
        return None if self._ended else self._acknowledged_hash

    async def _undone_if_failed(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (BoltsealError, asyncio.CancelledError):
            if not self._ended:
                await self.rollback()
            raise

    # Bytes

    def _new_body(self) -> SpooledBody:
        self._view.body = body = SpooledBody(self._resources.spool)
        return body

    def _drop_body(self) -> None:
        self._body.close()
        self._resources.budget.held_bytes -= self._buffered
        self._buffered = 0
        self._body = self._new_body()

    def _gather(self, chunk: bytes) -> None:
        """Keep big chunks as they come; join small ones, because each alone costs more than its bytes."""
        parts = self._body.parts
        self._buffered += len(chunk)
        self._resources.budget.held_bytes += len(chunk)
        if len(chunk) >= _SMALL_PART_BYTES or not parts:
            parts.append(chunk)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += chunk
        elif len(parts[-1]) < _SMALL_PART_BYTES:
            parts[-1] = bytearray(parts[-1]) + chunk
        else:
            parts.append(bytearray(chunk))

    async def _spill(self) -> None:
        """Hash what was gathered, and move it to the file."""
        body = self._body
        body.reserve(self._buffered)
        await result_of(self._resources.bulk.launch(self._hash_and_write, body, body.parts))
        body.spilled()
        self._resources.budget.held_bytes -= self._buffered
        self._buffered = 0

    def _hash_and_write(self, body: SpooledBody, parts: list[Part]) -> None:
        """In a thread."""
        _update(self._hash, parts)
        body.append(parts)

    async def _gathered(self) -> None:
        """Hash the rest of the body, and move it to the file if the body has one."""
        if self._body.in_file:
            if self._body.parts:
                await self._spill()
        elif self._buffered <= _HASHED_AT_ONCE_BYTES:
            _update(self._hash, self._body.parts)
        else:
            await result_of(self._resources.bulk.launch(_update, self._hash, self._body.parts))

    async def _put_body(self) -> None:
        body = self._body
        if body.size:
            self.written.add(self.writer)
        if body.in_file:
            await self._resources.client.put_file(self.writer, body.path, body.size)
        elif body.parts:
            await self._resources.client.put(self.writer, b"".join(body.parts))

    # The session

    async def _append_object(self) -> None:
        await self._gathered()
        await result_of(asyncio.ensure_future(self._put_body()))  # a cancelled request waits: obstore reads the file
        size, following = self._body.size, new_key()
        digest = None if self._hash is None else f"{self._hash.algorithm}:{self._hash.hasher.hexdigest()}"

        def job(tx: UnitOfWork) -> None:
            if not upload_progress.advance(tx, self._key.name, self.writer, size, digest, following):
                raise self._lost(tx)

        await self._resources.database.write(job, repository=self._key.repository)
        self._view.parts.append(ObjectPart(self.writer, size))
        self._drop_body()
        self.written.discard(self.writer)
        self.writer, self._digest = following, digest
        self._acknowledged_hash = None if self._hash is None else self._hash.copy()

    async def _commit(
        self, digest: Digest, size: int, verified: Callable[[], None] | None, record: Job[None] | None
    ) -> None:
        await self._gathered()
        self._compare(await self._found(digest), digest)
        if verified is not None:
            verified()
        parts = [*self._view.parts]
        if self._body.size:
            parts.append(ObjectPart(self.writer, self._body.size))
        index = await self._announced(digest)
        self.written.add(index)
        await result_of(asyncio.ensure_future(self._put_all(index, index_document(digest, parts))))

        def job(tx: UnitOfWork) -> None:
            if not upload_progress.extend(tx, self._key.name, self.writer):
                raise self._lost(tx)
            blob_keys.put(tx, BlobRow(str(digest), size, tx.now_us, self.writer, index), parts)
            upload_progress.end(tx, self._key.name)
            if record is not None:
                record(tx)

        await self._resources.database.write(job, repository=self._key.repository)
        self._ended, self.recorded = True, record is not None
        self._view.parts = parts
        self._drop_body()

    async def _announced(self, digest: Digest) -> str:
        """Return the key of the index object, which the session's row has; record it now if another digest was expected."""
        if self._index is not None and self._index.startswith(index_prefix(digest)):
            return self._index
        index = index_key(digest)

        def job(tx: UnitOfWork) -> None:
            if not upload_progress.announce_index(tx, self._key.name, self.writer, index):
                raise self._lost(tx)

        await self._resources.database.write(job, durable=False, repository=self._key.repository)
        self._index = index
        return index

    async def _put_all(self, index: str, document: bytes) -> None:
        """Write both objects at the same time. Waits for both, also if one fails, because they use the body."""
        done = await asyncio.gather(
            self._put_body(), self._resources.client.put(index, document, "application/json"), return_exceptions=True
        )
        for each in done:
            if each is not None:
                raise each

    async def _found(self, digest: Digest) -> str:
        """Return the digest of all bytes; read them again only if no hash of this algorithm is known."""
        if self._hash is not None and self._hash.algorithm == digest.algorithm:
            return self._hash.hasher.hexdigest()
        known = Digest.parse(self._digest) if self._digest is not None else None
        if known is not None and known.algorithm == digest.algorithm and not self._body.size:
            return known.hex
        hasher = digest.hasher()
        for part in self._view.parts:
            async for piece in self._resources.client.read(part.key, 0, part.size):
                await self._hash_piece(hasher, piece)
        position = 0
        while piece := self._body.read_at(position, _READ_BYTES):
            await self._hash_piece(hasher, piece)
            position += len(piece)
        return hasher.hexdigest()

    async def _hash_piece(self, hasher: Hasher, piece: bytes) -> None:
        if len(piece) <= _HASHED_AT_ONCE_BYTES:
            hasher.update(piece)
        else:
            await result_of(self._resources.bulk.launch(hasher.update, piece))

    def _compare(self, found: str, digest: Digest) -> None:
        if found != digest.hex:
            raise DigestInvalid(
                f"the uploaded bytes have the digest {digest.algorithm}:{found}, not {digest}: "
                "nothing was stored; send them again, or finish with the right digest"
            )

    def _lost(self, tx: UnitOfWork) -> UploadUnknown | UploadBusy:
        """Return why this request is not the writer of its session any more."""
        if upload_progress.find(tx, self._key.name) is None:
            return self._key.unknown()
        return UploadBusy(
            f"another request continues the upload session {self._key.id}: nothing of this one was kept; ask for its offset"
        )

    def _unknown(self) -> UploadUnknown:
        return UploadUnknown(f"the upload session {self._key.id} has ended; start one with POST")


def _update(running: SessionHash | None, parts: list[Part]) -> None:
    if running is not None:
        for part in parts:
            running.hasher.update(part)
