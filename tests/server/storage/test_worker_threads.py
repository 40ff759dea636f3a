"""Worker pools: work for an event loop, done in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from boltseal.server.storage.worker_threads import WorkerPool


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
