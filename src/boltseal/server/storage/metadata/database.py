"""The metadata database: one writer thread with group commit, readers beside it.

A job is a plain function of a Transaction. Jobs that wait together are committed together: one BEGIN, each job in a
savepoint of its own, one COMMIT, one fsync; so 32 pushes cost the disk little more than one. A job that raises is
rolled back alone and the error goes to whoever asked. Nothing is acknowledged before the COMMIT returned; if the COMMIT
fails, every job of the group failed and nothing has changed. Order within a group is the order of arrival.

Who owns what: the writer thread owns the writing connection; the event loop's thread owns `lookups`; longer reads run
on two reader threads. Between processes SQLite's write lock decides (see `sqlite`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.storage.coordination.generation import Generation
from boltseal.server.storage.metadata import sqlite
from boltseal.server.storage.metadata.schema import LEDGER
from boltseal.server.storage.worker_threads import deliver

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

T = TypeVar("T")

GROUP_LIMIT: Final = 256


@dataclass(slots=True)
class Transaction:
    """What a job works in: the connection, the time it happens at, and whether caches have to forget.

    `doubts`: why nothing may be recorded in a log, by its name. `appended`: the logs in which the job wrote an entry.
    `whole`: manifests, as (repository number, digest), of which the job saw that everything under them is held.
    """

    connection: Connection
    now_us: int
    doubts: Mapping[str, str] = field(default_factory=dict)
    takes_away: bool = field(default=False)
    appended: set[str] = field(default_factory=set)
    whole: set[tuple[int, str]] = field(default_factory=set)

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What the block does is undone at its end: it was only to see whether it can be done. Raises what it raises."""
        execute = sqlite.driver(self.connection).execute
        takes_away, appended, whole = self.takes_away, set(self.appended), set(self.whole)
        execute("SAVEPOINT undone")
        try:
            yield
        finally:
            if sqlite.driver(self.connection).in_transaction:  # not after "disk full": then all of it is undone already
                execute("ROLLBACK TO undone")
                execute("RELEASE undone")
            self.takes_away, self.appended, self.whole = takes_away, appended, whole


Job = Callable[[Transaction], T]
Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job and who waits for it: `is_unwanted` may be asked until it begins, `tell` is told result or error."""

    job: Job[Any]
    is_unwanted: Callable[[], bool]
    tell: Callable[[Any, BaseException | None], None]


class Database:
    """One SQLite file. Made by `open_database`, closed once."""

    def __init__(self, engine: Engine, generation: Generation, clock: Clock) -> None:
        self.generation = generation
        self.doubts: dict[str, str] = {}
        """By a log's name why nothing may be recorded in it (`server.registry.sequencer` asks); set by whoever doubts the store."""
        self.after_append: dict[str, Callable[[], None]] = {}
        """By a log's name what is called, in the writer's thread, when a COMMIT has brought entries; it neither waits nor
        raises."""
        self._engine = engine
        self._clock = clock
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closed = False
        self._look = engine.connect()
        self.lookups = sqlite.Lookups(self._look)
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="boltseal-read")
        self._reading: list[Connection] = []
        self._writer = threading.Thread(target=self._run, name="boltseal-write", daemon=True)
        self._writer.start()

    @property
    def frozen(self) -> str | None:
        """Why nothing may be recorded in the ledger, so that nothing is taken in; None where it may."""
        return self.doubts.get(LEDGER.name)

    async def write(self, job: Job[T]) -> T:
        """Run a job in the next group. Returns after its COMMIT; raises what the job raised, or Full or Unavailable."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(_Waiting(job, future.cancelled, partial(deliver, future)))
        return await future

    def write_and_wait(self, job: Job[T]) -> T:
        """The same for a caller that has no event loop (the offline verbs)."""
        future: Future[T] = Future()

        def tell(result: T, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._submit(_Waiting(job, future.cancelled, tell))
        return future.result()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a longer query on a reader thread: one snapshot, the last commit or later."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)

    def read_and_wait(self, query: Callable[[Connection], T]) -> T:
        """The same for a caller that has no event loop."""
        return self._readers.submit(self._read, query).result()

    def close(self) -> None:
        """Finish what waits, then close every connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._readers.shutdown()
        self._look.close()
        for connection in self._reading:
            connection.close()
        self._engine.dispose()
        self.generation.close()

    def _submit(self, waiting: _Waiting) -> None:
        if self._closed:
            raise Unavailable("the registry is shutting down: nothing was changed; try again")
        self._queue.put(waiting)

    def _read(self, query: Callable[[Connection], T]) -> T:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._engine.connect()
            self._reading.append(connection)
        with sqlite.errors_named():
            sqlite.driver(connection).execute("BEGIN")
            try:
                return query(connection)
            finally:
                sqlite.driver(connection).execute("COMMIT")

    def _run(self) -> None:
        with self._engine.connect() as connection:
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
                if group:
                    self._commit_group(connection, group)

    def _commit_group(self, connection: Connection, group: list[_Waiting]) -> None:
        # From here on nobody can take a job back; whoever stopped waiting before this has changed nothing.
        group = [waiting for waiting in group if not waiting.is_unwanted()]
        done: list[tuple[_Waiting, Any]] = []
        failed: list[tuple[_Waiting, BaseException]] = []
        try:
            with sqlite.errors_named():
                self._transact(connection, group, done, failed)
        except BaseException as error:  # noqa: BLE001 - the outermost shell of this thread: whoever waits must hear of it
            failed = [(waiting, error) for waiting in group]
            done = []
        for waiting, result in done:
            waiting.tell(result, None)
        for waiting, reason in failed:
            waiting.tell(None, reason)

    def _transact(
        self,
        connection: Connection,
        group: list[_Waiting],
        done: list[tuple[_Waiting, Any]],
        failed: list[tuple[_Waiting, BaseException]],
    ) -> None:
        execute = sqlite.driver(connection).execute
        execute("BEGIN IMMEDIATE")
        takes_away = begun = False
        appended = set[str]()
        try:
            for waiting in group:
                transaction = Transaction(connection, self._clock(), self.doubts)
                execute("SAVEPOINT job")
                try:
                    result = waiting.job(transaction)
                except Exception as error:
                    # After "disk full" SQLite has rolled back everything already: then the group fails as one.
                    if not sqlite.driver(connection).in_transaction:
                        raise
                    execute("ROLLBACK TO job")
                    failed.append((waiting, _named(error)))
                else:
                    takes_away = takes_away or transaction.takes_away
                    appended |= transaction.appended
                    done.append((waiting, result))
                execute("RELEASE job")
            if takes_away:
                self.generation.begin()
                begun = True
            execute("COMMIT")
        except BaseException:
            if sqlite.driver(connection).in_transaction:
                execute("ROLLBACK")
            raise
        finally:
            if begun:
                self.generation.end()
        for log in appended & self.after_append.keys():
            self.after_append[log]()


def _named(error: Exception) -> BaseException:
    if isinstance(error, BoltsealError):
        return error
    try:
        with sqlite.errors_named():
            raise error
    except Exception as named:  # noqa: BLE001 - the same error under our name, or the error itself
        return named


def open_database(path: Path, generation_path: Path, clock: Clock, lock_wait_s: float = sqlite.LOCK_WAIT_S) -> Database:
    """Open a database whose schema is there (see `migrate`). The store's generation is repaired if a process died."""
    database = Database(sqlite.make_engine(path, lock_wait_s=lock_wait_s), Generation.open(generation_path), clock)
    database.write_and_wait(lambda _: database.generation.repair())
    return database
