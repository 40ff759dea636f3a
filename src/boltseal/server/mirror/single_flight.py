"""Runs one task for all concurrent requests of this process that need the same result.

A client that disconnects does not cancel the task: others wait for it, and the store keeps its result.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """The running tasks by key. Ended with `aclose`."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Result]] = {}

    async def once(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return the result of `work`, started now or already running for this key. Raises what it raises."""
        return await asyncio.shield(self.begin(key, work))

    def begin(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> asyncio.Task[Result]:
        """Return the running task of a key; start `work` if there is none."""
        task = self._tasks.get(key)
        if task is None or task.done():  # done, but not removed yet
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def aclose(self) -> None:
        """Cancel all running tasks and wait for them."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    def _ended(self, key: Key, task: asyncio.Task[Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieved here, because the client may have disconnected
