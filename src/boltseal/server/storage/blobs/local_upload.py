"""One upload session while it is written to: batches in memory, hash and write in threads, and the commit.

How this module keeps the promises of `blobs.protocol` (numbers in brackets):

- The event loop never waits for the disk, and a thread is never left alone with a file descriptor: a cancelled task waits for
  its thread before the descriptor is closed, because its number may be another file's a moment later.
- A session has at most one thread at work, so what the thread uses needs no lock: the event loop reads it only when no thread
  is at work.
- Nothing of the session is cut off once its file may have become a blob [1].
- A failed write is taken back to what was acknowledged [3]. A failed fsync removes the session, because after it the kernel
  shows bytes that the disk may not have.

`local_uploads` opens sessions; `local_layout` decides where sessions and blobs are.
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
from boltseal.server.storage.metadata.protocol import Job
from boltseal.server.storage.upload_admission import BATCH_BYTES, MemoryBudget
from boltseal.server.storage.worker_threads import WorkerPool

SYNC_EVERY_BYTES: Final = 8 * 1024 * 1024
QUICK_BYTES: Final = 64 * 1024
_SMALL_PART_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SessionHash:
    """The hash of a session's bytes so far. The hasher goes on; `copy` keeps a point to come back to."""

    algorithm: str
    hasher: Hasher

    def copy(self) -> SessionHash:
        """Return an independent copy."""
        return SessionHash(self.algorithm, self.hasher.copy())


async def wait_until_done(future: asyncio.Future[T]) -> None:
    """Wait until the future is done, whatever its result. A cancelled task waits too, and is cancelled afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        over = asyncio.get_running_loop().create_future()
        call = partial(_wake, over)
        future.add_done_callback(call)
        try:
            await over  # not the future itself, which would be cancelled with the task
        except asyncio.CancelledError as error:
            cancelled = error
        finally:
            future.remove_done_callback(call)
    future.exception()  # retrieved, so that the event loop does not report it
    if cancelled is not None:
        raise cancelled


def _wake(over: asyncio.Future[None], _: object) -> None:
    if not over.done():
        over.set_result(None)


async def result_of(future: asyncio.Future[T]) -> T:
    """Return the future's result. A cancelled task waits for its end, too."""
    await wait_until_done(future)
    return future.result()


@dataclass(frozen=True, slots=True)
class UploadResources:
    """Resources that all writers of a store share: the disk, the memory budget, and three pools of threads.

    `quick` is for work of a few milliseconds, many jobs at a time, so that the kernel's journal takes their fsyncs together.
    `bulk` is for hashing and writing batches, few at a time, because more would only wait for the same cores. `syncs` waits for
    the disk beside them and does nothing else, so that `bulk` may wait for it.
    """

    disk: Disk
    budget: MemoryBudget
    quick: WorkerPool
    bulk: WorkerPool
    syncs: Executor


