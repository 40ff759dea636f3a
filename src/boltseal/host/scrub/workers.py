"""Checks layers in parallel on all cores, within a limit of the read rate.

A job is one layer (`layer_check.check`), run in a worker process if there is enough work. Layers that several images share
are read once. Memory: each process has a few pieces of a file and the names of one layer.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from threading import active_count
from typing import Any, Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, LayerResult, check
from boltseal.host.scrub.worker_lifetime import end_with_parent

ALONE_BYTES: Final = 32 * 1024 * 1024
"""Up to this size this process reads by itself: starting workers would take longer."""
POLL_S: Final = 0.2

Progress = Callable[[int, int, int], None]
"""Called periodically, and at the end, with the bytes read, the layers done and the total number of layers."""


class ReadCount:
    """Passes progress on, and adds up the bytes of several meters."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = (0, 0, 0)

    def __call__(self, read: int, done: int, total: int) -> None:
        self._last = (read, done, total)
        self._progress(read, done, total)

    def end(self, read_since: int) -> None:
        """Report the end. `read_since`: bytes that were read after the last layer."""
        read, done, total = self._last
        self._progress(read + read_since, done, total)


@dataclass(frozen=True, slots=True)
class WorkRate:
    """Limits of the load. `workers`: processes, 0 for one per core. `bytes_per_second`: of all together, 0 for unlimited."""

    workers: int = 0
    bytes_per_second: int = 0


class Meter:
    """Counts the bytes read, and waits to keep the rate limit. Its values are shared by processes."""

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
        self._add()
        if self._rate:
            with self._free_at.get_lock():
                now = self._clock()
                begins = max(now, self._free_at.value)
                self._free_at.value = begins + self._uncounted / self._rate
            if begins > now:
                self._sleep(begins - now)
        self._uncounted = 0

    def total(self) -> int:
        """Return all bytes that were counted, those of other processes up to the end of their last layer."""
        self._add()
        self._uncounted = 0
        return self._count.value

    def _add(self) -> None:
        with self._count.get_lock():
            self._count.value += self._uncounted


_meter: list[Meter] = []
"""The meter of this worker process, set once before its first job."""


def _init_worker(parent: int, count: Synchronized[int], free_at: Synchronized[float], rate: int) -> None:
    end_with_parent(parent)
    gc.disable()  # nothing here creates cycles, and a search among a million names is slow
    _meter.append(Meter(count, free_at, rate))


def _check_in_worker(layer: LayerFiles, check_mode: CheckMode) -> LayerResult:
    result = check(layer, check_mode, _meter[0])
    _meter[0].total()
    return result


def check_layers(
    modes: Mapping[LayerFiles, CheckMode], pace: WorkRate, progress: Progress
) -> dict[LayerFiles, LayerResult]:
    """Check these layers, each in its mode, and return the results."""
    sizes = {layer: estimated_bytes(layer, mode) for layer, mode in modes.items()}
    jobs = sorted(sizes, key=lambda layer: -sizes[layer])  # the longest first
    workers = min(pace.workers or os.cpu_count() or 1, len(jobs))
    # Only a process without other threads can be forked safely; spawning is slower.
    context = get_context("fork" if active_count() == 1 else "spawn")
    count, free_at = context.Value("q", 0), context.Value("d", 0.0)
    if jobs and (
        sum(sizes.values()) > ALONE_BYTES or pace.bytes_per_second
    ):  # a rate limit also uses workers, so that progress is shown
        return dict(
            _check_in_parallel(jobs, modes, workers, (count, free_at, pace.bytes_per_second), progress, context)
        )
    return dict(_check_here(jobs, modes, Meter(count, free_at, pace.bytes_per_second), progress))


def _check_here(
    jobs: Sequence[LayerFiles], modes: Mapping[LayerFiles, CheckMode], meter: Meter, progress: Progress
) -> Iterator[tuple[LayerFiles, LayerResult]]:
    for done, layer in enumerate(jobs, 1):
        yield layer, check(layer, modes[layer], meter)
        progress(meter.total(), done, len(jobs))


def _check_in_parallel(
    jobs: Sequence[LayerFiles],
    modes: Mapping[LayerFiles, CheckMode],
    workers: int,
    shared: tuple[Synchronized[int], Synchronized[float], int],
    progress: Progress,
    context: Any,
) -> Iterator[tuple[LayerFiles, LayerResult]]:
    settings = (os.getpid(), *shared)
    with (
        _interrupts_held() as let_interrupt_in,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_init_worker, initargs=settings) as pool,
    ):
        try:
            running = {pool.submit(_check_in_worker, layer, modes[layer]): layer for layer in jobs}
            left: set[Future[LayerResult]] = set(running)
            while left:
                let_interrupt_in()
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


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold SIGINT back in the block, except while the function that is yielded runs: then Python's handler is called.

    An exception amid `submit` or `wait` could leave a lock of the pool locked, so that its end is waited for without end. Workers that
    start in the block never get SIGINT from the terminal: this process gets it too, and ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    def let_in() -> None:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    try:
        yield let_in
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(job: Future[LayerResult], layer: LayerFiles) -> LayerResult:
    try:
        return job.result()
    except BrokenProcessPool:  # all remaining jobs have lost their process too
        why = f"layer {layer.diff_id.short}: a worker process was killed, perhaps for lack of memory"
        return LayerResult(layer.diff_id, unknown=(why,))


def meter_of(pace: WorkRate) -> Meter:
    """Return a meter for reads of this process."""
    context = get_context("fork")
    return Meter(context.Value("q", 0), context.Value("d", 0.0), pace.bytes_per_second)


def estimated_bytes(layer: LayerFiles, check_mode: CheckMode) -> int:
    """Estimate the work for a layer, in bytes; each entry counts as much as some bytes."""
    if check_mode.quick and not layer.tar_split:
        return 0  # blobs are not read
    path = layer.tar_split or layer.blob
    try:
        with open_store(layer.root) as store:
            size = store.stat(path or b"").st_size
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        return 0
    if layer.tar_split:
        return layer.hint + size * SPLIT_FACTOR
    return size if layer.blob_size < 0 else layer.blob_size


SPLIT_FACTOR: Final = 100
"""An entry has about 40 bytes in a tar-split, and takes as long as reading and hashing 4 KB."""
