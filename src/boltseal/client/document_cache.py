"""A cache of manifests and configs by digest, and of earlier observations of tags, so that nothing is fetched twice.

    STATE/learned.db    SQLite
      document   digest; type (media type); body (the bytes, zlib); used (last use, in seconds since 1970)
      resolutions of tags: ref; digest; first and last (first and last observation of this digest, in microseconds)
      chain      repository, with its registry; digest; document (what that registry keeps of its layers, as JSON)
      listed     registry; at (a time at which all of its tags were listed and resolved, in microseconds)

A document is used only if its bytes have its digest, whatever the file claims. Observations are no substitute for the
log of `tag_observations`, which alone raises alarms: an observation here hides no move from it. The file may be
deleted; that costs requests. At most MAX_DOCUMENT_BYTES of documents are kept; the least recently used are deleted
first. Layer chains are the statement of a registry about its own repository; with more than MAX_CHAINS all are deleted.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from boltseal.client.state import ClientState, StateUnusable, closed_on_error, open_database, tag_key, transaction
from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

VERSION: Final = 3
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024
MAX_CHAINS: Final = 100_000
PENDING: Final = 256
PENDING_BYTES: Final = 16 * 1024 * 1024
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS document (digest TEXT PRIMARY KEY, type TEXT NOT NULL, body BLOB NOT NULL, used INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS meant (ref TEXT NOT NULL, digest TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS meant_ref ON meant (ref)",
    "CREATE TABLE IF NOT EXISTS listed (registry TEXT NOT NULL, at INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS chain (repository TEXT NOT NULL, digest TEXT NOT NULL, document BLOB NOT NULL, PRIMARY KEY (repository, digest)) STRICT",
)


class CachedTag(NamedTuple):
    """A digest that a tag resolved to (None: no such tag), first and last observed at, in microseconds since the epoch."""

    digest: Digest | None
    first_us: int
    last_us: int


class DocumentCache:
    """The cache file of one state folder, used as a context manager. Not thread-safe; safe for several processes."""

    def __init__(self, state: ClientState, *, now_us: int, max_document_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._state = state
        self._now_us = now_us
        self._max_document_bytes = max_document_bytes
        self._database: sqlite3.Connection | None = None
        self._pending: dict[Digest, tuple[str, bytes]] = {}
        self._pending_bytes = 0
        self._used: set[Digest] = set()
        self._written: set[Digest] | None = None
        """The documents that this process wrote, if the file was empty at first: others need no query. None: query the file."""

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
        """Return the path of the file."""
        return self._state.folder / "learned.db"

    def document(self, digest: Digest) -> tuple[str, bytes] | None:
        """Return media type and verified bytes of a document, or None if it is not cached. Raises: StateUnusable."""
        if digest in self._pending:
            return self._pending[digest]
        if self._written is not None and digest not in self._written:
            return None
        with self._sqlite_errors():
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
        """Cache a document with this digest. `flush` or the end of the `with` block writes it. Raises: StateUnusable."""
        if len(body) > MAX_BODY_BYTES:
            return
        self._pending[digest] = media_type, body
        self._pending_bytes += len(body)
        if len(self._pending) >= PENDING or self._pending_bytes >= PENDING_BYTES:
            self.flush()

    def chains(self, repository: str, digests: Iterable[Digest]) -> dict[Digest, bytes]:
        """Return the cached layer chains of manifests of a registry's repository, as JSON. Raises: StateUnusable."""
        with self._sqlite_errors():
            database = self._opened(create=False)
            rows = (
                (digest, None if database is None else database.execute(_CHAIN, (repository, str(digest))).fetchone())
                for digest in digests
            )
            return {digest: bytes(row[0]) for digest, row in rows if row is not None}

    def keep_chains(self, repository: str, chains: Mapping[Digest, bytes]) -> None:
        """Cache layer chains of manifests of a registry's repository. Raises: StateUnusable."""
        with self._writing() as database:
            if database.execute("SELECT count(*) FROM chain").fetchone()[0] + len(chains) > MAX_CHAINS:
                database.execute("DELETE FROM chain")
            rows = ((repository, str(digest), document) for digest, document in chains.items())
            database.executemany("INSERT OR REPLACE INTO chain VALUES (?, ?, ?)", rows)

    def past(self, reference: Reference) -> tuple[CachedTag, ...]:
        """Return all observations of a tag, the oldest first. Raises: StateUnusable."""
        with self._sqlite_errors():
            database = self._opened(create=False)
            rows = [] if database is None else database.execute(_PAST, (tag_key(reference),)).fetchall()
        try:
            return tuple(CachedTag(Digest.parse(row[0]) if row[0] else None, row[1], row[2]) for row in rows)
        except Invalid as error:
            raise self._unusable(error.message) from error

    def saw(self, observed: Iterable[tuple[Reference, Digest | None]]) -> None:
        """Record what tags resolve to now (None: no such tag). Raises: StateUnusable."""
        with self._writing() as database:
            for reference, digest in observed:
                ref, text = tag_key(reference), "" if digest is None else str(digest)
                last = database.execute(f"{_NEWEST} LIMIT 1", (ref,)).fetchone()
                if last is not None and last[1] == text:
                    database.execute("UPDATE meant SET last = max(last, ?) WHERE rowid = ?", (self._now_us, last[0]))
                else:
                    database.execute("INSERT INTO meant VALUES (?, ?, ?, ?)", (ref, text, self._now_us, self._now_us))

    def saw_all(self, registry: str) -> None:
        """Record that all tags of a registry were listed and resolved now. Raises: StateUnusable."""
        with self._writing() as database:
            database.execute("INSERT INTO listed VALUES (?, ?)", (registry, self._now_us))

    def listings(self, registry: str) -> tuple[int, ...]:
        """Return when all tags of a registry were listed, in microseconds since the epoch. Raises: StateUnusable."""
        with self._sqlite_errors():
            database = self._opened(create=False)
            rows = [] if database is None else database.execute(_LISTED, (registry,)).fetchall()
        return tuple(row[0] for row in rows)

    def flush(self) -> None:
        """Write the documents and times of use that are pending. Raises: StateUnusable."""
        if not self._pending and not self._used:
            return
        now_s = self._now_us // 1_000_000
        with self._writing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?)",
                ((str(key), media_type, _deflated(body), now_s) for key, (media_type, body) in self._pending.items()),
            )
            database.executemany(
                "UPDATE document SET used = ? WHERE digest = ? AND used < ?",
                ((now_s, str(digest), now_s - 3600) for digest in self._used),
            )
            _forget(database, self._max_document_bytes)
        if self._written is not None:
            self._written |= self._pending.keys()
        self._pending, self._pending_bytes, self._used = {}, 0, set()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction."""
        with self._state.writing(), self._sqlite_errors():
            database = self._opened(create=True)
            if database is None:
                raise AssertionError("_opened(create=True) returns a database or raises")
            with transaction(database):
                yield database

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> StateUnusable:
        return StateUnusable(f"{self.path} can't be used: {reason}; delete it, then everything is fetched again")

    def _opened(self, *, create: bool) -> sqlite3.Connection | None:
        if self._database is not None:
            return self._database
        self._state.check_format()
        database = open_database(self.path, create=create)
        if database is None:
            return None
        with closed_on_error(database):
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA synchronous = NORMAL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StateUnusable(f"{self.path} was written by a newer boltseal; this one reads version {VERSION}")
            if version < VERSION:
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
            if database.execute("SELECT 1 FROM document LIMIT 1").fetchone() is None:
                self._written = set()
        self._database = database
        return database


_DOCUMENT: Final = "SELECT type, body FROM document WHERE digest = ?"
_CHAIN: Final = "SELECT document FROM chain WHERE repository = ? AND digest = ?"
_PAST: Final = "SELECT digest, first, last FROM meant WHERE ref = ? ORDER BY rowid"
_LISTED: Final = "SELECT at FROM listed WHERE registry = ? ORDER BY at"
_NEWEST: Final = "SELECT rowid, digest FROM meant WHERE ref = ? ORDER BY rowid DESC"


def _forget(database: sqlite3.Connection, most_bytes: int) -> None:
    """Delete the least recently used documents until at most `most_bytes` are left."""
    size = database.execute("SELECT total(length(body)) FROM document").fetchone()[0]
    while size > most_bytes:
        rows = database.execute("SELECT digest, length(body) FROM document ORDER BY used LIMIT 500").fetchall()
        database.executemany("DELETE FROM document WHERE digest = ?", ((row[0],) for row in rows))
        size -= sum(row[1] for row in rows)


def _deflated(body: bytes) -> bytes:
    """Compress a document with a window of its size: a larger one costs more time than the rest of the work."""
    return zlib.compress(body, wbits=max(10, min(len(body).bit_length(), zlib.MAX_WBITS)))


def _inflated(body: object) -> bytes:
    """Decompress at most MAX_BODY_BYTES: the file may contain anything."""
    return zlib.decompressobj().decompress(body if isinstance(body, bytes) else b"", MAX_BODY_BYTES)
