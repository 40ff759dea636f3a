"""One upload session while it is written to: batches in memory, hash and write in threads, and the commit.

Rules kept here (the numbers are the promises of `boltseal.server.storage.blobs.protocol`):
- The event loop never waits for the disk, and a thread is never left alone with a file descriptor: a cancelled task
  waits for its thread before the descriptor is closed, because its number may be another file's a moment later.
- A session has one thread at work at most, so what the thread touches needs no lock: the loop looks at it only when
  no thread is under way.
- Nothing of the session is cut off once its file may have become a blob [1].
- A write that failed is taken back to what was acknowledged [3]; a failed fsync loses the session, because after it
  the kernel shows bytes that the disk may not have.

Where sessions and blobs lie, and who may open one, is decided in `blobs_local`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from boltseal.files.atomic_files import Disk, is_no_space
from boltseal.oci.digest import Digest, DigestInvalid, Hasher
from boltseal.server.storage.blobs.protocol import NoSpace, StoreBroken, UploadUnknown
from boltseal.server.storage.upload_admission import BATCH_BYTES, MemoryBudget
from boltseal.server.storage.worker_threads import WorkerThread

SYNC_EVERY_BYTES: Final = 8 * 1024 * 1024
QUICK_BYTES: Final = 64 * 1024
_SMALL_PART_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionHash:
    """The hash of a session's bytes so far. The hasher inside goes on; `copy` keeps a point to come back to."""

    algorithm: str
    hasher: Hasher

    def copy(self) -> SessionHash:
        """One that goes on for itself."""
        return SessionHash(self.algorithm, self.hasher.copy())


async def ended(future: asyncio.Future[T]) -> None:
    """Waits until the future is done, whatever came of it. A cancelled task too waits, and is cancelled then."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        over = asyncio.get_running_loop().create_future()
        call = partial(_wake, over)
        future.add_done_callback(call)
        try:
            await over  # and not the future itself, which would be cancelled with the task
        except asyncio.CancelledError as error:
            cancelled = error
        finally:
            future.remove_done_callback(call)
    future.exception()  # looked at, so that the loop does not report it as forgotten
    if cancelled is not None:
        raise cancelled


def _wake(over: asyncio.Future[None], _: object) -> None:
    if not over.done():
        over.set_result(None)


async def finished(future: asyncio.Future[T]) -> T:
    """The future's result; a cancelled task waits for the end of it all the same."""
    await ended(future)
    return future.result()


@dataclass(frozen=True, slots=True)
class UploadFolder:
    """What all writers of a store share: the disk, the memory, and three lanes of threads.

    `quick` is for work of a few milliseconds, many at a time, so that the kernel's journal takes their fsyncs in one
    go; `bulk` is for hashing and writing batches, few at a time, because more would only wait for the same cores;
    `syncs` waits for the disk beside them, and for nothing else, so that `bulk` may wait for it.
    """

    disk: Disk
    budget: MemoryBudget
    quick: WorkerThread
    bulk: WorkerThread
    syncs: Executor


