"""Sending responses: HEAD, files, and streams that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Message

from boltseal.server.api.responses import FileResponse, Response, StreamResponse, stream

HEADERS = ((b"content-length", b"6"),)


class Client:
    """Collect the ASGI messages of a response."""

    def __init__(self, method: str = "GET", *, leaves_after: int | None = None) -> None:
        self.scope = {"type": "http", "method": method}
        self.sent: list[Message] = []
        self._left = asyncio.Event()
        self._leaves_after = leaves_after

    async def receive(self) -> Message:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if len(self.sent) == self._leaves_after:
            self._left.set()

    async def get(self, answer: Response) -> list[Message]:
        await answer.send(self.scope, self.receive, self.send)
        return self.sent

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return not self.sent[-1].get("more_body", False)


class Pieces:
    """An iterator of chunks that records whether it was closed."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.closed = False
        self._pieces = pieces

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self._pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_head_is_get_without_the_bytes(method: str) -> None:
    """HEAD has the status and headers of GET, including Content-Length, and no body."""
    client = Client(method)
    start, body = await client.get(Response(200, HEADERS, b"abcdef"))

    assert start == {"type": "http.response.start", "status": 200, "headers": HEADERS}
    assert body["body"] == (b"abcdef" if method == "GET" else b"")


async def test_a_file_is_sent_by_the_server() -> None:
    """A file response sends the headers with the length, then the path for the server."""
    sent = await Client().get(FileResponse(200, HEADERS, Path("/data/blob")))

    assert sent[0] == {"type": "http.response.start", "status": 200, "headers": HEADERS}
    assert sent[1] == {"type": "http.response.pathsend", "path": "/data/blob"}


async def test_a_stream_is_sent_in_chunks() -> None:
    """A stream sends all chunks, then the end of the body."""
    pieces = Pieces(b"ab", b"cd", b"ef")
    client = Client()
    await client.get(await stream(200, HEADERS, pieces(), 6))

    assert client.body == b"abcdef"
    assert client.complete
    assert pieces.closed


async def test_a_single_chunk_is_sent_without_a_stream() -> None:
    """A body of a single chunk is sent at once, and its iterator is closed."""
    pieces = Pieces(b"abcdef", b"more than was asked for")
    answer = await stream(206, HEADERS, pieces(), 6)

    assert not isinstance(answer, StreamResponse)
    assert answer.body == b"abcdef"
    assert pieces.closed


async def test_a_miss_at_the_first_chunk_is_an_error_response() -> None:
    """A miss at the first chunk is still answered as an error, because nothing was sent yet."""
    pieces = Pieces(LookupError("absent"))
    with pytest.raises(LookupError):
        await stream(200, HEADERS, pieces(), 6)

    assert pieces.closed


async def test_a_broken_stream_breaks_the_connection() -> None:
    """A stream that breaks ends the connection, so that the client notices the truncation."""
    pieces = Pieces(b"ab", OSError("rot"))
    client = Client()
    answer = await stream(200, HEADERS, pieces(), 6)
    with pytest.raises(OSError, match="rot"):
        await client.get(answer)

    assert not client.complete
    assert pieces.closed


async def test_nothing_is_read_after_a_disconnect() -> None:
    """After the client has disconnected, no further chunk is read."""
    pieces = Pieces(b"ab", b"cd", b"ef", b"gh", b"ij")
    client = Client(leaves_after=2)
    await client.get(await stream(200, HEADERS, pieces(), 10))

    assert len(client.body) < 10
    assert not client.complete
    assert pieces.closed
