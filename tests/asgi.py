"""Drives an ASGI application inside this process: its lifespan, and requests whose target is passed unchanged.

An ordinary HTTP client normalizes a path (`a/../b`, doubled slashes, escapes) before it sends it; an attacker does
not. `send()` passes the bytes of the target to the application as a server does, and can disconnect the client in the
middle of its body. This module is independent of registries.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an application sent. Header names are in lower case; the values of a repeated header are joined by ", ".

    `status` 0: the application ended the exchange without an answer, as it may after a disconnect.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def running(app: App) -> AsyncIterator[None]:
    """Run the application between start-up and shut-down, both in one task, as a real server does."""
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    outbox: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    task = asyncio.ensure_future(app(scope, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    await _expect(task, outbox, "lifespan.startup.complete")
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await _expect(task, outbox, "lifespan.shutdown.complete")
        await task


async def _expect(task: asyncio.Future[None], outbox: asyncio.Queue[Message], wanted: str) -> None:
    message = asyncio.ensure_future(outbox.get())
    both: set[asyncio.Future[Any]] = {task, message}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not message.done():
        message.cancel()
        await task
        raise AssertionError(f"the application ended its lifespan without {wanted}")
    if message.result()["type"] != wanted:
        await task
        raise AssertionError(f"wanted {wanted}, got {message.result()}")


async def send(
    app: App,
    method: str,
    target: str | bytes,
    *,
    headers: Iterable[tuple[str | bytes, str | bytes]] = (),
    body: bytes | Iterable[bytes] = b"",
    dies: bool = False,
) -> Answer:
    """Send one request with exactly this target. The host is localhost unless a header names another.

    `dies`: the client disconnects after the last chunk of the body.
    """
    raw_headers = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    if all(name != b"host" for name, _ in raw_headers):
        raw_headers.insert(0, (b"host", b"localhost"))
    raw_path, _, query = _bytes(target).partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode("utf-8", "replace"),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": raw_headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 5000),
    }
    exchange = _Exchange([body] if isinstance(body, bytes) else list(body), dies)
    await app(scope, exchange.receive, exchange.send)
    return Answer(exchange.status, exchange.headers, b"".join(exchange.body))


class _Exchange:
    """The `receive` and `send` callables of one request, and what the application sent."""

    def __init__(self, pieces: list[bytes], dies: bool) -> None:
        self._pieces = pieces
        self._dies = dies
        self._over = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []

    async def receive(self) -> Message:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or self._dies}
        if not self._dies:
            await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", []):
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        elif message["type"] == "http.response.body":
            self.body.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._over.set()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
