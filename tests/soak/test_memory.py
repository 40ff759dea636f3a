"""Memory is bounded: neither a large blob nor many concurrent pushes make the server grow by 64 MiB."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.servers import Server, boltseal
from tests.soak.processes import MemoryWatch
from tests.soak.scale import BIG_BLOB_BYTES, MANY_PUSH_BYTES, MANY_PUSHES, MEBIBYTE
from tests.soak.traffic import Acknowledged, Body, client_of, expect, pull_blob, push_blob

pytestmark = pytest.mark.slow

MOST_GROWTH_BYTES = 64 * MEBIBYTE
# The HTTP server's memory for each connection, beside the buffers of uploads.
BOUNDED_BY_CONNECTIONS_BYTES = 32 * MEBIBYTE + MANY_PUSHES * MEBIBYTE // 2
REPOSITORY = "shop/app"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server in an interpreter of its own: what a forked one shares with its fork server counts as its memory too."""
    with boltseal(tmp_path / "data", own_interpreter=True) as running:
        yield running


async def warm_up(client: httpx2.AsyncClient) -> None:
    """Send first requests, so that what a server imports and starts then does not count as growth."""
    for patch in (False, True):
        for size in (10, 5 * MEBIBYTE):
            body = Body(f"warm {patch} {size}", size)
            await push_blob(client, REPOSITORY, body, body.digest, Acknowledged(), patch=patch)
            await pull_blob(client, REPOSITORY, body.digest)


async def length_of_range(client: httpx2.AsyncClient, digest: str, start: int) -> int:
    """Read a blob from `start` on without storing it; return the length."""
    headers = {"range": f"bytes={start}-"}
    async with client.stream("GET", f"/v2/{REPOSITORY}/blobs/{digest}", headers=headers) as answer:
        assert answer.status_code == httpx2.codes.PARTIAL_CONTENT
        length = 0
        async for chunk in answer.aiter_raw():
            length += len(chunk)
        return length


@pytest.mark.parametrize("patch", [False, True], ids=["put", "patch-then-put"])
async def test_a_large_blob_needs_little_memory(server: Server, patch: bool) -> None:
    """A blob much larger than the permitted memory is pushed, pulled and read in ranges."""
    body = Body("big", BIG_BLOB_BYTES)
    digest = await asyncio.to_thread(lambda: body.digest)
    async with client_of(server.url) as client:
        await warm_up(client)
        with MemoryWatch(server.pid) as watch:
            await push_blob(client, REPOSITORY, body, digest, Acknowledged(), patch=patch)
            pulled = await pull_blob(client, REPOSITORY, digest)
            second_half = await length_of_range(client, digest, BIG_BLOB_BYTES // 2)

    assert pulled == BIG_BLOB_BYTES
    assert second_half == BIG_BLOB_BYTES - BIG_BLOB_BYTES // 2
    assert watch.growth_bytes < MOST_GROWTH_BYTES


async def test_many_concurrent_pushes_share_the_memory(server: Server) -> None:
    """Many concurrent pushes all succeed within the memory budget."""
    bodies = [Body(f"one of many {number}", MANY_PUSH_BYTES) for number in range(MANY_PUSHES)]
    digests = await asyncio.to_thread(lambda: [body.digest for body in bodies])
    acknowledged = Acknowledged()
    async with client_of(server.url, connections=MANY_PUSHES) as client:
        await warm_up(client)
        with MemoryWatch(server.pid) as watch:
            await asyncio.gather(
                *(
                    push_blob(client, REPOSITORY, body, digest, acknowledged, patch=number % 2 == 1)
                    for number, (body, digest) in enumerate(zip(bodies, digests, strict=True))
                )
            )

    assert len(acknowledged.blobs) == MANY_PUSHES
    assert watch.growth_bytes < MOST_GROWTH_BYTES


async def test_many_concurrent_pulls_share_the_memory(server: Server) -> None:
    """Many concurrent pulls of one image need no memory per client."""
    body = Body("wanted by all", MANY_PUSH_BYTES)
    digest = await asyncio.to_thread(lambda: body.digest)
    async with client_of(server.url, connections=MANY_PUSHES) as client:
        await warm_up(client)
        await push_blob(client, REPOSITORY, body, digest, Acknowledged())
        with MemoryWatch(server.pid) as watch:
            sizes = await asyncio.gather(*(pull_blob(client, REPOSITORY, digest) for _ in range(MANY_PUSHES)))

    assert set(sizes) == {MANY_PUSH_BYTES}
    assert watch.growth_bytes < MOST_GROWTH_BYTES


async def test_stalled_clients_need_bounded_memory(server: Server) -> None:
    """Clients that each stall within a layer need bounded memory, and others are served."""
    async with client_of(server.url) as client:
        await warm_up(client)
        with MemoryWatch(server.pid) as watch:
            stalled = [await begin_and_stall(client, server, number) for number in range(MANY_PUSHES)]
            body = Body("not stalled", MANY_PUSH_BYTES)
            digest = body.digest
            async with asyncio.timeout(60):  # otherwise a push that is never admitted would block the suite
                await push_blob(client, REPOSITORY, body, digest, Acknowledged())
            for writer in stalled:
                writer.close()

    assert watch.growth_bytes < BOUNDED_BY_CONNECTIONS_BYTES


async def begin_and_stall(client: httpx2.AsyncClient, server: Server, number: int) -> asyncio.StreamWriter:
    """Announce a large PATCH, send a part of it, and keep the connection open."""
    began = expect(await client.post(f"/v2/{REPOSITORY}/blobs/uploads/"), 202)
    host, _, port = server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    path = httpx2.URL(server.url).join(began.headers["location"]).raw_path.decode()
    head = f"PATCH {path} HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: {MANY_PUSH_BYTES}\r\n\r\n"
    writer.write(head.encode() + bytes([number % 256]) * 700_000)
    await writer.drain()
    return writer
