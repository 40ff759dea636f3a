"""Worker pools: work for an event loop, done in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from boltseal.server.storage.worker_threads import WorkerPool, finish_in_thread


async def test_what_the_work_returns_comes_back() -> None:
    """To the loop that launched it."""
    pool = WorkerPool(2, "pool")
    assert await asyncio.gather(*(pool.launch(pow, 2, n) for n in range(20))) == [2**n for n in range(20)]
    pool.close()


async def test_what_the_work_raises_comes_back() -> None:
    """And the thread goes on."""
    pool = WorkerPool(1, "pool")
    with pytest.raises(ZeroDivisionError):
        await pool.launch(divmod, 1, 0)

    assert await pool.launch(divmod, 7, 2) == (3, 1)
    pool.close()


async def test_work_whose_caller_gave_up_is_done() -> None:
    """A launched job may hold a file that others must not have before its end."""
    pool, go, done = WorkerPool(1, "pool"), threading.Event(), threading.Event()
    first = pool.launch(go.wait)
    second = pool.launch(done.set)
    second.cancel()
    go.set()
    await first
    pool.close()

    assert done.is_set()


async def test_a_closed_pool_has_done_its_jobs_and_accepts_no_more() -> None:
    """So a store that was closed touches no file afterwards."""
    done: list[int] = []
    pool = WorkerPool(2, "pool")
    for number in range(50):
        pool.launch(done.append, number)
    pool.close()

    assert sorted(done) == list(range(50))
    with pytest.raises(RuntimeError, match="closed"):
        pool.launch(done.append, 50)
    pool.close()


def test_a_loop_that_ended_before_its_work_is_no_error() -> None:
    """At the end of a server the event loop may be closed already."""
    pool, go = WorkerPool(1, "pool"), threading.Event()

    async def leave() -> None:
        pool.launch(go.wait)

    asyncio.run(leave())
    go.set()
    pool.close()


async def test_a_cancelled_caller_waits_for_the_end_of_its_thread() -> None:
    """What the thread uses may be closed as soon as the cancellation is raised, so the thread has ended by then."""
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


async def test_a_caller_that_is_cancelled_again_waits_all_the_same() -> None:
    """A task that awaits the caller passes its own cancellation on."""
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
    """The cancellation is what the caller gets, and nothing is reported when the error is collected as garbage."""
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
