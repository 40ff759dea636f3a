"""The responses that handlers return, and how each is sent: from memory, as a file by the server, or as a stream.

HEAD is GET without the bytes, headers included. Every response with a body states its length first, and closes the
connection rather than end early unnoticed. Header lists may be shared between responses and are therefore tuples.
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

from boltseal.errors import BoltsealError, ErrorCode, Precondition, SealedDelete, SealedPut
from boltseal.policy.refusals import MEANINGS, RefusalDetail
from boltseal.server.api import caching
from boltseal.server.api.errors import error_body, error_headers, status_and_code
from boltseal.server.api.refusal_reasons import detail_of

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"
EMPTY: Final[Headers] = ((b"content-length", b"0"),)
NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
"""A client controls the pushed bytes; a browser must not interpret them as a page of ours."""

_log = structlog.get_logger(__name__)


class Response:
    """Status, headers (with Content-Length if there is a body), and a body in memory."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; to a HEAD without the body."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


class FileResponse(Response):
    """A complete file of a known size, sent by a server that supports `http.response.pathsend`."""

    __slots__ = ("path",)

    def __init__(self, status: int, headers: Headers, path: Path) -> None:
        super().__init__(status, headers)
        self.path = os.fspath(path)

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.pathsend", "path": self.path})


class StreamResponse(Response):
    """A body sent in chunks. The first is read before anything is sent, so that an error can become a response."""

    __slots__ = ("first", "rest")

    def __init__(self, status: int, headers: Headers, first: bytes, rest: AsyncIterator[bytes]) -> None:
        super().__init__(status, headers)
        self.first = first
        self.rest = rest

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        disconnect = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.body", "body": self.first, "more_body": True})
            async for chunk in self.rest:
                # A server may accept bytes for a client that left and reports that only to `receive`.
                # The pause lets that task run: neither a cached read nor a send need ever yield.
                await asyncio.sleep(0)
                if disconnect.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            disconnect.cancel()
            await close(self.rest)


async def stream(status: int, headers: Headers, chunks: AsyncIterator[bytes], length: int) -> Response:
    """Return a response of `length` bytes; from memory if the first chunk is all of it."""
    try:
        first = await anext(chunks, b"")
    except BaseException:
        await close(chunks)
        raise
    if len(first) == length:
        await close(chunks)
        return Response(status, headers, first)
    return StreamResponse(status, headers, first, chunks)


async def close(chunks: AsyncIterator[bytes]) -> None:
    """Close an iterator that has resources (a file, a connection)."""
    if isinstance(chunks, AsyncGenerator):
        async with aclosing(chunks):
            pass


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left; discard anything else it sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


def headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Return header pairs as they are sent. Values are from parsed types or percent-encoded: ASCII, one line."""
    return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in pairs)


REVEALING: Final = (SealedPut, SealedDelete, Precondition)
"""Kinds whose message and detail have digests, tags and users of a repository: only for callers who may pull from it."""


def refusal(error: BoltsealError, extra: Headers = (), *, may_pull: bool = True) -> Response:
    """Return the response of an error: the spec's JSON, not cacheable, with the headers that the error requires.

    `may_pull`: whether the caller may pull from the repository of the request.
    """
    status, code = status_and_code(error)
    message, detail = error.message, detail_of(error)
    if not may_pull and isinstance(error, REVEALING):
        detail = detail.without_content()
        message = f"{MEANINGS[detail.reason]}; the rest is only shown to users with the right to pull"
    return _failure(status, code, message, detail, (*error_headers(error), *extra))


def failure(status: int, code: ErrorCode, message: str) -> Response:
    """Return the error response of a defect."""
    return _failure(status, code, message, None, ())


def _failure(status: int, code: ErrorCode, message: str, detail: RefusalDetail | None, extra: Headers) -> Response:
    return with_body(error_body(code, message, detail), status=status, extra=extra)


def with_body(
    body: bytes,
    content_type: str = JSON,
    *,
    status: int = 200,
    cache_control: str = caching.NO_STORE,
    extra: Iterable[tuple[bytes, bytes]] = (),
) -> Response:
    """Return a response with a body made by this server; not cacheable by default."""
    pairs = [("content-type", content_type), ("content-length", str(len(body))), ("cache-control", cache_control)]
    return Response(status, (*headers(pairs), NOSNIFF, *extra), body)
