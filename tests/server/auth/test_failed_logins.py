"""Failed logins: counted for the whole store, delayed, forgotten; a successful login writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from boltseal.errors import Full
from boltseal.server.auth.failed_logins import FORGET_FAILURES_US, FREE_FAILURES, MAX_WAIT_US, FailedLogins
from boltseal.server.auth.logins import Logins, LoginsTooMany, LoginWrong
from boltseal.server.auth.user_directory import UserDirectory
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.users import UserFile

ADDRESS = "192.0.2.1"
SECOND_US = 1_000_000


class Clock:
    """A clock in microseconds that the test sets."""

    now_us = 1_795_500_000_000_000

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_metadata(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Metadata]]:
    """Open the database of this test; a second object acts as another process."""
    data = tmp_path / "data"
    prepare_data(data)
    opened: list[Metadata] = []

    def open_() -> Metadata:
        opened.append(open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock))
        return opened[-1]

    yield open_
    for metadata in opened:
        metadata.close()


@pytest.fixture
def users(tmp_path: Path) -> UserDirectory:
    """One user whose password is hashed cheaply."""
    file = UserFile(tmp_path / "htpasswd")
    file.put("ci", bcrypt.hashpw(b"right", bcrypt.gensalt(4)))
    return UserDirectory(file)


async def tried(logins: Logins, given: str = "wrong") -> str:
    try:
        await logins.verify("ci", given, ADDRESS)
    except LoginWrong:
        return "wrong"
    except LoginsTooMany:
        return "waits"
    return "right"


async def test_all_processes_of_a_store_count_together(
    open_metadata: Callable[[], Metadata], users: UserDirectory, clock: Clock
) -> None:
    """An address has the same few tries on all workers and after a restart, and other addresses are not affected."""
    first, second = (Logins(users, FailedLogins(open_metadata(), clock)) for _ in range(2))
    results = [await tried(logins) for _ in range(FREE_FAILURES) for logins in (first, second)]
    restarted = Logins(users, FailedLogins(open_metadata(), clock))
    right = await tried(restarted, "right")
    await restarted.verify("ci", "right", "192.0.2.2")

    assert results == ["wrong"] * FREE_FAILURES + ["waits"] * FREE_FAILURES
    assert right == "waits"


async def test_concurrent_tries_of_an_address_are_counted_one_by_one(
    open_metadata: Callable[[], Metadata], users: UserDirectory, clock: Clock
) -> None:
    """Requests that arrive together get no more tries than requests that arrive one after the other."""
    logins = Logins(users, FailedLogins(open_metadata(), clock))
    results = await asyncio.gather(*(tried(logins, f"wrong {number}") for number in range(40)))

    assert results.count("wrong") == FREE_FAILURES


async def test_concurrent_logins_with_the_same_right_password_check_it_once(users: UserDirectory) -> None:
    """A client that pushes several layers sends its login with each request."""
    counted: list[str] = []
    logins = Logins(users, count=counted.append)
    results = await asyncio.gather(*(tried(logins, "right") for _ in range(8)))

    assert results == ["right"] * 8
    assert len(counted) == 1


async def test_each_failure_makes_the_wait_longer_and_a_login_ends_it(
    open_metadata: Callable[[], Metadata], users: UserDirectory, clock: Clock
) -> None:
    """Each failure makes the wait longer, one try is free after the wait, and the right password resets all."""
    logins = Logins(users, FailedLogins(open_metadata(), clock))
    for _ in range(FREE_FAILURES):
        await tried(logins)
    waits = []
    for wait_s in (1, 2, 4):
        clock.now_us += wait_s * SECOND_US - 1
        waits.append(await tried(logins, "right"))
        clock.now_us += 1
        waits.append(await tried(logins))
    clock.now_us += MAX_WAIT_US
    right = await tried(logins, "right")
    after = [await tried(logins) for _ in range(FREE_FAILURES + 1)]

    assert waits == ["waits", "wrong"] * 3
    assert right == "right"
    assert after == ["wrong"] * FREE_FAILURES + ["waits"]


async def test_failures_are_forgotten_after_a_while_and_never_wait_for_a_clock_that_was_set_back(
    open_metadata: Callable[[], Metadata], clock: Clock
) -> None:
    """Failures are forgotten after a while, and a row from the future does not lock an address out."""
    failed = FailedLogins(open_metadata(), clock)
    for _ in range(2 * FREE_FAILURES):
        await failed.note(ADDRESS)
    clock.now_us += FORGET_FAILURES_US
    still = await failed.of(ADDRESS)
    clock.now_us += 1
    later = await failed.of(ADDRESS)
    await failed.note(ADDRESS)
    again = await failed.of(ADDRESS)
    clock.now_us -= 2 * MAX_WAIT_US

    assert still is not None
    assert still.failures == 2 * FREE_FAILURES
    assert later is None
    assert again is not None
    assert again.failures == 1
    assert await failed.of(ADDRESS) is None


async def test_the_number_of_addresses_is_bounded(open_metadata: Callable[[], Metadata], clock: Clock) -> None:
    """Beyond a limit the oldest addresses are forgotten, and expired rows are deleted at the next failure."""
    failed = FailedLogins(open_metadata(), clock, max_addresses=3)
    for number in range(5):
        clock.now_us += 1
        await failed.note(str(number))
    left = [number for number in range(5) if await failed.of(str(number))]
    clock.now_us += FORGET_FAILURES_US + 1
    await failed.note("last")
    clock.now_us -= FORGET_FAILURES_US

    assert left == [2, 3, 4]
    assert [number for number in range(5) if await failed.of(str(number))] == []


class Watched:
    """The metadata of a test, which counts writes and fails them on request."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.writes = 0
        self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metadata, name)

    def write(self, *job: Any, **options: Any) -> Awaitable[Any]:
        self.writes += 1
        if self.full:
            raise Full("no space left")
        return self._metadata.write(*job, **options)


async def test_a_login_that_succeeds_at_once_writes_nothing(
    open_metadata: Callable[[], Metadata], users: UserDirectory, clock: Clock
) -> None:
    """A successful login writes only if it follows failures, whose row it removes."""
    watched = Watched(open_metadata())
    logins = Logins(users, FailedLogins(watched, clock))  # type: ignore[arg-type]  # the rest by __getattr__
    await tried(logins, "right")
    at_once = watched.writes
    await tried(logins, "wrong")
    failed = watched.writes
    await Logins(users, FailedLogins(watched, clock)).verify("ci", "right", ADDRESS)  # type: ignore[arg-type]  # as above

    assert (at_once, failed, watched.writes) == (0, 1, 2)


async def test_a_full_disk_gives_no_more_tries(
    open_metadata: Callable[[], Metadata], users: UserDirectory, clock: Clock
) -> None:
    """If a failed login can't be written, it is counted in the process."""
    watched = Watched(open_metadata())
    watched.full = True
    logins = Logins(users, FailedLogins(watched, clock))  # type: ignore[arg-type]  # the rest by __getattr__
    results = [await tried(logins) for _ in range(FREE_FAILURES + 1)]

    assert results == ["wrong"] * FREE_FAILURES + ["waits"]
