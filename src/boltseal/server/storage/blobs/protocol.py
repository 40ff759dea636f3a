"""What a blob store promises, and the values that go in and out of it.

A blob store keeps bytes under their digest, and upload sessions: bytes that are still on their way and have no
digest yet. It knows nothing of repositories' walls, rows or rights: who may see a blob is decided above
(`registry/`), and whether anything still names one is decided by the rows (`server/storage/metadata/queries.py`).

The promises, which `tests/contracts/test_blob_store.py` holds every implementation to:

1. **Whole or absent.** Under a digest lies a whole blob whose bytes were hashed on their way in, or nothing:
   also after `kill -9` and after a power cut, at any moment.
2. **Durable before acknowledged.** When `UploadWriter.commit` returns, the blob survives a power cut. Bytes of a
   session that `flush` acknowledged survive `kill -9` and a restart, but not necessarily a power cut.
3. **A refused request has changed nothing.** When `write`, `flush` or `commit` raises, the session is as it was when
   last acknowledged (opened, or flushed), and can be used again: after a wrong digest, and after a full disk.
   The one exception: when the disk says that it lost bytes (a failed fsync), the session is gone, because nobody
   can say what of it is left; the upload starts again from nothing.
4. **A commit replaces.** A blob that is there already is replaced by the bytes just verified, so a push mends rot.
5. **One at a time.** A session has at most one writer, over all processes on the store. Sessions are independent.
6. **Bounded memory.** All writers together buffer no more than a fixed budget, however many there are.
7. **Nobody's names reach the disk.** File and object names are made of `Digest`, `UploadId` and hashes only.

Errors: `UploadUnknown` (404), `UploadBusy` (503), `NoSpace` (507), `StoreBroken` (503), `BlobAbsent` (404) and, from
`boltseal.oci.digest`, `DigestInvalid` (400). Anything but `UploadUnknown` and `BlobAbsent` is never a miss.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Protocol

from boltseal.errors import ErrorCode, Full, NotFound, TooMany, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository

PIECE_BYTES: Final = 1024 * 1024
"""The largest piece that `BlobStore.read` yields."""


class UploadUnknown(NotFound):
    """No such upload session in this repository: never begun, cancelled, committed, or lost with its disk."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_UNKNOWN


class UploadBusy(Unavailable):
    """Another request is writing to this session and did not finish in time. Nothing has changed."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


class NoSpace(Full):
    """The disk (or a quota) is full. The session holds what was acknowledged and can go on later."""


class StoreBroken(Unavailable):
    """The store did not do what it was told, and not for want of space. Not done, as far as anybody may rely on."""


class BlobAbsent(NotFound):
    """The store has no bytes under this digest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


OWNER_DIGITS: Final = 8
_UPLOAD_ID = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")


class UploadId(str):
    """The name of an upload session: a random UUID as 32 lower-case hex digits. A name we never give is unknown."""

    __slots__ = ()

    def __new__(cls, text: str) -> UploadId:
        if not _UPLOAD_ID.fullmatch(text):
            shown = text if len(text) <= 64 else text[:61] + "..."
            msg = f"no upload session {shown!r}: a session is named by 32 hex digits; start one with POST"
            raise UploadUnknown(msg)
        return super().__new__(cls, text)

    @classmethod
    def new(cls, owner: str = "") -> UploadId:
        """A name that nobody has used or can guess. Those of one owner begin alike, so that they can be counted."""
        return cls(hashlib.sha256(owner.encode()).hexdigest()[:OWNER_DIGITS] + uuid.uuid4().hex[OWNER_DIGITS:])

    @classmethod
    def of(cls, digest: Digest) -> UploadId:
        """The name that everybody gives who brings this digest: where one works already, the others find it."""
        hexed = hashlib.sha256(str(digest).encode()).hexdigest()
        return cls(f"{hexed[:12]}4{hexed[13:16]}8{hexed[17:32]}")


class UploadsTooMany(TooMany):
    """Somebody has as many open uploads as they may."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"you have {most} uploads open, and may have no more: end or cancel some, then try again; those that nobody "
            "goes on with end by themselves after a day"
        )


class UploadKey(NamedTuple):
    """A session belongs to one repository; the same id under another repository is unknown."""

    repository: Repository
    id: UploadId

    @property
    def name(self) -> str:
        """The name in the store: the id, and 16 hex digits of the repository's SHA-256."""
        return f"{self.id}.{hashlib.sha256(self.repository.encode()).hexdigest()[:16]}"


