"""The `process_*` metrics of a server with several processes: its parent and its workers as one.

Memory and open files are sums over the running processes. The processor time is that of the parent, and of all workers
that ever ran, so that it never decreases when a worker is replaced. The start time is that of the parent.
`prometheus_client` reads /proc; on other systems, and where /proc is hidden, these metrics are absent.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_SUMS: Final = {
    "process_virtual_memory_bytes": "Virtual memory of all processes of the server",
    "process_resident_memory_bytes": "Resident memory of all processes of the server; shared pages count in each",
    "process_open_fds": "Open file descriptors of all processes of the server",
}
_CPU: Final = "process_cpu_seconds"
_START: Final = "process_start_time_seconds"
_MAX_FDS: Final = "process_max_fds"


def process_metrics(server: int, workers: Collection[int], workers_cpu_seconds: float) -> Iterator[Metric]:
    """Yield the metrics of a server.

    `server`: process ID of the parent, or of the only process. `workers`: process IDs of the running workers.
    `workers_cpu_seconds`: processor time of all workers, also of those that ended.
    """
    found = {pid: _read(pid) for pid in {server, *workers}}
    for name, help_text in _SUMS.items():
        values = [read[name] for read in found.values() if name in read]
        if values:
            yield GaugeMetricFamily(name, help_text, value=sum(values))
    limits = [read[_MAX_FDS] for read in found.values() if _MAX_FDS in read]
    if limits:
        yield GaugeMetricFamily(_MAX_FDS, "Limit of open file descriptors of each process", value=min(limits))
    parent = found[server]
    if _START in parent:
        yield GaugeMetricFamily(_START, "Start of the server, seconds since the epoch", value=parent[_START])
    parent_cpu = 0.0 if server in workers else parent.get(_CPU, 0.0)
    yield CounterMetricFamily(
        _CPU, "Processor time of all processes of the server, also ended ones", value=parent_cpu + workers_cpu_seconds
    )


def _read(pid: int) -> dict[str, float]:
    """Return the values of a process by metric name; empty if it ended."""
    shown = "self" if pid == os.getpid() else str(pid)
    metrics = ProcessCollector(pid=lambda: shown, registry=None).collect()
    return {metric.name: metric.samples[0].value for metric in metrics}
