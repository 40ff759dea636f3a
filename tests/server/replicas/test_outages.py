"""Servers whose PostgreSQL does not answer: sealed images are served for a while, nothing else, and nothing that was taken away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.errors import NotFound, Unavailable
from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.commands.tag_seals import seal_tag, unseal_tag
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.outages import ASK_S
from boltseal.server.storage.coordination.replica_rows import MARGIN_S
from tests.images import Document, image, push
from tests.logins import login
from tests.polling import until_answer
from tests.replicas import GRANTS, Replicas, replicas
from tests.server.replicas.partition import Partition, partition
from tests.servers import Server
from tests.storage_servers import ObjectServer, Postgres, postgres

pytestmark = pytest.mark.real

APP = "shop/app"
PUBLIC = f"[auth]\nanonymous_pull = true\n{GRANTS}"
STALE_S = 20  # longer than a server under load needs to notice that the database is gone
STALE = {"BOLTSEAL_SERVER__SERVE_STALE": f"{STALE_S}s"}
KEPT_WITHIN_S = 5.0
SLACK_S = 20.0  # for a machine under load


@dataclass(frozen=True, slots=True)
class CutOff:
    """Two servers of one registry; `lonely` reaches the database only through `way`, and its clients do not log in."""

    registry: Replicas
    way: Partition
    near: httpx2.AsyncClient
    lonely: httpx2.AsyncClient


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL that the tests may end."""
    with postgres() as server:
        yield server


@pytest.fixture
async def pair(tmp_path: Path, database: Postgres, object_server: ObjectServer) -> AsyncIterator[CutOff]:
    name = database.create_database()
    with (
        replicas(tmp_path, database.url(name), object_server, PUBLIC) as registry,
        partition(database.port) as way,
        registry.serve("replica0", settings=STALE) as near,
        registry.serve(
            "replica1", settings={**STALE, "BOLTSEAL_STORAGE__DATABASE": through(way, database.url(name))}
        ) as lonely,
    ):
        registry.add_user("boss")
        async with client(near) as one, client(lonely) as other:
            one.auth = login("boss")
            yield CutOff(registry, way, one, other)


def through(way: Partition, address: str) -> str:
    return f"{address.rpartition('@')[0]}@127.0.0.1:{way.port}/{address.rpartition('/')[2]}"


def client(server: Server) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, timeout=60.0)


def paths(document: Document, tag: str) -> list[str]:
    """Return the addresses of what a pull reads."""
    return [
        f"/v2/{APP}/manifests/{tag}",
        f"/v2/{APP}/manifests/{document.digest}",
        *(f"/v2/{APP}/blobs/{each.digest}" for each in document.blobs),
    ]


async def pulled(asking: httpx2.AsyncClient, document: Document, tag: str) -> list[int]:
    return [(await asking.get(path)).status_code for path in paths(document, tag)]


async def kept(asking: httpx2.AsyncClient, document: Document, tag: str) -> list[int]:
    """Pull an image for some seconds: a server under load keeps only answers while it confirms the generation in time."""
    statuses: list[int] = []
    until_s = time.monotonic() + KEPT_WITHIN_S
    while time.monotonic() < until_s:
        statuses += await pulled(asking, document, tag)
    return statuses


async def status(asking: httpx2.AsyncClient, path: str) -> int:
    return (await asking.get(path)).status_code


async def note(asking: httpx2.AsyncClient) -> httpx2.Response | None:
    """Return the readiness if it says that sealed tags are served without the database."""
    answer = await asking.get("/readyz")
    return answer if answer.status_code == 200 and "serves sealed tags and blobs" in answer.text else None


