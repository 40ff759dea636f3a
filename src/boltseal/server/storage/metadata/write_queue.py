"""The jobs that wait for the writer thread: a queue for each repository, served round robin.

A group takes one job of each queue, then the next one of each. So a repository with ten thousand waiting writes delays a
write of another repository by one group. Jobs of one queue keep their order; jobs without a repository share a queue.

A repository whose job took long waits `REST` times as long for its next one, while others write too, but never longer than
`LONGEST_REST_S`. So slow jobs of one repository, one after the other, take at most a fifth of the writer's time from the others.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from boltseal.errors import Unavailable
from boltseal.server.storage.coordination.protocol import Lease
from boltseal.server.storage.metadata.protocol import Job, WriteQueue

LONG_S: Final = 0.5
"""A job that took longer makes its repository wait."""
REST: Final = 4
LONGEST_REST_S: Final = 20.0
"""`REST` times what a job may take. One that took longer met a slow database, which is no fault of its repository."""


@dataclass(frozen=True, slots=True, eq=False)
class WaitingJob:
    """A job and its caller.

    `is_unwanted`: whether the caller gave up. `settle`: takes the result or the error. `limited`: whether the time budget
    applies. `lease`: confirmed in the transaction before the job runs. `since_s`: when it was handed in (monotonic).
    """

    job: Job[Any]
    is_unwanted: Callable[[], bool]
    settle: Callable[[Any, BaseException | None], None]
    durable: bool = True
    repository: str = ""
    limited: bool = True
    lease: Lease | None = None
    since_s: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """The function that made the job, for the log."""
        job: Any = self.job
        while isinstance(job, partial):
            job = job.func
        return str(getattr(job, "__qualname__", type(job).__name__)).partition(".<locals>")[0]


class FairQueue:
    """The waiting and running jobs of one writer thread. Callable in any thread. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[WaitingJob]] = OrderedDict()
        self._unsettled: dict[WaitingJob, None] = {}
        """Every job that waits or runs, the oldest first."""
        self._counts = Counter[str]()
        """Number of waiting and running jobs by repository."""
        self._rests: dict[str, float] = {}
        """Until when the next job of a repository waits."""
        self._served: dict[str, float] = {}
        """When a job of a repository that has more of them was done last."""
        self._newest = self._other = ("", -math.inf)
        """The repository of the last job and its time, and those of the last job of another repository."""
        self._closed = False

    def put(self, job: WaitingJob) -> None:
        """Add a job. Raises: Unavailable: the queue is closed."""
        with self._changed:
            if self._closed:
                raise Unavailable("the registry is shutting down: nothing was changed; try again")
            self._queues.setdefault(job.repository, deque()).append(job)
            self._unsettled[job] = None
            self._counts[job.repository] += 1
            if self._newest[0] != job.repository:
                self._other = self._newest
            self._newest = (job.repository, self._clock())
            self._changed.notify()

    def take(self, limit: int) -> list[WaitingJob]:
        """Wait for jobs and return at most `limit` of them, round robin; none when closed and empty."""
        group: list[WaitingJob] = []
        with self._changed:
            while self._queues or not self._closed:
                now_s = self._clock()
                self._rests = {} if self._closed else {name: end for name, end in self._rests.items() if end > now_s}
                while len(group) < limit and (name := self._next()) is not None:
                    queue = self._queues.pop(name)
                    group.append(queue.popleft())
                    if queue:
                        self._queues[name] = queue
                if group:
                    break
                self._changed.wait(min(self._rests.values()) - now_s if self._queues else None)
        return group

    def _next(self) -> str | None:
        return next((name for name in self._queues if name not in self._rests), None)

    def took(self, job: WaitingJob, seconds: float) -> None:
        """Note how long a job ran. After a long one its repository waits, if another one has written meanwhile."""
        with self._changed:
            now_s, last_other = self._clock(), self._other if self._newest[0] == job.repository else self._newest
            others = any(name != job.repository for name in self._queues) or last_other[1] > now_s - REST * seconds
            if job.repository and seconds > LONG_S and others:
                self._rests[job.repository] = now_s + min(REST * seconds, LONGEST_REST_S)

    def put_back(self, jobs: Iterable[WaitingJob]) -> None:
        """Return jobs that were taken and not begun. They are the first ones of the next group."""
        with self._changed:
            for job in reversed(list(jobs)):
                self._queues.setdefault(job.repository, deque()).appendleft(job)
                self._queues.move_to_end(job.repository, last=False)

    def remove(self, jobs: Iterable[WaitingJob]) -> None:
        """Forget jobs that are committed, refused or unwanted."""
        with self._changed:
            now_s = self._clock()
            for job in jobs:
                if job not in self._unsettled:
                    continue
                del self._unsettled[job]
                self._counts[job.repository] -= 1
                self._served[job.repository] = now_s
                if not self._counts[job.repository]:
                    del self._counts[job.repository], self._served[job.repository]

    def close(self) -> None:
        """Take no more jobs. Those in the queue can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def state(self) -> WriteQueue:
        """The number of jobs that wait or run, and how long the oldest has waited for its turn.

        A job behind others of its own repository, or whose repository waits after a long one, has not missed its turn.
        """
        with self._changed:
            first: dict[str, WaitingJob] = {}
            for job in self._unsettled:
                first.setdefault(job.repository, job)
            now_s = self._clock()
            since_s = [
                max(job.since_s, self._served.get(name, 0.0), self._rests.get(name, 0.0)) for name, job in first.items()
            ]
            return WriteQueue(len(self._unsettled), max(0.0, now_s - min(since_s))) if since_s else WriteQueue()
