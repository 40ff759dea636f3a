"""PostgreSQL as the metadata database: lost answers, broken connections, budgets, clocks, and what cannot be written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, insert, select

from boltseal.errors import Invalid, NotFound, Unavailable
from boltseal.server.registry.readiness import readiness
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.database import SqlMetadata, WriteTooLong
from boltseal.server.storage.metadata.postgres import WRITER_LOCK, PostgresDriver, open_database
from boltseal.server.storage.metadata.protocol import Job, Metadata, UnitOfWork
from boltseal.server.storage.metadata.schema import repository
from boltseal.server.storage.metadata.sql import AnswerLost
from boltseal.server.storage_settings import DatabaseUrl
from boltseal.server.store_factory import now_us
from tests.server.faults.delaying_proxy import delaying_proxy
from tests.server.storage.breaking_proxy import BreakingProxy, breaking_proxy
from tests.storage_servers import Postgres

pytestmark = pytest.mark.real

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1::bigint UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def open_metadata(tmp_path: Path) -> Iterator[Callable[..., SqlMetadata]]:
    """Open a database; `find_out_s`: how long a lost answer is looked up."""
    opened: list[SqlMetadata] = []

    def open_(url: str, *, find_out_s: float = 15.0, lock_wait_s: float = 10.0, budget_s: float = 5.0) -> SqlMetadata:
        driver = PostgresDriver(DatabaseUrl(url), lock_wait_s=lock_wait_s, find_out_s=find_out_s)
        opened.append(SqlMetadata(driver, FileGeneration.open(tmp_path / "generation"), None, budget_s))
        return opened[-1]

    yield open_
    for metadata in opened:
        metadata.close()


@pytest.fixture
def metadata(open_metadata: Callable[..., SqlMetadata], url: str) -> SqlMetadata:
    return open_metadata(url)


@pytest.fixture
def proxy(postgres_server: Postgres) -> Iterator[BreakingProxy]:
    with breaking_proxy(postgres_server.port) as running:
        yield running


def through(proxy: BreakingProxy, url: str) -> str:
    """Return the address of a database through the proxy."""
    return f"postgresql://boltseal@127.0.0.1:{proxy.port}/{url.rpartition('/')[2]}"


def add(name: str, tx: UnitOfWork, *, fail: bool = False) -> str:
    """Create a repository."""
    tx.invalidates_caches = True
    queries.ensure_repository(tx, name, None)
    if fail:
        raise NotFound(f"{name} was refused")
    return name


def names(metadata: Metadata) -> list[str]:
    query = select(repository.c.name).order_by(repository.c.name)
    return metadata.read_and_wait(lambda snapshot: list(snapshot.sql.connection.execute(query).scalars()))


async def test_a_lost_answer_to_a_commit_is_looked_up(
    open_metadata: Callable[..., SqlMetadata], proxy: BreakingProxy, url: str
) -> None:
    """If the connection breaks after a COMMIT was made, the jobs of its group return their own results."""
    metadata = open_metadata(through(proxy, url))
    await metadata.write(partial(add, "first"))
    before = metadata.generation.read()
    proxy.breaks = "after"
    results = await asyncio.gather(
        metadata.write(partial(add, "a")), metadata.write(partial(add, "b", fail=True)), return_exceptions=True
    )

    assert results[0] == "a"
    assert isinstance(results[1], NotFound)
    assert names(metadata) == ["a", "first"]
    assert metadata.generation.read() not in (before, before + 1)
    assert metadata.generation.read() % 2 == 0


async def test_a_commit_that_never_reached_the_server_changed_nothing(
    open_metadata: Callable[..., SqlMetadata], proxy: BreakingProxy, url: str
) -> None:
    """If the connection breaks before the COMMIT arrives, the error says that nothing changed, and a repetition works."""
    metadata = open_metadata(through(proxy, url))
    await metadata.write(partial(add, "first"))
    proxy.breaks = "before"
    with pytest.raises(Unavailable, match="nothing was changed") as failed:
        await metadata.write(partial(add, "a"))
    left = names(metadata)
    await metadata.write(partial(add, "a"))

    assert not isinstance(failed.value, AnswerLost)
    assert left == ["first"]
    assert names(metadata) == ["a", "first"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_commit_that_cannot_be_looked_up_is_doubt(
    open_metadata: Callable[..., SqlMetadata], proxy: BreakingProxy, url: str, when: str
) -> None:
    """If the database can't be asked, the error says that the change may have been made, and no cache is used meanwhile."""
    metadata = open_metadata(through(proxy, url), find_out_s=0.2)
    await metadata.write(partial(add, "first"))
    proxy.breaks, proxy.refuses_after_break = when, True
    with pytest.raises(AnswerLost, match="may or may not have been made"):
        await metadata.write(partial(add, "a"))
    during = metadata.generation.read()
    proxy.refuses = False
    left = names(metadata)
    await metadata.write(partial(add, "a"))

    assert during % 2 == 1
    assert metadata.generation.read() % 2 == 0
    assert left == (["a", "first"] if when == "after" else ["first"])
    assert names(metadata) == ["a", "first"]


