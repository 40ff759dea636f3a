"""Requests to the admin API: a lost answer, and a registry that answers with something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from boltseal.client.admin_client import AdminClient
from boltseal.client.credentials import Credentials, SingleLogin
from boltseal.client.errors import RemoteMismatch, RemoteUnavailable
from boltseal.client.transport import Transport, TransportOptions
from boltseal.server.api.in_process import InProcessHttp
from tests.admin_requests import filled, get

LOGIN = SingleLogin("localhost:5000", Credentials("lead", "pw-lead"))
SEAL = {"repository": "shop/app", "tag": "latest", "reason": "a test"}


ADVICE = "`boltseal history localhost:5000/shop/app` shows it"
UNKNOWN = f"did not answer for seal .* it is not known whether the change was made: {ADVICE}"


class Changed(msgspec.Struct):
    digest: str
    changed: bool


class Losing(httpx2.AsyncBaseTransport):
    """Passes requests on; `before`: breaks the connection before the request arrives, else after it was answered."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, before: bool) -> None:
        self._inner = inner
        self._before = before
        self.changes = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST" or "authorization" not in request.headers or self.changes:
            return await self._inner.handle_async_request(request)
        self.changes += 1
        if not self._before:
            await (await self._inner.handle_async_request(request)).aread()
        raise httpx2.ReadError("connection reset")


@pytest.mark.parametrize("before", [True, False], ids=["not-done", "answer-lost"])
async def test_a_change_without_an_answer_is_not_sent_again(data: Path, before: bool) -> None:
    """The user hears that the registry did not answer; the same request again makes the change, or finds it made."""
    async with filled(data) as registry:
        inner = httpx2.ASGITransport(app=registry.app)
        losing = Losing(inner, before=before)
        transport = Transport(LOGIN, app=losing)
        client = AdminClient(transport, "localhost:5000")
        with pytest.raises(RemoteUnavailable, match=UNKNOWN):
            await client.change("seal", "seal of latest", SEAL, Changed, advice=ADVICE)
        mode = (await get(registry.client, "tag", "boss", repository="shop/app", tag="latest")).json()["tag"]["mode"]
        again = await client.change("seal", "seal of latest", SEAL, Changed, advice=ADVICE)
        await transport.aclose()

    assert losing.changes == 1
    assert (mode, again.changed) == (("mutable", True) if before else ("sealed", False))


def answering(body: Any) -> AdminClient:
    """Return a client of a registry that answers every request with this."""

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return AdminClient(Transport(LOGIN, app=InProcessHttp(app)), "localhost:5000")


@pytest.mark.parametrize("body", [None, [], {}, {"digest": 1, "changed": True}, {"digest": "x", "changed": "yes"}])
async def test_an_answer_of_another_form_is_not_used(body: Any) -> None:
    """An answer without the expected fields is a mismatch, not a success."""
    with pytest.raises(RemoteMismatch, match="answered seal with something else"):
        await answering(body).change("seal", "seal", SEAL, Changed, advice=ADVICE)


async def test_a_list_without_an_end_is_given_up() -> None:
    """A registry that repeats a cursor is not followed for ever."""
    with pytest.raises(RemoteMismatch, match="has no end of held tags"):
        async for _ in answering({"items": [], "next": "again"}).items("held", "held tags", Changed):
            pass


async def seal(client: AdminClient) -> Changed:
    """Send a change."""
    return await client.change("seal", "seal of latest", SEAL, Changed, advice=ADVICE)


async def revoke(client: AdminClient) -> Changed:
    """Send a delete."""
    return await client.delete("tokens", "revocation", {"id": "k3x7abc2de"}, Changed, advice=ADVICE)


@pytest.mark.parametrize("send", [seal, revoke])
@pytest.mark.parametrize(("answer_s", "known"), [(20.0, True), (0.3, False)])
async def test_a_change_may_be_answered_later_than_other_requests(
    answer_s: float, known: bool, send: Callable[[AdminClient], Awaitable[Changed]]
) -> None:
    """A purge or revocation waits for all servers; if its answer is too late even so, the outcome is not known."""
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with suppress(TimeoutError):  # answers after a second, if the client is still there
            async with asyncio.timeout(1.0):
                await reader.read()
        body = b'{"digest": "sha256:x", "changed": true}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body))
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        registry = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = TransportOptions(frozenset({registry}), timeout_s=0.3)
        transport = Transport(SingleLogin(registry, Credentials("lead", "pw-lead")), options)
        client = AdminClient(transport, registry, answer_s=answer_s)
        if known:
            assert (await send(client)).changed
        else:
            with pytest.raises(RemoteUnavailable, match=f"it is not known whether the change was made: {ADVICE}"):
                await send(client)
        await transport.aclose()
        await ended.wait()


async def test_a_change_that_was_not_sent_has_a_known_outcome() -> None:
    """A registry that refuses the connection has changed nothing."""
    transport = Transport(LOGIN, TransportOptions(frozenset({"127.0.0.1:1"})))
    client = AdminClient(transport, "127.0.0.1:1")

    with pytest.raises(RemoteUnavailable) as raised:
        await client.change("seal", "seal of latest", SEAL, Changed, advice=ADVICE)

    assert "not known" not in str(raised.value)
    await transport.aclose()
