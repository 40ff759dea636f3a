"""What pulls cost the database that all servers share: counted statements, and locks that they would need."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest

from tests.images import Document, image, push
from tests.polling import until, until_answer
from tests.replicas import replicas
from tests.server.replicas.statement_log import SETTINGS, StatementLog
from tests.storage_servers import ObjectServer, Postgres, postgres

pytestmark = pytest.mark.real

APP = "shop/app"
PULLS = 300
AT_ONCE = 40
CONNECTIONS_OF_A_WORKER = 6
LOOKUP = "FROM unnest"
"""What each query of a pull has in it."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Two servers whose statements are logged. `database`: a connection of the test's."""

    clients: list[httpx2.AsyncClient]
    log: StatementLog
    database: psycopg.Connection
    address: str

    async def lookups(self) -> Counter[str]:
        """Return the queries of pulls since the last call."""
        found = await asyncio.to_thread(self.log.new)
        return Counter({text: count for text, count in found.items() if LOOKUP in text})


@pytest.fixture(scope="module")
def logging_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that logs each statement."""
    with postgres(settings=SETTINGS) as server:
        yield server


@pytest.fixture
async def counted(tmp_path: Path, logging_postgres: Postgres, object_server: ObjectServer) -> AsyncIterator[Counted]:
    name = logging_postgres.create_database()
    with (
        replicas(tmp_path, logging_postgres.url(name), object_server) as registry,
        registry.serving(2) as running,
        psycopg.connect(logging_postgres.url(name), autocommit=True) as database,
    ):
        async with (
            httpx2.AsyncClient(base_url=running[0].url, timeout=60.0) as one,
            httpx2.AsyncClient(base_url=running[1].url, timeout=60.0) as other,
        ):
            yield Counted([one, other], StatementLog(logging_postgres, name), database, logging_postgres.url(name))


def paths(document: Document, tag: str) -> list[str]:
    """Return the addresses of what a pull reads."""
    return [
        f"/v2/{APP}/manifests/{tag}",
        f"/v2/{APP}/manifests/{document.digest}",
        *(f"/v2/{APP}/blobs/{each.digest}" for each in document.blobs),
    ]


async def test_pulls_of_a_sealed_tag_cost_no_statement(counted: Counted) -> None:
    """At two servers that have the image in memory, 600 pulls of its tag, digest and blobs send no query to the database."""
    document = image("a release")
    pushed = await push(counted.clients[0], APP, "1.0.0", document)
    wanted = paths(document, "1.0.0")

    async def pull(times: int) -> set[int]:
        asked = [client.get(path) for _ in range(times) for client in counted.clients for path in wanted]
        return {answer.status_code for answer in await asyncio.gather(*asked)}

    statuses = set[int]()

    # A server uses its memory only while it confirms the generation in time, which it may miss under load: then the round is repeated.
    async def costs_nothing() -> bool:
        await counted.lookups()
        statuses.update(await pull(PULLS // len(wanted)))
        return not await counted.lookups()

    await pull(1)
    await until_answer(costs_nothing, "a round of pulls without a query", 180)
    connections = counted.database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()

    assert pushed.status_code == 201
    assert statuses == {200}
    assert connections is not None
    assert connections[0] <= CONNECTIONS_OF_A_WORKER * len(counted.clients)


async def test_a_pull_of_a_mutable_tag_costs_one_statement(counted: Counted) -> None:
    """Pulls one after the other send one query each; the manifest itself is in memory."""
    pushed = await push(counted.clients[0], APP, "latest", image("of today"))
    client = counted.clients[1]
    await client.get(f"/v2/{APP}/manifests/latest")
    await counted.lookups()
    statuses = {(await client.get(f"/v2/{APP}/manifests/latest")).status_code for _ in range(PULLS)}
    found = await counted.lookups()

    assert pushed.status_code == 201
    assert statuses == {200}
    assert sum(found.values()) <= PULLS + PULLS // 10, (
        found
    )  # a generation that was not confirmed in time costs another one


async def test_pulls_of_mutable_tags_that_wait_share_a_query(counted: Counted) -> None:
    """While one query waits, all look-ups that come meanwhile are answered by the next one."""
    for number in range(AT_ONCE):
        await push(counted.clients[0], APP, f"branch-{number}", image("of today"))
    client = counted.clients[1]
    wanted = [f"/v2/{APP}/manifests/branch-{number}" for number in range(AT_ONCE)]
    await asyncio.gather(*(client.get(path) for path in wanted))
    await counted.lookups()

    def waits() -> bool:
        row = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
            "AND query LIKE '%FROM tag%'"
        ).fetchone()
        return row is not None and row[0] == 1

    with psycopg.connect(counted.address, autocommit=True) as other, counted.database.transaction():
        counted.database.execute("LOCK TABLE tag IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(client.get(wanted[0]))
        await until(waits, "the first query waits for the table")
        others = [asyncio.create_task(client.get(path)) for path in wanted[1:]]
        await asyncio.gather(*(client.get("/v2/") for _ in range(3)))  # answered after the requests that came before
    answers = await asyncio.gather(first, *others)
    found = await counted.lookups()
    queries = sum(count for text, count in found.items() if "FROM tag" in text)

    assert {answer.status_code for answer in answers} == {200}
    assert queries <= AT_ONCE // 4, found
