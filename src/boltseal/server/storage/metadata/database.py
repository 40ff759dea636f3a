"""The metadata database on SQL: one writer thread with group commit, and reader threads beside it.

Jobs that wait at the same time are committed together: one BEGIN, a savepoint for each job, one COMMIT, one fsync. So 32
pushes cost the disk little more than one. A job that raises is rolled back alone and its caller gets the error. If the
COMMIT fails, every job of the group fails and nothing has changed. The order within a group is the order of arrival.
Jobs that need not survive a power cut are a group of their own, which goes first and does not wait for the disk.

The writer thread owns the writing session; the event loop's thread owns the session of `lookups`; longer reads run on two
reader threads. What differs between databases is in the `SqlDriver`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.storage.coordination.protocol import Generation
from boltseal.server.storage.metadata.protocol import LEDGER, TAGS, Clock, ClockGuard, Job, Lookups, Query, WriteQueue
from boltseal.server.storage.metadata.sql import SqlSession
from boltseal.server.storage.worker_threads import deliver

T = TypeVar("T")

GROUP_LIMIT: Final = 256


class SqlDriver(Protocol):
    """One database of one kind."""

    def connect(self) -> SqlSession:
        """Open another connection. Raises: Unavailable."""
        ...

    def lookups(self, session: SqlSession) -> Lookups:
        """Return the look-ups for pulls on a session that nothing else uses."""
        ...

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn the driver's errors inside the block into Full, Unavailable and DatabaseDamaged; leave others as they are."""
        ...

    def close(self) -> None:
        """Let go of what the driver holds beside its sessions."""
        ...


@dataclass(frozen=True, slots=True)
class SqlSnapshot:
    """The `Snapshot` of a session: of its transaction, or without one of each statement."""

    sql: SqlSession


@dataclass(slots=True)
class SqlUnitOfWork:
    """The `UnitOfWork` of a savepoint in the writer's transaction."""

    sql: SqlSession
    now_us: int
    clock_doubt: str | None = None
    doubts: dict[str, str] = field(default_factory=dict)
    invalidates_caches: bool = field(default=False)
    appended: set[str] = field(default_factory=set)
    complete_manifests: set[tuple[int, str]] = field(default_factory=set)

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Undo at its end what the block did. Errors of the block are raised."""
        invalidates_caches, appended, whole = self.invalidates_caches, set(self.appended), set(self.complete_manifests)
        self.sql.savepoint("undone")
        try:
            yield
        finally:
            if self.sql.in_transaction:  # "disk full" has undone the whole transaction already
                self.sql.undo_to("undone")
                self.sql.release("undone")
            self.invalidates_caches, self.appended, self.complete_manifests = invalidates_caches, appended, whole


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job and its caller. `is_unwanted`: whether the caller gave up; `settle`: takes the result or the error."""

    job: Job[Any]
    is_unwanted: Callable[[], bool]
    settle: Callable[[Any, BaseException | None], None]
    durable: bool = True


