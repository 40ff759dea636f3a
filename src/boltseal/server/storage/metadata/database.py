"""The metadata database on SQL: one writer thread with group commit, and reader threads beside it.

Jobs that wait at the same time are committed together: one BEGIN, a savepoint for each job, one COMMIT, one fsync. So 32
pushes cost the disk little more than one. A job that raises is rolled back alone and its caller gets the error. If the
COMMIT fails, every job of the group fails and nothing has changed. Repositories are served round robin (`write_queue`); the
jobs of one are done in the order of arrival. Jobs that need not survive a power cut are a group of their own, which goes
first and does not wait for the disk.

A job has a time budget. One that exceeds it is undone and its caller gets WriteTooLong; those before it in its group are
done again. The caller of one that takes something away gets its result when no process answers from a cache of before.

The writer thread owns the writing session; the event loop's thread owns the session of `lookups`; longer reads run on two
reader threads. What differs between databases is in the `SqlDriver`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from boltseal.errors import BoltsealError, Full, Unavailable
from boltseal.server.storage.coordination.protocol import Generation, Lease, Wait
from boltseal.server.storage.coordination.taken_away import TakenAway
from boltseal.server.storage.metadata.protocol import (
    LEDGER,
    TAGS,
    Clock,
    ClockGuard,
    Job,
    Query,
    Snapshot,
    WriteQueue,
)
from boltseal.server.storage.metadata.sql import AnswerLost, SqlSession
from boltseal.server.storage.metadata.sql_units import Connection, SqlDriver, SqlSnapshot, SqlUnitOfWork
from boltseal.server.storage.metadata.write_queue import FairQueue, WaitingJob
from boltseal.server.storage.worker_threads import deliver

T = TypeVar("T")

GROUP_LIMIT: Final = 256
GROUP_S: Final = 0.5
"""After this time a group begins no more jobs and commits, so that the jobs of other repositories get their turn."""
WRITE_BUDGET_S: Final = 5.0
"""A job whose statements run longer is stopped and undone: all other writes wait for it."""

_log = structlog.get_logger(__name__)


class WriteTooLong(Unavailable):
    """The job was stopped because it exceeded its time budget. Nothing was changed."""


class _BudgetExceeded(Exception):
    """Ends the transaction in which a job exceeded its budget."""

    def __init__(self, waiting: WaitingJob) -> None:
        super().__init__()
        self.waiting = waiting


@dataclass(slots=True)
class _Outcome:
    """What became of the jobs of a group. `took_away`: those after which cached answers may be wrong, until `wait` returns."""

    done: list[tuple[WaitingJob, Any]] = field(default_factory=list)
    took_away: set[WaitingJob] = field(default_factory=set)
    wait: Wait | None = None
    failed: list[tuple[WaitingJob, BaseException]] = field(default_factory=list)
    not_begun: list[WaitingJob] = field(default_factory=list)


def _settle_after(wait: Wait, waiting: WaitingJob, result: object) -> None:
    """Give a caller its result when no process of the store answers from before the COMMIT."""
    try:
        wait()
    except BaseException as error:  # noqa: BLE001 - the outermost frame of this thread: the caller must get the error
        waiting.settle(None, error)
    else:
        waiting.settle(result, None)


def _described(waiting: WaitingJob) -> dict[str, str]:
    return {"job": waiting.name} | ({"repository": waiting.repository} if waiting.repository else {})


class SqlMetadata:
    """The `Metadata` of one SQL database."""

    def __init__(
        self,
        driver: SqlDriver,
        generation: Generation,
        clock: Clock | None,
        budget_s: float = WRITE_BUDGET_S,
        why_closed: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Open a database. `clock`: None for the time of the database, if it has a clock of its own. `why_closed`: `Metadata.closed`."""
        self.generation = generation
        self.doubts: dict[str, str] = {}
        self.clock_guard: ClockGuard = lambda _: None
        self.after_append: dict[str, Callable[[], None]] = {}
        self.after_connect: Callable[[Snapshot], None] | None = None
        self._driver, self._why_closed = driver, why_closed
        driver.after_connect = self._look_at_connection
        self._clock = clock
        self.now_us: Clock = clock or self._database_time_us
        self._ahead_us = 0
        """How much the database's clock is ahead of `time.monotonic`."""
        self._budget_s = budget_s
        self._sizes: dict[str, int] = {}
        """By a log's name, how many entries this process has committed or seen."""
        self._waiting = FairQueue()
        self._closed = False
        self.confirmed: ContextVar[Lease | None] = ContextVar("confirmed", default=None)
        """The lease under which this thread or task works."""
        self.no_space_at_s: float | None = None
        self.taken_away: TakenAway | None = None
        self._in_doubt = False
        """Whether a COMMIT of which nothing is known may still take effect. Until the next one the generation stays odd."""
        self.lookups = driver.lookups()
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="boltseal-read")
        self._reading: list[Connection] = []
        self._confirming = ThreadPoolExecutor(1, thread_name_prefix="boltseal-confirm")
        """Waits for other processes, so that the writer need not."""
        self._writer = threading.Thread(target=self._run, name="boltseal-write", daemon=True)
        self._writer.start()

    def _database_time_us(self) -> int:
        return self._ahead_us + time.monotonic_ns() // 1000

    @property
    def frozen(self) -> str | None:
        """The reason why the ledger takes no entry, None if it does."""
        return self.closed or self.doubts.get(LEDGER.name) or self.doubts.get(TAGS)

    @property
    def closed(self) -> str | None:
        """The reason why nothing may be written, None if it may."""
        return self._why_closed()

    @property
    def write_queue(self) -> WriteQueue:
        """The jobs that wait or run now. Callable in any thread."""
        return self._waiting.state

    async def write(self, job: Job[T], *, durable: bool = True, repository: str = "") -> T:
        """Run a job in one of the next groups and return its result after the COMMIT.

        Without `durable` the COMMIT does not wait for the disk. `repository`: which one's turn the job takes.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        waiting = WaitingJob(
            job, future.cancelled, partial(deliver, future), durable, repository, lease=self.confirmed.get()
        )
        self._waiting.put(waiting)
        return await future

    def write_and_wait(self, job: Job[T], *, repository: str = "", limited: bool = True) -> T:
        """Run a job as `write` does, for callers without an event loop."""
        future: Future[T] = Future()

        def settle(result: T, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        waiting = WaitingJob(
            job, future.cancelled, settle, repository=repository, limited=limited, lease=self.confirmed.get()
        )
        self._waiting.put(waiting)
        return future.result()

    async def read(self, query: Query[T]) -> T:
        """Run a query on a reader thread, in one snapshot. Raises: Unavailable: the database is closed."""
        return await asyncio.wrap_future(self._begin_read(query))

    def read_and_wait(self, query: Query[T]) -> T:
        """Run a query as `read` does, for callers without an event loop."""
        return self._begin_read(query).result()

    def _begin_read(self, query: Query[T]) -> Future[T]:
        try:
            return self._readers.submit(self._read, query)
        except RuntimeError as error:
            if not self._closed:
                raise
            # A request outlives its server.
            raise Unavailable("the registry is shutting down; try again") from error

    def close(self) -> None:
        """Finish the jobs that were handed in, then close every connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._waiting.close()
        self._writer.join()
        self._readers.shutdown()
        for connection in self._reading:
            connection.close()
        self._driver.close()
        self.generation.close()
        self._confirming.shutdown()

    def _reader(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = Connection(self._driver)
            self._reading.append(connection)
        return connection

    def _look_at_connection(self, snapshot: Snapshot) -> None:
        if self.after_connect is not None:
            self.after_connect(snapshot)

    def _read(self, query: Query[T]) -> T:
        with self._driver.errors_named():
            session = self._reader().begin(write=False)
            self._set_time(session)
            try:
                return query(SqlSnapshot(session.statements, session.began_us if self._clock is None else None))
            finally:
                session.commit()

    def _run(self) -> None:
        connection = Connection(self._driver)
        try:
            while group := self._waiting.take(GROUP_LIMIT):
                for durable in (False, True):  # those that need not wait for the disk do not wait for it
                    part = [waiting for waiting in group if waiting.durable is durable]
                    if part:
                        self._waiting.put_back(self._commit_group(connection, part))
        finally:
            connection.close()

    def _commit_group(self, connection: Connection, group: list[WaitingJob]) -> list[WaitingJob]:
        """Do the jobs of a group, and give each caller its result. Return those that were not begun."""
        # A caller that gave up before this point has changed nothing; after it the job is done whatever the caller does.
        unwanted = [waiting for waiting in group if waiting.is_unwanted()]
        left = [waiting for waiting in group if waiting not in unwanted]
        overdue: list[tuple[WaitingJob, BaseException]] = []
        later: list[WaitingJob] = []
        while True:
            outcome = _Outcome()
            try:
                with self._driver.errors_named():
                    self._transact(connection, left, outcome)
            except _BudgetExceeded as exceeded:  # those before it are done again, those behind it later
                at = left.index(exceeded.waiting)
                left, later = left[:at], left[at + 1 :] + later
                overdue.append((exceeded.waiting, self._budget_error(exceeded.waiting)))
                continue
            except BaseException as error:  # noqa: BLE001 - the outermost frame of this thread: every caller must get the error
                outcome = _Outcome(failed=[(waiting, error) for waiting in left])
            break
        failed = [*overdue, *outcome.failed]
        if any(type(error) is Full for _, error in failed):
            self.no_space_at_s = time.monotonic()
        self._waiting.remove([*unwanted, *(waiting for waiting, _ in (*outcome.done, *failed))])
        for waiting, result in outcome.done:
            if outcome.wait is not None and waiting in outcome.took_away:
                self._confirming.submit(_settle_after, outcome.wait, waiting, result)
            else:
                waiting.settle(result, None)
        for waiting, reason in failed:
            waiting.settle(None, reason)
        return outcome.not_begun + later

    def _transact(self, connection: Connection, group: list[WaitingJob], outcome: _Outcome) -> None:
        session = connection.begin(write=True, durable=any(waiting.durable for waiting in group))
        self._set_time(session)
        invalidates_caches, begun = self._in_doubt, False
        appended, sizes = set[str](), self._sizes
        try:
            for waiting, tx in self._units(session, group, outcome):
                tx.sizes = dict(sizes)
                session.savepoints.savepoint("job")
                try:
                    result = self._run_job(session, waiting, tx)
                except Exception as error:
                    # After "disk full" SQLite has rolled back everything already: then the group fails as one.
                    if not session.savepoints.in_transaction or isinstance(error, _BudgetExceeded):
                        raise
                    session.savepoints.undo_to("job")
                    outcome.failed.append((waiting, self._named(error)))
                else:
                    invalidates_caches = invalidates_caches or tx.invalidates_caches
                    appended |= tx.appended
                    sizes = tx.sizes
                    outcome.done.append((waiting, result))
                    if tx.invalidates_caches:
                        outcome.took_away.add(waiting)
                session.savepoints.release("job")
            if invalidates_caches:
                self.generation.begin(session.statements)
                begun = True
            self._commit(session)
            self._sizes = sizes
        except BaseException:
            session.rollback()
            raise
        finally:
            if begun and not self._in_doubt:
                outcome.wait = self.generation.end()
        for log in appended & self.after_append.keys():
            self.after_append[log]()

    def _units(
        self, session: SqlSession, group: list[WaitingJob], outcome: _Outcome
    ) -> Iterator[tuple[WaitingJob, SqlUnitOfWork]]:
        """Yield the jobs of a group, each with its unit of work, until the time of the group is over."""
        began_s, clock_doubt = time.monotonic(), self.clock_guard(self.now_us())
        for number, waiting in enumerate(group):
            if number and time.monotonic() > began_s + GROUP_S:
                outcome.not_begun = group[number:]
                return
            now_us = self.now_us()
            yield waiting, SqlUnitOfWork(session.statements, session.savepoints, now_us, clock_doubt, self.doubts)

    def _set_time(self, session: SqlSession) -> None:
        """Note the time of a transaction that has just begun."""
        if self._clock is None:
            if session.began_us is None:
                raise AssertionError("neither the caller nor the database has a clock")
            self._ahead_us = session.began_us - time.monotonic_ns() // 1000

    def _commit(self, session: SqlSession) -> None:
        """Commit, and find out whether a COMMIT took effect whose answer was lost. Raises: Unavailable: it did not, or doubt."""
        self._in_doubt = False
        try:
            session.commit()
        except AnswerLost as lost:
            self._in_doubt = True
            if lost.mark is None:
                raise
            try:
                took_effect = self._driver.took_effect(lost.mark)
            except Unavailable as error:
                _log.error("a COMMIT is in doubt", reason=error.message)
                raise lost from error
            self._in_doubt = False
            _log.warning("the answer to a COMMIT was lost, and looked up", took_effect=took_effect)
            if not took_effect:
                raise Unavailable(
                    "the connection to the registry's database broke: nothing was changed; try again"
                ) from lost

    def _run_job(self, session: SqlSession, waiting: WaitingJob, tx: SqlUnitOfWork) -> object:
        """Run one job within its time budget. Raises: _BudgetExceeded, or what the job raises."""
        began_s = time.monotonic()
        session.interrupt_after(self._budget_s if waiting.limited else None)
        try:
            if waiting.lease is not None:
                waiting.lease.confirm(tx.sql)
            result = waiting.job(tx)
        except Exception:
            if session.interrupted:
                raise _BudgetExceeded(waiting) from None
            raise
        finally:
            session.interrupt_after(None)
            seconds = time.monotonic() - began_s
            self._waiting.took(waiting, seconds)
        if waiting.limited and seconds > self._budget_s:  # over between two statements: the result is valid
            _log.warning("a write took too long", **_described(waiting), seconds=round(seconds, 1))
        return result

    def _budget_error(self, waiting: WaitingJob) -> BaseException:
        _log.error("a write took too long and was undone", **_described(waiting), budget_s=self._budget_s)
        return WriteTooLong(
            f"the change took longer than {self._budget_s:g} seconds, in which no other can be made: nothing was changed; "
            "try again when the registry is less busy, or change less at once"
        )

    def _named(self, error: Exception) -> BaseException:
        if isinstance(error, BoltsealError):
            return error
        try:
            with self._driver.errors_named():
                raise error
        except Exception as named:  # noqa: BLE001 - the error as a class of boltseal, or itself
            return named
