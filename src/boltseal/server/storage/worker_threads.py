"""Threads that work for an event loop, with one hand-over to the thread and one back.

`run_in_executor` makes two futures and a lock for every job and passes the result on in three steps. A small push goes to a
thread three times; with this module it costs a fifth less.

- Jobs of a pool begin in the order in which they were launched. A launched job is done also when its caller gave up; the
  owner of what the job uses waits for its end (`local_upload.wait_until_done`).
- A closed pool has done all of its jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from boltseal.errors import Unavailable

Result = TypeVar("Result")


async def finish_in_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Run `work` in a thread. If the caller is cancelled, wait for the end of `work` before CancelledError is raised.

    `asyncio.to_thread` returns at once when it is cancelled, while its thread goes on with what the caller then closes.
    Further cancellations change nothing: a caller that is awaited by a cancelled task gets a second one.
    """
    context = contextvars.copy_context()
    # a future and no task: the end of an event loop cancels all tasks
    job = asyncio.get_running_loop().run_in_executor(None, partial(context.run, work, *arguments))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({job})
        if not job.cancelled():
            job.exception()  # it is of no use any more, and must not be reported as never retrieved
        raise


def deliver(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Settle a future of an event loop from another thread. Ignores a future that is settled, or whose loop is closed."""
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


class WorkerPool:
    """A pool of threads, which are started when they are first needed."""

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._most = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._closed = False

    def launch(self, work: Callable[..., object], *arguments: object) -> asyncio.Future[Any]:
        """Run `work` in a thread and return its future. Called on the event loop's thread. Raises: Unavailable: the pool is closed."""
        if self._closed:
            # A request outlives its server.
            raise Unavailable("the registry is shutting down; try again")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, arguments, future))
        if len(self._threads) < self._most:
            self._start_thread()
        return future

    def close(self) -> None:
        """Wait for all launched jobs, then end the threads. Idempotent."""
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
            except BaseException as raised:  # noqa: BLE001 - the outermost frame of this thread: the caller must get the error
                result, error = None, raised
            deliver(job.future, result, error)
            del job, result, error  # otherwise they are kept until the next job
