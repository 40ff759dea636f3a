"""What `Generation`, `InterprocessLock` and `Leases` promise (`server.storage.coordination.protocol`), on each implementation.

A second object on the same store acts as another process; where the end of a process matters, a real process is
started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock, LockNotAcquired, LockUnusable
from boltseal.server.storage.coordination.protocol import Generation, InterprocessLock, LeaseLost, Leases
from tests.coordination_stores import (
    FileStore,
    PostgresStore,
    change,
    confirmed,
    create_tables,
    ended,
    holder,
    store_of,
)
from tests.fakes.disk import FailingDisk
from tests.fakes.statements import NoStatements
from tests.polling import wait_until
from tests.storage_servers import Postgres


@pytest.fixture(scope="module")
def template(postgres_server: Postgres) -> str:
    """Return the name of a database that has the tables."""
    name = postgres_server.create_database()
    create_tables(postgres_server.url(name))
    return name


@pytest.fixture(params=["files", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore | PostgresStore:
    if request.param == "files":
        return store_of(str(tmp_path))
    server: Postgres = request.getfixturevalue("postgres_server")
    return store_of(server.url(server.create_database(request.getfixturevalue("template"))))


@pytest.fixture
def open_generation(store: FileStore | PostgresStore) -> Iterator[Callable[[], Generation]]:
    opened: list[Generation] = []

    def open_() -> Generation:
        opened.append(store.open_generation())
        return opened[-1]

    yield open_
    for generation in opened:
        generation.close()


@pytest.fixture
def open_lock(store: FileStore | PostgresStore) -> Iterator[Callable[[], InterprocessLock]]:
    opened: list[InterprocessLock] = []

    def open_() -> InterprocessLock:
        opened.append(store.open_lock())
        return opened[-1]

    yield open_
    for lock in opened:
        lock.close()


@pytest.fixture
def open_leases(store: FileStore | PostgresStore) -> Iterator[Callable[[], Leases]]:
    opened: list[Leases] = []

    def open_() -> Leases:
        opened.append(store.open_leases())
        return opened[-1]

    yield open_
    for leases in opened:
        leases.close()


def in_background(work: Callable[[], None]) -> tuple[threading.Thread, threading.Event]:
    """Run the work in a thread; the event is set at its end."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


# Generation


def test_a_second_writer_waits_for_the_commit_of_the_first(
    store: FileStore | PostgresStore, open_generation: Callable[[], Generation]
) -> None:
    """A second writer does not commit between `begin` and COMMIT of the first, whose numbers would be the same."""
    one, other = open_generation(), open_generation()
    with store.transaction() as statements:
        one.begin(statements)
        thread, changed = in_background(lambda: change(other, store.transaction()))
        overtook = changed.wait(0.5)
    ended(one)
    thread.join(5)

    assert not overtook
    assert changed.is_set()


def test_after_the_end_of_a_change_no_process_reads_the_number_from_before(
    store: FileStore | PostgresStore, open_generation: Callable[[], Generation]
) -> None:
    """When `end` returns, no process uses what it cached before the COMMIT, also what it cached during the change."""
    one, other = open_generation(), open_generation()
    before = [confirmed(one), confirmed(other)]
    with store.transaction() as statements:
        one.begin(statements)
        before += [one.read(), other.read()]
    ended(one)
    after = [one.read(), other.read()]

    assert not set(before) & set(after)
    assert confirmed(one) == confirmed(other)
    assert confirmed(one) not in before


def test_many_changes_of_several_processes_never_repeat_a_number(
    store: FileStore | PostgresStore, open_generation: Callable[[], Generation]
) -> None:
    """Writers of several processes never leave a number that was used before."""
    one, other = open_generation(), open_generation()
    seen = [confirmed(one)]
    for writer in (one, other, one):
        change(writer, store.transaction())
        seen.append(confirmed(one))

    assert seen == sorted(set(seen))


