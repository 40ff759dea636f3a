"""What a blob store promises: `BlobStore`, its parts by who needs them, and the values that go in and out.

A blob store keeps bytes under their digest, and upload sessions: bytes that are not complete and have no digest yet. It
knows nothing of repositories, rows or rights: `registry` decides who may read a blob, and the rows decide whether a blob is
referenced (`server/storage/metadata/queries.py`).

Promises, which `tests/contracts/test_blob_store.py` checks on every implementation:

1. **Whole or absent.** Under a digest are whole bytes that were hashed on their way in, or nothing: also after `kill -9` and
   after a power cut, at any moment.
2. **Durable before acknowledged.** When `UploadWriter.commit` returns, the blob survives a power cut. Bytes of a session that
   `flush` acknowledged survive `kill -9` and a restart, but not necessarily a power cut.
3. **A refused request has changed nothing.** When `write`, `flush` or `commit` raises, the session is as it was when last
   acknowledged (opened, or flushed), and can be used again: after a wrong digest, and after a full disk. The one exception:
   when the disk reports that it lost bytes (a failed fsync), the session is removed, because its content is not known; the
   upload starts again from nothing.
4. **A commit replaces.** A blob that is stored already is replaced by the bytes just verified, so a push repairs damage.
5. **One writer.** A session has at most one writer, over all processes on the store. Sessions are independent. With files a
   session is free when its writer's process ends; in an object store, which can't know that, some seconds later.
6. **Bounded memory.** All writers together buffer no more than a fixed budget, however many there are.
7. **No client's text is a path.** File and object names are made of `Digest`, `UploadId`, hashes and chance only.

Errors: `UploadUnknown` (404), `UploadBusy` (503), `NoSpace` (507), `StoreBroken` (503), `BlobAbsent` (404) and, from
`boltseal.oci.digest`, `DigestInvalid` (400). Only `UploadUnknown` and `BlobAbsent` are a miss. When the answer to a commit or
a delete is lost, the method raises StoreBroken, and the blob may or may not be there; it is never incomplete.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Protocol

from boltseal.errors import ErrorCode, Full, NotFound, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata.protocol import Job
from boltseal.server.storage.object_manifests import ObjectManifests

PIECE_BYTES: Final = 1024 * 1024
"""The largest piece that `BlobStore.read` yields."""
DEFAULT_ALGORITHM: Final = "sha256"


class UploadUnknown(NotFound):
    """This repository has no such upload session: never begun, cancelled, committed, or lost with its disk."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_UNKNOWN


class UploadBusy(Unavailable):
    """Another request writes to this session and did not finish in time. Nothing has changed."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


class NoSpace(Full):
    """The disk (or a quota) is full. The session holds what was acknowledged and can go on later."""


class StoreBroken(Unavailable):
    """The store failed, and not for lack of space. Whether the change was made is not known."""


class StoreUnanswered(StoreBroken):
    """The store as a whole does not answer, or refuses the login: the next request would fail as well."""


class BlobAbsent(NotFound):
    """The store has no bytes under this digest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UNKNOWN


_UPLOAD_ID = re.compile(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}")


class UploadId(str):
    """The id of an upload session: a random UUID as 32 lower-case hex digits. Other text raises UploadUnknown."""

    __slots__ = ()

    def __new__(cls, text: str) -> UploadId:
        if not _UPLOAD_ID.fullmatch(text):
            shown = text if len(text) <= 64 else text[:61] + "..."
            msg = f"no upload session {shown!r}: an upload id has 32 hex digits; start an upload with POST"
            raise UploadUnknown(msg)
        return super().__new__(cls, text)

    @classmethod
    def new(cls) -> UploadId:
        """Return an id that is unused and can't be guessed."""
        return cls(uuid.uuid4().hex)

    @classmethod
    def of(cls, digest: Digest) -> UploadId:
        """Return the id for bringing this digest, the same in every process, so that a second one finds the first."""
        hexed = hashlib.sha256(str(digest).encode()).hexdigest()
        return cls(f"{hexed[:12]}4{hexed[13:16]}8{hexed[17:32]}")


class UploadKey(NamedTuple):
    """A session belongs to one repository; the same id in another repository is unknown."""

    repository: Repository
    id: UploadId

    @property
    def name(self) -> str:
        """The name in the store: the id, and 16 hex digits of the repository's SHA-256."""
        return f"{self.id}.{hashlib.sha256(self.repository.encode()).hexdigest()[:16]}"

    def unknown(self) -> UploadUnknown:
        """Return the error of a session that does not exist, or that the caller may not reach."""
        return UploadUnknown(
            f"no upload session {self.id} in {self.repository}: never started there, finished, cancelled, or too old; "
            "start one with POST"
        )


