"""The answers that handlers return, and how each of them leaves: whole, as a file the kernel sends, or in pieces.

Rules kept here: HEAD is GET without the bytes, headers included; every answer with bytes states their length
beforehand, and breaks the connection rather than end early in silence; header lists may be shared between
answers and are therefore tuples. What an answer says is the handlers' business.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from starlette.types import Receive, Scope, Send

from boltseal.errors import BoltsealError, ErrorCode
from boltseal.server.api import caching
from boltseal.server.api.errors import answer_of, error_body, headers_of

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
EMPTY: Final[Headers] = ((b"content-length", b"0"),)
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
"""Pushed bytes are anybody's; no browser may take them for a page of ours."""

_log = structlog.get_logger(__name__)


class Response:
    """Status, headers (Content-Length included where there is one), and a body held in memory."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; to a HEAD without the body."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


class FileResponse(Response):
    """A whole file of a known size, which a server that offers `http.response.pathsend` sends by itself."""

    __slots__ = ("path",)

    def __init__(self, status: int, headers: Headers, path: Path) -> None:
        super().__init__(status, headers)
        self.path = os.fspath(path)

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.pathsend", "path": self.path})


class StreamResponse(Response):
    """Bytes that come piece by piece. The first is taken before anything is sent, so that a miss is still an answer."""

    __slots__ = ("first", "rest")

    def __init__(self, status: int, headers: Headers, first: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__(status, headers)
        self.first = first
        self.rest = rest

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for piece in self.rest:
                # A server may take what is sent to a client that left without a word, and it tells so only to
                # those who listen; a pause, because neither a cached read nor a send need ever yield.
                await asyncio.sleep(0)
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await close(self.rest)


async def stream(status: int, headers: Headers, pieces: AsyncIterator[bytes], length: int) -> Response:
    """An answer of `length` bytes, in one piece where they come in one."""
    try:
        first = await anext(pieces, b"")
    except BaseException:
        await close(pieces)
        raise
    if len(first) == length:
        await close(pieces)
        return Response(status, headers, first)
    return StreamResponse(status, headers, first, pieces)


async def close(pieces: AsyncIterator[bytes]) -> None:
    """Lets go of what an iterator holds (a file, a connection), if it holds anything."""
    if isinstance(pieces, AsyncGenerator):
        async with aclosing(pieces):
            pass


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has left. Whatever else it sends is nobody's."""
    while (await receive())["type"] != "http.disconnect":
        pass


def headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Header pairs as they are sent. Values come from parsed types or are percent-encoded: ASCII, one line."""
    return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in pairs)


def refusal(error: BoltsealError, extra: Headers = ()) -> Response:
    """The answer that an error is: the spec's JSON, never kept by anybody, with the headers it brings along."""
    status, code = answer_of(error)
    return failure(status, code, error.message, (*headers_of(error), *extra))


def failure(status: int, code: ErrorCode, message: str, extra: Headers = ()) -> Response:
    """An answer that says why not."""
    return whole(error_body(code, message), status=status, extra=extra)


def whole(
    body: bytes,
    content_type: str = JSON,
    *,
    status: int = 200,
    cache_control: str = caching.NO_STORE,
    extra: Iterable[tuple[bytes, bytes]] = (),
) -> Response:
    """An answer of bytes that we made ourselves, kept by nobody unless it is said."""
    pairs = [("content-type", content_type), ("content-length", str(len(body))), ("cache-control", cache_control)]
    return Response(status, (*headers(pairs), NOSNIFF, *extra), body)
