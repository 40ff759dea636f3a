"""The jobs that wait for the writer thread: one queue for each repository, served round-robin.

A group takes one job of each repository queue, then the next one of each. So a repository with ten thousand waiting writes
delays a write of another repository by one group. Jobs of one repository keep their order; jobs without a repository share
one queue.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata.protocol import Job, WriteQueue


@dataclass(frozen=True, slots=True, eq=False)
class WaitingJob:
    """A job and its caller.

    `is_unwanted`: whether the caller gave up. `settle`: takes the result or the error. `limited`: whether the time budget
    applies. `since_s`: when it was handed in (monotonic).
    """

    job: Job[Any]
    is_unwanted: Callable[[], bool]
    settle: Callable[[Any, BaseException | None], None]
    durable: bool = True
    repository: str = ""
    limited: bool = True
    since_s: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """The function that made the job, for the log."""
        job: Any = self.job
        while isinstance(job, partial):
            job = job.func
        return str(getattr(job, "__qualname__", type(job).__name__)).partition(".<locals>")[0]


class FairQueue:
    """The waiting and running jobs of one writer thread. Callable in any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._repository_queues: OrderedDict[str, deque[WaitingJob]] = OrderedDict()
        self._unsettled: dict[WaitingJob, None] = {}
        """Every job that waits or runs, the oldest first."""
        self._closed = False

    def put(self, job: WaitingJob) -> None:
        """Add a job. Raises: Unavailable: the queue is closed."""
        with self._changed:
            if self._closed:
                raise Unavailable("the registry is shutting down: nothing was changed; try again")
            self._repository_queues.setdefault(job.repository, deque()).append(job)
            self._unsettled[job] = None
            self._changed.notify()

    def take(self, limit: int) -> list[WaitingJob]:
        """Wait for jobs and return at most `limit` of them, round-robin over the repositories; none when closed and empty."""
        group: list[WaitingJob] = []
        with self._changed:
            self._changed.wait_for(lambda: self._repository_queues or self._closed)
            while self._repository_queues and len(group) < limit:
                repository, jobs = self._repository_queues.popitem(last=False)
                group.append(jobs.popleft())
                if jobs:
                    self._repository_queues[repository] = jobs
        return group

    def put_back(self, jobs: Iterable[WaitingJob]) -> None:
        """Return jobs that were taken and not begun. They are the first ones of the next group."""
        with self._changed:
            for job in reversed(list(jobs)):
                self._repository_queues.setdefault(job.repository, deque()).appendleft(job)
                self._repository_queues.move_to_end(job.repository, last=False)

    def remove(self, jobs: Iterable[WaitingJob]) -> None:
        """Forget jobs that are committed, refused or unwanted."""
        with self._changed:
            for job in jobs:
                self._unsettled.pop(job, None)

    def close(self) -> None:
        """Take no more jobs. Those in the queue can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def state(self) -> WriteQueue:
        """The number of jobs that wait or run, and how long the oldest has waited."""
        with self._changed:
            oldest = next(iter(self._unsettled), None)
            return (
                WriteQueue() if oldest is None else WriteQueue(len(self._unsettled), time.monotonic() - oldest.since_s)
            )
