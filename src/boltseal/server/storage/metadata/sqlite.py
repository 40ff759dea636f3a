"""SQLite behind the metadata protocols: connections, transactions, errors. The only module that imports sqlite3.

WAL with `synchronous=FULL`: a commit that was acknowledged survives power loss (guarantee 4). Writers of all processes
queue at BEGIN IMMEDIATE, so a write transaction excludes all others and row locks cost nothing; a wait longer than ten
seconds becomes Unavailable. Readers never wait.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from boltseal.errors import BoltsealError, Full, Unavailable
from boltseal.files.atomic_files import Disk
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.metadata.database import WRITE_BUDGET_S, SqlMetadata
from boltseal.server.storage.metadata.move_fence import FENCE_NAME, DataMoved, refusal
from boltseal.server.storage.metadata.protocol import Clock, Lookups, Snapshot
from boltseal.server.storage.metadata.sql import LOCK_WAIT_S, DatabaseDamaged
from boltseal.server.storage.metadata.sql_units import SqlSnapshot
from boltseal.server.storage.metadata.sqlite_lookups import sqlite_lookups

STEPS_BETWEEN_CHECKS: Final = 10_000
"""Steps of SQLite's machine between two looks at the clock: less than a millisecond."""
_FULL_CODES: Final = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_SHMSIZE,  # the first process to open a database needs space for the index of its log
}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNUSABLE: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SUM_TOO_LARGE: Final = ("integer overflow",)
"""What SQLite says, without a code of its own, of sizes or counts that boltseal never wrote."""


_NOT_UTF8: Final = "Could not decode to UTF-8 column "
"""How Python's sqlite3 begins, without a code of its own, what it says of a text that boltseal never wrote."""


class CopyFailed(Unavailable):
    """SQLite could not read the source of a copy, or write its target."""


def open_database(
    path: Path,
    generation_path: Path,
    clock: Clock,
    lock_wait_s: float = LOCK_WAIT_S,
    budget_s: float = WRITE_BUDGET_S,
    *,
    for_move: bool = False,
) -> SqlMetadata:
    """Open a database that has its schema (see `migrate`), and repair the generation if a process died in a COMMIT.

    `for_move`: it may be written although it is being moved (`move_fence`).
    """
    driver = SqliteDriver(path, lock_wait_s=lock_wait_s, for_move=for_move)
    generation = FileGeneration.open(generation_path)
    database = SqlMetadata(driver, generation, clock, budget_s, driver.why_closed)
    with suppress(DataMoved):  # without the repair caches are not used
        database.write_and_wait(lambda _: generation.repair())
    return database


@contextmanager
def open_snapshot(path: Path) -> Iterator[Snapshot]:
    """Open a database file read-only; every query sees the last commit. Raises: Unavailable."""
    driver = SqliteDriver(path, read_only=True)
    try:
        with errors_named():
            session = driver.connect()
            try:
                yield SqlSnapshot(session)
            finally:
                session.close()
    finally:
        driver.close()