class FetchKey(UploadKey):
    """A session in which the mirror fetches a digest. No request can name it: its name is hashed in another way."""

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
    """A session as `abandoned` finds it: its name in the store, bytes held, time of the last write."""

    name: str
    size: int
    mtime_us: int


class DifferenceKind(StrEnum):
    """What is different between the names in a store and its rows. Objects of sessions and blobs are named by rows."""

    FOREIGN = "foreign"
    MISSING = "missing"
    WRONG_SIZE = "wrong-size"
    DAMAGED = "damaged"
    UNREFERENCED = "unreferenced"


class StoreDifference(NamedTuple):
    """One name in a store that is not as it must be, or (UNREFERENCED) that may be deleted after a day.

    `name`: relative to the store. `written_us`: microseconds since the epoch, 0 if not known. `problem`: for people.
    """

    kind: DifferenceKind
    name: str
    size: int
    written_us: int
    problem: str


class ComparedPage(NamedTuple):
    """The result for some names in order. `position`: the last of them; a comparison can continue after it. "": it can't."""

    position: str
    names: int
    differences: tuple[StoreDifference, ...]


class UploadWriter(Protocol):
    """Writes to one session, whose lock is held. Used by one task, inside its `open_upload` block."""

    @property
    def offset(self) -> int:
        """Bytes of the session, including those that are still buffered."""
        ...

    @property
    def recorded(self) -> bool:
        """Whether `commit` has done the job `record`."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Append a chunk. Returns when there is space for more; await it before receiving again (back-pressure).

        Raises: StoreBroken; NoSpace: nothing since the last acknowledgement is kept.
        """
        ...

    async def flush(self) -> None:
        """Acknowledge: every byte written so far is in the session, also for a new process.

        Raises: StoreBroken; NoSpace: nothing since the last acknowledgement is kept.
        """
        ...

    async def expose(self) -> None:
        """Let the `PartialReader`s of this process read every byte written so far. Those of others may see them later.

        No acknowledgement, and cheap enough for each chunk of a slow source. Raises: StoreBroken, NoSpace, as `flush`.
        """
        ...

    async def rollback(self) -> None:
        """Drop everything since the last acknowledgement, when a request is refused after its body began."""
        ...

    async def commit(
        self, digest: Digest, verified: Callable[[], None] | None = None, record: Job[None] | None = None
    ) -> int:
        """Make the session's bytes the blob `digest`, durably, and end the session. Returns the size in bytes.

        `verified`: called once the bytes are known to be those of the digest and can be read, before they are durable; in any
        thread. It must neither wait nor raise. `record`: adds the rows that refer to the blob. A store whose blobs are rows does it in
        the transaction of that row, and sets `recorded`; what it raises is raised, and the session is as after DigestInvalid. Files have
        no transaction: the caller does it afterwards.

        Raises:
            DigestInvalid: the bytes have another digest. Rolled back to the last acknowledgement; the session is kept.
            NoSpace: as DigestInvalid.
            UploadUnknown: the session was cancelled meanwhile.
            StoreBroken: the blob may be stored, and then it is whole; the session may be removed.
        """
        ...


class PartialReader(Protocol):
    """Reads a session while it is written to, and after it has become a blob."""

    def available(self) -> int:
        """Return how many bytes there are now, -1 if the session was removed. A failing upload may take bytes back."""
        ...

    async def read_unverified(self, start: int, length: int) -> bytes:
        """Return bytes that were not compared with a digest; fewer than asked for at the end. Raises: StoreBroken."""
        ...

    def close(self) -> None:
        """Close the reader. Idempotent."""
        ...


class UploadSessions(Protocol):
    """Takes the bytes of blobs in."""

    async def start_upload(self, key: UploadKey) -> None:
        """Begin an empty session; an existing one is left as it is. Not durable: a power cut may remove an empty session.

        Raises: NoSpace, StoreBroken.
        """
        ...

    async def upload_size(self, key: UploadKey) -> int:
        """Return how many bytes the session holds: the offset of the next chunk. Raises: UploadUnknown."""
        ...

    def open_upload(
        self, key: UploadKey, digest: Digest | None = None, wait_s: float | None = None
    ) -> AbstractAsyncContextManager[UploadWriter]:
        """Lock the session for writing inside the block.

        `digest`: that will most likely be given to `commit`; one of another algorithm costs a second reading. None: an unknown
        one of `DEFAULT_ALGORITHM`. `wait_s`: how long
        to wait for the lock, None: about two seconds. A block that is left without `flush` or `commit` (the client went away) keeps
        what reached the session so far, which may be less than what `write` took.

        Raises: UploadUnknown. UploadBusy: the lock was not free in time.
        """
        ...

    async def open_partial(self, key: UploadKey) -> PartialReader:
        """Return a reader of a session that another task may be writing to, without its lock. Raises: UploadUnknown.

        In an object store the reader sees what this process receives, and of other processes what they acknowledged until
        a reader of the session was opened last.
        """
        ...

    async def cancel_upload(self, key: UploadKey) -> None:
        """End the session and drop its bytes, also while it is written to. Raises: UploadUnknown."""
        ...


