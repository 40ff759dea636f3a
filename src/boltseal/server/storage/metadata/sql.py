"""The SQL connections below `Snapshot.sql`: what differs between databases, so that the queries do not.

`SqlSession` runs transactions, and has their statements and savepoints; `database.SqlDriver` opens sessions. They are
implemented in `sqlite` and `postgres`, the only modules that import a driver. Queries are SQLAlchemy Core expressions. The
few that every push waits for are plain text for `SqlStatements.plain`, because compiling and binding by SQLAlchemy costs
ten times such a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from sqlalchemy import Connection

from boltseal.errors import Unavailable

LOCK_WAIT_S: Final = 10.0
"""How long a transaction waits for the writer's lock, which orders those of all processes."""


class DatabaseDamaged(Unavailable):
    """The database file is damaged. Nothing was answered from it, and nothing changed."""


class AnswerLost(Unavailable):
    """The connection broke during a COMMIT, which may or may not have taken effect.

    `mark`: by which `SqlDriver.took_effect` finds out; None: it can't.
    """

    def __init__(self, message: str, mark: str | None) -> None:
        super().__init__(message)
        self.mark = mark


class Rows(Protocol):
    """The result of a plain statement: the part of DB-API 2.0 (PEP 249) that all drivers share."""

    @property
    def rowcount(self) -> int:
        """The number of rows that an UPDATE or DELETE changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        ...


class SqlStatements(Protocol):
    """Runs statements on one connection, in the transaction of its session, if there is one. Used by one thread at a time."""

    @property
    def connection(self) -> Connection:
        """SQLAlchemy's connection, in the transaction of this session."""
        ...

    @property
    def for_update(self) -> str:
        """The end of a plain SELECT that locks its rows; empty where a write transaction excludes all others anyway."""
        ...

    def plain(self, statement: str, values: Sequence[object] = (), /) -> Rows:
        """Run a statement with `?` for each value, without SQLAlchemy."""
        ...

    def damage(self) -> list[str]:
        """Return what the database's own check finds wrong with its pages, indexes and references; at most 200 texts."""
        ...

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn the driver's errors inside the block into Full, Unavailable and DatabaseDamaged; leave others as they are."""
        ...

    def one_snapshot(self) -> AbstractContextManager[None]:
        """Read one snapshot inside the block, where the session has no transaction. Nothing is committed at its end."""
        ...


class SqlSavepoints(Protocol):
    """Savepoints of one transaction."""

    def savepoint(self, name: str) -> None:
        """Set a savepoint in the transaction."""
        ...

    def undo_to(self, name: str) -> None:
        """Undo everything since a savepoint, which stays set."""
        ...

    def release(self, name: str) -> None:
        """Remove a savepoint and keep what was done since."""
        ...

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way. An error such as "disk full" may have ended it."""
        ...


class SqlSession(Protocol):
    """One connection, used by one thread at a time."""

    @property
    def statements(self) -> SqlStatements:
        """The statements of this connection."""
        ...

    @property
    def savepoints(self) -> SqlSavepoints:
        """The savepoints of the transaction."""
        ...

    @property
    def usable(self) -> bool:
        """Whether the connection still works, as far as is known."""
        ...

    @property
    def began_us(self) -> int | None:
        """The database's time when the transaction began, microseconds since the epoch; None: it has no clock of its own."""
        ...

    def begin(self, *, write: bool, durable: bool = True) -> None:
        """Begin a transaction; with `write`, wait for the right to write. Unavailable after the driver's time limit.

        `durable`: whether the COMMIT must survive a power cut. It survives the end of the process in any case.
        """
        ...

    def commit(self) -> None:
        """Make the transaction durable. Raises: AnswerLost."""
        ...

    def rollback(self) -> None:
        """Undo the transaction. Does nothing when there is none."""
        ...

    def interrupt_after(self, seconds: float | None) -> None:
        """Interrupt the statement that runs when this time is over; None: interrupt none.

        An interrupted statement raises, and may end the transaction.
        """
        ...

    @property
    def interrupted(self) -> bool:
        """Whether the time of `interrupt_after` was over while a statement ran."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