class FetchKey(UploadKey):
    """A session of ours, which brings a digest from elsewhere. No request can name it: its name is hashed otherwise."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """The name in the store."""
        return f"{self.id}.{hashlib.sha256(b'fetch ' + self.repository.encode()).hexdigest()[:16]}"


class StoredBlob(NamedTuple):
    """The bytes that are stored under a digest at one moment.

    `mtime_us`: when they were committed, microseconds since the epoch. `version`: differs after every commit; opaque.
    """

    digest: Digest
    size: int
    mtime_us: int
    version: str


class UploadFile(NamedTuple):
    """A session as `abandoned` meets it: its name in the store, bytes held, time of the last write."""

    name: str
    size: int
    mtime_us: int


class UploadWriter(Protocol):
    """Writes to one session, whose lock is held. Used by one task; not after its `open_upload` block is left."""

    @property
    def offset(self) -> int:
        """Bytes the session holds, those still buffered included."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Appends. Returns when there is room for more, which is the back-pressure: await it before receiving again.

        NoSpace: nothing since the last acknowledgement is kept. StoreBroken.
        """
        ...

    async def flush(self) -> None:
        """Acknowledges: every byte written so far is in the session, and a new process finds it there.

        NoSpace: nothing since the last acknowledgement is kept. StoreBroken.
        """
        ...

    async def rollback(self) -> None:
        """Forgets everything since the last acknowledgement: the body of a request that is refused after all."""
        ...

    async def commit(self, digest: Digest) -> int:
        """Makes the session's bytes the blob `digest`, durably, and ends the session. Returns the blob's size.

        DigestInvalid when the bytes have another digest: rolled back to the last acknowledgement, session kept.
        NoSpace likewise. UploadUnknown when the session was cancelled meanwhile. When StoreBroken is raised the
        blob may nevertheless be there, and whole; the session may be gone.
        """
        ...


class PartialReader(Protocol):
    """Looks into a session while it is written to, and after it has become a blob. Closed with `close`."""

    def available(self) -> int:
        """How many bytes are there now. They may be taken back when the upload fails. -1: the session was dropped."""
        ...

    async def read_unverified(self, start: int, length: int) -> bytes:
        """Bytes that nobody has compared with a digest yet; fewer than asked where there are no more. StoreBroken."""
        ...

    def close(self) -> None:
        """Lets go of it. Idempotent."""
        ...


class UploadSessions(Protocol):
    """The half of a blob store that takes bytes in."""

    async def start_upload(self, key: UploadKey, most: int = 0) -> None:
        """Begins an empty session. NoSpace, StoreBroken. Not durable: a power cut may forget an empty session.

        One that is there stays as it is.
        UploadsTooMany when its owner has `most` already, in all repositories; two that begin at once may both be let in.
        """
        ...

    async def upload_size(self, key: UploadKey) -> int:
        """Bytes the session holds: the offset at which the next chunk goes on. UploadUnknown."""
        ...

    def open_upload(
        self, key: UploadKey, algorithm: str = "sha256", wait_s: float | None = None
    ) -> AbstractAsyncContextManager[UploadWriter]:
        """Locks the session for writing. UploadUnknown; UploadBusy when the lock is not free in `wait_s` seconds.

        `wait_s` None: about two.

        `algorithm` is the digest that will most likely be asked for at the end; another one costs a second reading.
        Left without `flush` or `commit` (the client went away), the session keeps what was written to it so far,
        which may be less than what `write` took.
        """
        ...

    def open_partial(self, key: UploadKey) -> PartialReader:
        """Looks into a session that somebody else may be writing to, without its lock. UploadUnknown."""
        ...

    async def cancel_upload(self, key: UploadKey) -> None:
        """Ends the session and drops its bytes, also while somebody writes to it. UploadUnknown."""
        ...

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        """Sessions last written before `older_than_us` (microseconds since the epoch). Blocks: not for the loop."""
        ...

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        """Drops an abandoned session; False, and nothing done, if somebody uses it or wrote to it meanwhile. Blocks."""
        ...


class BlobReader(Protocol):
    """The half of a blob store that gives bytes out, and lets go of them."""

    async def stat(self, digest: Digest) -> StoredBlob | None:
        """Return what is stored under a digest, None if nothing is. StoreBroken if that can't be determined.

        Not inside a database transaction: on an object store it is a request over the network.
        """
        ...

    def look(self, digest: Digest) -> StoredBlob | None:
        """Return what `stat` does. Blocks: not for the event loop."""
        ...

    def path(self, digest: Digest) -> Path | None:
        """A file that the kernel can send, None for stores without files. Says nothing about being there."""
        ...

    def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [start, start + length) in pieces of at most PIECE_BYTES; BlobAbsent at the first one.

        A blob shorter than asked for ends in StoreBroken, never in silence. The caller closes the iterator.
        """
        ...

    def scan(self, digest: Digest) -> Iterator[bytes]:
        """All bytes of the blob as they lie there, in pieces, for whoever hashes them. Blocks: not for the loop.

        BlobAbsent, StoreBroken, at the first piece or later. Close the iterator when it is left early.
        """
        ...

    def walk(self) -> Iterator[StoredBlob]:
        """Every blob, ordered by digest, those committed or removed meanwhile perhaps. Blocks: not for the loop."""
        ...

    def strays(self) -> Iterator[str]:
        """What lies in the store and is neither blob nor session, as names relative to it. Blocks."""
        ...

    async def delete(self, stored: StoredBlob) -> bool:
        """Delete the bytes that `stat` or `walk` returned; False, and nothing done, if others are stored now, or none.

        Outside the transaction that decided that no row refers to them. A reader that has begun reads to the end.
        StoreBroken: the bytes may or may not be deleted.
        """
        ...

    def delete_and_wait(self, stored: StoredBlob) -> bool:
        """Delete as `delete` does. Blocks: not for the event loop."""
        ...


class RedirectUrl(Protocol):
    """An optional capability of a blob store: clients may fetch the bytes of a blob from elsewhere."""

    async def redirect_url(self, digest: Digest, expires_s: int) -> str | None:
        """Return a URL whose GET returns the blob, valid for `expires_s` seconds; None to send the bytes instead.

        The URL is a secret: who has it can read the blob without a login. Never log it. It does not answer HEAD.
        """
        ...


class BlobStore(BlobReader, UploadSessions, Protocol):
    """Both halves; see the module's docstring for what they promise together."""

    def close(self) -> None:
        """Waits for what is being written and lets go of threads and files."""
        ...
