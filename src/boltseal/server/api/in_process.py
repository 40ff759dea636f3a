"""Requests to an ASGI application in this process, without a socket.

httpx2's own transport for this looks for a module that is not installed with each request, in every folder of the module
path: a sixth of the processor time of a scan for outdated bases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Final

import httpx2
from starlette.types import ASGIApp, Message

CLIENT: Final = ("127.0.0.1", 123)
"""The address that the application sees, as of httpx2's own transport."""


class InProcessHttp(httpx2.AsyncBaseTransport):
    """Passes each request to `app`, and returns the answer when the application has sent all of it; its errors are raised."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request. Raises: what the application raises."""
        body = await request.aread()
        answered, received = asyncio.Event(), False
        status, headers, pieces = 500, list[tuple[bytes, bytes]](), list[bytes]()

        async def receive() -> Message:
            nonlocal received
            if received:
                await answered.wait()
                return {"type": "http.disconnect"}
            received = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", ()))
            elif message["type"] == "http.response.body":
                if request.method != "HEAD":
                    pieces.append(message.get("body", b""))
                if not message.get("more_body", False):
                    answered.set()

        await self._app(_scope(request), receive, send)
        return httpx2.Response(status, headers=headers, stream=_Whole(b"".join(pieces)))


class _Whole(httpx2.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


def _scope(request: httpx2.Request) -> MutableMapping[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "server": (url.host, url.port),
        "client": CLIENT,
        "root_path": "",
    }
