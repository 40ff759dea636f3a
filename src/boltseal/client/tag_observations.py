"""What tags of other registries resolved to over time: a local log, for registries that keep no history.

    STATE/watch.db    SQLite
      log    n 1, 2, 3 ...; ref; line (JSON); chain = SHA-256(previous chain || line), for the first line SHA-256(line)
      seen   n of a tag's newest line, and when that was last observed, in microseconds

A line is written when a tag is seen for the first time, and when it resolves to another digest. Lines are never changed
or removed. A line states since when the new digest is known and until when the previous one was observed:

    {"v":1,"n":7,"at":1790000000000000,"ref":"docker.io/library/node:16.13","digest":"sha256:...","until":1789990000000000}

`digest` is "" where the registry reports no such tag. An unchanged tag adds no line: a tag that stays for years costs
one.

The chain is verified before anything is used. It reveals a line that was changed, inserted or removed. A rewrite of the
whole chain, or a cut at its end, is revealed only by an earlier `TagObservations.head` that is stored elsewhere. The state folder
is trusted, but not the form of its content: a file that boltseal can't have written is refused, and never repaired.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec

from boltseal.client.state import ClientState, StateUnusable, closed_on_error, open_database, tag_key, transaction
from boltseal.errors import Invalid
from boltseal.ledger.entry import MAX_TIME_US
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

VERSION: Final = 1
MAX_LINE_BYTES: Final = 2000
MAX_VALUE_BYTES: Final = 100_000
MAX_FILE_BYTES: Final = 1024**3
_SCHEMA: Final = {
    "log": "CREATE TABLE log (n INTEGER PRIMARY KEY, ref TEXT NOT NULL, line BLOB NOT NULL, chain BLOB NOT NULL) STRICT",
    "log_ref": "CREATE INDEX log_ref ON log (ref, n)",
    "seen": "CREATE TABLE seen (n INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT",
}


class ObservationsCorrupt(StateUnusable):
    """The log was modified or damaged. Nothing of it is used."""


class ObservedInterval(NamedTuple):
    """A period in which a tag resolved to `digest`; None: the registry reported no such tag.

    `first_seen_us`, `last_seen_us`: first and last observation, in microseconds since the epoch; the period may have
    begun earlier and ended later. `line`: its line in the log.
    """

    digest: Digest | None
    first_seen_us: int
    last_seen_us: int
    line: int


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation of a tag compared with earlier ones. `was`: the previous interval, None for the first
    observation.

    `last`: the digest that the tag resolved to last before, also if it was gone since; None if there is none.
    """

    reference: Reference
    was: ObservedInterval | None
    now: ObservedInterval
    last: Digest | None = None

    @property
    def moved(self) -> bool:
        """Return whether the tag resolves to something else than at the previous observation."""
        return self.was is not None and self.was.line != self.now.line


class ChainHead(NamedTuple):
    """Number of lines and chain value of the last line (b"" for none). A copy kept elsewhere reveals a rewritten log."""

    size: int
    chain: bytes

    def __str__(self) -> str:
        return f"{self.size}:{self.chain.hex()}"

    @classmethod
    def parse(cls, text: str) -> ChainHead:
        """Parse the output of `str`. Raises: Invalid."""
        size, _, chain = text.partition(":")
        try:
            head = cls(int(size), bytes.fromhex(chain))
        except ValueError:
            head = cls(-1, b"")
        if head.size < 0 or len(head.chain) != (32 if head.size else 0) or str(head) != text:
            raise Invalid(
                "malformed end of the log; expected its number of lines and 64 hex digits, such as 12:ab12..."
            )
        return head


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    n: int
    at: int
    ref: str
    digest: str
    until: int


