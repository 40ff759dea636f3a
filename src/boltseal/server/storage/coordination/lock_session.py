"""A connection to PostgreSQL whose session holds locks, and whose loss ends them.

- Every statement is limited in time by this process, so a server that hangs is noticed too. After any failure but a refusal by
  the server the connection is closed; the next statement opens another one, which has no locks.
- Locks of a session need a connection that one server process serves from its beginning to its end. A pooler between them
  (pgbouncer in transaction mode) gives each transaction another one, so its presence is refused: it reports a process
  number that is not that of the server process.
- When this process ends, the server releases the locks at once; when its machine is gone, or the process is stopped, after 15
  seconds: a thread sends a statement now and then, without which the server ends the session.
"""

from __future__ import annotations

import hashlib
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from boltseal.errors import Invalid
from boltseal.server.storage.coordination.interprocess_lock import LockUnusable

STATEMENT_S: Final = 5.0
"""How long one statement may take, with the wait for statements of other threads before it."""
_CONNECT_S: Final = 5
SILENT_S: Final = 15
"""How long the server keeps the locks of a process that sends nothing."""
_SIGN_OF_LIFE_EVERY_S: Final = 4.0
_AT_START: Final = (
    f"SET statement_timeout = {int(STATEMENT_S * 1000)}; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; "
    f"SET tcp_keepalives_count = 2; SET idle_session_timeout = {SILENT_S * 1000}"
)

Row = tuple[str | None, ...]


class BehindPooler(Invalid):
    """The address is that of a connection pooler, through which no lock can be held."""


def advisory_key(kind: str, name: str) -> str:
    """Return the number of the advisory lock of a name. `kind`: lock, lease and the like have numbers of their own."""
    return str(int.from_bytes(hashlib.sha256(f"{kind}:{name}".encode()).digest()[:8], "big", signed=True))


class LockSession:
    """One connection, opened when it is first needed. Safe to use from several threads; closed once."""

    def __init__(self, address: str, *, direct: bool = True) -> None:
        """`address`: with the password, which no error shows. `direct`: refuse a pooler."""
        self._address = address
        self._direct = direct
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None
        self._number = 0
        self._ending = threading.Event()
        self._living: threading.Thread | None = None

    def rows(self, statement: str, *values: str, within_s: float = STATEMENT_S) -> tuple[list[Row], int]:
        """Run one statement with `$1`, `$2`, ... in a transaction of its own. Return its rows, and the connection's number.

        Raises:
            LockUnusable: the statement failed, or may have failed.
            BehindPooler: a pooler is in front of the database.
        """
        ends_s = time.monotonic() + within_s
        with self._turn(within_s):
            connection = self._connection or self._connect()
            return self._run(connection.pgconn, statement, values, ends_s), self._number

    def is_open(self, number: int, *, within_s: float = STATEMENT_S) -> bool:
        """Return whether the connection of this number answers, so that its locks are held."""
        ends_s = time.monotonic() + within_s
        with suppress(LockUnusable), self._turn(within_s):
            if self._connection is None or self._number != number:
                return False
            self._run(self._connection.pgconn, "SELECT 1", (), ends_s)
            return True
        return False

    def close(self) -> None:
        """Close the connection, and so release its locks. Idempotent."""
        self._ending.set()
        with self._lock:
            self._drop()
            living, self._living = self._living, None
        if living is not None:
            living.join()

    @contextmanager
    def _turn(self, within_s: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=within_s):
            raise LockUnusable("the database that keeps the locks does not answer in time; try again")
        try:
            yield
        finally:
            self._lock.release()

    def _connect(self) -> psycopg.Connection:
        try:
            connection = psycopg.connect(
                self._address,
                autocommit=True,
                connect_timeout=_CONNECT_S,
                application_name="boltseal-coordination",
                target_session_attrs="read-write",
                tcp_user_timeout=int(STATEMENT_S * 1000),
            )
        except (psycopg.OperationalError, OSError) as error:  # OSError: no file descriptor is left
            reason = str(error).partition("\n")[0]
            raise LockUnusable(f"the database that keeps the locks can't be reached: {reason}; try again") from None
        self._connection = connection
        self._number += 1
        ends_s = time.monotonic() + STATEMENT_S
        [(process,)] = self._run(connection.pgconn, "SELECT pg_backend_pid()", (), ends_s)
        if self._direct and process != str(connection.info.backend_pid):
            self._drop()
            raise BehindPooler(
                "[storage] database is the address of a connection pooler, through which no lock can be held; set "
                "[storage] database_direct to the address of the server itself"
            )
        if self._direct:
            for setting in _AT_START.split("; "):
                self._run(connection.pgconn, setting, (), ends_s)
            if self._living is None:
                self._ending = threading.Event()
                self._living = threading.Thread(
                    target=self._live, args=(self._ending,), name="boltseal-locks", daemon=True
                )
                self._living.start()
        return connection

    def _live(self, ending: threading.Event) -> None:
        """Send a statement now and then. A lost connection stays lost: the next lock opens another one."""
        while not ending.wait(_SIGN_OF_LIFE_EVERY_S):
            self.is_open(self._number)

    def _run(self, connection: PGconn, statement: str, values: Sequence[str], ends_s: float) -> list[Row]:
        try:
            result = _result(connection, statement, values, ends_s)
        except (psycopg.Error, TimeoutError) as error:
            self._drop()
            reason = str(error).partition("\n")[0]
            raise LockUnusable(f"the connection to the database that keeps the locks was lost: {reason}") from error
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            reason = (result.error_message or b"").decode(errors="replace").partition("\n")[0]
            raise LockUnusable(f"the database that keeps the locks refused a statement: {reason}; try again")
        return [
            tuple(_text(result.get_value(row, column)) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()


def _result(connection: PGconn, statement: str, values: Sequence[str], ends_s: float) -> PGresult:
    """Send a statement and return its last result. Raises: psycopg.Error, TimeoutError."""
    connection.send_query_params(statement.encode(), [value.encode() for value in values])
    while connection.flush():
        _await(connection, select.POLLIN | select.POLLOUT, ends_s)
        connection.consume_input()
    found: PGresult | None = None
    while True:
        while connection.is_busy():
            _await(connection, select.POLLIN, ends_s)
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            break
        found = result
    if found is None:
        raise psycopg.OperationalError("the server sent no result")
    return found


def _await(connection: PGconn, events: int, ends_s: float) -> None:
    poll = select.poll()
    poll.register(connection.socket, events)
    if not poll.poll(max(0.0, ends_s - time.monotonic()) * 1000):
        raise TimeoutError("the server does not answer")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
