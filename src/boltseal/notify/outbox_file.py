"""The `Outbox` of a client's commands: one SQLite file in the state folder.

    due      receiver, id; at (of the event); minor; body (its document); tries; next_us (not retried before)
    cursor   name; at: up to where a log was read for events

A server keeps its outbox in its database (`server.notifications.database_outbox`).
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

from boltseal.errors import Full
from boltseal.notify.outbox import MAX_AGE_US, MAX_WAITING, DueEvent, LogCursor, OutboxUnusable, Posting, WaitingEvent

OUTBOX_NAME: Final = "outbox.db"
VERSION: Final = 1
WAIT_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE due (
  receiver TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, minor INTEGER NOT NULL, body BLOB NOT NULL,
  tries INTEGER NOT NULL, next_us INTEGER NOT NULL, PRIMARY KEY (receiver, id)
) STRICT;
CREATE INDEX due_at ON due (receiver, at);
CREATE TABLE cursor (name TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT;
"""


class OutboxContents(NamedTuple):
    """Every event, and by the name of a log up to where it was read."""

    events: list[WaitingEvent]
    cursors: dict[str, int]


class _OutboxFile:
    """The file of an outbox, opened at its first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write inside the block, which is undone if it raises. Raises: OutboxUnusable, Full."""
        with self.sqlite_errors():
            database = self.opened(create=True)
            if database is None:
                raise AssertionError("opened(create=True) returns a database or raises")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def sqlite_errors(self) -> Iterator[None]:
        """Turn SQLite's errors inside the block into OutboxUnusable and Full."""
        try:
            yield
        except sqlite3.Error as error:
            kind = Full if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL else OutboxUnusable
            raise kind(f"{self.path}: {error}") from error

    def opened(self, *, create: bool) -> sqlite3.Connection | None:
        """Return the connection; None if there is no file and `create` is False. Raises: OutboxUnusable."""
        if self._database is not None:
            return self._database
        try:
            flags = os.O_RDWR | os.O_CREAT if create else os.O_RDWR
            os.close(os.open(self.path, flags | os.O_CLOEXEC, 0o600))  # SQLite would create it readable for others
        except FileNotFoundError:
            if not create:
                return None
            raise OutboxUnusable(f"{self.path} can't be created: its folder does not exist") from None
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
                raise OutboxUnusable(f"{self.path} has version {version} (expected {VERSION})")
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        self._database = database
        return database

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None


class FileDeliveries:
    """`Deliveries` of one outbox file."""

    def __init__(self, file: _OutboxFile) -> None:
        self._file = file

    def due(self, receiver: str, now_us: int, limit: int = 100) -> list[DueEvent]:
        """Return the events that are due for a receiver, the oldest first. Raises: OutboxUnusable."""
        query = (
            "SELECT id, body, tries FROM due WHERE receiver = ? AND next_us <= ? ORDER BY at, rowid LIMIT ?",
            (receiver, now_us, limit),
        )
        with self._file.sqlite_errors():
            database = self._file.opened(create=False)
            return [] if database is None else [DueEvent(*row) for row in database.execute(*query)]

    def delivered(self, receiver: str, id_: str) -> None:
        """Delete an event that the receiver accepted. Raises: OutboxUnusable, Full."""
        with self._file.transaction() as database:
            database.execute("DELETE FROM due WHERE receiver = ? AND id = ?", (receiver, id_))

    def postpone(self, receiver: str, id_: str, next_us: int) -> None:
        """Retry an event that the receiver did not accept, not before `next_us`. Raises: OutboxUnusable, Full."""
        with self._file.transaction() as database:
            database.execute(
                "UPDATE due SET tries = tries + 1, next_us = ? WHERE receiver = ? AND id = ?", (next_us, receiver, id_)
            )

    def expire(self, now_us: int, receivers: Iterable[str]) -> int:
        """Delete events that are too old or are for none of these receivers; return how many. Raises: OutboxUnusable,
        Full.
        """
        known = tuple(receivers)
        marks = ", ".join("?" * len(known))
        with self._file.transaction() as database:
            old = database.execute("DELETE FROM due WHERE at < ?", (now_us - MAX_AGE_US,)).rowcount
            lost = database.execute(f"DELETE FROM due WHERE receiver NOT IN ({marks})", known).rowcount  # noqa: S608
        return old + lost


