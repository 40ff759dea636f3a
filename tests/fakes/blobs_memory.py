"""A `BlobStore` in memory that keeps the promises of the real ones and can be configured to fail.

The contract suite runs on it as on the real stores, so that tests with it are valid for those. `fail("commit",
error)` makes the next commit raise before it is done, `fail("commit", error, done=True)` after it. It keeps nothing
over a restart, and its time is `now_us`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.server.storage.blobs.protocol import (
    PIECE_BYTES,
    BlobAbsent,
    BlobMaintenance,
    ComparedPage,
    RedirectUrl,
    StoreBroken,
    StoredBlob,
    StoreUpkeep,
    UploadBusy,
    UploadCleanup,
    UploadFile,
    UploadKey,
    UploadSessions,
    UploadUnknown,
)
from boltseal.server.storage.metadata.protocol import Job
from boltseal.server.storage.object_manifests import ObjectManifests


class _Session:
    """An upload's bytes, the time of the latest, and its writer."""

    def __init__(self, now_us: int) -> None:
        self.content = bytearray()
        self.mtime_us = now_us
        self.lock = asyncio.Lock()
        self.is_blob = False


class MemoryWriter:
    """`UploadWriter` on a bytearray, to which buffered bytes move at flush."""

    def __init__(self, store: MemoryBlobs, key: UploadKey, session: _Session) -> None:
        self._store = store
        self._key = key
        self._session = session
        self._buffered = bytearray()
        self.recorded = False

    @property
    def offset(self) -> int:
        return len(self._session.content) + len(self._buffered)

    async def write(self, chunk: bytes) -> None:
        self._check()
        try:
            self._store.trip("write")
            self._buffered += chunk
            self._store.trip("write", done=True)
        except BoltsealError:
            self._buffered.clear()
            raise

    async def flush(self) -> None:
        self._check()
        try:
            self._store.trip("flush")
        except BoltsealError:
            self._buffered.clear()
            raise
        self._session.content += self._buffered
        self._session.mtime_us = self._store.now_us
        self._buffered.clear()
        self._store.trip("flush", done=True)

    async def expose(self) -> None:
        await self.flush()

    async def rollback(self) -> None:
        self._buffered.clear()

    async def commit(
        self, digest: Digest, verified: Callable[[], None] | None = None, record: Job[None] | None = None
    ) -> int:
        self._check()
        content = bytes(self._session.content + self._buffered)
        self._buffered.clear()
        found = Digest.of(content, digest.algorithm)
        if found != digest:
            msg = f"the uploaded bytes have the digest {found}, not {digest}"
            raise DigestInvalid(msg)
        self._store.trip("commit")
        self._store.blobs[digest] = (content, self._store.now_us)
        self._session.content, self._session.is_blob = bytearray(content), True
        del self._store.sessions[self._key.name]
        if verified is not None:
            verified()
        self._store.trip("commit", done=True)
        return len(content)

    def _check(self) -> None:
        if self._store.sessions.get(self._key.name) is not self._session:
            msg = f"no upload session {self._key.id}"
            raise UploadUnknown(msg)


class MemoryPartial:
    """`PartialReader` on a session's bytes."""

    def __init__(self, store: MemoryBlobs, key: UploadKey, session: _Session) -> None:
        self._store = store
        self._key = key
        self._session = session

    def available(self) -> int:
        there = self._session.is_blob or self._store.sessions.get(self._key.name) is self._session
        return len(self._session.content) if there else -1

    async def read_unverified(self, start: int, length: int) -> bytes:
        return bytes(self._session.content[start : start + length])

    def close(self) -> None:
        return


