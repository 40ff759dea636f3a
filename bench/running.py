"""`python -m bench.running`: what runs on a host of 500 containers on 50 images, with an engine that counts requests.

The engine is the tests' own, behind a real socket and in a process of its own; its documents are as long as Docker's. No
network: `--offline`, with a lock that names every image. The whole command is measured, its start included; a figure is
the median of the rounds. A second request about the same container or image is a failure, whatever the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from boltseal.lockfile.document import SECOND_US, Lock, LockedImage
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference
from tests.fakes.engine import FakeEngine

CONTAINERS, IMAGES = 500, 50
GOAL_S = 2.0
VERBS = (("ps",), ("ps", "--json"), ("verify", "--running"))


class Taken(NamedTuple):
    """Medians of elapsed and processor seconds of the command, and the requests to the engine."""

    seconds: float
    core_s: float
    asked: Counter[str]


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.running", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    wrong = False
    with tempfile.TemporaryDirectory(prefix="bench-running-") as scratch:
        folder = Path(scratch)
        (folder / "boltseal.lock").write_text(format_lock(_lock()))
        ours, theirs = multiprocessing.Pipe()
        engine = multiprocessing.Process(target=_engine, args=(folder, theirs))
        engine.start()
        try:
            address = str(ours.recv())
            print(f"{CONTAINERS} containers on {IMAGES} images, no network; median of {rounds} rounds\n")
            print(
                "| | seconds | of a core | lists | containers | images | |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |"
            )
            for verb in VERBS:
                wrong |= _row(verb, _taken(verb, address, folder, ours, rounds))
        finally:
            ours.send("end")
            engine.join()
    return 1 if wrong else 0


def _row(verb: Sequence[str], taken: Taken) -> bool:
    """Print a line; return whether a promised number of requests is exceeded."""
    lists = taken.asked["GET containers/json"]
    containers = {key: number for key, number in taken.asked.items() if key.startswith("GET containers/") and lists}
    containers.pop("GET containers/json")
    images = {key: number for key, number in taken.asked.items() if key.startswith("GET images/")}
    twice = lists != 1 or max([*containers.values(), *images.values()]) > 1 or len(images) > IMAGES
    reached = f"goal {GOAL_S:g} s: {'reached' if taken.seconds < GOAL_S else 'MISSED'}"
    reached += "; ASKED TWICE" if twice else ""
    counted = f"{lists} | {sum(containers.values())} | {sum(images.values())}"
    print(f"| boltseal {' '.join(verb)} | {taken.seconds:.2f} | {taken.core_s:.2f} | {counted} | {reached} |")
    return twice


def _taken(verb: Sequence[str], address: str, folder: Path, engine: Connection, rounds: int) -> Taken:
    seconds, core_s = [], []
    asked: Counter[str] = Counter()
    # As pip leaves an installed program: not each start compiles all of it anew.
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for number in range(rounds + 1):
        engine.send("forget")
        engine.recv()
        started, worked = time.perf_counter(), _core_s()
        argv = [sys.executable, "-m", "boltseal", *verb, "--offline", "--host", address, "--project", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=compiled)
        if done.returncode != 0 or "500 holds" not in done.stderr + _json_holds(done.stdout):
            raise SystemExit(f"{' '.join(verb)} ended with {done.returncode}: {done.stderr}")
        if number:  # the first start compiles
            seconds.append(time.perf_counter() - started)
            core_s.append(_core_s() - worked)
        engine.send("asked")
        asked = Counter(engine.recv())
    return Taken(statistics.median(seconds), statistics.median(core_s), asked)


def _json_holds(out: str) -> str:
    if not out.startswith("{"):
        return ""
    return f"{sum(each['status'] == 'holds' for each in json.loads(out)['results'])} holds"


def _core_s() -> float:
    """Return the processor seconds of started commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _name(number: int) -> str:
    return f"registry.example.com/team{number % 7}/app{number}:1.4.{number}"


def _index(number: int) -> Digest:
    return Digest.of(f"index {number}".encode())


def _lock() -> Lock:
    images = (
        LockedImage(Reference.parse(_name(number)), _index(number), 1_795_000_000 * SECOND_US, OCI_INDEX)
        for number in range(IMAGES)
    )
    return Lock(tuple(images))


def _engine(folder: Path, bench: Connection) -> None:
    """Run the engine's process, which answers and prints the requests."""
    fake = FakeEngine()
    ids = []
    for number in range(IMAGES):
        pulled = f"{Reference.parse(_name(number)).name}@{_index(number)}"
        config: dict[str, Any] = {"Labels": _labels(12), "Env": [f"NAME_{each}=some value" for each in range(25)]}
        ids.append(fake.image(str(number), _name(number), pulled=(pulled,), Config=config))
    for number in range(CONTAINERS):
        at = number % IMAGES
        more = {
            "HostConfig": {f"Setting{each}": None for each in range(80)},
            "Mounts": _mounts(),
            "NetworkSettings": _labels(30),
        }
        fake.container(f"service{number}", _name(at), ids[at], labels=_labels(20), **more)

    async def serve() -> None:
        async with fake.listening(folder) as address:
            bench.send(str(address))
            while (wanted := await asyncio.to_thread(bench.recv)) != "end":
                if wanted == "forget":
                    fake.asked.clear()
                bench.send(list(fake.asked))

    asyncio.run(serve())


def _labels(number: int) -> dict[str, str]:
    return {f"org.example.label-{each}": f"value of some length {each}" for each in range(number)}


def _mounts() -> list[dict[str, Any]]:
    at = "/var/lib/docker/volumes/some-volume/_data"
    return [{"Type": "volume", "Name": f"volume{each}", "Source": at, "Destination": "/data"} for each in range(4)]


if __name__ == "__main__":
    sys.exit(main())
