"""A data folder of SQLite as the source of a move: its rows, and the moment from which on nothing is written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Table

from boltseal.errors import Invalid
from boltseal.server.storage.metadata import copy_text, sqlite
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, FORMAT, GENERATION_NAME, check_data
from boltseal.server.storage.metadata.move_fence import Fence, put_fence
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot

COUNTED: Final = ("repository", "manifest", "tag", "entry", "account")


class SourceUnusable(Invalid):
    """The folder can't be moved."""


def check_source(data: Path) -> None:
    """Refuse a folder that has not the format of this boltseal, or keeps blobs elsewhere. Raises: FormatInvalid, SourceUnusable."""
    check_data(data, oldest=FORMAT)
    with sqlite.open_snapshot(data / DATABASE_NAME) as snapshot:
        if snapshot.sql.plain("SELECT 1 FROM stored_blob LIMIT 1").fetchone() is not None:
            raise SourceUnusable(
                f"the blobs of {data} are in an object store already; only SQLite with files can be moved"
            )


def open_source(data: Path, clock: Callable[[], int]) -> Metadata:
    """Open the database of a folder, so that it can be written although it is being moved."""
    return sqlite.open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock, for_move=True)


def reading(data: Path) -> AbstractContextManager[Snapshot]:
    """Open the database of a folder read-only; every query sees the last commit. Raises: Unavailable."""
    return sqlite.open_snapshot(data / DATABASE_NAME)


def counts(data: Path) -> dict[str, int]:
    """Return how many rows some tables have."""
    with sqlite.open_snapshot(data / DATABASE_NAME) as snapshot:
        return {
            name: int(snapshot.sql.plain(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608
            for name in COUNTED
        }


def blobs(data: Path) -> list[tuple[str, int]]:
    """Return digest and size of every blob that a repository has, in the order of digests."""
    return sqlite.blob_sizes(data / DATABASE_NAME)


def close_to_writes(data: Path, fence: Fence) -> None:
    """Write the fence while no transaction of any process is under way. From then on none begins. Raises: OSError, Unavailable."""
    driver = sqlite.SqliteDriver(data / DATABASE_NAME, for_move=True)
    try:
        with driver.errors_named(), closing(driver.connect()) as session:
            session.begin(write=True)
            try:
                put_fence(data, fence)
            finally:
                session.rollback()
    finally:
        driver.close()


@contextmanager
def rows(data: Path) -> Iterator[Callable[[Table], Iterator[bytes]]]:
    """Yield a function that returns the text of a table; all tables as of one moment."""
    with sqlite.open_snapshot(data / DATABASE_NAME) as snapshot, snapshot.sql.one_snapshot():
        yield partial(copy_text.rows_text, snapshot.sql)