class MemoryBlobs:
    """`BlobStore` in two dictionaries, which a test may read."""

    def __init__(self, *, now_us: int = 0, lock_wait_s: float = 2.0) -> None:
        self.now_us = now_us
        self.blobs: dict[Digest, tuple[bytes, int]] = {}
        self.sessions: dict[str, _Session] = {}
        self._failures: dict[tuple[str, bool], list[BoltsealError]] = defaultdict(list)
        uploads = MemoryUploads(self, lock_wait_s)
        self.uploads: UploadSessions = uploads
        self.upload_cleanup: UploadCleanup = uploads
        self.maintenance: BlobMaintenance = MemoryMaintenance(self)
        self.redirect: RedirectUrl | None = None
        self.upkeep: StoreUpkeep | None = None
        self.manifests: ObjectManifests | None = None

    def fail(self, what: str, error: BoltsealError, *, done: bool = False) -> None:
        """Make the next call of the method `what` raise `error`, before its effect or after it."""
        self._failures[what, done].append(error)

    def trip(self, what: str, *, done: bool = False) -> None:
        """Raise the error that `fail` prepared for this call."""
        laid_out = self._failures[what, done]
        if laid_out:
            raise laid_out.pop(0)

    def add(self, content: bytes, algorithm: str = "sha256") -> Digest:
        """Add a blob without an upload."""
        digest = Digest.of(content, algorithm)
        self.blobs[digest] = (content, self.now_us)
        return digest

    async def stat(self, digest: Digest) -> StoredBlob | None:
        self.trip("stat")
        return self.maintenance.look(digest)

    def stored(self, digest: Digest) -> StoredBlob:
        content, mtime_us = self.blobs[digest]
        return StoredBlob(digest, len(content), mtime_us, f"{mtime_us} {id(content)}")

    def path(self, digest: Digest) -> Path | None:
        return None

    async def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        self.trip("read")
        if digest not in self.blobs:
            raise BlobAbsent(f"blob {digest} is not in the store")
        content = self.blobs[digest][0]
        for position in range(start, start + length, PIECE_BYTES):
            piece = content[position : min(position + PIECE_BYTES, start + length)]
            if piece:
                yield piece
        if start + length > len(content):
            raise StoreBroken(f"blob {digest} is shorter than it was")

    async def delete(self, stored: StoredBlob) -> bool:
        return self.maintenance.delete(stored)

    def close(self) -> None:
        return


class MemoryUploads:
    """`UploadSessions` and `UploadCleanup` of a store in memory."""

    def __init__(self, store: MemoryBlobs, lock_wait_s: float) -> None:
        self._store = store
        self._lock_wait_s = lock_wait_s

    async def start_upload(self, key: UploadKey) -> None:
        self._store.trip("start_upload")
        self._store.sessions.setdefault(key.name, _Session(self._store.now_us))
        self._store.trip("start_upload", done=True)

    async def upload_size(self, key: UploadKey) -> int:
        return len(self._session(key).content)

    @asynccontextmanager
    async def open_upload(
        self, key: UploadKey, digest: Digest | None = None, wait_s: float | None = None
    ) -> AsyncIterator[MemoryWriter]:
        session = self._session(key)
        try:
            async with asyncio.timeout(self._lock_wait_s if wait_s is None else wait_s):
                await session.lock.acquire()
        except TimeoutError as error:
            raise UploadBusy(f"another request is writing to the upload session {key.id}") from error
        try:
            self._session(key)
            yield MemoryWriter(self._store, key, session)
        finally:
            session.lock.release()

    async def open_partial(self, key: UploadKey) -> MemoryPartial:
        return MemoryPartial(self._store, key, self._session(key))

    async def cancel_upload(self, key: UploadKey) -> None:
        self._session(key)
        del self._store.sessions[key.name]

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        for name, session in sorted(self._store.sessions.items()):
            if session.mtime_us < older_than_us:
                yield UploadFile(name, len(session.content), session.mtime_us)

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        for name, session in list(self._store.sessions.items()):
            if name == upload.name and not session.lock.locked() and session.mtime_us < older_than_us:
                del self._store.sessions[name]
                return True
        return False

    def _session(self, key: UploadKey) -> _Session:
        if key.name not in self._store.sessions:
            msg = f"no upload session {key.id} in {key.repository}"
            raise UploadUnknown(msg)
        return self._store.sessions[key.name]


class MemoryMaintenance:
    """`BlobMaintenance` of a store in memory."""

    def __init__(self, store: MemoryBlobs) -> None:
        self._store = store

    def look(self, digest: Digest, *, by_row: bool = False) -> StoredBlob | None:
        self._store.trip("look")
        return self._store.stored(digest) if digest in self._store.blobs else None

    def scan(self, digest: Digest) -> Iterator[bytes]:
        self._store.trip("scan")
        if digest not in self._store.blobs:
            raise BlobAbsent(f"blob {digest} is not in the store")
        content = self._store.blobs[digest][0]
        for position in range(0, len(content), PIECE_BYTES):
            yield content[position : position + PIECE_BYTES]

    def walk(self, after: str = "") -> Iterator[StoredBlob]:
        for digest in sorted(self._store.blobs):
            if str(digest) > after:
                yield self._store.stored(digest)

    def compare(self, after: str = "", *, contents: bool = False) -> Iterator[ComparedPage]:
        yield ComparedPage(after, 0, ())

    @property
    def deleted_at_once(self) -> int:
        """Return how many calls of `delete` a collection makes at the same time."""
        return 1

    def delete(self, stored: StoredBlob) -> bool:
        self._store.trip("delete")
        if self.look(stored.digest) != stored:
            return False
        del self._store.blobs[stored.digest]
        return True
