"""An ASGI application behind a real socket, in the test's event loop: the HTTP part of the fakes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


def answering(answer: Callable[[Request], Awaitable[Response]]) -> ASGIApp:
    """Return an application of one function that receives each request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    return app


@asynccontextmanager
async def listening(app: ASGIApp, bound: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Answer on a bound socket; at the end of the block each connection is closed, whatever it waits for."""
    loop, state = asyncio.get_running_loop(), ServerState()
    config = Config(app, log_config=None, lifespan="off")

    def protocol() -> asyncio.Protocol:
        return H11Protocol(config, state, {})

    if bound.family == socket.AF_UNIX:
        server = await loop.create_unix_server(protocol, sock=bound, ssl=tls)
    else:
        # As real servers do; asyncio does so only if the socket names its protocol. Else each body waits 40 ms for the client.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = await loop.create_server(protocol, sock=bound, ssl=tls)
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        tasks = list(state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
