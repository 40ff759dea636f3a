"""`python -m bench`: measures, prints a table with ratios, writes JSON to `bench/results/`.

Peers alternate within each round, and a figure is the median of the rounds, so that other load on
the machine affects all of them alike. No request leaves the machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import logins_and_copies
from bench.measures import Measure, Run, measures
from bench.peers import LOAD_CORE, OLAREG, PEERS, installed_peers
from bench.report import Row, table, write_json, write_readme
from tests.programs import program

HERE = Path(__file__).parent


def main() -> int:
    """Run the measures that the command line names."""
    asked = _arguments()
    if (os.cpu_count() or 1) < 2:
        print("one core for the server and one for the load are needed", file=sys.stderr)
        return 3
    os.sched_setaffinity(0, {LOAD_CORE})
    every = [*measures(), *logins_and_copies.measures()]
    chosen = [one for one in every if not asked.only or any(word in one.name for word in asked.only)]
    if not chosen:
        print(f"no measure has such a name; there are: {' '.join(one.name for one in every)}", file=sys.stderr)
        return 2
    asked.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    machine = _machine()
    folder = Path(tempfile.mkdtemp(prefix="run", dir=asked.folder))
    try:
        rows = _measure(chosen, folder, asked.rounds, asked.seconds, asked.peers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(rows))
    print(f"\n{time.monotonic() - started:.0f} s, {asked.rounds} rounds of {asked.seconds:g} s", file=sys.stderr)
    result = asked.folder / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(result, machine, rows)
    print(f"every round: {result}", file=sys.stderr)
    if asked.write_readme:
        write_readme(HERE / "README.md", machine, rows)
    return 0


def _measure(
    chosen: Sequence[Measure], folder: Path, rounds: int, seconds: float, peers: Sequence[str]
) -> Sequence[Row]:
    run = Run(folder, seconds, peers)
    rows = []
    with run.stack:
        for measure in chosen:
            taking = [peer for peer in measure.peers if peer.split(" + ")[0] in peers]
            values: dict[str, list[Sequence[float]]] = {peer: [] for peer in taking}
            for number in range(rounds):
                for peer in taking:
                    _progress(f"{measure.name}: {peer}, round {number + 1}")
                    values[peer].append(measure.take(run, peer))
            rows += [
                Row(figure, {peer: [taken[index] for taken in values[peer]] for peer in taking})
                for index, figure in enumerate(measure.figures)
            ]
    _progress("")
    return rows


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="measures whose name has one of these words in it")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=installed_peers())
    parser.add_argument("--quick", action="store_true", help="one round of a second each: does it work at all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each figure, peer and round")
    parser.add_argument("--folder", type=Path, default=HERE / "results", help="on the disk that is to be measured")
    parser.add_argument("--write-readme", action="store_true", help="put the table into bench/README.md")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds = 1, 1.0
    return asked


def _machine() -> dict[str, str]:
    """Return what a reader needs for a comparison: the machine and the versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = {name: importlib.metadata.version(name) for name in ("boltseal", "granian", "starlette", "uvloop")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {cpu}, Linux {platform.release()}",
        "Python": platform.python_version() + ", " + ", ".join(f"{name} {at}" for name, at in versions.items()),
        "peers": ", ".join(_version(name) for name in ("docker-registry", "nginx", "skopeo", "wrk"))
        + (", olareg" if OLAREG in installed_peers() else ""),
    }


def _version(name: str) -> str:
    """Return the first number with dots in a program's output about itself."""
    flag = {"nginx": "-v", "wrk": "-v"}.get(name, "--version")
    output = subprocess.run([program(name), flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(?:\.\d+)+[\w.+~-]*", output.stdout + output.stderr)
    return f"{name} {found[0] if found else '?'}"


if __name__ == "__main__":
    sys.exit(main())