class _BytesLost(Exception):
    """An fsync failed: what the file holds is not known any more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True)
class SessionFile:
    """The file of a session, open and locked.

    `is_linked`: whether its name still leads to it. `place`: moves it under a blob's name, durably.
    """

    name: str
    path: str
    fd: int
    is_linked: Callable[[], bool]
    place: Callable[[Digest], None]


class LocalUploadWriter:
    """`UploadWriter` on a file. `running` is the hash of the `size` bytes in the file, None if it is not known."""

    def __init__(self, workshop: UploadFolder, file: SessionFile, size: int, running: SessionHash | None) -> None:
        self._workshop = workshop
        self._file = file
        self._acknowledged = size
        self._acknowledged_hash = running
        # Owned by the loop.
        self._offset = size
        self._parts: list[bytes | bytearray] = []
        self._received = 0
        self._buffered = 0
        self._in_flight = 0
        self._flight: asyncio.Future[Any] | None = None
        # Owned by the thread that is under way, by the loop when there is none.
        self._in_file = size
        self._hash = None if running is None else running.copy()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._ended = False
        workshop.budget.writers += 1

    @property
    def offset(self) -> int:
        """Bytes the session holds, those still buffered included."""
        return self._offset

    async def write(self, chunk: bytes) -> None:
        """Gathers the chunk; hands a full batch to a thread, and waits for the one before it."""
        if not chunk:
            return
        if self._ended:
            raise self._unknown()
        self._workshop.budget.crowd.arrived(self, len(chunk))
        self._gather(chunk)
        if self._workshop.budget.is_due(self._buffered, len(chunk)):
            await self._settle()
            self._launch_append()
            if not self._workshop.budget.overlaps:
                await self._settle()
        self._received += len(chunk)
        await self._workshop.budget.crowd.go_on(self, self._received)

    async def flush(self) -> None:
        """Brings what was gathered into the file, and remembers this point as the one to come back to."""
        self._workshop.budget.crowd.leave(self)
        await self._settle()
        if self._ended:
            raise self._unknown()
        if self._parts:
            self._launch_append()
            await self._settle()
        if self._syncing is not None:
            self._launch(self._workshop.bulk, self._wait_for_sync)
            await self._settle()
        self._acknowledged = self._in_file
        self._acknowledged_hash = None if self._hash is None else self._hash.copy()

    async def rollback(self) -> None:
        """Cuts the session back to what was acknowledged."""
        await self._settle()
        self._drop_parts()
        if self._in_file != self._acknowledged:
            self._launch(self._workshop.quick, self._restore)
            await self._settle()
        self._offset = self._acknowledged

    async def commit(self, digest: Digest) -> int:
        """Hash, write, fsync, rename, fsync of the folder: one visit to a thread."""
        self._workshop.budget.crowd.leave(self)
        await self._settle()
        if self._ended:
            raise self._unknown()
        size = self._offset
        is_quick = size <= BATCH_BYTES
        parts = self._take_parts()
        self._launch(self._workshop.quick if is_quick else self._workshop.bulk, self._commit, parts, digest)
        await self._settle()
        return size

    async def close(self) -> SessionHash | None:
        """Waits for the thread, drops what is only gathered. Returns the hash of what the file holds, if known.

        The descriptor, and with it the lock, is the caller's to close, after this.
        """
        try:
            if self._flight is not None:
                await ended(self._flight)
            if self._syncing is not None:
                await ended(asyncio.wrap_future(self._syncing))
                if self._syncing.exception() is not None:
                    self._lose()
        finally:
            self._drop_parts()
            self._workshop.budget.crowd.leave(self)
            self._workshop.budget.held_bytes -= self._in_flight
            self._in_flight = 0
            self._workshop.budget.writers -= 1
        return None if self._ended else self._hash

    # The loop's side

    def _gather(self, chunk: bytes) -> None:
        """Keeps big chunks as they come; copies small ones together, since each alone costs more than it holds."""
        self._offset += len(chunk)
        self._buffered += len(chunk)
        self._workshop.budget.held_bytes += len(chunk)
        if len(chunk) >= _SMALL_PART_BYTES or not self._parts:
            self._parts.append(chunk)
            return
        last = self._parts[-1]
        if isinstance(last, bytearray):
            last += chunk
        elif len(last) < _SMALL_PART_BYTES:
            self._parts[-1] = bytearray(last) + chunk
        else:
            self._parts.append(bytearray(chunk))

    def _take_parts(self) -> list[bytes | bytearray]:
        parts, self._parts = self._parts, []
        self._in_flight += self._buffered
        self._buffered = 0
        return parts

    def _drop_parts(self) -> None:
        self._parts = []
        self._workshop.budget.held_bytes -= self._buffered
        self._buffered = 0

    def _launch_append(self) -> None:
        lane = self._workshop.quick if self._buffered <= QUICK_BYTES else self._workshop.bulk
        self._launch(lane, self._append, self._take_parts())

    def _launch(self, lane: WorkerThread, work: Callable[..., object], *arguments: object) -> None:
        self._flight = lane.launch(self._guarded, work, *arguments)

    async def _settle(self) -> None:
        """Waits for the thread under way; raises what it raised, the session being back at the acknowledged point."""
        if self._flight is None:
            return
        flight = self._flight
        try:
            await finished(flight)
        except BaseException:
            self._drop_parts()
            self._offset = self._in_file
            raise
        finally:
            self._flight = None
            self._workshop.budget.held_bytes -= self._in_flight
            self._in_flight = 0

    def _unknown(self) -> UploadUnknown:
        return UploadUnknown(f"the upload session {self._file.name.partition('.')[0]} has ended; start one with POST")

    # The thread's side

    def _guarded(self, work: Callable[..., object], *arguments: object) -> None:
        """Does the work; when it fails, takes the session back to what was acknowledged."""
        try:
            work(*arguments)
        except _BytesLost as lost:
            self._lose()
            raise self._told(lost.cause) from lost.cause
        except OSError as error:
            self._restore()
            raise self._told(error) from error
        except DigestInvalid:
            self._restore()
            raise

    def _told(self, error: OSError) -> NoSpace | StoreBroken:
        """The error in words, without paths."""
        reason = error.strerror or type(error).__name__
        if is_no_space(error):
            return NoSpace(
                f"no space left in the registry's store ({reason}): nothing of this request was kept; "
                "push again when its keeper has made room"
            )
        return StoreBroken(f"the registry's store failed ({reason}): nothing of this request counts; push again later")

    def _append(self, parts: list[bytes | bytearray]) -> None:
        for part in parts:
            if self._hash is not None:
                self._hash.hasher.update(part)
        self._write(parts)
        if self._unsynced >= SYNC_EVERY_BYTES:
            self._wait_for_sync()
            self._syncing = self._workshop.syncs.submit(self._workshop.disk.sync_data, self._file.fd)
            self._unsynced = 0

    def _write(self, parts: list[bytes | bytearray]) -> None:
        self._workshop.disk.append(self._file.fd, parts)
        written = sum(map(len, parts))
        self._in_file += written
        self._unsynced += written

    def _wait_for_sync(self) -> None:
        """Waits for the last sync that goes on beside the writing. Its failure is told once, here, and never again."""
        syncing, self._syncing = self._syncing, None
        try:
            if syncing is not None:
                syncing.result()
        except OSError as error:
            raise _BytesLost(error) from error

    def _sync_all(self) -> None:
        self._wait_for_sync()
        try:
            self._workshop.disk.sync(self._file.fd)
        except OSError as error:
            raise _BytesLost(error) from error

    def _commit(self, parts: list[bytes | bytearray], digest: Digest) -> None:
        """1. hash, 2. compare, 3. write, 4. fsync, 5. rename and fsync of the folder.

        A hash that is known without the file is compared before anything is written; otherwise the file is read.
        """
        disk = self._workshop.disk
        running = SessionHash(digest.algorithm, digest.hasher()) if self._in_file == 0 else self._hash
        if running is not None and running.algorithm == digest.algorithm:
            for part in parts:
                running.hasher.update(part)
            self._compare(running.hasher.hexdigest(), digest)
            self._write(parts)
        else:
            self._write(parts)
            self._compare(self._hash_file(digest), digest)
        if not parts:
            disk.touch(self._file.fd)  # its time must be this one: garbage collection spares what is young
        self._sync_all()
        try:
            self._file.place(digest)
        except UploadUnknown:
            self._ended = True
            raise
        except OSError:
            self._ended = not self._file.is_linked()
            raise
        self._ended = True

    def _compare(self, found: str, digest: Digest) -> None:
        if found != digest.hex:
            msg = (
                f"the uploaded bytes have the digest {digest.algorithm}:{found}, not {digest}: "
                "nothing was stored; send them again, or finish with the right digest"
            )
            raise DigestInvalid(msg)

    def _hash_file(self, digest: Digest) -> str:
        hasher = digest.hasher()
        position = 0
        while piece := self._workshop.disk.read_at(self._file.fd, _READ_BYTES, position):
            hasher.update(piece)
            position += len(piece)
        return hasher.hexdigest()

    def _restore(self) -> None:
        """Cuts the file back to what was acknowledged, unless it may have become a blob."""
        if self._ended:
            return
        self._hash = None if self._acknowledged_hash is None else self._acknowledged_hash.copy()
        self._in_file = self._acknowledged
        try:
            self._workshop.disk.truncate(self._file.fd, self._acknowledged)
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Ends a session of which nobody can say what it holds."""
        self._ended = True
        try:
            self._workshop.disk.unlink(self._file.path)
        except OSError:
            return  # its file stays, longer or shorter than acknowledged; what it holds is hashed before it counts