class FileOutbox:
    """One outbox file, for use in one thread. The first write creates it."""

    def __init__(self, path: Path, max_waiting: int = MAX_WAITING) -> None:
        self.path = path
        self._file = _OutboxFile(path)
        self._max_waiting = max_waiting
        self._claim: int | None = None

    def put(self, postings: Iterable[Posting], cursor: LogCursor | None = None) -> int:
        """Write events, and the cursor of the log they are from. Return how many older events were dropped.

        An event that is already there, or is put twice, is stored once.

        Raises: OutboxUnusable, Full.
        """
        with self._file.transaction() as database:
            dropped = 0
            touched: set[str] = set()
            for posting in postings:
                for receiver in posting.receivers:
                    row = (receiver, posting.id, posting.at_us, int(posting.minor), posting.body)
                    database.execute("INSERT OR IGNORE INTO due VALUES (?, ?, ?, ?, ?, 0, 0)", row)
                    touched.add(receiver)
            for receiver in touched:
                over = "SELECT id FROM due WHERE receiver = ?1 ORDER BY minor, at DESC, rowid DESC LIMIT -1 OFFSET ?2"
                gone = f"DELETE FROM due WHERE receiver = ?1 AND id IN ({over})"  # noqa: S608 - made of constants
                dropped += database.execute(gone, (receiver, self._max_waiting)).rowcount
            if cursor is not None:
                database.execute("INSERT OR REPLACE INTO cursor VALUES (?, ?)", cursor)
        return dropped

    def begin(self, name: str, at: int) -> int:
        """Return up to where a log was read, and start at this entry if it has no cursor. Raises: OutboxUnusable, Full."""
        found = self._cursor(name)
        if found is None:
            with self._file.transaction() as database:
                database.execute("INSERT OR IGNORE INTO cursor VALUES (?, ?)", (name, at))
            found = self._cursor(name)
        return at if found is None else found

    def waiting(self) -> dict[str, int]:
        """Return the number of waiting events by receiver. Raises: OutboxUnusable."""
        with self._file.sqlite_errors():
            database = self._file.opened(create=False)
            rows = () if database is None else database.execute("SELECT receiver, count(*) FROM due GROUP BY receiver")
            return dict(rows)

    def claim(self) -> FileDeliveries | None:
        """Lock a file beside the outbox, and return the events to deliver; None if it is locked. Raises: OutboxUnusable."""
        if self._claim is not None:
            return FileDeliveries(self._file)
        try:
            fd = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxUnusable(f"{self.path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        self._claim = fd
        return FileDeliveries(self._file)

    def close(self) -> None:
        """Close the file and release the claim. Idempotent."""
        self._file.close()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def contents(self) -> OutboxContents:
        """Return every event and every cursor, for a move to another outbox. Raises: OutboxUnusable."""
        with self._file.sqlite_errors():
            database = self._file.opened(create=False)
            if database is None:
                return OutboxContents([], {})
            rows = database.execute("SELECT receiver, id, at, minor, body, tries, next_us FROM due ORDER BY at, rowid")
            events = [WaitingEvent(*row)._replace(minor=bool(row[3])) for row in rows]
            return OutboxContents(events, dict(database.execute("SELECT name, at FROM cursor")))

    def _cursor(self, name: str) -> int | None:
        with self._file.sqlite_errors():
            database = self._file.opened(create=False)
            if database is None:
                return None
            row = database.execute("SELECT at FROM cursor WHERE name = ?", (name,)).fetchone()
            return None if row is None else int(row[0])
