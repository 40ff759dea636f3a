"""`python -m bench.replicas`: what a pull costs with one to four replicas, and with many tags and repositories.

The replicas share PostgreSQL and SeaweedFS, which run as in the tests. One wrk for each replica asks it for one sealed tag that it
has in memory. `worked` is the processor time of all replicas for each pull, without what the same replicas work in as much time without
requests, which is `idle`; that of PostgreSQL is not in it. The goal: with two replicas at most 1.1 of one. Each replica has as many
connections as one alone, since replicas are added where one is busy; with `--share` they share as many. All replicas and the load share
the cores of this machine, so pulls per second can't grow with replicas beyond its cores; `a core` is pulls per second of the replicas'
processor time.

Then one replica gets many tags in many repositories, whose rows are copied in SQL (`bench.row_copies`), and clients pull random ones of
them: sealed ones, nearly all of which are not in memory, and mutable ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import psycopg

from bench import load
from bench.content import MANIFEST_TYPE
from bench.postgres import worked_s
from bench.row_copies import copy_rows
from bench.shared_storage import LOGIN, config
from tests import servers
from tests.images import image, push
from tests.servers import Server
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

REPOSITORY: Final = "team/app"
SEALED, MUTABLE = "1.0.0", "latest"
GOAL: Final = 1.1
CONNECTIONS: Final = 32
SCALES: Final = ((1_000, 100), (30_000, 3_000), (1_000_000, 100_000))
"""Numbers of tags and of repositories."""
RANDOM: Final = """
math.randomseed({seed})
request = function()
  local n = math.random({tags})
  return wrk.format("GET", string.format("/v2/team-%d/app/manifests/{tag}", n % {repositories}, n))
end
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one load gave. `worked_us`: processor time of the replicas for each pull, without `idle`, their share of a core when idle."""

    per_second: float
    worked_us: float
    idle: float = 0.0


def main() -> int:
    """Measure and print two tables. Return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--most", type=int, default=4, help="replicas")
    parser.add_argument(
        "--share", action="store_true", help="the replicas share 32 connections; by default each has 32"
    )
    parser.add_argument("--tags", type=int, default=SCALES[-1][0], help="at most")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-replicas-") as scratch,
        postgres() as database,
        seaweedfs() as objects,
    ):
        print(f"load before: {os.getloadavg()[0]:.0f}, {given.rounds} rounds of {given.seconds:g} s\n")
        ratio = _replicas(
            Path(scratch) / "many", database, objects, given.most, given.rounds, given.seconds, share=given.share
        )
        _tags(
            Path(scratch) / "tags", database, objects, [each for each in SCALES if each[0] <= given.tags], given.seconds
        )
    holds = ratio <= GOAL
    print(
        f"\nprocessor time of a sealed pull, two replicas to one: {ratio:.2f}, goal {GOAL}: {'holds' if holds else 'MISSED'}"
    )
    print(f"load after: {os.getloadavg()[0]:.0f}")
    return 0 if holds else 1