class _BytesLost(Exception):
    """An fsync failed: the content of the file is not known any more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True, slots=True)
class SessionFile:
    """The file of a session, open and locked.

    `is_linked`: whether its name still is that of this file. `place`: moves it to a blob's name, durably.
    """

    name: str
    path: str
    fd: int
    is_linked: Callable[[], bool]
    place: Callable[[Digest], None]


class LocalUploadWriter:
    """`UploadWriter` on a file. `running` is the hash of the `size` bytes in the file, None if it is not known."""

    def __init__(self, resources: UploadResources, file: SessionFile, size: int, running: SessionHash | None) -> None:
        self.recorded = False
        self._resources = resources
        self._file = file
        self._acknowledged = size
        self._acknowledged_hash = running
        # Owned by the event loop.
        self._offset = size
        self._parts: list[bytes | bytearray] = []
        self._received = 0
        self._buffered = 0
        self._in_work = 0
        self._work: asyncio.Future[Any] | None = None
        # Owned by the thread at work, by the event loop when there is none.
        self._in_file = size
        self._hash = None if running is None else running.copy()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._ended = False
        resources.budget.writers += 1

    @property
    def offset(self) -> int:
        """Bytes of the session, including those that are still buffered."""
        return self._offset

    async def write(self, chunk: bytes) -> None:
        """Gather the chunk; hand a full batch to a thread, after waiting for the one before it."""
        if not chunk:
            return
        if self._ended:
            raise self._unknown()
        self._resources.budget.admission.arrived(self, len(chunk))
        self._gather(chunk)
        if self._resources.budget.is_due(self._buffered, len(chunk)):
            await self._settle()
            self._launch_append()
            if not self._resources.budget.overlaps:
                await self._settle()
        self._received += len(chunk)
        await self._resources.budget.admission.admit(self, self._received)

    async def flush(self) -> None:
        """Write what was gathered to the file, and record this point as acknowledged."""
        self._resources.budget.admission.leave(self)
        await self._settle()
        if self._ended:
            raise self._unknown()
        if self._parts:
            self._launch_append()
            await self._settle()
        if self._syncing is not None:
            self._launch(self._resources.bulk, self._wait_for_sync)
            await self._settle()
        self._acknowledged = self._in_file
        self._acknowledged_hash = None if self._hash is None else self._hash.copy()

    async def expose(self) -> None:
        """Write what was gathered to the file, which readers read."""
        await self.flush()

    async def rollback(self) -> None:
        """Cut the session back to what was acknowledged."""
        await self._settle()
        self._drop_parts()
        if self._in_file != self._acknowledged:
            self._launch(self._resources.quick, self._restore)
            await self._settle()
        self._offset = self._acknowledged

    async def commit(
        self, digest: Digest, verified: Callable[[], None] | None = None, record: Job[None] | None = None
    ) -> int:
        """Hash, write, fsync, rename and fsync the folder, in one job of a thread. `record` is left to the caller."""
        self._resources.budget.admission.leave(self)
        await self._settle()
        if self._ended:
            raise self._unknown()
        size = self._offset
        is_quick = size <= BATCH_BYTES
        parts = self._take_parts()
        self._launch(self._resources.quick if is_quick else self._resources.bulk, self._commit, parts, digest, verified)
        await self._settle()
        return size

    async def close(self) -> SessionHash | None:
        """Wait for the thread and drop what is only gathered. Returns the hash of the file's content, if known.

        The caller closes the descriptor, and with it the lock, after this.
        """
        try:
            if self._work is not None:
                await wait_until_done(self._work)
            if self._syncing is not None:
                await wait_until_done(asyncio.wrap_future(self._syncing))
                if self._syncing.exception() is not None:
                    self._lose()
        finally:
            self._drop_parts()
            self._resources.budget.admission.leave(self)
            self._resources.budget.held_bytes -= self._in_work
            self._in_work = 0
            self._resources.budget.writers -= 1
        return None if self._ended else self._hash

    # On the event loop

    def _gather(self, chunk: bytes) -> None:
        """Keep big chunks as they come; join small ones, because each alone costs more than its bytes."""
        self._offset += len(chunk)
        self._buffered += len(chunk)
        self._resources.budget.held_bytes += len(chunk)
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
        self._in_work += self._buffered
        self._buffered = 0
        return parts

    def _drop_parts(self) -> None:
        self._parts = []
        self._resources.budget.held_bytes -= self._buffered
        self._buffered = 0

    def _launch_append(self) -> None:
        pool = self._resources.quick if self._buffered <= QUICK_BYTES else self._resources.bulk
        self._launch(pool, self._append, self._take_parts())

    def _launch(self, pool: WorkerPool, work: Callable[..., object], *arguments: object) -> None:
        self._work = pool.launch(self._guarded, work, *arguments)

    async def _settle(self) -> None:
        """Wait for the thread at work. Raises what it raised; the session is then back at the acknowledged point."""
        if self._work is None:
            return
        work = self._work
        try:
            await result_of(work)
        except BaseException:
            self._drop_parts()
            self._offset = self._in_file
            raise
        finally:
            self._work = None
            self._resources.budget.held_bytes -= self._in_work
            self._in_work = 0

    def _unknown(self) -> UploadUnknown:
        return UploadUnknown(f"the upload session {self._file.name.partition('.')[0]} has ended; start one with POST")

    # In a thread

    def _guarded(self, work: Callable[..., object], *arguments: object) -> None:
        """Do the work; if it fails, take the session back to what was acknowledged."""
        try:
            work(*arguments)
        except _BytesLost as lost:
            self._lose()
            raise self._store_error(lost.cause) from lost.cause
        except OSError as error:
            self._restore()
            raise self._store_error(error) from error
        except DigestInvalid:
            self._restore()
            raise

    def _store_error(self, error: OSError) -> NoSpace | StoreBroken:
        """Return the error for the client, without paths."""
        reason = error.strerror or type(error).__name__
        if is_no_space(error):
            return NoSpace(
                f"no space left in the registry's store ({reason}): nothing of this request was kept; "
                "push again when the operator has made space"
            )
        return StoreBroken(f"the registry's store failed ({reason}): nothing of this request counts; push again later")

    def _append(self, parts: list[bytes | bytearray]) -> None:
        for part in parts:
            if self._hash is not None:
                self._hash.hasher.update(part)
        self._write(parts)
        if self._unsynced >= SYNC_EVERY_BYTES:
            self._wait_for_sync()
            self._syncing = self._resources.syncs.submit(self._resources.disk.sync_data, self._file.fd)
            self._unsynced = 0

    def _write(self, parts: list[bytes | bytearray]) -> None:
        self._resources.disk.append(self._file.fd, parts)
        written = sum(map(len, parts))
        self._in_file += written
        self._unsynced += written

    def _wait_for_sync(self) -> None:
        """Wait for the sync that runs beside the writing. Its failure is raised once, here."""
        syncing, self._syncing = self._syncing, None
        try:
            if syncing is not None:
                syncing.result()
        except OSError as error:
            raise _BytesLost(error) from error

    def _sync_all(self) -> None:
        self._wait_for_sync()
        try:
            self._resources.disk.sync(self._file.fd)
        except OSError as error:
            raise _BytesLost(error) from error

    def _commit(self, parts: list[bytes | bytearray], digest: Digest, verified: Callable[[], None] | None) -> None:
        """1. hash, 2. compare, 3. write, 4. fsync, 5. rename and fsync of the folder.

        A hash that is known without the file is compared before anything is written; otherwise the file is read.
        """
        disk = self._resources.disk
        running = SessionHash(digest.algorithm, digest.hasher()) if self._in_file == 0 else self._hash
        if running is not None and running.algorithm == digest.algorithm:
            for part in parts:
                running.hasher.update(part)
            self._compare(running.hasher.hexdigest(), digest)
            self._write(parts)
        else:
            self._write(parts)
            self._compare(self._hash_file(digest), digest)
        if verified is not None:
            verified()
        if not parts:
            disk.touch(self._file.fd)  # the commit's time: garbage collection spares recent bytes
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
        while piece := self._resources.disk.read_at(self._file.fd, _READ_BYTES, position):
            hasher.update(piece)
            position += len(piece)
        return hasher.hexdigest()

    def _restore(self) -> None:
        """Cut the file back to what was acknowledged, unless it may have become a blob."""
        if self._ended:
            return
        self._hash = None if self._acknowledged_hash is None else self._acknowledged_hash.copy()
        self._in_file = self._acknowledged
        try:
            self._resources.disk.truncate(self._file.fd, self._acknowledged)
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Remove a session whose content is not known."""
        self._ended = True
        try:
            self._resources.disk.unlink(self._file.path)
        except OSError:
            return  # the file stays, longer or shorter than acknowledged; its content is hashed before a commit