async def test_connections_that_broke_while_idle_are_opened_again(
    metadata: SqlMetadata, postgres_server: Postgres, url: str
) -> None:
    """After the server ended every connection, the next write, read and look-up succeed."""
    await metadata.write(partial(add, "a"))
    await metadata.lookups.content.repository("a")
    names(metadata)
    database = url.rpartition("/")[2]
    postgres_server.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
    )
    found = await metadata.lookups.content.repository("a")
    read = names(metadata)
    await metadata.write(partial(add, "b"))

    assert found
    assert read == ["a"]
    assert names(metadata) == ["a", "b"]


async def test_a_job_whose_connection_ends_changed_nothing(metadata: SqlMetadata) -> None:
    """If the server ends the connection within a group, all of its jobs fail as doubt that may pass, and the next one works."""

    def ended(tx: UnitOfWork) -> None:
        tx.sql.plain("SELECT pg_terminate_backend(pg_backend_pid())")

    results = await asyncio.gather(metadata.write(partial(add, "a")), metadata.write(ended), return_exceptions=True)
    await metadata.write(partial(add, "b"))

    assert all(isinstance(result, Unavailable) for result in results)
    assert names(metadata) == ["b"]


@pytest.mark.parametrize("code", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
@pytest.mark.parametrize("when", ["IMMEDIATE", "DEFERRED"], ids=["in a statement", "at the commit"])
async def test_a_conflict_with_another_transaction_is_doubt_that_may_pass(
    metadata: SqlMetadata, url: str, when: str, code: str
) -> None:
    """A transaction that PostgreSQL undoes because of another one changed nothing, and its callers may try again."""
    conflict = f"""
CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '{code}'; END $$;
CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON repository DEFERRABLE INITIALLY {when}
    FOR EACH ROW EXECUTE FUNCTION conflict();
"""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(conflict.encode())
        results = await asyncio.gather(
            metadata.write(partial(add, "a")), metadata.write(partial(add, "b")), return_exceptions=True
        )
        connection.execute(b"DROP TRIGGER conflict ON repository")
    await metadata.write(partial(add, "c"))

    assert all(isinstance(result, Unavailable) and "nothing was changed" in result.message for result in results)
    assert names(metadata) == ["c"]


async def test_a_job_that_exceeds_its_budget_is_undone_and_the_others_are_done(
    open_metadata: Callable[..., SqlMetadata], url: str
) -> None:
    """Endless jobs, of one statement or of many, are cancelled; the jobs beside them are done."""
    metadata = open_metadata(url, budget_s=2.0)

    def one_query(tx: UnitOfWork) -> None:
        tx.sql.plain(ENDLESS).fetchone()

    def many_changes(tx: UnitOfWork) -> None:
        while True:
            tx.sql.plain("UPDATE repository SET created_us = created_us + 1")

    jobs: list[Job[object]] = [partial(add, "before"), one_query, many_changes, partial(add, "after")]
    results = await asyncio.gather(*map(metadata.write, jobs), return_exceptions=True)

    assert [results[0], type(results[1]), type(results[2]), results[3]] == [
        "before", WriteTooLong, WriteTooLong, "after",
    ]  # fmt: skip
    assert names(metadata) == ["after", "before"]


@pytest.mark.slow
async def test_a_job_on_a_slow_network_ends_with_its_budget(
    open_metadata: Callable[..., SqlMetadata], postgres_server: Postgres, url: str
) -> None:
    """A job of many short statements is stopped, although each cancel takes longer than a statement, and a later one is done."""
    with delaying_proxy(postgres_server.port) as slow:
        metadata = open_metadata(url.replace(f":{postgres_server.port}/", f":{slow.port}/"), budget_s=1.0)
        done: list[int] = []

        def many_statements(tx: UnitOfWork) -> None:
            for number in range(100):
                tx.sql.plain("SELECT 1").fetchone()
                done.append(number)

        slow.delay_s = 0.3
        with pytest.raises(WriteTooLong):
            await asyncio.wait_for(metadata.write(many_statements), 60)
        slow.delay_s = 0.0

        assert len(done) < 10
        assert await metadata.write(partial(add, "after")) == "after"


async def test_a_server_that_ended_an_idle_transaction_is_doubt(metadata: SqlMetadata) -> None:
    """A process that was stopped in a transaction, whose connection PostgreSQL closed meanwhile, answers 503 and goes on."""

    def slow_job(tx: UnitOfWork) -> None:
        tx.sql.plain("SET LOCAL idle_in_transaction_session_timeout = 1")
        time.sleep(0.2)  # the process is stopped for a while
        tx.sql.plain("SELECT 1")

    with pytest.raises(Unavailable):
        await metadata.write(slow_job)

    assert await metadata.write(partial(add, "after")) == "after"


async def test_a_lock_kept_too_long_is_unavailable(open_metadata: Callable[..., SqlMetadata], url: str) -> None:
    """A writer's lock that another server keeps too long raises Unavailable, and a later write succeeds."""
    metadata = open_metadata(url, lock_wait_s=0.2)
    with psycopg.connect(url) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})".encode())
        with pytest.raises(Unavailable, match="busy"):
            await metadata.write(partial(add, "a"))
    await metadata.write(partial(add, "b"))

    assert names(metadata) == ["b"]


