"""One piece of work for many who ask: begun once, ended for all, and never taken for another."""

from __future__ import annotations

import asyncio

import pytest

from boltseal.server.mirror.single_flight import SingleFlight


async def test_who_asks_at_once_shares_the_work() -> None:
    """And its result."""
    flights: SingleFlight[str, int] = SingleFlight()
    begun = 0

    async def work() -> int:
        nonlocal begun
        begun += 1
        await asyncio.sleep(0)
        return begun

    assert await asyncio.gather(*(flights.once("key", work) for _ in range(5))) == [1] * 5
    assert await flights.once("key", work) == 2


async def test_work_that_has_just_ended_is_not_taken_for_new_work() -> None:
    """Whoever asks in the moment between its end and its being forgotten gets work of their own, which others then share."""
    flights: SingleFlight[str, int] = SingleFlight()
    results = iter(range(10))

    async def work() -> int:
        await asyncio.sleep(0)
        return next(results)

    first = flights.begin("key", work)
    while not first.done():  # noqa: ASYNC110 - the moment is meant, before the loop calls anybody back
        await asyncio.sleep(0)
    second = flights.begin("key", work)
    await asyncio.sleep(0)
    third = flights.begin("key", work)

    assert second is not first
    assert await third == await second == 1


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    """The next may succeed."""
    flights: SingleFlight[str, int] = SingleFlight()

    async def fails() -> int:
        raise ValueError("no")

    async def works() -> int:
        return 1

    answers = await asyncio.gather(*(flights.once("key", fails) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [ValueError] * 3
    assert await flights.once("key", works) == 1


async def test_who_leaves_does_not_end_the_work() -> None:
    """Others wait for it."""
    flights: SingleFlight[str, int] = SingleFlight()
    go_on = asyncio.Event()

    async def work() -> int:
        await go_on.wait()
        return 1

    leaving, staying = (asyncio.create_task(flights.once("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    go_on.set()

    assert await staying == 1


async def test_the_end_ends_all_of_it() -> None:
    """Nobody is left waiting."""
    flights: SingleFlight[str, int] = SingleFlight()

    async def work() -> int:
        await asyncio.Event().wait()
        return 1

    waiting = asyncio.create_task(flights.once("key", work))
    await asyncio.sleep(0)
    await flights.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting
