"""Events on their way to receivers: a file, so that a process that dies tells nobody less.

    due      receiver, id; at (of the event); minor; body (its document); tries; next_us (not tried again before it)
    cursor   name; at: up to where a log was read for events, so that each entry becomes one

What is put is on the disk when `put` returns; it leaves when its receiver has taken it. So each receiver hears of each
event at least once; of one whose process died between the two, twice, under the same id. Any number of processes put;
one at a time delivers (`claim`).

Bounded: of one receiver no more than `MAX_WAITING` events wait, none for longer than `MAX_AGE_US`. What is minor goes
first, then the oldest; whoever calls is told how many. So nobody who can cause a thousand refusals makes an alarm go.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote as quote_path

from boltseal.errors import Full, Unavailable

VERSION: Final = 1
MAX_WAITING: Final = 10_000
MAX_AGE_US: Final = 7 * 24 * 3_600_000_000
WAIT_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE due (
  receiver TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, minor INTEGER NOT NULL, body BLOB NOT NULL,
  tries INTEGER NOT NULL, next_us INTEGER NOT NULL, PRIMARY KEY (receiver, id)
) STRICT;
CREATE INDEX due_at ON due (receiver, at);
CREATE TABLE cursor (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT;
"""


class OutboxUnusable(Unavailable):
    """The file can't be read or written, or is none of ours."""


class DueEvent(NamedTuple):
    """An event that a receiver has not taken yet."""

    id: str
    body: bytes
    tries: int


class Posting(NamedTuple):
    """An event for some receivers. `id`: the same however often it is put. `at_us`: when it happened.

    `minor`: anybody can cause as many of these as they like.
    """

    id: str
    at_us: int
    body: bytes
    receivers: tuple[str, ...]
    minor: bool = False


class Outbox:
    """One file, for one thread. Made by whoever puts something in first; closed with `close`."""

    def __init__(self, path: Path, max_waiting: int = MAX_WAITING) -> None:
        self.path = path
        self._max_waiting = max_waiting
        self._database: sqlite3.Connection | None = None
        self._claim: int | None = None

    def put(self, postings: Iterable[Posting], cursor: tuple[str, int] | None = None) -> int:
        """Keep events, and how far a log was read for them; how many older ones had to go. OutboxUnusable, Full.

        One that is there already, or was put twice, is there once.
        """
        with self._transaction() as database:
            dropped = 0
            touched: set[str] = set()
            for one in postings:
                for receiver in one.receivers:
                    row = (receiver, one.id, one.at_us, int(one.minor), one.body)
                    database.execute("INSERT OR IGNORE INTO due VALUES (?, ?, ?, ?, ?, 0, 0)", row)
                    touched.add(receiver)
            for receiver in touched:
                over = "SELECT id FROM due WHERE receiver = ?1 ORDER BY minor, at DESC, rowid DESC LIMIT -1 OFFSET ?2"
                gone = f"DELETE FROM due WHERE receiver = ?1 AND id IN ({over})"  # noqa: S608 - of words of ours alone
                dropped += database.execute(gone, (receiver, self._max_waiting)).rowcount
            if cursor is not None:
                database.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?)", cursor)
        return dropped

    def due(self, receiver: str, now_us: int, limit: int = 100) -> list[DueEvent]:
        """What a receiver is to be told now, the oldest first. OutboxUnusable."""
        query = (
            "SELECT id, body, tries FROM due WHERE receiver = ? AND next_us <= ? ORDER BY at, rowid LIMIT ?",
            (receiver, now_us, limit),
        )
        with self._told():
            database = self._opened(create=False)
            return [] if database is None else [DueEvent(*row) for row in database.execute(*query)]

    def taken(self, receiver: str, id_: str) -> None:
        """The receiver has it. OutboxUnusable, Full."""
        with self._transaction() as database:
            database.execute("DELETE FROM due WHERE receiver = ? AND id = ?", (receiver, id_))

    def put_off(self, receiver: str, id_: str, next_us: int) -> None:
        """The receiver has not taken it: once more, not before `next_us`. OutboxUnusable, Full."""
        with self._transaction() as database:
            database.execute(
                "UPDATE due SET tries = tries + 1, next_us = ? WHERE receiver = ? AND id = ?", (next_us, receiver, id_)
            )

    def expire(self, now_us: int, receivers: Iterable[str]) -> int:
        """Let go of what has waited too long, and of what waits for none of these receivers; how many. OutboxUnusable."""
        known = tuple(receivers)
        marks = ", ".join("?" * len(known))
        with self._transaction() as database:
            old = database.execute("DELETE FROM due WHERE at < ?", (now_us - MAX_AGE_US,)).rowcount
            lost = database.execute(f"DELETE FROM due WHERE receiver NOT IN ({marks})", known).rowcount  # noqa: S608
        return old + lost

    def waiting(self) -> dict[str, int]:
        """How many events wait, by receiver. OutboxUnusable."""
        with self._told():
            database = self._opened(create=False)
            rows = () if database is None else database.execute("SELECT receiver, count(*) FROM due GROUP BY receiver")
            return dict(rows)

    def cursor(self, name: str) -> int | None:
        """Up to where a log was read; None: never. OutboxUnusable."""
        with self._told():
            database = self._opened(create=False)
            if database is None:
                return None
            row = database.execute("SELECT at FROM cursor WHERE name = ?", (name,)).fetchone()
            return None if row is None else int(row[0])

    def begin(self, name: str, at: int) -> None:
        """A log is read from here on, unless it was read before. OutboxUnusable, Full."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO cursor VALUES (?, ?)", (name, at))

    def claim(self) -> bool:
        """Whether this process may deliver: one at a time, until it ends or closes. OutboxUnusable."""
        if self._claim is not None:
            return True
        try:
            fd = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxUnusable(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._claim = fd
        return True

    def close(self) -> None:
        """Let go of file and claim. Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            database = self._opened(create=True)
            if database is None:
                raise AssertionError("made or raised")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = Full if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL else OutboxUnusable
            raise kind(f"{self.path}: {error}") from error

    def _opened(self, *, create: bool) -> sqlite3.Connection | None:
        if self._database is not None:
            return self._database
        try:
            flags = os.O_RDWR | os.O_CREAT if create else os.O_RDWR
            os.close(os.open(self.path, flags | os.O_CLOEXEC, 0o600))  # SQLite would let others read what it makes
        except FileNotFoundError:
            if not create:
                return None
            raise OutboxUnusable(f"{self.path} can't be made: its folder is not there") from None
        except OSError as error:
            raise OutboxUnusable(f"{self.path} can't be opened: {error.strerror}") from error
        uri = f"file:{quote_path(str(self.path.absolute()))}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)
        try:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.strip().removesuffix(";").split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise OutboxUnusable(f"{self.path} is of version {version}; this boltseal reads {VERSION}")
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        self._database = database
        return database
