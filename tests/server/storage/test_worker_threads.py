"""Worker pools: work of an event loop, done in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from boltseal.errors import Unavailable
from boltseal.server.storage.worker_threads import WorkerPool, finish_in_thread


async def test_the_result_of_a_job_is_returned() -> None:
    """The result of a job is returned to the event loop that started it."""
    pool = WorkerPool(2, "pool")
    assert await asyncio.gather(*(pool.launch(pow, 2, n) for n in range(20))) == [2**n for n in range(20)]
    pool.close()


async def test_the_exception_of_a_job_is_raised() -> None:
    """An exception of a job is raised in its caller, and the thread continues."""
    pool = WorkerPool(1, "pool")
    with pytest.raises(ZeroDivisionError):
        await pool.launch(divmod, 1, 0)

    assert await pool.launch(divmod, 7, 2) == (3, 1)
    pool.close()


async def test_a_job_whose_caller_gave_up_is_completed() -> None:
    """A started job is completed although its caller gave up, because it may have a file locked."""
    pool, go, done = WorkerPool(1, "pool"), threading.Event(), threading.Event()
    first = pool.launch(go.wait)
    second = pool.launch(done.set)
    second.cancel()
    go.set()
    await first
    pool.close()

    assert done.is_set()


async def test_a_closed_pool_has_completed_its_jobs() -> None:
    """A closed pool has completed its jobs and accepts no more, so that a closed store touches no file."""
    done: list[int] = []
    pool = WorkerPool(2, "pool")
    for number in range(50):
        pool.launch(done.append, number)
    pool.close()

    assert sorted(done) == list(range(50))
    with pytest.raises(Unavailable, match="shutting down"):
        pool.launch(done.append, 50)
    pool.close()


def test_a_loop_that_ended_before_its_work_is_no_error() -> None:
    """If the event loop has ended before a job, the job's result is dropped without an error."""
    pool, go = WorkerPool(1, "pool"), threading.Event()

    async def leave() -> None:
        pool.launch(go.wait)

    asyncio.run(leave())
    go.set()
    pool.close()


async def test_a_cancelled_caller_waits_for_the_end_of_its_thread() -> None:
    """A cancelled caller waits until its thread has ended, since it may close what the thread uses."""
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(finish_in_thread(work))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended.is_set()


async def test_a_caller_that_is_cancelled_again_still_waits() -> None:
    """A caller that is cancelled a second time still waits for its thread."""
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(finish_in_thread(work))
    await asyncio.to_thread(started.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    waited = not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert waited
    assert ended.is_set()


async def test_an_error_in_the_thread_of_a_cancelled_caller_is_dropped() -> None:
    """An exception in the thread of a cancelled caller is dropped, and not reported at garbage collection."""
    started, may_end = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        may_end.wait(10)
        raise ValueError("of no use any more")

    task = asyncio.create_task(finish_in_thread(work))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
