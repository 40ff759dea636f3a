"""No job holds the writer: it has a time budget, and repositories are served round robin."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select
from structlog.testing import capture_logs

from boltseal.server.registry.readiness import readiness
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata.database import GROUP_LIMIT, WriteTooLong
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import Job, Metadata, UnitOfWork
from boltseal.server.storage.metadata.schema import repository
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.metadata.write_queue import FairQueue, WaitingJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUDGET_S = 0.2
NOW_US = 1_000_000
ENDLESS_QUERY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
ENDLESS_CHANGE = "INSERT INTO released WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'digest' || i, i FROM n"
LONG_QUERY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT count(*) FROM (SELECT i FROM n)"
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare_data(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def database(data: Path) -> Iterator[Metadata]:
    opened = open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: NOW_US, budget_s=BUDGET_S)
    yield opened
    opened.close()


def add(name: str, tx: UnitOfWork) -> str:
    tx.sql.connection.execute(insert(repository).values(name=name, created_us=tx.now_us))
    return name


def names(database: Metadata) -> list[str]:
    query = select(repository.c.name).order_by(repository.c.name)
    return database.read_and_wait(lambda snapshot: list(snapshot.sql.connection.execute(query).scalars()))


def one_endless_query(tx: UnitOfWork) -> None:
    add("undone", tx)
    tx.sql.plain(ENDLESS_QUERY).fetchone()


def one_endless_change(tx: UnitOfWork) -> None:
    add("undone", tx)
    tx.sql.plain(ENDLESS_CHANGE)


def endless_short_changes(tx: UnitOfWork) -> None:
    add("undone", tx)
    while True:
        tx.sql.plain("UPDATE repository SET created_us = created_us + 1")


ENDLESS_JOBS: list[Job[None]] = [one_endless_query, one_endless_change, endless_short_changes]


@pytest.mark.parametrize("endless", ENDLESS_JOBS)
async def test_a_job_that_exceeds_its_budget_is_undone_and_the_others_are_done(
    database: Metadata, endless: Job[None]
) -> None:
    """An endless job ends with an error that may pass, is named in the log, and costs the jobs beside it nothing."""
    with capture_logs() as logs:
        results = await asyncio.gather(
            database.write(partial(add, "before")),
            database.write(endless, repository="shop/app"),
            database.write(partial(add, "after")),
            return_exceptions=True,
        )

    assert results[0] == "before"
    assert isinstance(results[1], WriteTooLong)
    assert results[2] == "after"
    assert names(database) == ["after", "before"]
    assert [(line["job"], line["repository"], line["budget_s"]) for line in logs] == [
        (endless.__name__, "shop/app", BUDGET_S)
    ]


async def test_the_writer_goes_on_after_several_endless_jobs(database: Metadata) -> None:
    """Each of three endless jobs in one group is stopped by itself, and a later job is done."""
    results = await asyncio.gather(*map(database.write, ENDLESS_JOBS), return_exceptions=True)
    later = await database.write(partial(add, "later"))

    assert [type(result) for result in results] == [WriteTooLong] * 3
    assert later == "later"


def test_a_recovery_has_no_budget(database: Metadata) -> None:
    """A job without a limit may take several budgets, as the recovery of a ledger does."""

    def long(tx: UnitOfWork) -> int:
        counted: int = tx.sql.plain(LONG_QUERY, (1_500_000,)).fetchone()[0]
        return counted

    assert database.write_and_wait(long, limited=False) == 1_500_000


async def test_a_flood_of_writes_to_one_repository_delays_another_by_one_group(database: Metadata) -> None:
    """A write to a second repository is committed when at most one group of the first one's is."""
    release = threading.Event()
    order: list[str] = []

    async def write(name: str, into: str) -> None:
        await database.write(partial(add, name), repository=into)
        order.append(into)

    blocked = asyncio.create_task(database.write(lambda _: release.wait()))
    flood = [asyncio.create_task(write(f"flood{n}", "flood")) for n in range(4 * GROUP_LIMIT)]
    single = asyncio.create_task(write("single", "single"))
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(blocked, single, *flood)

    assert order.index("single") <= GROUP_LIMIT


async def test_slow_writes_to_one_repository_are_not_one_group(data: Path) -> None:
    """A group ends after a time, so a write to another repository is committed before many slow ones are."""
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: NOW_US, budget_s=60.0)
    release = threading.Event()

    def slow(name: str, tx: UnitOfWork) -> None:
        add(name, tx)
        tx.sql.plain(LONG_QUERY, (400_000,)).fetchone()

    blocked = asyncio.create_task(database.write(lambda _: release.wait()))
    flood = [asyncio.create_task(database.write(partial(slow, f"{n}"), repository="flood")) for n in range(15)]
    single = asyncio.create_task(database.write(partial(add, "single"), repository="single"))
    await asyncio.sleep(0)
    release.set()
    await single
    committed = names(database)
    await asyncio.gather(blocked, *flood)
    database.close()

    assert len(committed) < 15


def waiting(repository: str) -> WaitingJob:
    return WaitingJob(lambda _: None, lambda: False, lambda *_: None, repository=repository)


def test_repositories_are_served_round_robin_across_groups() -> None:
    """A group takes one job of each repository, then the next one of each; a new one waits for one job of each other."""
    queue = FairQueue()
    for repository_name in "aaaabbc":
        queue.put(waiting(repository_name))
    first = [job.repository for job in queue.take(4)]
    queue.put(waiting("d"))
    second = [job.repository for job in queue.take(10)]

    assert first == ["a", "b", "c", "a"]
    assert second == ["b", "a", "d", "a"]


