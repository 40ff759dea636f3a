"""Fail closed: a temporary failure is 503 with Retry-After, changes nothing, and the same request succeeds later."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.asgi import Message
from tests.images import error_of, image, meaning, push, push_parts, put, start_upload
from tests.serving import Clock, Serving, serving

FIRST, SECOND = image("first"), image("second")
NOON = 1_700_000_000_000_000
FIVE_MINUTES_US = 300 * 1_000_000


@pytest.mark.slow
async def test_a_clock_far_behind_the_ledger_stops_publishing(data: Path) -> None:
    """With a clock more than five minutes behind the last entry, pushes are refused and the server is not ready."""
    clock = Clock(NOON)
    async with serving(data, clock=clock) as registry:
        client = registry.client
        first = await push(client, "shop/app", "1.4.2", FIRST)
        await push_parts(client, "shop/app", SECOND)
        clock.now_us = NOON - FIVE_MINUTES_US - 1_000_000
        refused = await put(client, "shop/app", "1.4.3", SECOND)
        ready = await client.get("/readyz")
        pulled = await client.get("/v2/shop/app/manifests/1.4.2")
        missing = await meaning(client, "shop/app", "1.4.3")
        clock.now_us = NOON
        accepted = await put(client, "shop/app", "1.4.3", SECOND)

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "clock" in error_of(refused)[1]
    assert ready.status_code == 503
    assert pulled.content == FIRST.raw
    assert missing is None
    assert accepted.status_code == 201
    assert int(accepted.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 1


async def test_a_clock_a_little_behind_is_accepted(data: Path) -> None:
    """With a clock slightly set back, pushes work and entries have increasing times."""
    clock = Clock(NOON)
    async with serving(data, clock=clock) as registry:
        first = await push(registry.client, "shop/app", "1.4.2", FIRST)
        clock.now_us = NOON - FIVE_MINUTES_US + 1_000_000
        second = await push(registry.client, "shop/app", "1.4.3", FIRST)

    assert second.status_code == 201
    assert int(second.headers["Boltseal-Ledger-Index"]) == int(first.headers["Boltseal-Ledger-Index"]) + 1


@pytest.mark.files_only("locks the file of the database; test_postgres_faults has the lock of PostgreSQL")
@pytest.mark.slow
async def test_a_database_that_stays_locked_is_503_and_nothing_has_changed(registry: Serving) -> None:
    """While another process keeps the write lock for long, pushes get 503 and pulls work."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", FIRST)
    await push_parts(client, "shop/app", SECOND)
    other = sqlite3.connect(registry.data / DATABASE_NAME, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(put(client, "shop/app", "1.4.3", SECOND))
        pulled = await client.get("/v2/shop/app/manifests/1.4.2")
        refused = await waiting
        other.execute("ROLLBACK")
    finally:
        other.close()
    missing = await meaning(client, "shop/app", "1.4.3")
    accepted = await put(client, "shop/app", "1.4.3", SECOND)

    assert pulled.content == FIRST.raw
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert missing is None
    assert accepted.status_code == 201


@pytest.mark.slow
async def test_a_session_in_use_is_503_for_other_requests(registry: Serving) -> None:
    """A request to an upload session that another PATCH uses waits a little and gets 503."""
    location = await start_upload(registry.client, "shop/app")
    stalled = _StalledBody()
    holding = asyncio.ensure_future(registry.app(_patch(location), stalled.receive, stalled.send))
    await stalled.asked.wait()

    refused = await registry.client.patch(location, content=b"me too")
    stalled.go_on.set()
    await holding
    state = await registry.client.get(location)

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert state.headers["Range"] == "0-5"


def _patch(location: str) -> dict[str, object]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PATCH",
        "scheme": "http",
        "path": location,
        "raw_path": location.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 5000),
    }


class _StalledBody:
    """A body that sends a part, and the rest when the test allows it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self._pieces = [b"abc", b"def"]

    async def receive(self) -> Message:
        piece = self._pieces.pop(0) if self._pieces else b""
        if piece == b"def":
            self.asked.set()
            await self.go_on.wait()
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(self, message: Message) -> None:
        del message
