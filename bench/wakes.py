"""`python -m bench.wakes`: why a sealed pull costs more where a server has fewer connections.

Replicas of one registry, as in `bench.replicas`, answer pulls of a sealed tag that they have in memory, on so many connections to each.
`worked` is the processor time of the replicas for each pull, `of it system` the part of it in the kernel. `pulls per sleep` are the pulls
for each time that a thread of a server fell asleep and was woken up, as the kernel counts them (voluntary context switches): a loop
that finds more requests ready each time sleeps less. The rows of one server with half and a quarter of the connections are the
control: what they share with those of two servers does not come from the second server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import load
from bench.content import MANIFEST_TYPE
from bench.replicas import REPOSITORY, SEALED, registry
from tests.servers import Server
from tests.soak.processes import tree
from tests.storage_servers import postgres, seaweedfs

CASES: Final = ((1, 32), (1, 16), (1, 8), (2, 32), (2, 16), (2, 8))
"""Numbers of replicas, and of connections to each."""


@dataclass(frozen=True, slots=True)
class Used:
    """What the threads of replicas have used so far. `user_s`, `system_s`: processor time."""

    user_s: float
    system_s: float
    sleeps: int

    def since(self, before: Used) -> Used:
        """Return what was used since then."""
        return Used(self.user_s - before.user_s, self.system_s - before.system_s, self.sleeps - before.sleeps)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one load gave."""

    pulls: float
    used: Used

    @property
    def worked_us(self) -> float:
        """Processor time for each pull."""
        return (self.used.user_s + self.used.system_s) / self.pulls * 1e6

    @property
    def system(self) -> float:
        """The part of the processor time that was spent in the kernel."""
        return self.used.system_s / (self.used.user_s + self.used.system_s)

    @property
    def per_sleep(self) -> float:
        """Pulls for each sleep of a thread."""
        return self.pulls / max(1, self.used.sleeps)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.wakes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-wakes-") as scratch,
        postgres() as database,
        seaweedfs() as objects,
        registry(Path(scratch) / "registry", database, objects, max(count for count, _ in CASES)) as (running, _),
    ):
        print(f"load before: {os.getloadavg()[0]:.0f}, {given.rounds} rounds of {given.seconds:g} s\n")
        taken: dict[tuple[int, int], list[Taken]] = {case: [] for case in CASES}
        for _round in range(given.rounds):
            for (count, connections), rows in taken.items():
                rows.append(_pulls(running[:count], given.seconds, connections))
    print("| replicas | connections to each | pulls per second | worked | of it system | pulls per sleep |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for (count, connections), rows in taken.items():
        rate = statistics.median(row.pulls for row in rows) / max(1, round(given.seconds))
        worked_us, system, per_sleep = (
            statistics.median(getattr(row, name) for row in rows) for name in ("worked_us", "system", "per_sleep")
        )
        print(f"| {count} | {connections} | {rate:,.0f} | {worked_us:.1f} us | {system:.0%} | {per_sleep:.2f} |")
    print(f"\nload after: {os.getloadavg()[0]:.0f}")
    return 0


def _pulls(asked: Sequence[Server], seconds: float, connections: int) -> Taken:
    """Pull the sealed tag from each of these replicas at the same time."""
    urls = [f"{server.url}/v2/{REPOSITORY}/manifests/{SEALED}" for server in asked]
    before = _used(asked)
    with ThreadPoolExecutor(len(asked)) as pool:
        rates = list(
            pool.map(lambda url: load.wrk(url, seconds, [f"Accept: {MANIFEST_TYPE}"], connections).per_second, urls)
        )
    return Taken(sum(rates) * max(1, round(seconds)), _used(asked).since(before))


def _used(asked: Sequence[Server]) -> Used:
    """Return what all threads of replicas have used so far."""
    user = system = sleeps = 0
    for server in asked:
        for process in tree(server.pid):
            for thread in Path(f"/proc/{process}/task").glob("*"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    fields = (thread / "stat").read_text().rpartition(")")[2].split()
                    found = re.search(
                        r"^voluntary_ctxt_switches:\s+(\d+)", (thread / "status").read_text(), re.MULTILINE
                    )
                    user, system = user + int(fields[11]), system + int(fields[12])
                    sleeps += 0 if found is None else int(found[1])
    hertz = os.sysconf("SC_CLK_TCK")
    return Used(user / hertz, system / hertz, sleeps)


if __name__ == "__main__":
    raise SystemExit(main())