def test_a_writer_that_died_blocks_no_other(
    store: FileStore | PostgresStore, open_generation: Callable[[], Generation]
) -> None:
    """After a writer was killed between `begin` and COMMIT, others change the number, and caches are used again."""
    here = open_generation()
    before = confirmed(here)
    with holder("generation", store):
        pass
    if isinstance(here, FileGeneration):
        here.repair()
    repaired = confirmed(here)
    change(here, store.transaction())

    assert repaired >= before
    assert confirmed(here) > repaired


def test_a_change_that_is_undone_leaves_caches_usable(
    store: FileStore | PostgresStore, open_generation: Callable[[], Generation]
) -> None:
    """After a transaction failed, the number becomes even again."""
    here = open_generation()
    with suppress(ZeroDivisionError), store.transaction() as statements:
        here.begin(statements)
        raise ZeroDivisionError
    ended(here)

    assert confirmed(here) % 2 == 0


def test_the_file_is_odd_during_a_commit(tmp_path: Path) -> None:
    """On one host every process reads an odd number during a commit, so that none fills a cache in vain."""
    one, other = FileGeneration.open(tmp_path / "generation"), FileGeneration.open(tmp_path / "generation")
    before = other.read()
    one.begin(NoStatements())
    during = other.read()
    ended(one)

    assert [number % 2 for number in (before, during, other.read())] == [0, 1, 0]
    assert other.read() != before
    one.close()
    other.close()


def test_a_start_does_not_interrupt_a_living_writer(tmp_path: Path) -> None:
    """`repair` beside a writer between COMMIT and `end` waits, and then finds nothing to repair."""
    one, starting = FileGeneration.open(tmp_path / "generation"), FileGeneration.open(tmp_path / "generation")
    one.begin(NoStatements())
    thread, repaired = in_background(starting.repair)
    overtook = repaired.wait(0.2)
    ended(one)
    after = one.read()
    thread.join(5)

    assert not overtook
    assert one.read() == after
    one.close()
    starting.close()


# InterprocessLock


async def test_one_holder_at_a_time_in_a_process_and_over_processes(open_lock: Callable[[], InterprocessLock]) -> None:
    """Tasks that share a lock object exclude each other, and those of another object or process."""
    here, there = open_lock(), open_lock()
    inside, most = 0, 0

    async def work(lock: InterprocessLock) -> None:
        nonlocal inside, most
        async with lock.taken("tag", 10):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)  # the work under the lock
            inside -= 1

    await asyncio.gather(*(work(lock) for lock in (here, there) * 10))

    assert most == 1


async def test_locks_of_other_keys_are_independent(open_lock: Callable[[], InterprocessLock]) -> None:
    """A lock on one key does not affect another key; a taken key is refused after the wait."""
    lock = open_lock()
    async with lock.taken("one", 0), lock.taken("two", 0):
        with pytest.raises(LockNotAcquired):
            async with lock.taken("one", 0.05):
                pass
    async with lock.taken("one", 0):
        pass
    lock.close()
    lock.close()


async def test_a_lock_is_released_by_an_error_in_its_block(open_lock: Callable[[], InterprocessLock]) -> None:
    """An error in a lock's block releases the lock."""
    here, there = open_lock(), open_lock()
    with pytest.raises(ZeroDivisionError):
        async with here.taken("tag", 0):
            raise ZeroDivisionError

    async with there.taken("tag", 0):
        pass


async def test_a_lock_ends_with_its_process(
    store: FileStore | PostgresStore, open_lock: Callable[[], InterprocessLock]
) -> None:
    """A killed process releases its lock."""
    lock = open_lock()
    process = holder("lock", store)
    await asyncio.to_thread(process.__enter__)
    try:
        with pytest.raises(LockNotAcquired):
            async with lock.taken("tag", 0.05):
                pass
    finally:
        await asyncio.to_thread(process.__exit__, None, None, None)
    async with lock.taken("tag", 5):
        pass