class TagObservations:
    """The log of one state folder, used as a context manager. Not thread-safe; safe for several processes."""

    def __init__(self, state: ClientState) -> None:
        self._state = state
        self._database: sqlite3.Connection | None = None
        self._walked = ChainHead(0, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def path(self) -> Path:
        """Return the path of the file."""
        return self._state.folder / "watch.db"

    def past(self, reference: Reference) -> tuple[ObservedInterval, ...]:
        """Return all intervals of a tag, the oldest first; () if it was never observed. Raises: ObservationsCorrupt,
        StateUnusable.
        """
        with self._reading() as database:
            return () if database is None else tuple(_past(database, tag_key(reference)))

    def head(self) -> ChainHead:
        """Return the log's number of lines and chain hash. Raises: ObservationsCorrupt, StateUnusable."""
        with self._reading():
            return self._walked

    def extends_head(self, head: ChainHead) -> bool:
        """Return whether the log still begins with the lines that this head covers. Raises: ObservationsCorrupt,
        StateUnusable.
        """
        with self._reading() as database:
            return head.size == 0 or (database is not None and _chain_at(database, head.size) == head.chain)

    def saw(self, reference: Reference, digest: Digest | None, now_us: int) -> Observation:
        """Record what a tag resolves to now (None: no such tag); durable when it returns. Raises: StateUnusable."""
        return self.record_all([(reference, digest)], now_us)[0]

    def record_all(
        self,
        observed: Iterable[tuple[Reference, Digest | None]],
        now_us: int,
        before_commit: Callable[[list[Observation]], None] = lambda _: None,
    ) -> list[Observation]:
        """Record many observations in one transaction, as `saw` does.

        `before_commit` gets the observations before they are committed; if it raises, nothing is recorded. So a move is
        either reported, or detected again at the next observation.
        """
        with self._state.writing(), self._sqlite_errors():
            database = self._opened(create=True)
            if database is None:
                raise AssertionError("_opened(create=True) returns a database or raises")
            with transaction(database):
                self._walk(database)
                head, found = self._walked, []
                for reference, digest in observed:
                    key = tag_key(reference)
                    was, now, head = _record(database, head, key, digest, now_us)
                    found.append(
                        Observation(reference, was, now, None if was is None else _last_digest(database, key, was))
                    )
                before_commit(found)
            self._walked = head
        return found

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Open a read transaction on the verified log; None if there is no log."""
        self._state.check_format()
        with self._sqlite_errors():
            database = self._opened(create=False)
            if database is None:
                yield None
                return
            database.execute("BEGIN")
            try:
                self._walk(database)
                yield database
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # busy, disk full, not readable: may be transient
            raise StateUnusable(f"{self.path}: {error}") from error
        except (sqlite3.Error, OverflowError) as error:
            raise self._broken(str(error)) from error

    def _broken(self, reason: str) -> ObservationsCorrupt:
        return ObservationsCorrupt(
            f"{self.path} is corrupt: {reason}; nothing of it is used. Find out what changed it; if you move it away, "
            "the next `boltseal watch` creates a new one"
        )

    def _opened(self, *, create: bool) -> sqlite3.Connection | None:
        if self._database is not None:
            return self._database
        database = open_database(self.path, create=create, max_bytes=MAX_FILE_BYTES)
        if database is None:
            return None
        with closed_on_error(database):
            self._prepare(database, create=create)
        self._database = database
        return database

    def _prepare(self, database: sqlite3.Connection, *, create: bool) -> None:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
            database.execute(f"PRAGMA {pragma}")
        if create and _one(database, "SELECT count(*) FROM sqlite_master") == 0:
            database.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.values():
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")
        there = dict(database.execute("SELECT name, sql FROM sqlite_master").fetchall())
        version = _one(database, "PRAGMA user_version")
        if version > VERSION:
            raise StateUnusable(f"{self.path} was written by a newer boltseal; this one reads version {VERSION}")
        if there != _SCHEMA and (there or version):
            raise self._broken("it has other tables")
        if not there:
            raise StateUnusable(
                f"{self.path} is empty: `boltseal watch` was interrupted while creating it; run it again"
            )

    def _walk(self, database: sqlite3.Connection) -> None:
        """Verify the chain from the line that was verified last to its end."""
        size, chain = self._walked
        if not size and (wrong := database.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise self._broken(str(wrong))  # such as an index that lacks a line
        if size and _chain_at(database, size) != chain:
            raise self._broken(f"line {size} has changed since it was read")
        rows = database.execute("SELECT n, ref, line, chain FROM log WHERE n > ? ORDER BY n", (size or -(2**63),))
        for n, ref, line, stored_chain in rows:
            size += 1
            chain = sha256(chain + _bytes(line)).digest()
            if n != size or stored_chain != chain or len(_bytes(line)) > MAX_LINE_BYTES:
                raise self._broken(f"line {size} does not match the chain")
            if (parsed := _parse(line)) is None or (parsed.n, parsed.ref) != (n, ref):
                raise self._broken(f"line {size} can't be parsed")
        self._walked = ChainHead(size, chain)


def _record(
    database: sqlite3.Connection, head: ChainHead, ref: str, digest: Digest | None, now_us: int
) -> tuple[ObservedInterval | None, ObservedInterval, ChainHead]:
    """Record one observation. Return the previous interval, the current one, and the new head."""
    was = _newest(database, ref)
    if was is not None and was.digest == digest:
        last_seen_us = max(was.last_seen_us, now_us)  # a clock set back must not shorten the interval
        database.execute("UPDATE seen SET at = ? WHERE n = ?", (last_seen_us, was.line))
        return was, was._replace(last_seen_us=last_seen_us), head
    size, until_us = head.size + 1, 0 if was is None else was.last_seen_us
    line = msgspec.json.encode(_Line(VERSION, size, now_us, ref, "" if digest is None else str(digest), until_us))
    head = ChainHead(size, sha256(head.chain + line).digest())
    database.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (size, ref, line, head.chain))
    if was is not None:
        database.execute("DELETE FROM seen WHERE n = ?", (was.line,))
    database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (size, now_us))
    return was, ObservedInterval(digest, now_us, now_us, size), head


def _past(database: sqlite3.Connection, ref: str) -> list[ObservedInterval]:
    found: list[ObservedInterval] = []
    for (line,) in database.execute("SELECT line FROM log WHERE ref = ? AND n > 0 ORDER BY n", (ref,)):
        entry = _decode_verified(line)
        if found:
            found[-1] = found[-1]._replace(last_seen_us=entry.until)
        found.append(_interval(entry, entry.at))
    if found:
        found[-1] = found[-1]._replace(last_seen_us=_seen(database, found[-1]))
    return found


def _last_digest(database: sqlite3.Connection, ref: str, was: ObservedInterval) -> Digest | None:
    if was.digest is not None:
        return was.digest
    return next(
        (entry.digest for entry in reversed(_past(database, ref)) if entry.digest and entry.line < was.line), None
    )


def _newest(database: sqlite3.Connection, ref: str) -> ObservedInterval | None:
    row = database.execute("SELECT line FROM log WHERE ref = ? AND n > 0 ORDER BY n DESC LIMIT 1", (ref,)).fetchone()
    if row is None:
        return None
    newest = _interval(_decode_verified(row[0]), 0)
    return newest._replace(last_seen_us=_seen(database, newest))


def _seen(database: sqlite3.Connection, newest: ObservedInterval) -> int:
    """Return the last observation. The chain does not cover it until the tag moves, so it is never before the line
    itself.
    """
    row = database.execute("SELECT at FROM seen WHERE n = ?", (newest.line,)).fetchone()
    seen_us = 0 if row is None else row[0]
    return max(newest.first_seen_us, seen_us) if seen_us <= MAX_TIME_US else newest.first_seen_us


def _interval(line: _Line, last_seen_us: int) -> ObservedInterval:
    return ObservedInterval(Digest.parse(line.digest) if line.digest else None, line.at, last_seen_us, line.n)


def _decode_verified(line: Any) -> _Line:
    """Decode a line of a verified chain."""
    return msgspec.json.decode(line, type=_Line)


def _parse(line: Any) -> _Line | None:
    try:
        parsed = msgspec.json.decode(line, type=_Line)
        if parsed.digest:
            Digest.parse(parsed.digest)
    except (msgspec.MsgspecError, ValueError, Invalid):
        return None
    timely = 0 <= min(parsed.at, parsed.until) <= max(parsed.at, parsed.until) <= MAX_TIME_US
    return parsed if parsed.v == VERSION and timely else None


def _chain_at(database: sqlite3.Connection, n: int) -> bytes:
    row = database.execute("SELECT chain FROM log WHERE n = ?", (n,)).fetchone()
    return b"" if row is None else _bytes(row[0])


def _one(database: sqlite3.Connection, question: str) -> int:
    return int(database.execute(question).fetchone()[0])


def _bytes(value: Any) -> bytes:
    """Return a BLOB; a column of a foreign file may contain anything."""
    return value if isinstance(value, bytes) else b""
