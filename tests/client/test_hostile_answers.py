"""Hostile registries and token services: each answer ends in an error, in bounded time and memory."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from boltseal.client.credentials import SingleLogin
from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.ssrf_guard import AddressBlocked
from boltseal.client.transport import MinimumRate, Transport, TransportOptions
from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from tests.client.listening import listening

pytestmark = pytest.mark.usefixtures("one_attempt")

REPOSITORY = Repository("team/app")
DIGEST = Digest.of(b"whatever")
NESTED = b'{"errors":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DRIP_S = 0.05

Answer = Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]
Ask = Callable[[RegistryClient], Coroutine[Any, Any, object]]


def whole(body: bytes, status: int = 200, *headers: str) -> Answer:
    """Return a correct answer."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return answer


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Answer:
    """Return an answer that repeats a chunk for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)  # the pace of the sender

    return answer


@asynccontextmanager
async def registry(answer: Answer, **options: Any) -> AsyncIterator[tuple[RegistryClient, str]]:
    """A registry that gives this answer to everything except `/v2/`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
            plain = head.startswith(b"GET /v2/ ")
            await (whole(b"{}") if plain else answer)(writer)

    chosen: dict[str, Any] = {"timeout_s": 5.0, "whole_s": 0.5, "attempts": 1}
    async with listening(serve) as port:
        address = f"127.0.0.1:{port}"
        transport = Transport(SingleLogin(address), TransportOptions(**(chosen | options)))
        try:
            yield RegistryClient(transport, address), address
        finally:
            await transport.aclose()


async def resolve(client: RegistryClient) -> object:
    return await client.resolve(REPOSITORY, Tag("1.4.2"))


async def manifest(client: RegistryClient) -> object:
    return await client.manifest(REPOSITORY, DIGEST)


async def tags(client: RegistryClient) -> object:
    return [tag async for tag in client.tags(REPOSITORY)]


async def referrers(client: RegistryClient) -> object:
    return await client.referrers(REPOSITORY, DIGEST)


async def blob(client: RegistryClient) -> object:
    async with client.stream_blob(REPOSITORY, DIGEST) as arriving, aclosing(arriving.pieces) as pieces:
        return b"".join([piece async for piece in pieces])