def _replicas(
    folder: Path, database: Postgres, objects: ObjectServer, most: int, rounds: int, seconds: float, *, share: bool
) -> float:
    """Print a row for each number of replicas, and return the ratio that has a goal."""
    with registry(folder, database, objects, most) as (running, _):
        taken: dict[int, list[Taken]] = {count: [] for count in range(1, most + 1)}
        for _round in range(rounds):
            for count, rows in taken.items():
                rows.append(_pulls(running[:count], seconds, CONNECTIONS // count if share else CONNECTIONS))
    print(
        "| replicas | pulls per second | worked for each | a core | idle, of a core |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    for count, rows in taken.items():
        rate, worked, idle = (
            statistics.median(getattr(row, name) for row in rows) for name in ("per_second", "worked_us", "idle")
        )
        print(f"| {count} | {rate:,.0f} | {worked:.1f} us | {1e6 / worked:,.0f} | {idle:.3f} |", flush=True)
    return statistics.median(
        two.worked_us / one.worked_us for one, two in zip(taken[1], taken[min(2, most)], strict=True)
    )


def _pulls(asked: Sequence[Server], seconds: float, connections: int) -> Taken:
    """Pull the sealed tag from each of these replicas at the same time, on so many connections to each."""
    urls = [f"{server.url}/v2/{REPOSITORY}/manifests/{SEALED}" for server in asked]
    idle = _worked(asked, lambda: time.sleep(seconds)) / seconds
    rates: list[float] = []

    def pull() -> None:
        with ThreadPoolExecutor(len(asked)) as pool:
            rates.extend(
                pool.map(lambda url: load.wrk(url, seconds, [f"Accept: {MANIFEST_TYPE}"], connections).per_second, urls)
            )

    worked, pulled_s = _worked(asked, pull), max(1, round(seconds))
    return Taken(sum(rates), (worked - idle * pulled_s) / (sum(rates) * pulled_s) * 1e6, idle)


def _worked(asked: Sequence[Server], run: Callable[[], None]) -> float:
    """Return the processor time of replicas while something runs."""
    before = sum(worked_s(server.pid) for server in asked)
    run()
    return sum(worked_s(server.pid) for server in asked) - before


def _tags(
    folder: Path, database: Postgres, objects: ObjectServer, scales: Sequence[tuple[int, int]], seconds: float
) -> None:
    """Print a row for each number of tags."""
    if not scales:
        return
    print(
        "\n| tags | repositories | random sealed pulls per second | worked | random mutable pulls per second | worked |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for number, (tags, repositories) in enumerate(scales):
        with registry(folder / str(number), database, objects, 1) as ((server,), url):
            _fill(url, tags, repositories)
            found = [_random(folder, server, tag, tags, repositories, seconds) for tag in ("s%d", "m%d")]
        cells = " | ".join(f"{each.per_second:,.0f} | {each.worked_us:.0f} us" for each in found)
        print(f"| {tags:,} | {repositories:,} | {cells} |", flush=True)


def _fill(url: str, tags: int, repositories: int) -> None:
    """Add repositories with the image, half of the tags sealed and half of them mutable."""
    of_repository = f"1000 + i % {repositories}"
    with psycopg.connect(url, autocommit=True) as connection:
        copy_rows(
            connection, "repository", repositories, {"id": "1000 + i - 1", "name": "'team-' || (i - 1) || '/app'"}
        )
        copy_rows(connection, "manifest", repositories, {"repository_id": "1000 + i - 1"})
        for tag, letter in ((SEALED, "s"), (MUTABLE, "m")):
            copy_rows(
                connection, "tag", tags, {"repository_id": of_repository, "name": f"'{letter}' || i"}, f"name = '{tag}'"
            )
        connection.execute("VACUUM (ANALYZE)")


def _random(folder: Path, server: Server, tag: str, tags: int, repositories: int, seconds: float) -> Taken:
    """Pull random tags. `tag`: its name, with %d for the number."""
    script = folder / "random.lua"
    script.write_text(RANDOM.format(seed=os.getpid(), tags=tags, repositories=repositories, tag=tag))
    before = worked_s(server.pid)
    rate = load.wrk(server.url, seconds, [f"Accept: {MANIFEST_TYPE}"], CONNECTIONS, script)
    return Taken(rate.per_second, (worked_s(server.pid) - before) / (rate.per_second * max(1, round(seconds))) * 1e6)


@contextlib.contextmanager
def registry(
    folder: Path, database: Postgres, objects: ObjectServer, count: int
) -> Iterator[tuple[Sequence[Server], str]]:
    """Run replicas of a new registry with one image, sealed and mutable. Yield them, and the address of the database."""
    folder.mkdir(parents=True)
    url = database.url(database.create_database())
    text = f'[server]\nkeys = "{folder / "keys"}"\n{config(folder, url, objects)}'
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(servers.boltseal(folder / f"replica{number}", config=text, settings=LOGIN))
            for number in range(count)
        ]
        asyncio.run(_publish(running[0].url))
        yield running, url


async def _publish(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        for tag in (SEALED, MUTABLE):
            (await push(client, REPOSITORY, tag, image("a release", layer_count=5))).raise_for_status()


if __name__ == "__main__":
    raise SystemExit(main())
