"""A lock that groups of waiting tasks get in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLock:
    """A lock for one event loop. A group with a thousand waiting tasks delays a task of another group by one of them.

    Within a group the tasks get the lock in the order of their requests.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def taken(self, group: str) -> AsyncIterator[None]:
        """Hold the lock inside the block."""
        if self._is_held:
            await self._passed_on(group)
        self._is_held = True
        try:
            yield
        finally:
            self._pass_on()

    async def _passed_on(self, group: str) -> None:
        """Wait until another task passes the lock on to this one."""
        passed_on = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(passed_on)
        try:
            await passed_on
        except asyncio.CancelledError:
            if passed_on.done() and not passed_on.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give the lock to the next waiting task of the group that waits longest since its last turn; else it is free."""
        while self._waiting:
            group, tasks = self._waiting.popitem(last=False)
            first = tasks.popleft()
            if tasks:
                self._waiting[group] = tasks
            if not first.done():
                first.set_result(None)
                return
        self._is_held = False
