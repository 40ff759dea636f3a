"""Lanes: work for an event loop, done in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from boltseal.server.storage.worker_threads import WorkerPool


async def test_what_the_work_returns_comes_back() -> None:
    """To the loop that launched it."""
    lane = WorkerPool(2, "lane")
    assert await asyncio.gather(*(lane.launch(pow, 2, n) for n in range(20))) == [2**n for n in range(20)]
    lane.close()


async def test_what_the_work_raises_comes_back() -> None:
    """And the thread goes on."""
    lane = WorkerPool(1, "lane")
    with pytest.raises(ZeroDivisionError):
        await lane.launch(divmod, 1, 0)

    assert await lane.launch(divmod, 7, 2) == (3, 1)
    lane.close()


async def test_work_that_nobody_waits_for_any_more_is_done() -> None:
    """A launched job may hold a file that others must not have before its end."""
    lane, go, done = WorkerPool(1, "lane"), threading.Event(), threading.Event()
    first = lane.launch(go.wait)
    second = lane.launch(done.set)
    second.cancel()
    go.set()
    await first
    lane.close()

    assert done.is_set()


async def test_a_closed_lane_has_done_what_it_was_given_and_takes_no_more() -> None:
    """So a store that was closed touches no file afterwards."""
    done: list[int] = []
    lane = WorkerPool(2, "lane")
    for number in range(50):
        lane.launch(done.append, number)
    lane.close()

    assert sorted(done) == list(range(50))
    with pytest.raises(RuntimeError, match="closed"):
        lane.launch(done.append, 50)
    lane.close()


def test_a_loop_that_ended_before_its_work_is_no_error() -> None:
    """At the end of a server nobody is there to be told."""
    lane, go = WorkerPool(1, "lane"), threading.Event()

    async def leave() -> None:
        lane.launch(go.wait)

    asyncio.run(leave())
    go.set()
    lane.close()
