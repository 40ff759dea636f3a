"""SQLite, and everything that only SQLite understands: connections, pragmas, BEGIN IMMEDIATE, its errors, hot look-ups.

WAL with `synchronous=FULL`: a commit that was acknowledged survives power loss (promise 4). Writers of all processes
queue at BEGIN IMMEDIATE; a wait longer than ten seconds is doubt and becomes Unavailable. Readers never wait.
The look-ups at the end run for nearly every request, on the driver's own connection: SQLAlchemy would cost ten times
the query. They are plain SQL and see the last commit each time.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DBAPIError

from boltseal.errors import BoltsealError, Full, Unavailable
from boltseal.files.atomic_files import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

LOCK_WAIT_S: Final = 10.0
_FULL_CODES: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,  # the first to open a database needs room for its index of the log
}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNUSABLE: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class DatabaseDamaged(Unavailable):
    """SQLite can't make sense of the file. Nothing was answered from it, and nothing changed."""


def make_engine(path: Path, *, read_only: bool = False, lock_wait_s: float = LOCK_WAIT_S) -> Engine:
    """An engine whose connections are ours to begin and commit; `read_only` can't change the file whatever is run."""
    target = f"file:{_quoted(path)}?mode=ro&uri=true" if read_only else str(path)
    engine = create_engine(
        f"sqlite:///{target}",
        isolation_level="AUTOCOMMIT",  # we say BEGIN and COMMIT ourselves, once per group
        connect_args={"timeout": lock_wait_s, "check_same_thread": False, "cached_statements": 512},
    )

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # a purged manifest is gone from the file too
        connection.execute("PRAGMA wal_autocheckpoint=4000")

    event.listen(engine, "connect", prepare)
    return engine


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def driver(connection: Connection) -> sqlite3.Connection:
    """The sqlite3 connection below, for the few statements where the layers above cost more than the query."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):  # pragma: no cover - another driver is another module's
        raise TypeError(f"expected a sqlite3 connection, got {type(raw).__name__}")
    return raw


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn SQLite's errors into ours: no space is Full, a lock or a damaged file Unavailable, the rest stays what it is."""
    try:
        yield
    except (sqlite3.DatabaseError, DBAPIError) as error:
        named = _named(error.orig if isinstance(error, DBAPIError) else error)
        if named is None:
            raise
        raise named from error


def _named(error: BaseException | None) -> BoltsealError | None:
    code: Any = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code in _FULL_CODES:
        return Full("no space left for the registry's database: nothing was changed; free some space and try again")
    if code & 0xFF in _BUSY:
        return Unavailable("the registry's database stayed busy: nothing was changed; try again")
    if code & 0xFF in _UNUSABLE:
        return Unavailable(
            f"the registry's database can't be used ({error}): nothing was changed; mend that and try again"
        )
    if code & 0xFF in _DAMAGED:
        return DatabaseDamaged(f"the registry's database is damaged ({error}): stop the server and restore a copy")
    return None


_SIZES: Final = (
    # table, index, rows, then rows per value of its first column, of its first two, ...
    ("repository", "sqlite_autoindex_repository_1", "100 1"),
    ("manifest", "manifest", "100000 1000 1"),
    ("manifest", "ix_manifest_canonical", "100000 2 1 1"),
    ("manifest", "ix_manifest_repository_id_subject", "100000 1000 2 1"),
    ("content", "sqlite_autoindex_content_1", "100000 1"),
    ("blob", "blob", "1000000 10000 1"),
    ("blob", "ix_blob_digest", "1000000 2 1"),
    ("link", "link", "1000000 10000 10 1 1"),
    ("link", "ix_link_repository_id_child", "1000000 10000 10 1 1"),
    ("tag", "tag", "100000 1000 1"),
    ("tag", "ix_tag_repository_id_digest", "100000 1000 2 1"),
    ("entry", "ix_entry_repository_tag_idx", "1000000 10000 10 1"),
    ("observation", "ix_observation_repository_tag_idx", "1000000 10000 10 1"),
)


def expect_sizes(connection: Connection) -> None:
    """Tell the planner how many rows to expect; it is read by connections that are opened after the COMMIT.

    SQLite without statistics guesses that a repository has ten of everything, and would read all of its links for one
    push. What is told here once is never measured again, so a query keeps its plan from the first row to the last.
    """
    execute = driver(connection).execute
    execute("ANALYZE")  # makes the table
    execute("DELETE FROM sqlite_stat1")
    driver(connection).executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", _SIZES)