async def test_a_task_that_is_cancelled_while_it_waits_leaves_no_lock(
    open_lock: Callable[[], InterprocessLock],
) -> None:
    """A task that is cancelled while it takes a lock does not hold it afterwards."""
    here, there = open_lock(), open_lock()

    async def work() -> None:
        async with here.taken("tag", 10):
            pass

    for pause_s in (0.0, 0.0005, 0.001, 0.002, 0.004):
        task = asyncio.create_task(work())
        await asyncio.sleep(pause_s)  # the moment of the cancellation
        task.cancel()
        await asyncio.wait([task])
        async with there.taken("tag", 5):
            pass


# Leases


def test_one_process_has_the_lease(open_leases: Callable[[], Leases]) -> None:
    """A second process gets the lease only after release; leases of other names are independent."""
    one, other = open_leases(), open_leases()
    lease = one.acquire("work")
    refused, elsewhere = other.acquire("work"), other.acquire("other-work")
    assert lease is not None
    held = lease.held()
    lease.release()
    lease.release()

    assert held
    assert not lease.held()
    assert refused is None
    assert elsewhere is not None
    assert other.acquire("work") is not None


def test_each_lease_has_a_higher_epoch(open_leases: Callable[[], Leases]) -> None:
    """Each lease has a higher epoch, which distinguishes writes of the present holder from earlier ones."""
    epochs = []
    for leases in (open_leases(), open_leases(), open_leases()):
        lease = leases.acquire("work")
        assert lease is not None
        epochs.append(lease.epoch)
        leases.close()
        leases.close()

    assert epochs == sorted(set(epochs))


def test_a_lease_ends_with_its_process(store: FileStore | PostgresStore, open_leases: Callable[[], Leases]) -> None:
    """A killed process's lease is given to another under a higher epoch."""
    leases = open_leases()
    with holder("lease", store):
        refused = leases.acquire("work")
    lease = wait_until(lambda: leases.acquire("work"), "the lease is free", 5)

    assert refused is None
    assert lease is not None
    assert lease.epoch > 1


def test_a_process_has_each_lease_once(open_leases: Callable[[], Leases]) -> None:
    """The holder of a lease gets no second one of that name."""
    leases = open_leases()
    lease = leases.acquire("work")
    second = leases.acquire("work")

    assert lease is not None
    assert second is None
    assert lease.held()


def test_a_transaction_of_a_lost_lease_is_refused(
    store: FileStore | PostgresStore, open_leases: Callable[[], Leases]
) -> None:
    """The holder confirms its lease in a transaction; after another process got it, the transaction is refused."""
    one, other = open_leases(), open_leases()
    lease = one.acquire("work")
    assert lease is not None
    with store.transaction() as statements:
        lease.confirm(statements)
    lease.release()
    next_one = other.acquire("work")
    assert next_one is not None
    with store.transaction() as statements:
        next_one.confirm(statements)
        with pytest.raises(LeaseLost):
            lease.confirm(statements)


def test_a_lease_that_cannot_be_recorded_is_not_given(tmp_path: Path) -> None:
    """If the epoch file can't be written or is no number, the lease is refused."""
    (tmp_path / "broken.lease").write_text("x")

    with pytest.raises(LockUnusable, match="can't be used"):
        FileLeases(tmp_path / "missing").acquire("work")
    with pytest.raises(LockUnusable, match="can't be used"):
        FileLeases(tmp_path).acquire("broken")


async def test_without_a_lock_file_the_work_is_refused(tmp_path: Path) -> None:
    """If a lock file can't be created, the work under the lock is not done."""
    with pytest.raises(LockUnusable, match=r"interprocess\.lock can't be used"):
        async with FileInterprocessLock(tmp_path / "missing").taken("tag", 0):
            pass


@pytest.mark.parametrize("what", ["sync", "sync_folder"])
def test_a_lease_whose_epoch_is_not_durable_is_not_given(tmp_path: Path, what: str) -> None:
    """If the epoch can't be synced to disk, no lease is given, because a power cut could repeat the epoch."""
    disk = FailingDisk()
    leases = FileLeases(tmp_path, disk)
    disk.fail(what)
    with pytest.raises(LockUnusable):
        leases.acquire("work")
    lease = leases.acquire("work")

    assert lease is not None
    leases.close()
