"""What was once read of other registries, kept so that nothing is fetched twice: documents by digest, and meanings of tags.

    STATE/learned.db    SQLite
      document   digest; type (media type); body (the bytes, zlib); used (when it was last wanted, in seconds since 1970)
      meant      ref; digest; first and last (when the tag was first and last found to mean it, in microseconds)

A document is believed because its bytes have its digest, whatever the file says. A meaning is what was seen, as in `watched`,
whose log stays the one that alarms: what is seen here hides no move from it. All of this may be deleted: it costs requests.
At most MAX_DOCUMENT_BYTES of documents are kept; those that nobody wanted for longest go first.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import quote as quote_path

from boltseal.client.state import ClientState, StateUnusable, all_or_nothing
from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

VERSION: Final = 1
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024
WAIT_S: Final = 20.0
PENDING: Final = 256
PENDING_BYTES: Final = 16 * 1024 * 1024
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS document (digest TEXT PRIMARY KEY, type TEXT NOT NULL, body BLOB NOT NULL, used INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meant (ref TEXT NOT NULL, digest TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS meant_ref ON meant (ref)",
)


class CachedTag(NamedTuple):
    """What a tag meant (None: nothing), and when it was first and last found to, in microseconds since the epoch."""

    digest: Digest | None
    first_us: int
    last_us: int


class DocumentCache:
    """The file of one state folder. Not for two threads at once; any number of processes. Use it in a `with`."""

    def __init__(self, state: ClientState, *, now_us: int, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._state = state
        self._now_us = now_us
        self._max_document_bytes = max_document_bytes
        self._database: sqlite3.Connection | None = None
        self._pending: dict[Digest, tuple[str, bytes]] = {}
        self._pending_bytes = 0
        self._used: set[Digest] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or not issubclass(kind, StateUnusable):
                self.flush()
        finally:
            if self._database is not None:
                self._database.close()
                self._database = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._state.folder / "learned.db"

    def document(self, digest: Digest) -> tuple[str, bytes] | None:
        """Media type and bytes of a document, which have this digest; None where it is not known. StateUnusable."""
        if digest in self._pending:
            return self._pending[digest]
        with self._told():
            database = self._opened(create=False)
            found = None if database is None else database.execute(_DOCUMENT, (str(digest),)).fetchone()
        if found is None:
            return None
        try:
            media_type, body = str(found[0]), _inflated(found[1])
        except zlib.error:
            return None
        if Digest.of(body, digest.algorithm) != digest:
            return None
        self._used.add(digest)
        return media_type, body

    def keep(self, digest: Digest, media_type: str, body: bytes) -> None:
        """Remember a document that has this digest. It is on the disk when `flush` or the `with` ends. StateUnusable."""
        if len(body) > MAX_BODY_BYTES:
            return
        self._pending[digest] = media_type, body
        self._pending_bytes += len(body)
        if len(self._pending) >= PENDING or self._pending_bytes >= PENDING_BYTES:
            self.flush()

    def past(self, reference: Reference) -> tuple[CachedTag, ...]:
        """All that a tag was found to mean here, the oldest first. StateUnusable."""
        with self._told():
            database = self._opened(create=False)
            rows = [] if database is None else database.execute(_PAST, (_key(reference),)).fetchall()
        try:
            return tuple(CachedTag(Digest.parse(row[0]) if row[0] else None, row[1], row[2]) for row in rows)
        except Invalid as error:
            raise self._unusable(error.message) from error

    def saw(self, looks: Iterable[tuple[Reference, Digest | None]]) -> None:
        """Remember what tags mean now (None: no such tag). StateUnusable."""
        with self._writing() as database:
            for reference, digest in looks:
                ref, text = _key(reference), "" if digest is None else str(digest)
                last = database.execute(f"{_NEWEST} LIMIT 1", (ref,)).fetchone()
                if last is not None and last[1] == text:
                    database.execute("UPDATE meant SET last = max(last, ?) WHERE rowid = ?", (self._now_us, last[0]))
                else:
                    database.execute("INSERT INTO meant VALUES (?, ?, ?, ?)", (ref, text, self._now_us, self._now_us))

    def flush(self) -> None:
        """Write what is to be remembered. StateUnusable."""
        if not self._pending and not self._used:
            return
        now_s = self._now_us // 1_000_000
        with self._writing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?)",
                ((str(one), said, zlib.compress(body), now_s) for one, (said, body) in self._pending.items()),
            )
            database.executemany(
                "UPDATE document SET used = ? WHERE digest = ? AND used < ?",
                ((now_s, str(one), now_s - 3600) for one in self._used),
            )
            _forget(database, self._max_document_bytes)
        self._pending, self._pending_bytes, self._used = {}, 0, set()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        with self._state.writing(), self._told():
            database = self._opened(create=True)
            if database is None:
                raise AssertionError("made or raised")
            with all_or_nothing(database):
                yield database

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> StateUnusable:
        return StateUnusable(f"{self.path} can't be used: {reason}; it may be deleted, which costs requests")

    def _opened(self, *, create: bool) -> sqlite3.Connection | None:
        if self._database is not None:
            return self._database
        self._state.check_format()
        try:
            flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
            os.close(os.open(self.path, flags | os.O_CLOEXEC, 0o600))  # SQLite would let others read what it makes
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateUnusable(f"{self.path} can't be opened: {error.strerror}") from error
        uri = f"file:{quote_path(str(self.path.absolute()))}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA synchronous = NORMAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StateUnusable(f"{self.path} was written by a newer boltseal; this one reads version {VERSION}")
            if version < VERSION:
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            database.close()
            raise
        self._database = database
        return database


_DOCUMENT: Final = "SELECT type, body FROM document WHERE digest = ?"
_PAST: Final = "SELECT digest, first, last FROM meant WHERE ref = ? ORDER BY rowid"
_NEWEST: Final = "SELECT rowid, digest FROM meant WHERE ref = ? ORDER BY rowid DESC"


def _forget(database: sqlite3.Connection, most_bytes: int) -> None:
    """Let go of what nobody wanted for longest, until the rest is small enough."""
    held = database.execute("SELECT total(length(body)) FROM document").fetchone()[0]
    while held > most_bytes:
        rows = database.execute("SELECT digest, length(body) FROM document ORDER BY used LIMIT 500").fetchall()
        database.executemany("DELETE FROM document WHERE digest = ?", ((row[0],) for row in rows))
        held -= sum(row[1] for row in rows)


def _inflated(body: object) -> bytes:
    """At most MAX_BODY_BYTES of what was packed; a file may hold anything."""
    return zlib.decompressobj().decompress(body if isinstance(body, bytes) else b"", MAX_BODY_BYTES)


def _key(reference: Reference) -> str:
    if reference.tag is None:
        raise AssertionError(f"{reference} names no tag")
    return f"{reference.name}:{reference.tag}"
