"""SQLite as the metadata database: a full disk, a lock that is kept too long, a group that fails as a whole.

The promises of every metadata database are tested in `tests/contracts/test_metadata.py`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from boltseal.errors import Full, NotFound, Unavailable
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.schema import repository
from boltseal.server.storage.metadata.sqlite import open_database
from tests.fakes.statements import NoStatements
from tests.server.storage.sqlite_session import driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare_data(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def database(data: Path) -> Iterator[Metadata]:
    opened = open_store(data)
    yield opened
    opened.close()


def open_store(data: Path, lock_wait_s: float = 10.0) -> Metadata:
    return open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: 1_000_000, lock_wait_s)


def adding(name: str, *, fail: bool = False) -> Callable[[UnitOfWork], str]:
    def job(tx: UnitOfWork) -> str:
        tx.sql.connection.execute(insert(repository).values(name=name, created_us=tx.now_us))
        if fail:
            raise NotFound(f"{name} was refused")
        return name

    return job


def names(database: Metadata) -> list[str]:
    return database.read_and_wait(
        lambda snapshot: list(
            snapshot.sql.connection.execute(select(repository.c.name).order_by(repository.c.name)).scalars()
        )
    )


async def test_a_lock_kept_too_long_is_unavailable(data: Path) -> None:
    """A write lock that another process keeps too long raises Unavailable, and nothing has changed."""
    database = open_store(data, lock_wait_s=0.2)
    other = sqlite3.connect(data / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="busy"):
        await database.write(adding("a"))
    other.execute("ROLLBACK")
    other.close()
    await database.write(adding("b"))

    assert names(database) == ["b"]
    database.close()


async def test_a_full_database_is_reported_and_continues_when_there_is_space(database: Metadata) -> None:
    """Without disk space a job raises Full and changes nothing, and later writes succeed."""

    def limit(pages: int) -> Callable[[UnitOfWork], None]:
        return lambda tx: driver(tx).execute(f"PRAGMA max_page_count={pages}").close()

    def much(tx: UnitOfWork) -> None:
        rows = [{"name": f"{n:06}" + "x" * 200, "created_us": 0} for n in range(5000)]
        tx.sql.connection.execute(insert(repository), rows)

    await database.write(limit(1))
    with pytest.raises(Full):
        await database.write(much)
    await database.write(limit(1_000_000))
    await database.write(adding("later"))

    assert names(database) == ["later"]


def test_a_generation_left_odd_by_a_dead_process_is_repaired_at_the_next_start(data: Path) -> None:
    """If a process died in its COMMIT, caching is off until the next start repairs the generation."""
    first = open_store(data)
    first.generation.begin(NoStatements())
    odd = first.generation.read()
    first.close()
    second = open_store(data)

    assert odd % 2 == 1
    assert second.generation.read() == odd + 1
    second.close()


async def test_a_group_that_fails_before_its_commit_leaves_the_generation_alone(data: Path) -> None:
    """A group that fails before its COMMIT leaves the generation alone, since another process may be in its COMMIT."""
    one, other = open_store(data), open_store(data)

    def fails_the_group(tx: UnitOfWork) -> None:
        tx.invalidates_caches = True
        driver(tx).execute("ROLLBACK")

    def invalidates_caches(tx: UnitOfWork) -> None:
        tx.invalidates_caches = True

    before = one.generation.read()
    other.generation.begin(NoStatements())
    during = one.generation.read()
    results = await asyncio.gather(one.write(fails_the_group), return_exceptions=True)
    after = one.generation.read()
    other.generation.end()
    one.close()
    other.close()

    assert isinstance(results[0], Exception)
    assert (during, after) == (before + 1, before + 1)