async def test_a_database_that_takes_no_writes_is_unavailable(metadata: SqlMetadata, url: str) -> None:
    """A database that became read-only, as a standby is, refuses writes as doubt that may pass."""
    await metadata.write(partial(add, "a"))
    database = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on".encode())
        other.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608
            " AND pid <> pg_backend_pid()".encode()
        )
        with pytest.raises(Unavailable):
            await metadata.write(partial(add, "b"))
        other.execute(b"SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only".encode())
    await metadata.write(partial(add, "c"))

    assert names(metadata) == ["a", "c"]


def test_a_database_that_cannot_be_reached_is_unavailable_without_its_password(tmp_path: Path) -> None:
    """An unreachable database is an error that may pass, which does not show the password."""
    generation = FileGeneration.open(tmp_path / "generation")
    with pytest.raises(Unavailable) as refused:
        open_database(DatabaseUrl("postgresql://ann:hidden@127.0.0.1:1/none"), generation)

    assert "hidden" not in f"{refused.value.message} {refused.value.__cause__}"


async def test_time_is_that_of_the_database(metadata: SqlMetadata) -> None:
    """Units of work have the time of the database, which does not run backwards within a group."""

    def job(tx: UnitOfWork) -> tuple[int, int]:
        found = tx.sql.connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
        return tx.now_us, int(found * 1_000_000)

    times = await asyncio.gather(*(metadata.write(job) for _ in range(5)))

    assert [now for now, _ in times] == sorted(now for now, _ in times)
    assert all(abs(now - of_database) < 1_000_000 for now, of_database in times)


@pytest.mark.parametrize(("ahead_s", "ready"), [(0, True), (20, True), (40, False), (-40, False)])
async def test_a_server_whose_clock_differs_is_not_ready(
    metadata: SqlMetadata, tmp_path: Path, ahead_s: int, ready: bool
) -> None:
    """A server whose clock differs from the database's by more than 30 seconds is not ready, and states by how much."""
    found = await readiness(metadata, DiskReserve(tmp_path, 0), None, (), lambda: now_us() + ahead_s * 1_000_000)

    assert (found.blockers == ()) is ready
    assert ready or f"differs from the database's by {ahead_s:+d} seconds" in found.blockers[0]


async def test_lookups_that_wait_together_are_one_query(metadata: SqlMetadata) -> None:
    """A hundred look-ups of one kind at the same time take a few queries, and each gets its own answer."""
    await metadata.write(partial(add, "here"))
    asked = [metadata.lookups.content.repository("here" if n % 2 else f"none{n}") for n in range(100)]
    found = await asyncio.gather(*asked)

    assert found == [bool(n % 2) for n in range(100)]
    assert metadata.lookups.counts.asked == 100
    assert metadata.lookups.counts.queries <= 5


async def test_a_text_that_the_database_cannot_store_is_an_error_of_its_job(metadata: SqlMetadata) -> None:
    """A text with a NUL, which PostgreSQL can't store, fails its own job and no other one."""

    def bad(tx: UnitOfWork) -> None:
        tx.sql.connection.execute(insert(repository).values(name="a\0b", created_us=1))

    results = await asyncio.gather(metadata.write(bad), metadata.write(partial(add, "good")), return_exceptions=True)

    assert isinstance(results[0], Invalid)
    assert results[1] == "good"
