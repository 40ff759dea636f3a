"""Servers that share a database and a bucket: what one of them acknowledged, the others never contradict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import pytest

from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.commands.users import remove_user
from tests.images import Document, image, push
from tests.logins import login
from tests.polling import until_answer, until_signed
from tests.replicas import Replicas, stopped
from tests.servers import Server

pytestmark = pytest.mark.real

APP = "shop/app"
PURGED_WITHIN_S = 60.0  # for a machine under load; the wait for the other servers is a fifth of a second of it


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers of one registry, with a client of each whose user is `boss`."""

    registry: Replicas
    first: Server
    second: Server
    here: httpx2.AsyncClient
    there: httpx2.AsyncClient


@pytest.fixture(scope="module")
def running(shared_registry: Replicas) -> Iterator[tuple[Server, Server]]:
    with shared_registry.serving(2) as (one, two):
        shared_registry.add_user("boss")
        yield one, two


@pytest.fixture
async def pair(shared_registry: Replicas, running: tuple[Server, Server]) -> AsyncIterator[Pair]:
    one, two = running
    async with client(one, "boss") as here, client(two, "boss") as there:
        yield Pair(shared_registry, one, two, here, there)


def client(server: Server, user: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, auth=login(user), timeout=60.0)


def purge(registry: Replicas, tag: str) -> None:
    """Purge an image by the command of one server, which answers when every server has forgotten it."""
    settings, named = registry.settings("replica0"), f"registry.example.com/{APP}:{tag}"
    purge_image(settings, named, "leaked", plan_purge(settings, named))


@asynccontextmanager
async def asked_all_the_time(asking: httpx2.AsyncClient, path: str) -> AsyncIterator[list[tuple[float, int]]]:
    """Send one GET after the other inside the block. Yields when each was sent, and its status."""
    answers: list[tuple[float, int]] = []

    async def ask() -> None:
        while True:
            sent_s = time.monotonic()
            answers.append((sent_s, (await asking.get(path)).status_code))

    task = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        task.cancel()
        await asyncio.wait([task])


async def pulled(asking: httpx2.AsyncClient, document: Document, tag: str) -> list[int]:
    """Return the statuses of a pull by tag, by digest, and of a layer, three times, so that they come from caches."""
    paths = (f"manifests/{tag}", f"manifests/{document.digest}", f"blobs/{document.layers[0].digest}")
    answers = [await asking.get(f"/v2/{APP}/{path}") for _ in range(3) for path in paths]
    return [each.status_code for each in answers]


async def test_what_one_server_acknowledged_the_other_serves_at_once(pair: Pair) -> None:
    """A tag that one server acknowledged is resolved by the other in its next answer, with its blobs and its seal."""
    wrong = []
    for number in range(10):
        document, (here, there) = image(f"image {number}"), (pair.here, pair.there)[:: 1 - number % 2 * 2]
        pushed = await push(here, APP, f"1.{number}", document)
        statuses = await pulled(there, document, f"1.{number}")
        again = await push(there, APP, f"1.{number}", image("another"))
        if (pushed.status_code, {*statuses}, again.status_code) != (201, {200}, 409):
            wrong.append((pushed.status_code, statuses, again.status_code))
    checkpoints = []
    for each in (pair.here, pair.there):
        await until_signed(each, 10)
        checkpoints.append((await each.get("/ledger/checkpoint")).status_code)

    assert wrong == []
    assert checkpoints == [200, 200]


async def test_after_a_purge_no_server_serves_the_image(pair: Pair) -> None:
    """Requests that are sent after the purge has answered find neither tag nor manifest nor layer at the other server."""
    document = image("leaked")
    await push(pair.here, APP, "2.0", document)
    before = await pulled(pair.there, document, "2.0")
    async with asked_all_the_time(pair.there, f"/v2/{APP}/manifests/2.0") as answers:
        await asyncio.to_thread(purge, pair.registry, "2.0")
        answered_s = time.monotonic()
        after = await pulled(pair.there, document, "2.0")
    late = {status for sent_s, status in answers if sent_s > answered_s}

    assert {*before} == {200}
    assert {*after} == {404}
    assert late == {404}
    assert any(status == 200 for _, status in answers)


async def test_after_a_user_was_removed_no_server_accepts_the_login(pair: Pair) -> None:
    """Neither the password nor a token of a removed user is accepted by any server after the removal has answered."""
    await push(pair.here, APP, "3.0", image("seen by ci"))
    pair.registry.add_user("ci")
    path, scope = f"/v2/{APP}/manifests/3.0", {"scope": f"repository:{APP}:pull"}
    async with client(pair.second, "ci") as ci, httpx2.AsyncClient(base_url=pair.second.url) as bare:
        token = (await ci.get("/token", params=scope)).json()["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        before = [(await ci.get(path)).status_code, (await bare.get(path, headers=bearer)).status_code]
        async with asked_all_the_time(ci, path) as answers:
            await asyncio.to_thread(remove_user, pair.registry.settings("replica0"), "ci")
            answered_s = time.monotonic()
            after = [(await ci.get(path)).status_code, (await bare.get(path, headers=bearer)).status_code]
    late = {status for sent_s, status in answers if sent_s > answered_s}

    assert before == [200, 200]
    assert 200 not in {*after} | late


async def test_a_server_that_was_stopped_during_a_purge_serves_nothing_of_it(pair: Pair) -> None:
    """A purge does not wait for a server that is stopped, and what that one answers when it goes on is no purged image."""
    document = image("leaked again")
    await push(pair.here, APP, "4.0", document)
    before = await pulled(pair.there, document, "4.0")
    began_s = time.monotonic()
    with stopped(pair.second):
        await asyncio.to_thread(purge, pair.registry, "4.0")
        seconds = time.monotonic() - began_s
        asked = [
            asyncio.create_task(pair.there.get(f"/v2/{APP}/{path}"))
            for path in ("manifests/4.0", f"manifests/{document.digest}", f"blobs/{document.layers[0].digest}")
        ]
        await asyncio.sleep(1.0)  # the requests reach the stopped server, which nothing reports
    answers = [(await each).status_code for each in asked]

    assert {*before} == {200}
    assert {*answers} <= {404, 503}
    assert seconds < PURGED_WITHIN_S


async def test_a_server_that_ends_leaves_the_other_serving(pair: Pair) -> None:
    """A third server joins, takes a push, and ends; the others go on, and have what it acknowledged."""
    document = image("from a third server")
    with pair.registry.serve("replica2") as third:
        async with client(third, "boss") as asking:
            pushed = await push(asking, APP, "5.0", document)
    statuses = await pulled(pair.there, document, "5.0") + await pulled(pair.here, document, "5.0")

    async def ready() -> bool:
        return (await pair.here.get("/readyz")).status_code == 200

    await until_answer(ready, "the first server is ready")

    assert pushed.status_code == 201
    assert {*statuses} == {200}
