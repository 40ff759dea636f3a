"""PostgreSQL behind the metadata protocols: connections, transactions, errors.

Locks that outlive a transaction have connections of their own (`coordination.lock_session`).

Lock order: every write transaction first takes one advisory lock of the database (`WRITER_LOCK`) and holds it to its end.
So one server writes at a time, as on SQLite, whatever rows they change and in whatever order, and no two of
them can wait for each other. The row locks of the queries (`FOR UPDATE`) come after it, and hold off other programs.

A COMMIT whose answer is lost is looked up: with it each durable transaction writes a random mark into the row of its writer
(`write_mark`). A new connection takes the writer's lock, which it gets when the lost transaction has ended, and reads the
row. That is right also after a failover, since the mark is replicated together with what it stands for.

Connections work through a pooler in transaction mode: settings are local to a transaction, no statement is prepared.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any, Final, cast

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from boltseal.errors import BoltsealError, Full, Invalid, Unavailable, quote
from boltseal.server.storage.coordination.protocol import Generation
from boltseal.server.storage.metadata.database import WRITE_BUDGET_S, SqlMetadata
from boltseal.server.storage.metadata.postgres_lookups import PostgresLookups
from boltseal.server.storage.metadata.postgres_messages import unusable
from boltseal.server.storage.metadata.postgres_watchdog import Watchdog
from boltseal.server.storage.metadata.protocol import Clock, Lookups, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.sql import LOCK_WAIT_S, AnswerLost, DatabaseDamaged, Rows
from boltseal.server.storage.metadata.sql_units import SqlSnapshot
from boltseal.server.storage_settings import DatabaseUrl

WRITER_LOCK: Final = 0x626F6C747365616C  # "boltseal"
FIND_OUT_S: Final = 15.0
"""How long a writer tries to find out whether a COMMIT without an answer took effect; a restart takes seconds."""
_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_READ: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT {_NOW}"
_WRITE: Final = """
BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE;
SET LOCAL lock_timeout = {lock_wait_ms};
SET LOCAL idle_in_transaction_session_timeout = 60000;
{durability};
SELECT pg_advisory_xact_lock({lock});
SELECT {now}
"""
# A server may be set to do more than `on` for a COMMIT, such as to wait until a standby has applied it; less is not durable.
_DURABLE: Final = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') IN ('off', 'local')"
_NOT_DURABLE: Final = "SET LOCAL synchronous_commit = off"
_MARK: Final = f"""
INSERT INTO write_mark (writer, mark, at_us) VALUES ('{{writer}}', '{{mark}}', {_NOW})
ON CONFLICT (writer) DO UPDATE SET mark = excluded.mark, at_us = excluded.at_us
"""  # noqa: S608 - both are random hexadecimal numbers
_FORGET_MARKS: Final = f"DELETE FROM write_mark WHERE at_us < {_NOW} - 86400000000"  # noqa: S608
_DEFAULTS: Final = {
    "application_name": "boltseal",
    "connect_timeout": "10",
    "target_session_attrs": "read-write",  # never a standby, whose answers may be old
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_BUSY: Final = {"40001", "40P01", "55P03", "57014"}
"""Serialization failure, deadlock, a lock that was not free in time, a statement that was cancelled."""
_READ_ONLY: Final = "25006"
_NO_ANSWER_CLASSES: Final = {"08", "57"}
"""Classes of errors after which a COMMIT may have taken effect; a pooler reports a broken connection as an error, too."""
_FULL: Final = "53100"
_NO_TABLE: Final = "42P01"
_DAMAGED: Final = {"XX001", "XX002"}
_ENDED: Final = {"25P03", "25P04"}
"""The server closed the connection, since this process sent nothing for too long, or a transaction took too long."""
_UNUSABLE_CLASSES: Final = {"08", "28", "3D", "53", "57", "58"}
"""Classes of error codes: connection, login, no such database, resources, operator's intervention, system error."""

_log = structlog.get_logger(__name__)


