"""Create a data folder or bring it up to date: `format`, the database's schema, the folders.

    DATA/format        one number; a newer one is refused, an older one is migrated under a lock after a copy
    DATA/boltseal.db   metadata (SQLite, with its -wal and -shm)
    DATA/postgresql    where the metadata is in PostgreSQL: its address, and then there is no boltseal.db
    DATA/generation    see `coordination.generation`
    DATA/blobs/ DATA/uploads/ DATA/ledger/
    DATA/outbox.db     until revision 0006, which moves its events into the database; then `outbox.db.before-0006`

A new database is created from `schema`, an older one is migrated by the alembic revisions in `migrations/`; a test compares
the two. A migration is one transaction: one that was interrupted has not happened. Before it the database is copied to
`boltseal.db.before-<revision>`, for the operator to go back with; nothing else uses the copy.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import insert, inspect, text

from boltseal.errors import Invalid, Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.loading import deferred
from boltseal.notify.outbox import OutboxUnusable
from boltseal.notify.outbox_file import OUTBOX_NAME, FileOutbox
from boltseal.server.storage.coordination.file_leases import LEASE_SUFFIX
from boltseal.server.storage.coordination.interprocess_lock import LOCK_FILE
from boltseal.server.storage.metadata import schema_support, sqlite
from boltseal.server.storage.metadata.schema import METADATA, outbox, outbox_cursor

if TYPE_CHECKING:
    from alembic import command
    from alembic import config as alembic_config
else:  # hardly any start migrates
    command = deferred("alembic.command")
    alembic_config = deferred("alembic.config")

FORMAT: Final = 17
WORKABLE_FORMAT: Final = 4
"""The oldest format that commands beside the server work on. What came later are tables of the running server."""
ACCOUNTS_FORMAT: Final = 5
"""The oldest format whose database has the users."""
TOKENS_FORMAT: Final = 13
"""The oldest format whose database has API tokens, service accounts and the audit log."""
SESSIONS_FORMAT: Final = 14
"""The oldest format whose database has sessions of pipelines."""
PEOPLE_FORMAT: Final = 17
"""The oldest format whose database has people of an identity provider and sessions of pages."""
HEAD_REVISION: Final = "0021"
DATABASE_NAME: Final = "boltseal.db"
GENERATION_NAME: Final = "generation"
POSTGRES_NAME: Final = "postgresql"
"""The file with the address of the PostgreSQL database that has the metadata of a folder, without the password."""
_FILES_UNTIL: Final = "0006"
"""The revision that moved the outbox from a file into the database."""


class FormatInvalid(Invalid):
    """The data folder is of another program, or of a newer boltseal."""


class MetadataAbsent(FormatInvalid):
    """There is no data folder yet, or its database is empty."""


def create_data(data: Path) -> None:
    """Create an empty data folder where there is none. FormatInvalid: the folder is of another program, or newer."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise Unavailable(
            f"the data folder {data} can't be created: {error.strerror}; choose another with --data"
        ) from error
    if data_format(data) is None:
        refuse_foreign_folder(data)


def prepare_data(data: Path, *, postgres: str | None = None) -> None:
    """Create a data folder or bring it up to date. Safe when several processes do it at once.

    `postgres`: the address of the database with the metadata, for people; None: it is SQLite, in the folder.
    """
    create_data(data)  # refuses a foreign folder before the lock, which would leave a file in it
    with _locked(data):
        held = data_format(data)
        if held is None:
            refuse_foreign_folder(data)
        for name in ("blobs", "uploads", "ledger"):
            (data / name).mkdir(exist_ok=True, mode=0o750)
        refuse_other_database(data, postgres=postgres is not None)
        if postgres is None:
            _bring_up_to_date(data)
            _set_aside(data)
        else:
            write_file(Disk(), data / POSTGRES_NAME, f"{postgres}\n".encode())
        if held != FORMAT:
            write_file(Disk(), data / "format", f"{FORMAT}\n".encode())


def refuse_other_database(data: Path, *, postgres: bool) -> None:
    """Refuse a folder whose metadata is in SQLite although PostgreSQL is wanted, or the other way round. FormatInvalid."""
    if postgres and (data / DATABASE_NAME).exists():
        raise FormatInvalid(
            f"{data} has its metadata in SQLite ({DATABASE_NAME}), and [storage] database names PostgreSQL; choose another "
            "folder with --data, or remove the setting"
        )
    if not postgres and (data / POSTGRES_NAME).exists():
        raise FormatInvalid(
            f"the metadata of {data} is in PostgreSQL ({(data / POSTGRES_NAME).read_text().strip()}), and [storage] database "
            "is not set; name the server's configuration with --config"
        )


