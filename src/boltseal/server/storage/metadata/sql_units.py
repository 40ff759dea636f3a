"""Sessions of one SQL database, and the snapshots and units of work on them; `database` runs these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from boltseal.server.storage.metadata.protocol import Lookups, Snapshot
from boltseal.server.storage.metadata.sql import SqlSavepoints, SqlSession, SqlStatements


class SqlDriver(Protocol):
    """One database of one kind."""

    after_connect: Callable[[Snapshot], None] | None
    """Called with what a new connection reads, which may be to another server than the one before it; must not raise."""

    def connect(self) -> SqlSession:
        """Open another connection. Raises: Unavailable."""
        ...

    def lookups(self) -> Lookups:
        """Return the look-ups for pulls on a connection that nothing else uses; `close` closes it. Raises: Unavailable."""
        ...

    def took_effect(self, mark: str) -> bool:
        """Return whether the last COMMIT of a session, whose answer was lost, took effect. It has ended when this returns.

        `mark`: of AnswerLost. Raises: Unavailable: it can't be known now.
        """
        ...

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn the driver's errors inside the block into Full, Unavailable and DatabaseDamaged; leave others as they are."""
        ...

    def close(self) -> None:
        """Let go of what the driver holds beside its sessions."""
        ...


class Connection:
    """A session that is opened when it is needed, and again after it broke. Used by one thread at a time."""

    def __init__(self, driver: SqlDriver) -> None:
        self._driver = driver
        self._session: SqlSession | None = None

    def begin(self, *, write: bool, durable: bool = True) -> SqlSession:
        """Begin a transaction, and return its session. Raises: Unavailable, or the driver's errors."""
        session = self._session
        if session is not None and session.usable:
            try:
                session.begin(write=write, durable=durable)
            except Exception:
                if session.usable:
                    raise
            else:
                return session
        self.close()  # it broke while it was idle: nothing had begun
        self._session = session = self._driver.connect()
        session.begin(write=write, durable=durable)
        return session

    def close(self) -> None:
        """Close the session. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


@dataclass(frozen=True, slots=True)
class SqlSnapshot:
    """The `Snapshot` of a session: of its transaction, or without one of each statement."""

    sql: SqlStatements
    began_us: int | None = None


@dataclass(slots=True)
class SqlUnitOfWork:
    """The `UnitOfWork` of a savepoint in the writer's transaction."""

    sql: SqlStatements
    savepoints: SqlSavepoints
    now_us: int
    clock_doubt: str | None = None
    doubts: dict[str, str] = field(default_factory=dict)
    invalidates_caches: bool = field(default=False)
    appended: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    complete_manifests: set[tuple[int, str]] = field(default_factory=set)

    @property
    def began_us(self) -> int:
        """The time of the transaction."""
        return self.now_us

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """Undo at its end what the block did. Errors of the block are raised."""
        invalidates_caches, appended, whole = self.invalidates_caches, set(self.appended), set(self.complete_manifests)
        sizes = dict(self.sizes)
        self.savepoints.savepoint("undone")
        try:
            yield
        finally:
            if self.savepoints.in_transaction:  # "disk full" has undone the whole transaction already
                self.savepoints.undo_to("undone")
                self.savepoints.release("undone")
            self.invalidates_caches, self.appended, self.complete_manifests = invalidates_caches, appended, whole
            self.sizes = sizes
