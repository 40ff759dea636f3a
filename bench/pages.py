"""`python -m bench.pages`: how fast pages are in a large registry, and what they cost the pulls beside them.

The registry is that of `tests/scale`: repositories with `--size` tags, manifests, moves and referrers each, and as many small
repositories. Another one is empty. Server and load have a core each.

First each page is requested alone, at both registries: the median time to the first byte, and how many times that of the same page
of the empty registry it is (under five is promised). Pages about one repository or tag have `/ui/` of the empty registry beside them.

Then clients pull a manifest by tag as fast as they get it, alone and beside a hundred page loads, ten a second, each page in turn:
the 99th percentile of the pulls, and how many times slower that is (two are promised). Once with clients that keep the server's core
busy, and once with a fifth of the pulls that these got, at a fixed rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import httpx2

from bench import load
from bench.content import MANIFEST_TYPE
from bench.peers import LOAD_CORE, ON_SERVER_CORE
from boltseal.server.store_factory import now_us, prepare
from tests.images import digest_of
from tests.scale.big_store import DAY_US, BigStore, manifest
from tests.servers import Server, boltseal
from tests.serving import Clock, settings_of

SIZE: Final = 10_000
ROUNDS: Final = 5
LOADS: Final = 100
LOADS_PER_SECOND: Final = 10.0
PULLED: Final = "/v2/many/tags/manifests/1.000100"
MOST_TIMES: Final = {"page": 5, "pulls": 2}


def pages(size: int) -> Sequence[tuple[str, str, str]]:
    """Return the name and path of each page, and the path that it is compared with at the empty registry."""
    middle = f"{size // 2:06}"
    digest = digest_of(manifest(middle))
    return [
        ("overview", "/ui/", "/ui/"),
        ("repositories", "/ui/repositories", "/ui/repositories"),
        ("repository", "/ui/repository?repository=many/tags", "/ui/"),
        ("tag", f"/ui/tag?repository=many/tags&tag=1.{middle}", "/ui/"),
        ("tag that moved", "/ui/tag?repository=many/moves&tag=latest", "/ui/"),
        ("image", f"/ui/image?repository=many/tags&digest={digest}", "/ui/"),
        ("search", "/ui/search?q=1.1", "/ui/search?q=1.1"),
        ("refused", "/ui/refused", "/ui/refused"),
        ("bases", "/ui/bases", "/ui/bases"),
        ("hosts", "/ui/hosts", "/ui/hosts"),
        ("rules", "/ui/rules?ref=many/tags:1.0", "/ui/rules"),
    ]


def fill(data: Path, size: int) -> None:
    """Write the registry, as it was three days ago."""
    then_us = now_us() - 3 * DAY_US
    prepare(settings_of(data), clock=Clock(then_us))
    BigStore(data, size, then_us).fill()
    prepare(settings_of(data))


def first_byte_ms(client: httpx2.Client, path: str, rounds: int) -> float:
    """Return the median time until the head of an answer is there. The first request is not counted."""
    taken = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        with client.stream("GET", path) as answer:
            elapsed_ms = (time.perf_counter() - began) * 1000
            answer.read()
        if answer.status_code != httpx2.codes.OK:
            raise load.WrongAnswer(f"{path}: {answer.status_code}")
        if number:
            taken.append(elapsed_ms)
    return statistics.median(taken)


def page_times(full: Server, empty: Server, size: int, rounds: int) -> bool:
    """Print a line for each page. Return whether all are as fast as promised."""
    good = True
    with (
        httpx2.Client(base_url=full.url, trust_env=False, timeout=60) as at_full,
        httpx2.Client(base_url=empty.url, trust_env=False, timeout=60) as at_empty,
    ):
        for name, path, compared in pages(size):
            plain = first_byte_ms(at_empty, compared, rounds)
            ours = first_byte_ms(at_full, path, rounds)
            good &= _print(f"page: {name}", plain, ours, MOST_TIMES["page"])
    return good


def pulls_beside(server: Server, size: int, rounds: int, pull: Callable[[float], load.Rate], what: str) -> bool:
    """Print the 99th percentile of pulls, alone and beside page loads. Return whether it is as promised."""
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: {server.address}\r\nAccept: text/html\r\n\r\n".encode()
        for _, path, _ in pages(size)
    ]
    alone, beside = [], []
    for _ in range(rounds):
        seconds = LOADS / LOADS_PER_SECOND
        alone.append(pull(seconds).p99_ms)
        with load.Paced(server.address, requests, LOADS_PER_SECOND, connections=4) as loads:
            beside.append(pull(seconds).p99_ms)
        if loads.refused or loads.answered < LOADS * 0.9:
            raise load.WrongAnswer(f"{loads.answered} pages were answered, {loads.refused} refused")
    return _print(f"pulls, p99, {what}", statistics.median(alone), statistics.median(beside), MOST_TIMES["pulls"])


def _print(name: str, base: float, value: float, most: float) -> bool:
    times = value / base
    verdict = "" if times <= most else f"  MISSED: at most {most:g} x"
    print(f"{name:38} {base:8.2f} ms {value:8.2f} ms {times:6.2f} x{verdict}", flush=True)
    return times <= most


def main() -> int:
    """Measure and print. Return 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.pages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=SIZE, help="of each thing in the registry")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fill(folder / "full", asked.size)
        with (
            boltseal(folder / "full", before=ON_SERVER_CORE) as full,
            boltseal(folder / "empty", before=ON_SERVER_CORE) as empty,
        ):
            accept = [f"Accept: {MANIFEST_TYPE}"]

            def all_out(seconds: float) -> load.Rate:
                return load.wrk(full.url + PULLED, seconds, accept)

            def at_a_fifth(seconds: float) -> load.Rate:
                request = f"GET {PULLED} HTTP/1.1\r\nHost: {full.address}\r\n{accept[0]}\r\n\r\n".encode()
                return load.paced_times(full.address, request, rate / 5, seconds)

            print(f"{'':38} {'empty':>11} {'full':>11}")
            kept = page_times(full, empty, asked.size, 20 * asked.rounds)
            rate = all_out(2).per_second
            print(f"\n{'':38} {'alone':>11} {'beside':>11}")
            kept &= pulls_beside(full, asked.size, asked.rounds, all_out, "core busy")
            kept &= pulls_beside(full, asked.size, asked.rounds, at_a_fifth, f"{rate / 5:.0f} a second")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
