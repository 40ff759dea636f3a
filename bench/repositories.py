"""`python -m bench.repositories`: what requests cost a registry with 100 to 100,000 repositories, on one and on two replicas.

The replicas share PostgreSQL and SeaweedFS, which run as in the tests. The rows of one pushed repository are copied in SQL: each copy
has its image, under a sealed and a mutable tag. Then clients ask, one request after the other, with two replicas each in turn:

    catalog     a page of 100 names from somewhere in the list
    tags        the tags of a random repository
    pull        the mutable tag of a random repository, by GET
    push        an image with a new layer and config to a random repository: two blobs, and the manifest under a new tag
    gc          a collection of garbage with ten blobs in its queue, by a process beside the replicas

Each figure is the median in milliseconds; in brackets the processor time of the replicas and PostgreSQL for each, which other work on
the machine changes less.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import psycopg

from bench.content import MANIFEST_TYPE
from bench.postgres import worked_s
from bench.replicas import MUTABLE, REPOSITORY, SEALED, registry
from bench.row_copies import copy_rows
from bench.shared_storage import LOGIN
from boltseal.server.configuration import load
from boltseal.server.storage.garbage_collection import collect_reviewed
from boltseal.server.store_factory import begin, now_us
from tests.images import Blob, image, push, push_blob
from tests.servers import Server
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

SCALES: Final = (100, 10_000, 100_000)
READS, PUSHES = 60, 6
TEN_DAYS_US: Final = 10 * 86_400_000_000
FIRST_ID: Final = 1000

Ask = Callable[[httpx2.AsyncClient, int], Awaitable[httpx2.Response]]


@dataclass(slots=True)
class Asked:
    """Requests of a registry with so many repositories. `processes`: whose processor time counts."""

    repositories: int
    clients: Sequence[httpx2.AsyncClient]
    processes: Sequence[int]
    dice: random.Random

    def name(self) -> str:
        """Return the name of a random copied repository."""
        return f"team-{self.dice.randrange(self.repositories)}/app"

    async def catalog(self, client: httpx2.AsyncClient, _: int) -> httpx2.Response:
        """Ask for a page of the catalog."""
        return await client.get("/v2/_catalog", params={"n": 100, "last": self.name()})

    async def tags(self, client: httpx2.AsyncClient, _: int) -> httpx2.Response:
        """Ask for the tags of a repository."""
        return await client.get(f"/v2/{self.name()}/tags/list")

    async def pull(self, client: httpx2.AsyncClient, _: int) -> httpx2.Response:
        """Pull a mutable tag."""
        return await client.get(f"/v2/{self.name()}/manifests/{MUTABLE}", headers={"accept": MANIFEST_TYPE})

    async def push(self, client: httpx2.AsyncClient, number: int) -> httpx2.Response:
        """Push a new image."""
        new = image(f"{self.repositories} {len(self.clients)} {number} {self.dice.random()}")
        return await push(client, self.name(), f"new-{len(self.clients)}-{number}", new)

    async def cost(self, ask: Ask, count: int) -> str:
        """Return what requests cost, as a cell."""
        before, seconds = sum(map(worked_s, self.processes)), []
        for number in range(count):
            began_s = time.perf_counter()
            (await ask(self.clients[number % len(self.clients)], number)).raise_for_status()
            seconds.append(time.perf_counter() - began_s)
        worked = sum(map(worked_s, self.processes)) - before
        return _cell(statistics.median(seconds), worked / count)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.repositories", description=__doc__)
    parser.add_argument("--most", type=int, default=SCALES[-1], help="repositories")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-repositories-") as scratch,
        postgres() as database,
        seaweedfs() as objects,
    ):
        print(f"load before: {os.getloadavg()[0]:.0f}\n")
        print("| repositories | replicas | catalog | tags | pull | push | gc |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for repositories in (each for each in SCALES if each <= given.most):
            _rows(Path(scratch) / str(repositories), database, objects, repositories)
        print(f"\nload after: {os.getloadavg()[0]:.0f}")
    return 0


def _rows(folder: Path, database: Postgres, objects: ObjectServer, repositories: int) -> None:
    """Print the rows of one number of repositories."""
    with registry(folder, database, objects, 2) as (running, url):
        _fill(url, repositories)
        rows = [asyncio.run(_requests(running[:count], database, repositories)) for count in (1, 2)]
        rows[0].append("")
        rows[1].append(
            _gc(folder, database)
        )  # last: its start compares the tags with the ledger, which lacks the copied ones
        for count, cells in enumerate(rows, 1):
            print(f"| {repositories:,} | {count} | {' | '.join(cells)} |", flush=True)


def _fill(url: str, repositories: int) -> None:
    """Copy the pushed repository."""
    of_repository = {"repository_id": f"{FIRST_ID} + i - 1"}
    with psycopg.connect(url, autocommit=True) as connection:
        row = {"id": f"{FIRST_ID} + i - 1", "name": "'team-' || (i - 1) || '/app'"}
        copy_rows(connection, "repository", repositories, row, f"name = '{REPOSITORY}'")
        copy_rows(connection, "manifest", repositories, of_repository)
        copy_rows(connection, "blob", repositories, of_repository)
        for tag in (SEALED, MUTABLE):
            copy_rows(connection, "tag", repositories, of_repository, f"name = '{tag}'")
        connection.execute("VACUUM (ANALYZE)")


async def _requests(asked: Sequence[Server], database: Postgres, repositories: int) -> list[str]:
    """Return the cells of all requests, and push and delete blobs for a collection."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=server.url, timeout=120)) for server in asked
        ]
        processes = [*(server.pid for server in asked), database.pid]
        this = Asked(repositories, clients, processes, random.Random(repositories))  # noqa: S311 - a sample that can be repeated
        reads = [await this.cost(ask, READS) for ask in (this.catalog, this.tags, this.pull)]
        pushes = await this.cost(this.push, PUSHES)
        for number in range(10):
            blob = Blob(f"{repositories} {len(asked)} {number}".encode())
            where = this.name()
            await push_blob(clients[0], where, blob)
            (await clients[0].delete(f"/v2/{where}/blobs/{blob.digest}")).raise_for_status()
    return [*reads, pushes]


def _gc(folder: Path, database: Postgres) -> str:
    """Return what a collection costs that has the deleted blobs in its queue."""
    os.environ.update(LOGIN)
    settings = load(folder / "replica0.toml")
    settings = settings.model_copy(update={"server": settings.server.model_copy(update={"data": folder / "collector"})})
    store = begin(settings, now_us)
    try:
        before, own_s, began_s = worked_s(database.pid), time.process_time(), time.perf_counter()
        found = sum(
            each.what == "blob"
            for each in collect_reviewed(store.database, store.blobs.maintenance, now_us() + TEN_DAYS_US)
        )
        seconds, worked = time.perf_counter() - began_s, worked_s(database.pid) - before + time.process_time() - own_s
    finally:
        store.close()
    return f"{_cell(seconds, worked)}, {found} blobs"


def _cell(seconds: float, worked: float) -> str:
    shown = f"{worked * 1000:.1f}" if worked >= 0 else "-"  # a process of PostgreSQL has ended meanwhile
    return f"{seconds * 1000:.1f} ({shown})"


if __name__ == "__main__":
    raise SystemExit(main())
