"""What all servers of a registry count together: requests to an upstream, and failed logins."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from boltseal.server.auth.failed_logins import FREE_FAILURES
from tests import servers
from tests.images import Document, image, push
from tests.replicas import GRANTS, password, replicas
from tests.servers import Server
from tests.storage_servers import ObjectServer

pytestmark = pytest.mark.real

SERVERS, CLIENTS = 3, 30
GRANTED = f'{GRANTS}[[auth.grant]]\nusers = ["boss"]\nrepository = "hub.test/**"\nactions = ["pull"]\n'
LOGIN = httpx2.BasicAuth("boss", password("boss"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Server]:
    """An upstream."""
    with servers.boltseal(tmp_path / "hub", config="[storage]\n") as server:
        yield server


@pytest.fixture
def mirrors(
    hub: Server, tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer
) -> Iterator[list[Server]]:
    """Servers of one registry that mirror the hub."""
    upstream = f'[[upstream]]\nname = "hub.test"\nurl = "{hub.url}"\nfresh = "1h"\n'
    with (
        replicas(tmp_path / "mirror", new_database(), object_server, f"{GRANTED}{upstream}") as registry,
        registry.serving(SERVERS) as running,
    ):
        registry.add_user("boss")
        yield running


async def counted(server: Server, name: str) -> int:
    """Return one number of a server's metrics."""
    async with httpx2.AsyncClient(base_url=server.url, auth=LOGIN) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith(f"boltseal_mirror_{name}_total "))


async def pull(client: httpx2.AsyncClient, document: Document) -> list[int]:
    """Pull an image from a mirror. Return the statuses, and 0 for wrong bytes."""
    manifest = await client.get("/v2/hub.test/shop/app/manifests/1.0.0")
    blobs = [await client.get(f"/v2/hub.test/shop/app/blobs/{each.digest}") for each in document.blobs]
    right = manifest.content == document.raw and all(
        blob.content == each.data for blob, each in zip(blobs, document.blobs, strict=True)
    )
    return [manifest.status_code, *(blob.status_code for blob in blobs), *(() if right else (0,))]


async def test_a_cold_image_is_fetched_once_for_all_clients_of_all_servers(hub: Server, mirrors: list[Server]) -> None:
    """Thirty clients pull a new image from three servers at once: one HEAD for the tag, and one GET for each part."""
    document = image("at the hub")
    async with httpx2.AsyncClient(base_url=hub.url) as maintainer:
        await push(maintainer, "shop/app", "1.0.0", document)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx2.AsyncClient(base_url=mirrors[number % SERVERS].url, auth=LOGIN, timeout=120.0)
            )
            for number in range(CLIENTS)
        ]
        pulled = await asyncio.gather(*(pull(client, document) for client in clients))
    fetched = {
        name: sum([await counted(each, name) for each in mirrors])
        for name in ("heads", "manifests_fetched", "blobs_fetched")
    }

    assert Counter(map(tuple, pulled)) == {(200,) * (1 + len(document.blobs)): CLIENTS}
    assert fetched == {"heads": 1, "manifests_fetched": 1, "blobs_fetched": len(document.blobs)}


async def test_failed_logins_count_at_all_servers(mirrors: list[Server]) -> None:
    """An address has to wait after its failures at all servers together, at each of which alone it would have tries left."""
    statuses = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx2.AsyncClient(base_url=each.url)) for each in mirrors]
        for number in range(SERVERS * (FREE_FAILURES - 1)):
            wrong = httpx2.BasicAuth("boss", f"wrong {number}")
            statuses.append((await clients[number % SERVERS].get("/v2/", auth=wrong)).status_code)

    assert statuses[:FREE_FAILURES] == [401] * FREE_FAILURES
    assert 429 in statuses