def snapshot(reads: sqlite3.Connection, target: Path) -> None:
    """Copy a database as it is at one moment; it is whole and on the disk before it takes its name. DatabaseDamaged."""
    beside = target.with_name(f"{target.name}.new")
    beside.unlink(missing_ok=True)
    with closing(sqlite3.connect(beside)) as writes:
        # All pages in one step: one snapshot, and a busy writer can't make it begin again and again.
        reads.backup(writes, pages=-1)
        writes.execute("PRAGMA journal_mode=DELETE")
        if writes.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DatabaseDamaged(f"the copy {target} is damaged, so the database probably is: run boltseal fsck")
    fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    beside.replace(target)
    Disk().sync_folder(os.fspath(target.parent))


def damage(connection: Connection) -> list[str]:
    """What SQLite itself finds wrong with its pages, indexes and references, at most a hundred sentences."""
    execute = driver(connection).execute
    found = [str(row[0]) for row in execute("PRAGMA integrity_check(100)") if row[0] != "ok"]
    dangling = execute("PRAGMA foreign_key_check").fetchmany(100)
    return found + [f"a row of {row[0]} names a row of {row[2]} that is not there" for row in dangling]


class TagFound(NamedTuple):
    """What a tag means now."""

    digest: str
    sealed: bool


class ManifestFound(NamedTuple):
    """One manifest of one repository."""

    media_type: str
    raw: bytes


class ForeignTagRow(NamedTuple):
    """How an upstream's tag stands here. `digest` None: nothing is served. `held_*` None: nothing is held back. Times in microseconds.

    `asked_us`: when upstream answered last. `entry_index`: the name's last entry in the log of observations.
    """

    digest: str | None
    media_type: str | None
    size: int | None
    held_digest: str | None
    held_media_type: str | None
    held_size: int | None
    held_us: int | None
    gone_us: int | None
    asked_us: int
    entry_index: int
    changes: int
    changes_since_us: int


_REPOSITORY = "SELECT 1 FROM repository WHERE name = ?"
_TAG = """
SELECT t.digest, t.sealed_digest IS NOT NULL
FROM repository r JOIN tag t ON t.repository_id = r.id
WHERE r.name = ? AND t.name = ? AND t.digest IS NOT NULL
"""
_BOUND = """
SELECT t.sealed_digest
FROM repository r JOIN tag t ON t.repository_id = r.id
WHERE r.name = ? AND t.name = ? AND t.digest IS NULL
"""
_MANIFEST = """
SELECT m.media_type, c.raw
FROM repository r JOIN manifest m ON m.repository_id = r.id JOIN content c ON c.canonical = m.canonical
WHERE r.name = ? AND m.digest = ?
"""
_BLOB = """
SELECT b.size FROM repository r JOIN blob b ON b.repository_id = r.id WHERE r.name = ? AND b.digest = ?
"""

_FOREIGN_TAG = """
SELECT digest, media_type, size, held_digest, held_media_type, held_size, held_us, gone_us, asked_us, entry_index,
       changes, changes_since_us
FROM foreign_tag WHERE repository = ? AND name = ?
"""


class Lookups:
    """Point look-ups for pulls, on one connection, for one thread."""

    def __init__(self, connection: Connection) -> None:
        self._execute = driver(connection).execute

    def repository(self, name: str) -> bool:
        """Whether there is, or ever was, a repository of this name."""
        return self._one(_REPOSITORY, (name,)) is not None

    def tag(self, repository: str, name: str) -> TagFound | None:
        """What the tag means, or None when nothing of that name is there."""
        row = self._one(_TAG, (repository, name))
        return None if row is None else TagFound(row[0], bool(row[1]))

    def bound(self, repository: str, name: str) -> str | None:
        """The digest that a deleted tag's name is bound to: its tombstone; None where there is none."""
        row = self._one(_BOUND, (repository, name))
        return None if row is None else row[0]

    def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        """The manifest as pushed, or None when this repository does not hold it."""
        row = self._one(_MANIFEST, (repository, digest))
        return None if row is None else ManifestFound(row[0], row[1])

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Size in bytes of a blob that this repository holds, or None."""
        row = self._one(_BLOB, (repository, digest))
        return None if row is None else int(row[0])

    def foreign_tag(self, repository: str, name: str) -> ForeignTagRow | None:
        """How an upstream's tag stands, or None when upstream never had it as far as was asked."""
        row = self._one(_FOREIGN_TAG, (repository, name))
        return None if row is None else ForeignTagRow(*row)

    def _one(self, query: str, values: tuple[str, ...]) -> Any:
        try:
            return self._execute(query, values).fetchone()
        except sqlite3.DatabaseError as error:
            named = _named(error)
            if named is None:
                raise
            raise named from error