HEAD = b"HTTP/1.1 200 X\r\n"
ENDLESS = {
    "a status line": endless(b"HTTP/1.1 200 ", b"a", DRIP_S),
    "a header that drips": endless(HEAD + b"x: ", b"a", DRIP_S),
    "a header that floods": endless(HEAD + b"x: ", b"a" * 65536),
    "headers that flood": endless(HEAD, b"x: a\r\n" * 10_000),
    "answers before the answer": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "answers before the answer, now and then": endless(b"", b"HTTP/1.1 103 Hints\r\n\r\n", DRIP_S),
}
BODIES = {
    "a body that drips": endless(HEAD + b"content-length: 9999999\r\n\r\n", b"a", DRIP_S),
    "chunks that drip": endless(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", DRIP_S),
    "one chunk's extension": endless(HEAD + b"transfer-encoding: chunked\r\n\r\n1;", b"a" * 65536),
    "trailers": endless(HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: a\r\n" * 10_000),
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("ask", [resolve, manifest, tags, referrers, blob])
async def test_an_endless_answer_is_aborted(answer: Answer, ask: Ask) -> None:
    """An endless answer is aborted, even if bytes arrive steadily."""
    async with registry(answer) as (client, _):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(ask(client), 20)


@pytest.mark.parametrize("answer", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("ask", [manifest, tags, referrers])
async def test_an_endless_document_is_aborted(answer: Answer, ask: Ask) -> None:
    """An endless document is aborted at the size limit."""
    async with registry(answer) as (client, _):
        with pytest.raises(Unavailable):
            await asyncio.wait_for(ask(client), 20)


async def test_a_blob_below_the_minimum_rate_is_aborted() -> None:
    """A blob slower than the minimum rate is aborted; a slow but steady one above it is not."""
    drips = endless(HEAD + b"content-length: 9999999\r\n\r\n", b"a", DRIP_S)
    pace = MinimumRate(bytes_per_s=1000, over_s=0.5)

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 200000\r\n\r\n")
        for _ in range(20):
            writer.write(b"b" * 10_000)  # above the rate also if this process stands still for some seconds
            await asyncio.sleep(DRIP_S)  # the pace of the sender

    async with registry(drips, pace=pace) as (client, _):
        with pytest.raises(RemoteUnavailable, match="less than 1000 bytes per second"):
            await asyncio.wait_for(blob(client), 20)
    async with registry(slow, pace=pace) as (client, _):
        assert await blob(client) == b"b" * 200_000


async def test_a_flood_of_tiny_pieces_does_not_starve_other_tasks() -> None:
    """While a flood of tiny chunks is read, other tasks run."""
    count = 100_000

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * count + b"0\r\n\r\n")
        await writer.drain()

    other_runs = 0

    async def others() -> None:
        nonlocal other_runs
        while True:
            other_runs += 1
            await asyncio.sleep(0)

    async with registry(answer) as (client, _):
        task = asyncio.create_task(others())
        body = await blob(client)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert body == b"a" * count
    assert other_runs > count // 1000


@pytest.mark.parametrize("body", [NESTED, b'{"errors":[{"code":"\xff"}]}', b"\xff\xfe", b'{"errors":{"a":1}}'])
async def test_an_unreadable_error_body_keeps_the_status(body: bytes) -> None:
    """An error whose body can't be read is reported with its status."""
    async with registry(whole(body, 404)) as (client, _):
        with pytest.raises(RemoteNotFound):
            await manifest(client)


@pytest.mark.parametrize("body", [NESTED.replace(b"errors", b"x"), b'{"tags":["\xff"]}', b'{"tags":[' + b"9" * 5000])
async def test_a_malformed_list_is_a_mismatch(body: bytes) -> None:
    """Nothing of a malformed tag list is used."""
    async with registry(whole(body)) as (client, _):
        with pytest.raises(RemoteMismatch):
            await tags(client)


async def test_endless_redirects_end() -> None:
    """A redirect to itself is followed five times."""
    asked = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await whole(b"", 307, f"location: /v2/team/app/blobs/{DIGEST}?{asked}")(writer)

    async with registry(answer) as (client, _):
        with pytest.raises(RemoteUnavailable, match="redirects"):
            await blob(client)

    assert asked == 6


async def test_a_redirect_to_a_metadata_service_is_not_followed() -> None:
    """A redirect to a cloud metadata service, which gives out the machine's rights, is not followed."""
    async with registry(whole(b"", 307, "location: http://169.254.169.254/latest/meta-data/")) as (client, _):
        with pytest.raises(AddressBlocked, match=r"169\.254\.169\.254, a link-local address"):
            await blob(client)


@pytest.mark.parametrize(
    "service",
    [
        endless(HEAD + b"content-length: 99999999999\r\n\r\n", b"a" * 65536),
        endless(HEAD + b"\r\n", b"a" * 65536),
        endless(HEAD + b"x: ", b"a", DRIP_S),
        endless(HEAD + b"content-length: 9999999\r\n\r\n", b" ", DRIP_S),
        whole(gzip.compress(json.dumps({"token": "a" * 50_000_000}).encode()), 200, "content-encoding: gzip"),
        whole(NESTED),
        whole(b'{"token":"\xff"}'),
        whole(b'{"token":"a b"}'),
    ],
    ids=["a flood", "one of no length", "a header", "a drip", "a bomb", "nested", "no text", "no token"],
)
async def test_a_hostile_token_service_is_an_error(service: Answer) -> None:
    """A token service's answer is bounded in size and never decompressed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await service(writer)

    async with listening(serve) as port:
        challenge = f'www-authenticate: Bearer realm="http://127.0.0.1:{port}/token"'
        async with registry(whole(b"", 401, challenge)) as (client, _):
            with pytest.raises(BoltsealError):
                await asyncio.wait_for(resolve(client), 20)