async def test_sealed_images_are_served_while_the_database_does_not_answer(pair: CutOff) -> None:
    """A sealed tag, its manifest and blobs are pulled from memory; a mutable tag and a push get 503; readiness says so, and then ends."""
    document, newest = image("a release"), image("of today")
    pushed = [(await push(pair.near, APP, "1.0.0", document)).status_code]
    pushed.append((await push(pair.near, APP, "latest", newest)).status_code)
    before = await kept(pair.lonely, document, "1.0.0") + await pulled(pair.lonely, newest, "latest")
    pair.way.cut()
    during = await pulled(pair.lonely, document, "1.0.0")
    ready = await until_answer(lambda: note(pair.lonely), "readiness says it")
    other = await status(pair.lonely, f"/v2/{APP}/manifests/latest")

    async def is_over() -> bool:
        return await status(pair.lonely, f"/v2/{APP}/manifests/1.0.0") == 503

    await until_answer(is_over, "nothing is served stale any more", STALE_S + SLACK_S)
    unready = (await pair.lonely.get("/readyz")).status_code
    pair.way.heal()

    async def serves() -> bool:
        return await status(pair.lonely, f"/v2/{APP}/manifests/latest") == 200

    await until_answer(serves, "everything is served again", 60)

    assert pushed == [201, 201]
    assert {*before} == {200}
    assert ready is not None
    assert {*during} == {200}
    assert other == 503
    assert unready == 503


async def test_a_purge_waits_for_a_server_that_is_cut_off(pair: CutOff) -> None:
    """A server without the database serves nothing of an image whose purge was acknowledged, and the purge waits as long."""
    document = image("leaked")
    await push(pair.near, APP, "2.0.0", document)
    before = await kept(pair.lonely, document, "2.0.0")
    answers: list[tuple[float, int]] = []

    async def ask(path: str) -> None:
        while True:
            sent_s = time.monotonic()
            with contextlib.suppress(httpx2.HTTPError):
                answers.append((sent_s, await status(pair.lonely, path)))

    settings, named = pair.registry.settings("replica0"), f"registry.example.com/{APP}:2.0.0"
    plan = await asyncio.to_thread(plan_purge, settings, named)
    asking = [asyncio.create_task(ask(path)) for path in paths(document, "2.0.0")]
    pair.way.cut()
    began_s = time.monotonic()
    await asyncio.to_thread(purge_image, settings, named, "leaked", plan)
    acknowledged_s = time.monotonic()
    after = await pulled(pair.lonely, document, "2.0.0")
    for each in asking:
        each.cancel()
    await asyncio.wait(asking)
    late = {code for sent_s, code in answers if sent_s > acknowledged_s}
    stale = [code for sent_s, code in answers if began_s + ASK_S < sent_s < acknowledged_s]

    assert {*before} == {200}
    assert {*after} | late <= {404, 503}
    assert 200 in stale
    assert acknowledged_s - began_s > STALE_S
    assert acknowledged_s - began_s < STALE_S + MARGIN_S + SLACK_S


async def test_no_server_says_that_a_tag_is_deleted_while_another_one_answers_with_it(pair: CutOff) -> None:
    """A server that is cut off still has the tag in memory. Until that is over, a read and every change that would reveal the deletion get 503."""
    document, other = image("to be deleted"), image("another")
    await push(pair.near, APP, "3.0.0", document)
    await push(pair.near, APP, other.digest, other)
    await kept(pair.lonely, document, "3.0.0")
    path, settings = f"/v2/{APP}/manifests/3.0.0", pair.registry.settings("replica0")
    kind, conditions = (
        {"Content-Type": other.media_type},
        ({"If-Match": f'"{document.digest}"'}, {"If-None-Match": "*"}),
    )
    named = f"registry.example.com/{APP}:3.0.0"

    def sealed(change: Callable[[Settings, str, str], object]) -> int:
        try:
            change(settings, named, "a test")
        except NotFound:
            return 404
        except Unavailable:
            return 503
        return 200

    async def revealing() -> list[int]:
        asked = (
            pair.near.get(path),
            pair.near.delete(path),
            *(pair.near.put(path, content=other.raw, headers=kind | each) for each in conditions),
        )
        commands = (asyncio.to_thread(sealed, each) for each in (seal_tag, unseal_tag))
        answers, codes = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*commands))
        return [*(each.status_code for each in answers), *codes]

    plan = await asyncio.to_thread(plan_purge, settings, named)
    pair.way.cut()
    purging = asyncio.create_task(asyncio.to_thread(purge_image, settings, named, "leaked", plan))

    async def is_gone() -> bool:
        return await status(pair.near, path) != 200

    await until_answer(is_gone, "the purge is committed")
    during, still = await revealing(), await status(pair.lonely, path)
    acknowledged = purging.done()
    await purging
    after = await revealing()

    assert still == 200
    assert not acknowledged
    assert during == [503] * 6
    assert after == [404, 404, 412, 409, 404, 404]
