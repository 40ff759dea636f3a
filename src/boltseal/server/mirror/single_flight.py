"""One piece of work for all who ask for the same at the same time, in this process.

Who leaves does not end the work: the others wait for it, and its result is kept by the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """What is under way, by what it is for. Ended with `aclose`."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Result]] = {}

    async def once(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of `work`, begun here or by somebody before. Raises what it raises."""
        return await asyncio.shield(self.begin(key, work))

    def begin(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> asyncio.Task[Result]:
        """The work itself."""
        task = self._tasks.get(key)
        if task is None or task.done():  # done, and not yet taken out of here
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    async def aclose(self) -> None:
        """End all that is under way, and wait for it."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    def _ended(self, key: Key, task: asyncio.Task[Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # looked at: whoever asked may have left
