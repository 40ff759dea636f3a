"""The metrics of this process as sums, and the run folder through which the workers of one server add up theirs.

    RUN/<pid>.<start>.json    the sums of one worker, replaced about once a second; it stays when the worker ends
    RUN/restarts              which workers ended unexpectedly, as the parent knows it; absent while none did

RUN is named after the process ID of the server. Sums of ended workers still count; their write queues do not.

A counter of a metrics library costs more than the look-up of a manifest. So a request adds to plain numbers here, and
`api.metrics` builds the exposition from the sums when it is asked. Losing the last second of a killed worker is accepted;
nothing else depends on these numbers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from boltseal.server.storage.metadata.protocol import WriteQueue

LATENCY_BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the histogram's buckets; one more has none."""

RESTARTS_NAME: Final = "restarts"

Key: TypeAlias = tuple[str, str, int]
"""Method, route, status. All three come from small fixed sets."""


class MetricSums(msgspec.Struct):
    """Sums over the requests with one key."""

    count: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))


class _Row(msgspec.Struct):
    method: str
    route: str
    status: int
    sums: MetricSums


class _Snapshot(msgspec.Struct):
    rows: list[_Row]
    refusals: dict[str, int]
    counts: dict[str, int]
    cpu_seconds: float
    write_queue: WriteQueue


class EndedWorker(msgspec.Struct):
    """A worker that ended unexpectedly, not long ago or repeatedly. `due_s`: its next start (monotonic), None if it runs."""

    number: int
    reason: str
    failures: int
    due_s: float | None


class WorkerRestarts(msgspec.Struct):
    """How often workers of this server were started again, and the workers that are not known to be healthy."""

    total: int = 0
    ended: list[EndedWorker] = msgspec.field(default_factory=list)

    def troubles(self, now_s: float) -> list[str]:
        """Return a sentence for each worker that does not run, or ended more than once in a row."""
        found = []
        for each in self.ended:
            if each.due_s is None and each.failures < 2:
                continue
            times = "ended unexpectedly" if each.failures == 1 else f"ended {each.failures} times in a row"
            state = (
                "it runs again"
                if each.due_s is None
                else f"it is started again in {max(0.0, each.due_s - now_s):.0f} s"
            )
            found.append(f"worker {each.number} {times}, last by {each.reason}: {state}; see the log for the reason")
        return found


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric of the current state, for the exposition.

    `values`: by the value of `label`; without a label the only key is "".
    """

    name: str
    help_text: str
    values: Mapping[str, float]
    label: str = ""


class RequestMetrics:
    """Sums of requests by key, counts of refusals by reason, other counts by name, and the processor time."""

    def __init__(self) -> None:
        self.requests: dict[Key, MetricSums] = {}
        self.refusals: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.cpu_seconds = 0.0

    def request(self, key: Key, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Add one request."""
        sums = self.requests.get(key)
        if sums is None:
            sums = self.requests[key] = MetricSums()
        sums.count += 1
        sums.seconds += seconds
        sums.bytes_in += bytes_in
        sums.bytes_out += bytes_out
        sums.buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1

    def refusal(self, reason: str) -> None:
        """Add one refused request."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def count(self, name: str) -> None:
        """Add one to the count of this name."""
        self.counts[name] = self.counts.get(name, 0) + 1

    def add(self, other: RequestMetrics) -> None:
        """Add all sums and counts of another object."""
        for key, theirs in list(other.requests.items()):  # a copy in one step: another thread may be adding
            ours = self.requests.setdefault(key, MetricSums())
            ours.count += theirs.count
            ours.seconds += theirs.seconds
            ours.bytes_in += theirs.bytes_in
            ours.bytes_out += theirs.bytes_out
            ours.buckets = [a + b for a, b in zip(ours.buckets, theirs.buckets, strict=True)]
        for ours_, theirs_ in ((self.refusals, other.refusals), (self.counts, other.counts)):
            for name, count in list(theirs_.items()):
                ours_[name] = ours_.get(name, 0) + count
        self.cpu_seconds += other.cpu_seconds


class RunFolder:
    """The run folder of one server. The parent process creates it before the workers start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}.{time.monotonic_ns()}.json"

    @staticmethod
    def make(data: Path) -> Path:
        """Create the run folder of this process in the data folder, and remove those of servers that ended.

        Raises: OSError.
        """
        runs = data / "run"
        runs.mkdir(mode=0o750, exist_ok=True)
        for left in runs.iterdir():
            if left.name == str(os.getpid()) or not (left.name.isdecimal() and Path(f"/proc/{left.name}").exists()):
                shutil.rmtree(left, ignore_errors=True)
        folder = runs / str(os.getpid())
        folder.mkdir(mode=0o750, exist_ok=True)
        return folder

    @staticmethod
    def of_running_server(data: Path) -> Path | None:
        """Return the run folder of the server that runs on a data folder, None if there is none."""
        with contextlib.suppress(OSError):
            for folder in (data / "run").iterdir():
                if folder.name.isdecimal() and Path(f"/proc/{folder.name}").exists():
                    return folder
        return None

    @property
    def server_pid(self) -> int:
        """The process ID of the parent of the workers."""
        return int(self._folder.name)

    @staticmethod
    def save_restarts(folder: Path, restarts: WorkerRestarts) -> None:
        """Replace what the workers report about ended ones. Called by the parent. Raises: OSError."""
        beside = folder / f"{RESTARTS_NAME}.new"
        beside.write_bytes(msgspec.json.encode(restarts))
        beside.replace(folder / RESTARTS_NAME)

    def restarts(self) -> WorkerRestarts:
        """Return which workers ended unexpectedly, as the parent saved it last."""
        try:
            return msgspec.json.decode((self._folder / RESTARTS_NAME).read_bytes(), type=WorkerRestarts)
        except (OSError, msgspec.DecodeError):
            return WorkerRestarts()

    def save(self, totals: RequestMetrics, write_queue: WriteQueue) -> None:
        """Replace the sums and the state of this process. Not in two threads at once. Raises: OSError."""
        rows = [_Row(*key, sums) for key, sums in list(totals.requests.items())]
        snapshot = _Snapshot(rows, dict(totals.refusals), dict(totals.counts), totals.cpu_seconds, write_queue)
        beside = self._own.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(snapshot))
        beside.replace(self._own)

    def others(self) -> RequestMetrics:
        """Return the sums of every other process of this server, also of ended ones. Leaves out unreadable files."""
        found = RequestMetrics()
        for _, snapshot in self._snapshots():
            theirs = RequestMetrics()
            theirs.requests = {(row.method, row.route, row.status): row.sums for row in snapshot.rows}
            theirs.refusals = snapshot.refusals
            theirs.counts = snapshot.counts
            theirs.cpu_seconds = snapshot.cpu_seconds
            found.add(theirs)
        return found

    def write_queues(self) -> dict[int, WriteQueue]:
        """Return the write queue of every other running worker, as it was saved last, by process ID."""
        return {pid: snapshot.write_queue for pid, snapshot in self._snapshots() if Path(f"/proc/{pid}").exists()}

    def _snapshots(self) -> list[tuple[int, _Snapshot]]:
        found = []
        for path in sorted(self._folder.glob("*.json")):
            if path == self._own:
                continue
            try:
                snapshot = msgspec.json.decode(path.read_bytes(), type=_Snapshot)
                found.append((int(path.name.partition(".")[0]), snapshot))
            except (OSError, msgspec.DecodeError, ValueError):
                continue
        return found