def check_data(data: Path, *, oldest: int = WORKABLE_FORMAT, postgres: bool = False) -> None:
    """Refuse a folder that is not a data folder of this format, or of an older one from `oldest` on. Changes nothing.

    `postgres`: whether its metadata must be in PostgreSQL.
    """
    refuse_other_database(data, postgres=postgres)
    held = data_format(data)
    if held is None:
        raise MetadataAbsent(
            f"{data} is not a boltseal data folder (it has no file `format`); run this on the registry's machine, and name "
            "its data folder with --data"
        )
    if held < oldest:
        raise FormatInvalid(
            f"{data} has data format {held}, this boltseal works on {FORMAT}; `boltseal serve` brings it up to date, "
            "and keeps a copy of the database"
        )


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    try:
        fd = os.open(data / "format.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise Unavailable(f"the data folder {data} can't be written: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def data_format(data: Path) -> int | None:
    """Return the format of a data folder, None if the folder is none. FormatInvalid: it is newer, or can't be read."""
    path = data / "format"
    try:
        written = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FormatInvalid(f"{path} can't be read: {_reason(error)}; name a data folder with --data") from error
    if not written.isdecimal():
        raise FormatInvalid(f"{path} contains {written[:20]!r}, expected a number such as {FORMAT}")
    if int(written) > FORMAT:
        raise FormatInvalid(
            f"{data} has data format {int(written)}, this boltseal reads formats up to {FORMAT}; use a newer boltseal"
        )
    return int(written)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not text"


def refuse_foreign_folder(data: Path) -> None:
    """Refuse a folder that contains anything but what a first start creates. Raises: FormatInvalid."""
    # Of a first start that is under way, was killed, or ended since `format` was read. SQLite has a journal before a WAL.
    known = {"format", "blobs", "uploads", "ledger", "run", GENERATION_NAME, DATABASE_NAME, POSTGRES_NAME, LOCK_FILE}
    known |= {f"{DATABASE_NAME}-{suffix}" for suffix in ("journal", "wal", "shm")}
    names = (item.name for item in data.iterdir())
    created = (name for name in names if name not in known and not name.startswith((".", "format.")))
    foreign = sorted(name for name in created if not name.endswith(LEASE_SUFFIX))
    if foreign:
        raise FormatInvalid(
            f"{data} is not empty and not a boltseal data folder (it contains {foreign[0]!r}); choose another with --data"
        )


def _bring_up_to_date(data: Path) -> None:
    database = data / DATABASE_NAME
    existed = database.exists()
    driver = sqlite.SqliteDriver(database)
    try:
        with sqlite.errors_named(), closing(driver.connect()) as session:
            revision = _revision(session) if existed else None
            if revision == HEAD_REVISION:
                return
            if revision is None:
                _create(session)
                return
            sqlite.copy_session(session, database.with_name(f"{database.name}.before-{HEAD_REVISION}"))
            _upgrade(session, revision, data)
    finally:
        driver.close()


def _revision(session: sqlite.SqliteSession) -> str | None:
    if not inspect(session.connection).has_table("alembic_version"):
        return None
    found: str | None = session.connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return found


def _create(session: sqlite.SqliteSession) -> None:
    session.begin(write=True)  # one transaction: a process that dies in here leaves no half of a schema
    METADATA.create_all(session.connection)
    session.plain("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    session.plain("INSERT INTO alembic_version VALUES (?)", (HEAD_REVISION,))
    schema_support.record(session)
    sqlite.expect_sizes(session)
    session.commit()


def _upgrade(session: sqlite.SqliteSession, revision: str, data: Path) -> None:
    config = alembic_config.Config()
    config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
    config.attributes["connection"] = session.connection
    session.begin(write=True)  # a process that dies in here has changed nothing
    command.upgrade(config, "head")
    schema_support.record(session)
    if revision < _FILES_UNTIL:
        _move_outbox(session, data / OUTBOX_NAME)
    sqlite.expect_sizes(session)
    session.commit()


def _move_outbox(session: sqlite.SqliteSession, path: Path) -> None:
    """Copy the events of an outbox file into the database. Raises: FormatInvalid."""
    file = FileOutbox(path)
    try:
        events, cursors = file.contents()
    except OutboxUnusable as error:
        raise FormatInvalid(
            f"the events that wait in {path} can't be moved into the database: {error.message}; "
            "move the file away to give them up"
        ) from error
    finally:
        file.close()
    for event in events:
        session.connection.execute(insert(outbox).values(event._asdict()))
    for name, position in cursors.items():
        session.connection.execute(insert(outbox_cursor).values(name=name, position=position))


def _set_aside(data: Path) -> None:
    """Rename the outbox file, whose events are in the database now. It is kept beside the copy of the database."""
    with suppress(FileNotFoundError):
        (data / OUTBOX_NAME).rename(data / f"{OUTBOX_NAME}.before-{_FILES_UNTIL}")
    (data / f"{OUTBOX_NAME}.lock").unlink(missing_ok=True)