def open_database(
    url: DatabaseUrl,
    generation: Generation,
    clock: Clock | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    budget_s: float = WRITE_BUDGET_S,
    *,
    why_closed: Callable[[], str | None] = lambda: None,
) -> SqlMetadata:
    """Open a database that has its schema (see `postgres_schema`). `clock`: None for the time of the database.

    `why_closed`: as of `Metadata.closed`.
    """
    driver = PostgresDriver(url, lock_wait_s=lock_wait_s)
    database = SqlMetadata(driver, generation, clock, budget_s, why_closed)

    try:
        database.write_and_wait(_forget_marks)
    except BaseException:
        database.close()
        raise
    return database


def _forget_marks(tx: UnitOfWork) -> None:
    tx.sql.plain(_FORGET_MARKS)


@cache
def _placeholders(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


class PostgresSession:
    """One connection to PostgreSQL: `SqlSession` with its `SqlStatements` and `SqlSavepoints`."""

    def __init__(self, engine: Engine, lock_wait_s: float, writer: str) -> None:
        self.connection = engine.connect()
        raw = self.connection.connection.driver_connection
        if not isinstance(raw, psycopg.Connection):
            raise TypeError(f"expected a psycopg connection, got {type(raw).__name__}")
        self.driver: Final = cast(psycopg.Connection[tuple[Any, ...]], raw)
        self.began_us: int | None = None
        self._lock_wait_s = lock_wait_s
        self._writer = writer
        self._writes = self._durable = False
        self._broken = False
        self._watchdog: Watchdog | None = None

    @property
    def statements(self) -> PostgresSession:
        """This connection."""
        return self

    @property
    def savepoints(self) -> PostgresSession:
        """This connection."""
        return self

    @property
    def for_update(self) -> str:
        """Lock the rows of a plain SELECT to the end of the transaction."""
        return " FOR UPDATE"

    @property
    def usable(self) -> bool:
        """Whether the connection is open, and its server accepts writes, as far as is known."""
        return not self.driver.closed and not self._broken

    def plain(self, statement: str, values: Sequence[object] = (), /) -> Rows:
        """Run a statement with `?` for each value, without SQLAlchemy. Not if the time of `interrupt_after` is over."""
        if self._watchdog is not None and self._watchdog.is_over:
            raise psycopg.errors.QueryCanceled("the time was over between two statements")
        return self.driver.execute(_placeholders(statement), values)

    def begin(self, *, write: bool, durable: bool = True) -> None:
        """Begin a transaction; with `write`, wait until no other server writes. Sets `began_us`.

        Without `durable` the COMMIT does not wait for the disk or for a standby.
        """
        self._writes, self._durable = write, write and durable
        durability = _DURABLE if durable else _NOT_DURABLE
        text = _READ
        if write:
            lock_wait_ms = int(self._lock_wait_s * 1000)
            text = _WRITE.format(lock_wait_ms=lock_wait_ms, durability=durability, lock=WRITER_LOCK, now=_NOW)
        try:
            self.began_us = self._last_value(text)
        except psycopg.Error as error:
            self._broken = error.sqlstate == _READ_ONLY
            self.rollback()
            raise

    def _last_value(self, statements: str) -> int:
        """Run statements without values in one round trip, and return what the last one selects."""
        cursor = self.driver.execute(statements.encode())
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        if row is None:
            raise AssertionError("a SELECT of a value returned no row")
        return int(row[0])

    def savepoint(self, name: str) -> None:
        """Set a savepoint in the transaction."""
        self.driver.execute(f"SAVEPOINT {name}".encode())

    def undo_to(self, name: str) -> None:
        """Undo everything since a savepoint, which stays set."""
        self.driver.execute(f"ROLLBACK TO SAVEPOINT {name}".encode())

    def release(self, name: str) -> None:
        """Remove a savepoint and keep what was done since."""
        self.driver.execute(f"RELEASE SAVEPOINT {name}".encode())

    def commit(self) -> None:
        """Make the transaction durable, with a mark by which it is found if the answer is lost.

        Raises: AnswerLost: the connection broke, and the transaction may or may not have taken effect.
        """
        if not self._writes:
            self.rollback()
            return
        mark = uuid.uuid4().hex
        statements = "COMMIT"
        if self._durable:
            statements = f"{_MARK.format(writer=self._writer, mark=mark)}; COMMIT"
        try:
            cursor = self.driver.execute(statements.encode())
            while cursor.nextset():
                pass
        except psycopg.Error as error:
            if self.driver.closed or (error.sqlstate or "08")[:2] in _NO_ANSWER_CLASSES:
                self._broken = True
                raise AnswerLost(
                    "the connection to the registry's database broke during a COMMIT: the change may or may not have "
                    "been made; repeat the request",
                    mark if self._durable else None,
                ) from error
            raise
        if cursor.statusmessage != "COMMIT":  # PostgreSQL answers a COMMIT of a failed transaction with ROLLBACK
            raise Unavailable("the registry's database undid a transaction: nothing was changed; try again")

    def rollback(self) -> None:
        """Undo the transaction. Does nothing when there is none."""
        if self.in_transaction:
            with suppress(psycopg.OperationalError):  # a broken connection: the server undoes it
                self.driver.execute(b"ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way, also one in which a statement failed. A broken connection has none."""
        status = self.driver.info.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    def interrupt_after(self, seconds: float | None) -> None:
        """Cancel the statement that runs when this time is over; None: cancel none."""
        if self._watchdog is None:
            if seconds is None:
                return
            self._watchdog = Watchdog(self.driver)
        self._watchdog.set(seconds)

    @property
    def interrupted(self) -> bool:
        """Whether the time of `interrupt_after` was over while a statement ran."""
        return self._watchdog is not None and self._watchdog.interrupted

    def damage(self) -> list[str]:
        """Return nothing: PostgreSQL enforces references, and its own tool pg_amcheck checks pages and indexes."""
        return []

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn PostgreSQL's errors inside the block into the registry's."""
        return errors_named()

    @contextmanager
    def one_snapshot(self) -> Iterator[None]:
        """Read one snapshot inside the block."""
        self.begin(write=False)
        try:
            yield
        finally:
            self.rollback()

    def close(self) -> None:
        """Close the connection."""
        if self._watchdog is not None:
            self._watchdog.close()
        with suppress(psycopg.Error, DBAPIError, PendingRollbackError):
            self.connection.close()
        self.driver.close()


class PostgresDriver:
    """The `SqlDriver` of one PostgreSQL database."""

    def __init__(self, url: DatabaseUrl, *, lock_wait_s: float = LOCK_WAIT_S, find_out_s: float = FIND_OUT_S) -> None:
        given = {name: value for name, value in conninfo_to_dict(url.with_password).items() if value is not None}
        self._engine = create_engine(
            "postgresql+psycopg://",
            isolation_level="AUTOCOMMIT",  # boltseal sends BEGIN and COMMIT itself, once for each group of jobs
            poolclass=NullPool,
            pool_reset_on_return=None,  # a closed connection needs no ROLLBACK, and a broken one can not get it
            use_native_hstore=False,
            connect_args={**_DEFAULTS, **given, "prepare_threshold": None},
        )
        self._lock_wait_s = lock_wait_s
        self._find_out_s = find_out_s
        self._writer = uuid.uuid4().hex
        self._lookups: PostgresLookups | None = None
        self.after_connect: Callable[[Snapshot], None] | None = None

    def connect(self) -> PostgresSession:
        """Open another connection, and have `after_connect` look at what it reads. Raises: Unavailable."""
        with errors_named():
            try:
                session = PostgresSession(self._engine, self._lock_wait_s, self._writer)
            except OSError as error:  # no file descriptor is left
                raise Unavailable(unusable(str(error))) from error
            if self.after_connect is not None:
                try:
                    with session.one_snapshot():
                        self.after_connect(SqlSnapshot(session))
                except BaseException:
                    session.close()
                    raise
            return session

    def lookups(self) -> Lookups:
        """Return the look-ups for pulls, on a connection and a thread of their own."""
        self._lookups = PostgresLookups(self.connect)
        return self._lookups.lookups

    def took_effect(self, mark: str) -> bool:
        """Return whether the transaction with this mark, which this driver's writer committed last, took effect.

        Tries for some seconds to reach the database. Raises: Unavailable: it can't be known now.
        """
        ends_s = time.monotonic() + self._find_out_s
        while True:
            try:
                return self._has_mark(mark)
            except Unavailable:
                if time.monotonic() > ends_s:
                    raise
            time.sleep(0.1)

    def _has_mark(self, mark: str) -> bool:
        with errors_named():
            session = self.connect()
            try:
                session.begin(write=True)  # waits for the end of the transaction whose answer was lost
                row = session.plain("SELECT mark FROM write_mark WHERE writer = ?", (self._writer,)).fetchone()
                if row is None or row[0] != mark:
                    return False
                # This COMMIT is durable, and on the standbys, only after the one before it.
                session.plain("UPDATE write_mark SET at_us = at_us + 1 WHERE writer = ?", (self._writer,))
                session.driver.execute(b"COMMIT")
                return True
            finally:
                session.close()

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn PostgreSQL's errors inside the block into the registry's."""
        return errors_named()

    def close(self) -> None:
        """Close the connection of the look-ups."""
        if self._lookups is not None:
            self._lookups.close()
        self._engine.dispose()


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn PostgreSQL's errors inside the block into Full (no space), Unavailable and DatabaseDamaged.

    Other errors, such as a wrong statement, are raised as they are.
    """
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        named = _named(error.orig if isinstance(error, DBAPIError) else error)
        if named is None:
            raise
        raise named from error
    except PendingRollbackError as error:  # SQLAlchemy's, after the connection broke
        raise Unavailable("the connection to the registry's database broke: nothing was changed; try again") from error


class RowsRefused(Invalid):
    """Rows can't be stored: they are no text of `COPY`, or not rows of this schema. Nothing was changed."""


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turn PostgreSQL's refusal of values and keys inside the block into RowsRefused. For a transaction that is undone then."""
    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(found, psycopg.DataError | psycopg.IntegrityError):
            where = (found.diag.context or "").partition(":")[0]
            reason = f"{found.diag.message_primary or type(found).__name__}{f' ({where})' if where else ''}"
            raise RowsRefused(f"PostgreSQL refuses the rows: {quote(reason)}; nothing was changed") from error
        raise


def _named(error: BaseException | None) -> BoltsealError | None:
    if not isinstance(error, psycopg.Error):
        return None
    if isinstance(error, psycopg.DataError) and "NUL" in str(error):  # psycopg's, before anything is sent
        return Invalid("a text contains a NUL character (U+0000), which can't be stored")
    code = error.sqlstate or ""
    if code in _BUSY:
        return Unavailable("the registry's database stayed busy: nothing was changed; try again")
    if code == _READ_ONLY:
        return Unavailable(
            "the registry's database is a standby, which can't be written: nothing was changed; try again"
        )
    if code == _NO_TABLE:
        return Unavailable(
            "the registry's database has no tables any more, since a move to it was undone or it was emptied: nothing was changed; stop this server, and "
            "push to the one that the move came from, or restore a backup"
        )
    if code == _FULL:
        return Full("no space left for the registry's database: nothing was changed; free some space and try again")
    if code in _DAMAGED:
        return DatabaseDamaged(f"the registry's database is damaged ({_line(error)}): restore a backup")
    if code in _ENDED or code[:2] in _UNUSABLE_CLASSES or (not code and isinstance(error, psycopg.OperationalError)):
        _log.warning("the database failed", reason=_line(error))
        return Unavailable(unusable(_line(error)))
    return None


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())[:300]
