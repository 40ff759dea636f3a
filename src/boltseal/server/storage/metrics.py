"""The metrics of this process as sums, and the run folder through which the workers of one server add up theirs.

    RUN/<pid>.<start>.json    the sums of one worker, replaced about once a second; it stays when the worker ends

A counter of a metrics library costs more than the look-up of a manifest. So a request adds to plain numbers here, and
`api.metrics` builds the exposition from the sums when it is asked. Losing the last second of a killed worker is accepted;
nothing else depends on these numbers.
"""

from __future__ import annotations

import os
import shutil
import time
from bisect import bisect_left
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

LATENCY_BOUNDS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the histogram's buckets; one more has none."""


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
    counts: dict[str, int] = {}


class RequestMetrics:
    """Sums of requests by key, counts of refusals by the name of their error, and other counts by name."""

    def __init__(self) -> None:
        self.requests: dict[Key, MetricSums] = {}
        self.refusals: dict[str, int] = {}
        self.counts: dict[str, int] = {}

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

    def refusal(self, name: str) -> None:
        """Add one refused request."""
        self.refusals[name] = self.refusals.get(name, 0) + 1

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


class RunFolder:
    """The run folder of one server. The parent process creates it before the workers start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}.{time.monotonic_ns()}.json"

    @staticmethod
    def make(data: Path) -> Path:
        """Create the run folder of this process in the data folder, and remove those of servers that ended. OSError."""
        runs = data / "run"
        runs.mkdir(mode=0o750, exist_ok=True)
        for left in runs.iterdir():
            if left.name == str(os.getpid()) or not (left.name.isdecimal() and Path(f"/proc/{left.name}").exists()):
                shutil.rmtree(left, ignore_errors=True)
        folder = runs / str(os.getpid())
        folder.mkdir(mode=0o750, exist_ok=True)
        return folder

    def save(self, totals: RequestMetrics) -> None:
        """Replace the sums of this process. OSError."""
        rows = [_Row(*key, sums) for key, sums in list(totals.requests.items())]
        beside = self._own.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(_Snapshot(rows, dict(totals.refusals), dict(totals.counts))))
        beside.replace(self._own)

    def others(self) -> RequestMetrics:
        """Return the sums of every other process of this server, also of ended ones. Leaves out unreadable files."""
        found = RequestMetrics()
        for path in sorted(self._folder.glob("*.json")):
            if path == self._own:
                continue
            try:
                snapshot = msgspec.json.decode(path.read_bytes(), type=_Snapshot)
            except (OSError, msgspec.DecodeError):
                continue
            theirs = RequestMetrics()
            theirs.requests = {(row.method, row.route, row.status): row.sums for row in snapshot.rows}
            theirs.refusals = snapshot.refusals
            theirs.counts = snapshot.counts
            found.add(theirs)
        return found