class SqlMetadata:
    """The `Metadata` of one SQL database."""

    def __init__(self, driver: SqlDriver, generation: Generation, clock: Clock) -> None:
        self.generation = generation
        self.doubts: dict[str, str] = {}
        self.clock_guard: ClockGuard = lambda _: None
        self.after_append: dict[str, Callable[[], None]] = {}
        self._driver = driver
        self._clock = clock
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._since: deque[float] = deque()
        """When each job that is not committed yet was handed in, the oldest first (monotonic)."""
        self._closed = False
        self._lookup_session = driver.connect()
        self.lookups = driver.lookups(self._lookup_session)
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="boltseal-read")
        self._reading: list[SqlSession] = []
        self._writer = threading.Thread(target=self._run, name="boltseal-write", daemon=True)
        self._writer.start()

    @property
    def frozen(self) -> str | None:
        """The reason why the ledger takes no entry, None if it does."""
        return self.doubts.get(LEDGER.name) or self.doubts.get(TAGS)

    @property
    def write_queue(self) -> WriteQueue:
        """The jobs that wait or run now. Callable in any thread."""
        try:
            return WriteQueue(len(self._since), time.monotonic() - self._since[0])
        except IndexError:
            return WriteQueue()

    async def write(self, job: Job[T], *, durable: bool = True) -> T:
        """Run a job in the next group and return its result after the COMMIT.

        Without `durable` the COMMIT does not wait for the disk.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(_Waiting(job, future.cancelled, partial(deliver, future), durable))
        return await future

    def write_and_wait(self, job: Job[T]) -> T:
        """Run a job as `write` does, for callers without an event loop."""
        future: Future[T] = Future()

        def settle(result: T, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._submit(_Waiting(job, future.cancelled, settle))
        return future.result()

    async def read(self, query: Query[T]) -> T:
        """Run a query on a reader thread, in one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def read_and_wait(self, query: Query[T]) -> T:
        """Run a query as `read` does, for callers without an event loop."""
        return self._readers.submit(self._read, query).result()

    def close(self) -> None:
        """Finish the jobs that were handed in, then close every connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._lookup_session.close()
        for session in self._reading:
            session.close()
        self._driver.close()
        self.generation.close()

    def _submit(self, waiting: _Waiting) -> None:
        if self._closed:
            raise Unavailable("the registry is shutting down: nothing was changed; try again")
        self._since.append(time.monotonic())
        self._queue.put(waiting)

    def _read(self, query: Query[T]) -> T:
        session: SqlSession | None = getattr(self._local, "session", None)
        with self._driver.errors_named():
            if session is None:
                session = self._local.session = self._driver.connect()
                self._reading.append(session)
            session.begin(write=False)
            try:
                return query(SqlSnapshot(session))
            finally:
                session.commit()

    def _run(self) -> None:
        session = self._driver.connect()
        try:
            going = True
            while going:
                group: list[_Waiting] = []
                waiting = self._queue.get()
                while waiting is not None:
                    group.append(waiting)
                    if len(group) >= GROUP_LIMIT or self._queue.empty():
                        break
                    waiting = self._queue.get()
                going = waiting is not None
                for durable in (False, True):  # those that need not wait for the disk do not wait for it
                    part = [waiting for waiting in group if waiting.durable is durable]
                    if part:
                        self._commit_group(session, part)
        finally:
            session.close()

    def _commit_group(self, session: SqlSession, group: list[_Waiting]) -> None:
        # A caller that gave up before this point has changed nothing; after it the job is done whatever the caller does.
        taken = len(group)
        group = [waiting for waiting in group if not waiting.is_unwanted()]
        done: list[tuple[_Waiting, Any]] = []
        failed: list[tuple[_Waiting, BaseException]] = []
        try:
            with self._driver.errors_named():
                self._transact(session, group, done, failed)
        except BaseException as error:  # noqa: BLE001 - the outermost frame of this thread: every caller must get the error
            failed = [(waiting, error) for waiting in group]
            done = []
        for _ in range(taken):  # the oldest first: within a group the ages may be exchanged
            self._since.popleft()
        for waiting, result in done:
            waiting.settle(result, None)
        for waiting, reason in failed:
            waiting.settle(None, reason)

    def _transact(
        self,
        session: SqlSession,
        group: list[_Waiting],
        done: list[tuple[_Waiting, Any]],
        failed: list[tuple[_Waiting, BaseException]],
    ) -> None:
        session.begin(write=True, durable=any(waiting.durable for waiting in group))
        invalidates_caches = begun = False
        appended = set[str]()
        clock_doubt = self.clock_guard(self._clock())
        try:
            for waiting in group:
                tx = SqlUnitOfWork(session, self._clock(), clock_doubt, self.doubts)
                session.savepoint("job")
                try:
                    result = waiting.job(tx)
                except Exception as error:
                    # After "disk full" SQLite has rolled back everything already: then the group fails as one.
                    if not session.in_transaction:
                        raise
                    session.undo_to("job")
                    failed.append((waiting, self._named(error)))
                else:
                    invalidates_caches = invalidates_caches or tx.invalidates_caches
                    appended |= tx.appended
                    done.append((waiting, result))
                session.release("job")
            if invalidates_caches:
                self.generation.begin()
                begun = True
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            if begun:
                self.generation.end()
        for log in appended & self.after_append.keys():
            self.after_append[log]()

    def _named(self, error: Exception) -> BaseException:
        if isinstance(error, BoltsealError):
            return error
        try:
            with self._driver.errors_named():
                raise error
        except Exception as named:  # noqa: BLE001 - the error as a class of boltseal, or itself
            return named
