"""An engine that is connected in a thread of its own, for callers that block: they have no event loop, or are inside one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import Engine, connected

T = TypeVar("T")

_Work = tuple[Callable[[Engine], Awaitable[Any]], Future[Any]]


class EngineThread:
    """One connection to an engine, from `start` to `stop`. Calls run one after the other."""

    def __init__(self, address: EngineAddress) -> None:
        self._address = address
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Queue[_Work | None]]] = Future()
        self._thread = threading.Thread(target=self._run, name="boltseal-engine", daemon=True)

    def start(self) -> None:
        """Connect. Raises: as `connected`."""
        self._thread.start()
        self._ready.result()

    def call(self, work: Callable[[Engine], Awaitable[T]]) -> T:
        """Run `work` with the engine, and return its result or raise its error."""
        loop, queue = self._ready.result()
        done: Future[T] = Future()
        loop.call_soon_threadsafe(queue.put_nowait, (work, done))
        return done.result()

    def stop(self) -> None:
        """Disconnect. Work that runs is finished before."""
        if self._thread.is_alive() and self._ready.done() and self._ready.exception() is None:
            loop, queue = self._ready.result()
            loop.call_soon_threadsafe(queue.put_nowait, None)
            self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        queue: asyncio.Queue[_Work | None] = asyncio.Queue()
        try:
            async with connected(self._address) as engine:
                self._ready.set_result((asyncio.get_running_loop(), queue))
                while (item := await queue.get()) is not None:
                    work, done = item
                    try:
                        done.set_result(await work(engine))
                    except BaseException as error:  # noqa: BLE001 - the caller gets it
                        done.set_exception(error)
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)