class UploadCleanup(Protocol):
    """Finds and removes sessions that their clients left. Blocks: not for the event loop."""

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        """Yield the sessions last written before a time (microseconds since the epoch)."""
        ...

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        """Drop an abandoned session. False, and nothing done, if it is in use or was written to meanwhile."""
        ...


class BlobMaintenance(Protocol):
    """Goes through a whole store, for garbage collection and fsck. Every method blocks: not for the event loop."""

    def look(self, digest: Digest, *, by_row: bool = False) -> StoredBlob | None:
        """Return what `BlobStore.stat` does. `by_row`: what `walk` yields, without a request for bytes on another machine."""
        ...

    def scan(self, digest: Digest) -> Iterator[bytes]:
        """Yield all bytes of the blob in pieces, to be hashed by the caller.

        Close the iterator if it is left early. Raises: BlobAbsent, StoreBroken, at the first piece or later.
        """
        ...

    def walk(self, after: str = "") -> Iterator[StoredBlob]:
        """Yield every blob in the order of digests, those after `after`, perhaps those committed or deleted meanwhile."""
        ...

    def compare(self, after: str = "", *, contents: bool = False) -> Iterator[ComparedPage]:
        """Compare all names in the store, those after `after`, with what should be there, and yield every page of names.

        `contents`: also read what has no digest of its own: the objects from which a lost database is rebuilt.
        Raises: StoreBroken, Unavailable.
        """
        ...

    @property
    def deleted_at_once(self) -> int:
        """How many calls of `delete` a collection makes at the same time, since each waits for other machines; otherwise 1."""
        ...

    def delete(self, stored: StoredBlob) -> bool:
        """Delete what `look` or `walk` returned, as `BlobStore.delete` does."""
        ...


class RedirectUrl(Protocol):
    """An optional capability of a blob store: clients may fetch the bytes of a blob from elsewhere."""

    async def redirect_url(self, digest: Digest, expires_s: int) -> str | None:
        """Return a URL whose GET returns the blob, valid for `expires_s` seconds; None to send the bytes instead.

        The URL is a secret: a client that has it can read the blob without a login. Never log it. It does not answer HEAD.
        """
        ...


class StoreUpkeep(Protocol):
    """An optional capability of a blob store on another machine: its background work, and whether it answers."""

    async def trouble(self) -> str | None:
        """Return why nothing can be stored now, None if something was just stored. For readiness."""
        ...

    def discard(self, names: Sequence[str]) -> list[str]:
        """Let the next `run` delete objects that `BlobMaintenance.compare` found to be UNREFERENCED; return those that still are."""
        ...

    def replace(self, names: Sequence[str]) -> int:
        """Let `run` write objects again that `compare` found to be MISSING, if the rows have their content. Returns how many."""
        ...

    def run(self, now_us: int) -> int:
        """Do what is due at a time (microseconds since the epoch), in one process of the store. Not for the event loop.

        Returns how many objects were deleted or joined. Raises: StoreBroken, Unavailable: the rest is left for the next time.
        """
        ...


class BlobStore(Protocol):
    """A blob store. The module's docstring states the promises. `redirect`, `upkeep`, `manifests`: None where there is no such thing."""

    uploads: UploadSessions
    upload_cleanup: UploadCleanup
    maintenance: BlobMaintenance
    redirect: RedirectUrl | None
    upkeep: StoreUpkeep | None
    manifests: ObjectManifests | None

    async def stat(self, digest: Digest) -> StoredBlob | None:
        """Return what is stored under a digest, None if nothing is. StoreBroken if that can't be determined.

        Not inside a database transaction: on an object store it is a request over the network.
        """
        ...

    def path(self, digest: Digest) -> Path | None:
        """Return the file that the kernel can send, None for stores without files. The file may not exist."""
        ...

    def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, start + length) in pieces of at most PIECE_BYTES. The caller closes the iterator.

        Raises: BlobAbsent: at the first piece. StoreBroken: also when the blob is shorter than asked for.
        """
        ...

    async def delete(self, stored: StoredBlob) -> bool:
        """Delete the bytes that `stat` returned; False, and nothing done, if others are stored now, or none.

        Outside the transaction that decided that no row refers to them. A reader that has begun reads to the end; in an
        object store, whose objects have no readers that it waits for, it reads to the end or gets StoreBroken.
        StoreBroken: the bytes may or may not be deleted.
        """
        ...

    def close(self) -> None:
        """Wait for what is being written, and close threads and files."""
        ...
