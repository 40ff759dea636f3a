"""Threads that work for an event loop: a hand-over there, a hand-over back, and nothing else.

`run_in_executor` makes two futures and a lock for every job and passes the result on in three steps. A small push
goes to a thread three times; with this it costs a fifth less. Rules kept:

- Jobs of a lane begin in the order in which they were launched. A job that was launched is done, also when nobody
  waits for it any more: whoever owns what it touches waits for its end (`upload_local.ended`).
- A lane that was closed has done everything it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def deliver(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Settles a future of an event loop from another thread. One that nobody waits for, or whose loop ended, is let be."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[..., object]
    arguments: tuple[object, ...]
    future: asyncio.Future[Any]


class WorkerThread:
    """A number of threads, made when they are first needed."""

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._most = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._closed = False

    def launch(self, work: Callable[..., object], *arguments: object) -> asyncio.Future[Any]:
        """Does the work in a thread. Called on an event loop's thread, whose future this returns."""
        if self._closed:
            raise RuntimeError(f"the lane {self._name} is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, arguments, future))
        if len(self._threads) < self._most:
            self._start_thread()
        return future

    def close(self) -> None:
        """Waits for all that was launched, then ends the threads. Idempotent."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result, error = job.work(*job.arguments), None
            except BaseException as raised:  # noqa: BLE001 - the outermost shell of this thread: whoever waits hears of it
                result, error = None, raised
            deliver(job.future, result, error)
            del job, result, error  # or they would be kept until the next job comes
