"""A minimal server on loopback, for tests of the client's connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> AsyncIterator[int]:
    """Run a server on loopback; yield its port."""
    connections = _Connections(serve)
    server = await asyncio.start_server(connections.accepted, address, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.closed()


@asynccontextmanager
async def listening_on_socket(serve: Serve, path: Path) -> AsyncIterator[None]:
    """Run a server on a Unix socket at this path."""
    connections = _Connections(serve)
    server = await asyncio.start_unix_server(connections.accepted, path)
    try:
        yield
    finally:
        server.close()
        await connections.closed()


class _Connections:
    """The connections of one server; all are closed at its end."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):  # the client left, or the test is over
            await self._serve(reader, writer)
        writer.transport.abort()

    async def closed(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