class SqliteSession:
    """One SQLite connection: `SqlSession` with its `SqlStatements` and `SqlSavepoints`."""

    def __init__(self, engine: Engine, fence: str | None = None) -> None:
        """`fence`: a file beside the database; while it is there, no write transaction begins."""
        self._fence = fence
        self.connection = engine.connect()
        raw = self.connection.connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise TypeError(f"expected a sqlite3 connection, got {type(raw).__name__}")
        self.driver: Final = raw
        self._durable = True
        self._watched = False
        self._interrupts_at_s: float | None = None
        self._interrupted = False

    @property
    def statements(self) -> SqliteSession:
        """This connection."""
        return self

    @property
    def savepoints(self) -> SqliteSession:
        """This connection."""
        return self

    @property
    def for_update(self) -> str:
        """Empty: BEGIN IMMEDIATE excludes all other writers."""
        return ""

    @property
    def usable(self) -> bool:
        """Always: there is no connection that could break."""
        return True

    @property
    def began_us(self) -> None:
        """None: SQLite's time is that of the process."""
        return None

    def plain(self, statement: str, values: Sequence[object] = (), /) -> sqlite3.Cursor:
        """Run a statement with `?` for each value, without SQLAlchemy."""
        return self.driver.execute(statement, values)

    def begin(self, *, write: bool, durable: bool = True) -> None:
        """Begin a transaction; with `write`, wait until no other process writes.

        Without `durable` the COMMIT does not wait for the disk. The next one that does also makes this one durable.
        """
        if durable is not self._durable:
            self.driver.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        self.driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        if write and self._fence is not None and (reason := refusal(self._fence)) is not None:
            self.rollback()
            raise DataMoved(reason)

    def savepoint(self, name: str) -> None:
        """Set a savepoint in the transaction."""
        self.driver.execute(f"SAVEPOINT {name}")

    def undo_to(self, name: str) -> None:
        """Undo everything since a savepoint, which stays set."""
        self.driver.execute(f"ROLLBACK TO {name}")

    def release(self, name: str) -> None:
        """Remove a savepoint and keep what was done since."""
        self.driver.execute(f"RELEASE {name}")

    def commit(self) -> None:
        """Make the transaction durable."""
        self.driver.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction. Does nothing when there is none."""
        if self.driver.in_transaction:
            self.driver.execute("ROLLBACK")

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way. "Disk full" ends it."""
        return self.driver.in_transaction

    def interrupt_after(self, seconds: float | None) -> None:
        """Interrupt the statement that runs when this time is over; None: interrupt none."""
        if seconds is None:
            self._interrupts_at_s = None
            return
        if not self._watched:
            self.driver.set_progress_handler(self._is_overdue, STEPS_BETWEEN_CHECKS)
            self._watched = True
        self._interrupts_at_s = time.monotonic() + seconds
        self._interrupted = False

    @property
    def interrupted(self) -> bool:
        """Whether the time of `interrupt_after` was over while a statement ran."""
        return self._interrupted

    def _is_overdue(self) -> bool:
        """Return whether SQLite must interrupt the running statement. It calls this every STEPS_BETWEEN_CHECKS steps."""
        self._interrupted = self._interrupts_at_s is not None and time.monotonic() > self._interrupts_at_s
        return self._interrupted

    def damage(self) -> list[str]:
        """Return what SQLite's own checks find wrong with pages, indexes and references; at most a hundred each."""
        execute = self.driver.execute
        found = [str(row[0]) for row in execute("PRAGMA integrity_check(100)") if row[0] != "ok"]
        dangling = execute("PRAGMA foreign_key_check").fetchmany(100)
        return found + [f"a row of {row[0]} refers to a row of {row[2]} that does not exist" for row in dangling]

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn SQLite's errors inside the block into the registry's."""
        return errors_named()

    @contextmanager
    def one_snapshot(self) -> Iterator[None]:
        """Read one snapshot inside the block; a COMMIT fails on a damaged file, even if nothing changed."""
        self.begin(write=False)
        try:
            yield
        finally:
            self.rollback()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class SqliteDriver:
    """The `SqlDriver` of one SQLite file. With `read_only` no statement can change the file.

    `for_move`: write also while the folder is closed by a move.
    """

    def __init__(
        self, path: Path, *, read_only: bool = False, lock_wait_s: float = LOCK_WAIT_S, for_move: bool = False
    ) -> None:
        self._fence = None if for_move else str(path.with_name(FENCE_NAME))
        self.after_connect: Callable[[Snapshot], None] | None = None  # every connection is to the same file
        target = f"file:{_quoted(path)}?mode=ro&uri=true" if read_only else str(path)
        self._lookup_session: SqliteSession | None = None
        self._engine = create_engine(
            f"sqlite:///{target}",
            isolation_level="AUTOCOMMIT",  # boltseal sends BEGIN and COMMIT itself, once for each group of jobs
            connect_args={"timeout": lock_wait_s, "check_same_thread": False, "cached_statements": 512},
        )

        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            if read_only:
                connection.execute("PRAGMA query_only=ON")
                return
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA secure_delete=ON")  # the bytes of a purged manifest leave the file too
            connection.execute("PRAGMA wal_autocheckpoint=4000")

        event.listen(self._engine, "connect", prepare)

    def connect(self) -> SqliteSession:
        """Open another connection."""
        return SqliteSession(self._engine, self._fence)

    def why_closed(self) -> str | None:
        """Return why the data folder takes no writes: it is being moved, or was."""
        return None if self._fence is None else refusal(self._fence)

    def lookups(self) -> Lookups:
        """Return the look-ups for pulls on a connection that nothing else uses."""
        if self._lookup_session is None:
            self._lookup_session = self.connect()
        return sqlite_lookups(self._lookup_session.statements)

    def took_effect(self, mark: str) -> bool:
        """Never called: SQLite's COMMIT always has an answer."""
        raise AssertionError(f"a COMMIT of SQLite has no mark such as {mark}")

    def errors_named(self) -> AbstractContextManager[None]:
        """Turn SQLite's errors inside the block into the registry's."""
        return errors_named()

    def close(self) -> None:
        """Close the connection of the look-ups, and those that SQLAlchemy keeps."""
        if self._lookup_session is not None:
            self._lookup_session.close()
            self._lookup_session = None
        self._engine.dispose()


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn SQLite's errors inside the block into Full (no space), Unavailable (locked, unusable) and DatabaseDamaged.

    Other errors, such as a wrong statement, are raised as they are.
    """
    try:
        yield
    except (sqlite3.DatabaseError, DBAPIError, UnicodeDecodeError) as error:
        named = _named(error.orig if isinstance(error, DBAPIError) else error)
        if named is None:
            raise
        raise named from error


def _named(error: BaseException | None) -> BoltsealError | None:
    if isinstance(error, UnicodeDecodeError):  # instead of an error whose message quotes a damaged schema
        return _damaged("a text of it is not UTF-8")
    if str(error).startswith(_NOT_UTF8):
        column = str(error).removeprefix(_NOT_UTF8).partition(" with text ")[0]
        return _damaged(f"a text of the column {column} is not UTF-8")
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
    if code & 0xFF in _DAMAGED or (error is not None and error.args == _SUM_TOO_LARGE):
        return _damaged(str(error))
    return None


def _damaged(how: str) -> DatabaseDamaged:
    return DatabaseDamaged(f"the registry's database is damaged ({how}): stop the server and restore a copy")


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
    ("tag", "ix_tag_settling", "10 1 1 1"),
    ("entry", "ix_entry_repository_tag_idx", "1000000 10000 10 1"),
    ("observation", "ix_observation_repository_tag_idx", "1000000 10000 10 1"),
    ("outbox", "sqlite_autoindex_outbox_1", "1000 500 1"),
    ("outbox", "ix_outbox_receiver_at_us", "1000 500 1"),
    ("upload_session", "upload_session", "1000 1"),
    ("failed_login", "failed_login", "1000 1"),
    ("account", "account", "100 1"),
    ("service_account", "service_account", "100 1"),
    ("last_login", "last_login", "100 1"),
    ("api_token", "api_token", "1000 1"),
    ("api_token", "ix_api_token_owner", "1000 10 1"),
    ("purged_blob", "purged_blob", "100 1"),
    ("failed_login", "ix_failed_login_last_us", "1000 1 1"),
    ("pipeline_session", "pipeline_session", "1000 1"),
    ("pipeline_session", "ix_pipeline_session_ends_us", "1000 1 1"),
    ("pipeline_refresh", "pipeline_refresh", "1000 1"),
    ("pipeline_refresh", "ix_pipeline_refresh_session", "1000 1 1"),
    ("pipeline_refresh", "ix_pipeline_refresh_ends_us", "1000 1 1"),
    ("refused_push", "refused_push", "10000 1"),
    ("refused_push", "ix_refused_push_last_us_id", "10000 1 1"),
    ("refused_push", "ix_refused_push_repository_last_us_id", "10000 100 1 1"),
    ("refused_push", "ix_refused_push_owner_last_us_id", "10000 100 1 1"),
    ("host", "ix_host_login", "1000 100 1"),
    ("host_image", "host_image", "100000 100 50 20 2 1"),
    ("host_image", "ix_host_image_digest_host", "100000 20 2 2 2 1"),
    ("host_image", "ix_host_image_repository_tag_host", "100000 100 20 2 2 2 1"),
    ("host_report", "ix_host_report_kind_idx", "100000 30000 1"),
    ("host_report", "ix_host_report_host_kind_subject_idx", "100000 100 50 20 1"),
    ("person", "person", "1000 1"),
    ("person", "sqlite_autoindex_person_2", "1000 1000 1"),
    ("page_session", "page_session", "1000 1"),
    ("page_session", "ix_page_session_owner", "1000 5 1"),
    ("page_session", "ix_page_session_ends_us", "1000 1 1"),
    ("used_state", "used_state", "1000 1"),
    ("used_state", "ix_used_state_ends_us", "1000 1 1"),
    ("upload_session", "ix_upload_session_owner_expires_us", "1000 50 1 1"),
    ("stored_blob", "stored_blob", "1000000 1"),
    ("blob_key", "blob_key", "1000000 1 1"),
    ("blob_key", "sqlite_autoindex_blob_key_2", "1000000 1"),
    ("blob_key", "ix_blob_key_many", "1000 1"),
    ("dead_key", "dead_key", "1000 1"),
    ("dead_key", "ix_dead_key_due_us", "1000 1 1"),
    ("upload_progress", "upload_progress", "1000 1"),
    ("upload_progress", "ix_upload_progress_writer", "1000 1 1"),
    ("upload_part", "upload_part", "10000 10 1"),
    ("upload_part", "sqlite_autoindex_upload_part_2", "10000 1"),
    ("blob_review", "blob_review", "10000 1 1"),
    ("blob_review", "ix_blob_review_due_us", "10000 1 1 1"),
    ("blob_review", "ix_blob_review_problem", "10 1 1"),
    ("layer_chain", "layer_chain", "100000 1000 1"),
    ("layer_chain", "ix_layer_chain_pending", "1000 100 1"),
)


def expect_sizes(session: SqliteSession) -> None:
    """Give the query planner the number of rows to expect. Connections that are opened after the COMMIT read it.

    Without statistics SQLite assumes ten rows of everything per repository, and would read all of its links for one push.
    The numbers are never measured again, so a query keeps its plan from the first row to the last.
    """
    session.plain("ANALYZE")  # creates the table
    session.plain("DELETE FROM sqlite_stat1")
    session.driver.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", _SIZES)


def copy_session(session: SqliteSession, target: Path) -> None:
    """Copy the database of a session, as of one moment. The copy gets its name when it is whole and durable.

    Raises: DatabaseDamaged: the copy does not pass SQLite's check.
    """
    _copy(session.driver, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a database file, as `copy_session` does, beside a server that uses it.

    Raises: DatabaseDamaged, CopyFailed.
    """
    try:
        with closing(
            sqlite3.connect(f"file:{_quoted(source.absolute())}?mode=ro", uri=True, timeout=LOCK_WAIT_S)
        ) as reads:
            _copy(reads, target)
    except sqlite3.Error as error:
        raise CopyFailed(str(error)) from error


def blob_sizes(path: Path) -> list[tuple[str, int]]:
    """Return digest and size of every blob that a database file refers to, in the order of digests.

    Raises: CopyFailed.
    """
    try:
        with closing(sqlite3.connect(f"file:{_quoted(path.absolute())}?mode=ro", uri=True)) as connection:
            query = "SELECT digest, max(size) FROM blob GROUP BY digest ORDER BY digest"
            return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise CopyFailed(str(error)) from error


def _copy(reads: sqlite3.Connection, target: Path) -> None:
    beside = target.with_name(f"{target.name}.new")
    beside.unlink(missing_ok=True)
    with closing(sqlite3.connect(beside)) as writes:
        # All pages in one step: one snapshot, and a busy writer can't make it start over again and again.
        reads.backup(writes, pages=-1)
        writes.execute("PRAGMA journal_mode=DELETE")
        if writes.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DatabaseDamaged(f"the copy {target} is damaged, so the database probably is: run boltseal admin fsck")
    fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    beside.replace(target)
    Disk().sync_folder(os.fspath(target.parent))
