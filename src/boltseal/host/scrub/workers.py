"""Layers, checked side by side on all cores: which jobs there are, who does them, how fast they may read.

A job is one layer (`layers.check`), done in a process of its own if there is enough to do for that. Layers that several
images share are read once. Memory: each process holds a few pieces of a file and the names of one layer.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from threading import active_count
from typing import Any, Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, LayerResult, check

ALONE_BYTES: Final = 32 * 1024 * 1024
"""Up to so much is read by this process: starting others takes longer."""
POLL_S: Final = 0.2

Progress = Callable[[int, int, int], None]
"""Told now and then: bytes read so far, layers done, layers in all."""


@dataclass(frozen=True, slots=True)
class WorkRate:
    """How hard the machine may be worked. `bytes_per_second`: of all processes together; 0: as fast as it goes."""

    workers: int = 0
    bytes_per_second: int = 0


class Meter:
    """Counts what is read, and waits where it would be more than the rate allows. Shared by processes."""

    def __init__(
        self,
        count: Synchronized[int],
        free_at: Synchronized[float],
        bytes_per_second: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._count = count
        self._free_at = free_at
        self._rate = bytes_per_second
        self._uncounted = 0

    def __call__(self, size: int) -> None:
        self._uncounted += size
        if self._uncounted < 1 << 18 and not self._rate:
            return
        with self._count.get_lock():
            self._count.value += self._uncounted
        if self._rate:
            with self._free_at.get_lock():
                now = self._clock()
                begins = max(now, self._free_at.value)
                self._free_at.value = begins + self._uncounted / self._rate
            if begins > now:
                self._sleep(begins - now)
        self._uncounted = 0


_meter: list[Meter] = []
"""This process's meter, if it is a worker: set once, before its first job."""


def _begin(count: Synchronized[int], free_at: Synchronized[float], rate: int) -> None:
    gc.disable()  # nothing here makes circles, and looking for them among a million names takes its time
    _meter.append(Meter(count, free_at, rate))


def _job(layer: LayerFiles, manner: CheckMode) -> LayerResult:
    return check(layer, manner, _meter[0])


def check_layers(
    layers: Iterable[LayerFiles], manner: CheckMode, pace: WorkRate, progress: Progress
) -> dict[LayerFiles, LayerResult]:
    """The results of all these layers."""
    sizes = {layer: _size(layer) for layer in layers}
    jobs = sorted(sizes, key=lambda layer: -sizes[layer])  # the longest first
    workers = min(pace.workers or os.cpu_count() or 1, len(jobs))
    # A process that has no other threads can simply be split; others are begun anew, which takes a moment.
    context = get_context("fork" if active_count() == 1 else "spawn")
    count, free_at = context.Value("q", 0), context.Value("d", 0.0)
    if jobs and (sum(sizes.values()) > ALONE_BYTES or pace.bytes_per_second):  # so that progress is told meanwhile
        return dict(_together(jobs, manner, workers, (count, free_at, pace.bytes_per_second), progress, context))
    return dict(_alone(jobs, manner, Meter(count, free_at, pace.bytes_per_second), progress, count))


def _alone(
    jobs: Sequence[LayerFiles], manner: CheckMode, meter: Meter, progress: Progress, count: Synchronized[int]
) -> Iterator[tuple[LayerFiles, LayerResult]]:
    for done, layer in enumerate(jobs, 1):
        yield layer, check(layer, manner, meter)
        progress(count.value, done, len(jobs))


def _together(
    jobs: Sequence[LayerFiles],
    manner: CheckMode,
    workers: int,
    shared: tuple[Synchronized[int], Synchronized[float], int],
    progress: Progress,
    context: Any,
) -> Iterator[tuple[LayerFiles, LayerResult]]:
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=shared) as pool:
        try:
            running = _started(pool, jobs, manner)
            left: set[Future[LayerResult]] = set(running)
            while left:
                ended, left = wait(left, POLL_S, FIRST_COMPLETED)
                progress(shared[0].value, len(jobs) - len(left), len(jobs))
                for each in ended:
                    yield running[each], _result(each, running[each])
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _started(
    pool: ProcessPoolExecutor, jobs: Sequence[LayerFiles], manner: CheckMode
) -> dict[Future[LayerResult], LayerFiles]:
    """All jobs, given to workers that no terminal interrupts: that reaches us too, and we end them.

    It is held back while they are started, as Python may lose it then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_job, layer, manner): layer for layer in jobs}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(job: Future[LayerResult], layer: LayerFiles) -> LayerResult:
    try:
        return job.result()
    except BrokenProcessPool:  # then none of the others that are left has a process either
        why = f"the process that checked layer {layer.diff_id.short}, or one beside it, was ended: out of memory, or killed"
        return LayerResult(layer.diff_id, unknown=(why,))


def meter_of(pace: WorkRate) -> Meter:
    """A meter for what this process reads by itself."""
    context = get_context("fork")
    return Meter(context.Value("q", 0), context.Value("d", 0.0), pace.bytes_per_second)


def _size(layer: LayerFiles) -> int:
    """About how much there is to do for a layer: bytes, and for each entry as much as reading some bytes takes."""
    path = layer.tar_split or layer.blob
    try:
        with SafeFolder(layer.root) as store:
            size = store.stat(path or b"").st_size
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        return 0
    if layer.tar_split:
        return layer.hint + size * SPLIT_FACTOR
    return size if layer.blob_size < 0 else layer.blob_size


SPLIT_FACTOR: Final = 100
"""An entry takes some 40 bytes of a tar-split, and as long as reading and hashing 4 KB."""
