"""Opens the metadata database that the settings name: SQLite in the data folder, or PostgreSQL.

Only this module chooses between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal import __version__
from boltseal.loading import deferred
from boltseal.server.storage.coordination.factory import open_generation
from boltseal.server.storage.coordination.replica_rows import Serving
from boltseal.server.storage.libraries import check_libraries
from boltseal.server.storage.metadata import sqlite
from boltseal.server.storage.metadata.migrate import (
    ACCOUNTS_FORMAT,
    DATABASE_NAME,
    GENERATION_NAME,
    HEAD_REVISION,
    WORKABLE_FORMAT,
    FormatInvalid,
    MetadataAbsent,
    check_data,
    data_format,
    prepare_data,
)
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage.metadata.sql_units import SqlSnapshot
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings

if TYPE_CHECKING:
    from boltseal.server.storage.metadata import postgres, postgres_schema
else:  # most servers have no PostgreSQL
    postgres = deferred("boltseal.server.storage.metadata.postgres")
    postgres_schema = deferred("boltseal.server.storage.metadata.postgres_schema")


def prepare_metadata(data: Path, storage: StorageSettings) -> None:
    """Create the data folder and the database, or bring them up to date. Raises: Invalid, Unavailable."""
    check_libraries(storage)
    if storage.database is None:
        prepare_data(data)
        return
    prepare_data(data, postgres=str(storage.database))
    postgres_schema.prepare_database(storage.database, storage.lock_address)


def check_metadata(data: Path, storage: StorageSettings, *, oldest: int = WORKABLE_FORMAT) -> None:
    """Refuse a data folder or database that this boltseal does not work on. Changes nothing. FormatInvalid, Unavailable."""
    check_libraries(storage)
    try:
        check_data(data, oldest=oldest, postgres=storage.database is not None)
        if storage.database is not None:
            postgres_schema.check_database(storage.database)
    except MetadataAbsent as error:
        if storage.blobs is None:
            raise
        raise MetadataAbsent(
            f"{error.message}; if it is lost, `boltseal admin fsck --rebuild` restores it from the bucket"
        ) from error


def has_accounts(data: Path, storage: StorageSettings) -> bool:
    """Return whether there is a database with the table of users. Raises: Invalid, Unavailable."""
    check_libraries(storage)
    if storage.database is None:
        found = data_format(data) if (data / DATABASE_NAME).is_file() else None
        return found is not None and found >= ACCOUNTS_FORMAT
    try:
        postgres_schema.check_database(storage.database)
    except FormatInvalid:
        return False
    return True


def open_metadata(
    data: Path,
    storage: StorageSettings,
    clock: Callable[[], int] | None,
    *,
    stale_s: float = 0.0,
    serves: bool = False,
) -> Metadata:
    """Open the database of an existing data folder. `clock`: None for the time of PostgreSQL; SQLite needs one.

    `serves`: this process answers clients. `stale_s`: for how long it may do so from its caches while PostgreSQL does not answer.
    """
    check_libraries(storage)
    if storage.database is not None:
        serving = Serving(stale_s, __version__, HEAD_REVISION) if serves else None
        generation = open_generation(storage, stale_s, serving)
        database = postgres.open_database(storage.database, generation, clock, why_closed=lambda: generation.refused)
        database.taken_away = generation.taken_away
        return database
    if clock is None:
        raise AssertionError("SQLite has no clock of its own")
    return sqlite.open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock)


def open_snapshot(data: Path, storage: StorageSettings) -> AbstractContextManager[Snapshot]:
    """Open the database read-only; every query sees the last commit. Raises: Invalid, Unavailable."""
    check_libraries(storage)
    if storage.database is None:
        return sqlite.open_snapshot(data / DATABASE_NAME)
    return _postgres_snapshot(storage.database)


@contextmanager
def _postgres_snapshot(url: DatabaseUrl) -> Iterator[Snapshot]:
    driver = postgres.PostgresDriver(url)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            yield SqlSnapshot(session)
    finally:
        driver.close()