def test_jobs_that_were_not_begun_come_first_in_their_order() -> None:
    """Jobs that a group did not begin are the first jobs of the next group."""
    queue = FairQueue()
    jobs = [waiting(name) for name in "aabbc"]
    for job in jobs:
        queue.put(job)
    group = queue.take(4)
    queue.put_back(group[1:])

    assert [job.repository for job in group] == ["a", "b", "c", "a"]
    assert queue.take(2) == group[1:3]
    assert queue.take(9) == [jobs[1], jobs[3]]


class SteppedClock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def at(repository: str, since_s: float) -> WaitingJob:
    return WaitingJob(lambda _: None, lambda: False, lambda *_: None, repository=repository, since_s=since_s)


def test_a_repository_waits_after_a_long_job_while_others_write() -> None:
    """A repository waits four times as long as its job took, while jobs of other repositories go on."""
    clock = SteppedClock()
    queue = FairQueue(clock)
    jobs = [at(name, clock.now_s) for name in ("slow", "slow", "other", "other")]
    for job in jobs:
        queue.put(job)
    first = queue.take(1)
    clock.now_s += 5
    queue.took(first[0], 5.0)
    during = queue.take(9)
    clock.now_s += 20
    after = queue.take(9)

    assert during == jobs[2:]
    assert after == [jobs[1]]


def test_a_job_that_a_slow_database_held_up_makes_its_repository_wait_no_longer_than_others() -> None:
    """A job that took minutes, because the database did, costs its repository as much as one that used up its budget."""
    clock = SteppedClock()
    queue = FairQueue(clock)
    for name in ("slow", "slow", "other"):
        queue.put(at(name, clock.now_s))
    first = queue.take(1)
    clock.now_s += 300
    queue.took(first[0], 300.0)
    during = queue.take(9)
    clock.now_s += 20

    assert [job.repository for job in during] == ["other"]
    assert [job.repository for job in queue.take(9)] == ["slow"]


def test_a_repository_that_writes_alone_does_not_wait() -> None:
    """Long jobs of one repository follow each other at once where no other repository writes."""
    clock = SteppedClock()
    queue = FairQueue(clock)
    queue.put(at("other", clock.now_s))
    queue.take(1)
    clock.now_s += 30
    for _ in range(2):
        queue.put(at("slow", clock.now_s))
    (first,) = queue.take(1)
    clock.now_s += 5
    queue.took(first, 5.0)

    assert [job.repository for job in queue.take(9)] == ["slow"]


def test_a_closed_queue_waits_for_nothing() -> None:
    """The end of a process does the jobs of a repository that would have to wait."""
    queue = FairQueue(SteppedClock())
    queue.put(at("other", 100.0))
    queue.put(at("slow", 100.0))
    queue.took(queue.take(2)[1], 5.0)
    queue.put(at("slow", 100.0))
    queue.close()

    assert [job.repository for job in queue.take(9)] == ["slow"]
    assert queue.take(9) == []


def test_the_slow_jobs_of_one_repository_are_no_missed_turn_of_another() -> None:
    """A job behind others of its repository counts from when that was served last; a job that runs counts from its start."""
    clock = SteppedClock()
    queue = FairQueue(clock)
    for name in ("slow", "slow", "slow", "other"):
        queue.put(at(name, clock.now_s))
    (first,) = queue.take(1)
    clock.now_s += 5
    running = queue.state
    queue.took(first, 5.0)
    queue.remove([first])
    queue.remove(queue.take(9))
    clock.now_s += 12
    waiting_after = queue.state
    clock.now_s += 18
    missed = queue.state

    assert (running.jobs, running.oldest_wait_s) == (4, 5.0)
    assert (waiting_after.jobs, waiting_after.oldest_wait_s) == (2, 0.0)
    assert missed.oldest_wait_s == 10.0


async def test_endless_jobs_of_one_repository_leave_the_others_their_time(data: Path) -> None:
    """Thirty writes, one after the other, wait for a few of the endless jobs beside them and not for thirty."""
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: NOW_US, budget_s=0.6)
    stopped: list[BaseException] = []

    async def attack() -> None:
        while True:
            try:
                await database.write(one_endless_query, repository="attacked")
            except WriteTooLong as error:
                stopped.append(error)

    attackers = [asyncio.create_task(attack()) for _ in range(8)]
    for number in range(30):
        await database.write(partial(add, f"other{number}"), repository="other")
    during = len(stopped)
    for attacker in attackers:
        attacker.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    database.close()

    assert 1 <= during <= 4


async def test_readiness_fails_while_a_write_waits_for_too_long(database: Metadata, data: Path) -> None:
    """The registry is not ready while its oldest write waits longer than the limit, and says how long that one has waited."""
    release = threading.Event()
    before = await readiness(database, DiskReserve(data, 0), None, (), lambda: NOW_US, 0.0)
    blocked = asyncio.create_task(database.write(lambda _: release.wait()))
    await asyncio.sleep(0)
    during = await readiness(database, DiskReserve(data, 0), None, (), lambda: NOW_US, 0.0)
    patient = await readiness(database, DiskReserve(data, 0), None, (), lambda: NOW_US, 3600.0)
    release.set()
    await blocked

    assert not before.blockers
    assert "the oldest write has waited for 0 seconds (limit: 0)" in during.blockers[0]
    assert not patient.blockers
