"""The lock that groups get in turn: one holder at a time, a group's crowd delays the others by one task, and none is lost."""

from __future__ import annotations

import asyncio

from boltseal.commands.fair_lock import FairLock


class Runs:
    """Tasks that hold the lock for a moment. `order`: their names as they got it."""

    def __init__(self) -> None:
        self.lock, self.order, self.holders = FairLock(), list[str](), 0

    async def run(self, group: str, name: str) -> None:
        async with self.lock.taken(group):
            self.holders += 1
            try:
                assert self.holders == 1
                await asyncio.sleep(0)
                self.order.append(name)
            finally:
                self.holders -= 1

    def begin(self, group: str, *names: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.run(group, name)) for name in names]


async def test_a_group_with_many_tasks_delays_another_by_one_of_them() -> None:
    """The groups get the lock one after another; within a group the tasks keep their order."""
    runs = Runs()
    tasks = runs.begin("a", "a1", "a2", "a3", "a4") + runs.begin("b", "b1", "b2") + runs.begin("c", "c1")
    await asyncio.gather(*tasks)

    assert runs.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_a_cancelled_task_passes_the_lock_on() -> None:
    """Tasks that are cancelled while they wait, or in the moment in which they get the lock, stop no other."""
    runs = Runs()
    async with runs.lock.taken("a"):
        tasks = runs.begin("a", "a1", "a2", "a3")
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
    tasks[0].cancel()  # it has the lock now, and does not know it yet
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.wait_for(runs.run("b", "b1"), 5)

    assert [type(each) for each in done] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]
    assert runs.order == ["a3", "b1"]


async def test_an_error_inside_the_block_passes_the_lock_on() -> None:
    """The next task gets the lock, and then it is free."""
    runs = Runs()

    async def fail() -> None:
        async with runs.lock.taken("a"):
            await asyncio.sleep(0)
            raise ValueError

    failed = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.gather(failed, *runs.begin("a", "a1"), return_exceptions=True)
    await asyncio.wait_for(runs.run("b", "b1"), 5)

    assert runs.order == ["a1", "b1"]
