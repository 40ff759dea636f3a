"""Single-flight: concurrent requests share one task, a failure is not kept, and no result goes to another key."""

from __future__ import annotations

import asyncio

import pytest

from boltseal.server.mirror.single_flight import SingleFlight


async def test_concurrent_requests_share_the_work() -> None:
    """Concurrent requests for one key share one task and get the same result."""
    single_flight: SingleFlight[str, int] = SingleFlight()
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        return begun

    assert await asyncio.gather(*(single_flight.once("key", work) for _ in range(5))) == [1] * 5
    assert await single_flight.once("key", work) == 2


async def test_work_that_has_just_ended_is_not_taken_for_new_work() -> None:
    """A request after the end of a task, but before its removal, starts a new task."""
    single_flight: SingleFlight[str, int] = SingleFlight()
    results = iter(range(10))

    async def work() -> int:
        await asyncio.sleep(0)
        return next(results)

    first = single_flight.begin("key", work)
    while not first.done():  # noqa: ASYNC110 - the moment before the loop's callbacks run
        await asyncio.sleep(0)
    second = single_flight.begin("key", work)
    await asyncio.sleep(0)
    third = single_flight.begin("key", work)

    assert second is not first
    assert await third == await second == 1


async def test_all_waiting_requests_get_a_failure_and_it_is_not_kept() -> None:
    """All waiting requests get the task's error, and the next request starts anew."""
    single_flight: SingleFlight[str, int] = SingleFlight()

    async def fails() -> int:
        raise ValueError("no")

    async def works() -> int:
        return 1

    answers = await asyncio.gather(*(single_flight.once("key", fails) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [ValueError] * 3
    assert await single_flight.once("key", works) == 1


async def test_a_cancelled_request_does_not_cancel_the_work() -> None:
    """Cancelling one request does not cancel the task for which others wait."""
    single_flight: SingleFlight[str, int] = SingleFlight()
    go_on = asyncio.Event()

    async def work() -> int:
        await go_on.wait()
        return 1

    leaving, staying = (asyncio.create_task(single_flight.once("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()

    assert await staying == 1


async def test_aclose_cancels_all_work() -> None:
    """`aclose` cancels all tasks, so that no request stays waiting."""
    single_flight: SingleFlight[str, int] = SingleFlight()

    async def work() -> int:
        await asyncio.Event().wait()
        return 1

    waiting = asyncio.create_task(single_flight.once("key", work))
    await asyncio.sleep(0)
    await single_flight.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting
