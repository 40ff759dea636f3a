"""What `Generation`, `InterprocessLock` and `Leases` promise (`server.storage.coordination.protocol`), on each implementation.

A second object on the same store acts as another process; where the end of a process matters, a real process is
started.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock, LockNotAcquired, LockUnusable
from boltseal.server.storage.coordination.protocol import Generation, InterprocessLock, Leases
from tests.fakes.disk import FailingDisk

HOLDS_LOCK = """
import asyncio, sys
from pathlib import Path
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock

async def main():
    async with FileInterprocessLock(Path(sys.argv[1])).taken("tag", 0):
        print("taken", flush=True)
        await asyncio.sleep(60)  # until it is killed

asyncio.run(main())
"""
HOLDS_LEASE = """
import sys, time
from pathlib import Path
from boltseal.server.storage.coordination.file_leases import FileLeases

lease = FileLeases(Path(sys.argv[1])).acquire("work")
print(lease.epoch, flush=True)
time.sleep(60)  # until it is killed
"""


@pytest.fixture(params=["file"])
def open_generation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Generation]]:
    opened: list[Generation] = []

    def open_() -> Generation:
        opened.append(FileGeneration.open(tmp_path / "generation"))
        return opened[-1]

    yield open_
    for generation in opened:
        generation.close()


@pytest.fixture(params=["file"])
def open_lock(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], InterprocessLock]]:
    opened: list[InterprocessLock] = []

    def open_() -> InterprocessLock:
        opened.append(FileInterprocessLock(tmp_path))
        return opened[-1]

    yield open_
    for lock in opened:
        lock.close()


@pytest.fixture(params=["file"])
def open_leases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Leases]]:
    opened: list[Leases] = []

    def open_() -> Leases:
        opened.append(FileLeases(tmp_path))
        return opened[-1]

    yield open_
    for leases in opened:
        leases.close()


def start(program: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process and wait until it has its lock."""
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.kill()
    process.wait()
    process.stdout.close()


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


def test_a_second_writer_waits_for_the_end_of_the_first(open_generation: Callable[[], Generation]) -> None:
    """Between COMMIT and `end` a second writer waits, since its COMMIT would otherwise happen under an even number."""
    one, other = open_generation(), open_generation()
    one.begin()
    thread, begun = in_background(other.begin)
    overtook = begun.wait(0.2)
    one.end()
    thread.join(5)
    during_the_next = one.read()
    other.end()

    assert not overtook
    assert during_the_next % 2 == 1
    assert one.read() % 2 == 0


def test_every_process_reads_an_odd_number_during_a_commit(open_generation: Callable[[], Generation]) -> None:
    """During a commit every process reads an odd number, so that none uses or fills a cache."""
    one, other = open_generation(), open_generation()
    before = other.read()
    one.begin()
    during = other.read()
    one.end()

    assert [number % 2 for number in (before, during, other.read())] == [0, 1, 0]
    assert other.read() != before


def test_the_number_is_another_after_each_writer(open_generation: Callable[[], Generation]) -> None:
    """Writers of several processes never leave a number that was used before."""
    one, other = open_generation(), open_generation()
    seen = [one.read()]
    for writer in (one, other, one):
        writer.begin()
        writer.end()
        seen.append(one.read())

    assert seen == sorted(set(seen))
    assert all(number % 2 == 0 for number in seen)


def test_a_writer_that_died_blocks_no_other(open_generation: Callable[[], Generation]) -> None:
    """A writer killed between `begin` and `end` leaves the number odd and its lock released."""
    here = open_generation()
    child = os.fork()
    if child == 0:
        open_generation().begin()
        os._exit(0)
    os.waitpid(child, 0)
    left = here.read()
    here.repair()
    repaired = here.read()
    here.begin()
    here.end()

    assert left % 2 == 1
    assert repaired > left
    assert repaired % 2 == 0
    assert here.read() > repaired


def test_a_start_does_not_interrupt_a_living_writer(open_generation: Callable[[], Generation]) -> None:
    """`repair` beside a writer between COMMIT and `end` waits, and then finds nothing to repair."""
    one, starting = open_generation(), open_generation()
    one.begin()
    thread, repaired = in_background(starting.repair)
    overtook = repaired.wait(0.2)
    one.end()
    after = one.read()
    thread.join(5)

    assert not overtook
    assert one.read() == after


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


async def test_a_lock_ends_with_its_process(open_lock: Callable[[], InterprocessLock], tmp_path: Path) -> None:
    """A killed process releases its lock."""
    other = await asyncio.to_thread(start, HOLDS_LOCK, tmp_path)
    lock = open_lock()
    try:
        with pytest.raises(LockNotAcquired):
            async with lock.taken("tag", 0.05):
                pass
    finally:
        await asyncio.to_thread(kill, other)
    async with lock.taken("tag", 5):
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


def test_a_lease_ends_with_its_process(open_leases: Callable[[], Leases], tmp_path: Path) -> None:
    """A killed process's lease is given to another under a higher epoch."""
    other = start(HOLDS_LEASE, tmp_path)
    leases = open_leases()
    try:
        refused = leases.acquire("work")
    finally:
        kill(other)
    lease = leases.acquire("work")

    assert refused is None
    assert lease is not None
    assert lease.epoch > 1


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
