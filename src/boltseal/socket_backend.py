"""The sockets under the HTTP client: a read takes all that has arrived, in one piece, and not 64 KiB of it.

httpcore asks a socket for 64 KiB at a time, and the one it comes with cuts what arrived into that; each cut passes
through a dozen functions, which for a layer costs as much as hashing it. Here the kernel writes into one buffer for each
connection, and a read empties it. That may be more than was asked for, which httpcore's parser does not mind: it keeps
what it is given. The buffer is also the back-pressure: while it is nearly full, nothing more is taken off the network.

Everything else (pool, parser, TLS, timeouts, errors) is httpcore's and httpx2's. Registries are asked over these sockets,
and engines, also over Unix sockets. Why not over httpcore's own: docs/adr/0028.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, cast

import httpcore2
import httpx2

BUFFER_BYTES: Final = 1024 * 1024
STOP_AT_BYTES: Final = BUFFER_BYTES * 3 // 4
UNSENT_BYTES: Final = 1024 * 1024
NEXT_ADDRESS_AFTER_S: Final = 3.0
"""A host with several addresses, of which one swallows everything, is still reached."""


class Bound(Protocol):
    """Says which connections are ours to make."""

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Raise when a connection to any of the addresses of this host is not."""


class SocketTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport, without a proxy, on these sockets. `reach`: None for any address; `uds`: a Unix socket instead."""

    def __init__(
        self, verify: ssl.SSLContext, limits: httpx2.Limits, *, reach: Bound | None, uds: str | None = None
    ) -> None:
        super().__init__(verify=verify, limits=limits)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=verify,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_Backend(reach),
            uds=uds,
        )


class SocketClient(httpx2.AsyncClient):
    """httpx2's client, which still goes through the environment's proxies where there are some, as it always does.

    A transport that is handed in would switch those off; therefore the place where the client makes its own.
    """

    def __init__(self, *args: Any, reach: Bound | None, **options: Any) -> None:
        self._reach = reach
        super().__init__(*args, **options)

    def _init_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        verify, limits = options.get("verify"), options.get("limits")
        if (
            options.get("transport") is None
            and isinstance(verify, ssl.SSLContext)
            and isinstance(limits, httpx2.Limits)
        ):
            return SocketTransport(verify, limits, reach=self._reach)
        return super()._init_transport(*args, **options)


class _Wire(asyncio.BufferedProtocol):
    """One connection: what has arrived and was not read, and whether there is room for what is to be sent."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0
        self._stopped = False
        self._reader: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled >= STOP_AT_BYTES and not self._stopped and self.transport is not None:
            self._stopped = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.error = exc
        self._room.set()
        self._wake()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    @property
    def readable(self) -> bool:
        """Whether a read would not wait."""
        return self._filled > 0 or self.ended

    async def arrival(self) -> None:
        """Return when a read would not wait."""
        if not self.readable:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    def take(self) -> bytes:
        """All that has arrived."""
        taken = bytes(self._buffer[: self._filled])
        self._filled = 0
        if self._stopped and not self.ended and self.transport is not None:
            self._stopped = False
            self.transport.resume_reading()
        return taken

    async def room(self) -> None:
        """Return when there is room for more to send, or nobody to send it to."""
        await self._room.wait()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection as httpcore wants it. `max_bytes` is a wish that is not kept."""

    def __init__(self, wire: _Wire, transport: asyncio.Transport) -> None:
        self._wire = wire
        self._transport = transport

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        if self._wire.readable:
            await asyncio.sleep(
                0
            )  # who sends faster than we read must not keep everybody else, and every timer, waiting
        else:
            async with _within(timeout, httpcore2.ReadTimeout):
                await self._wire.arrival()
        taken = self._wire.take()
        if not taken and self._wire.error is not None:
            raise httpcore2.ReadError(str(self._wire.error)) from self._wire.error
        return taken

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        if not buffer:
            return
        if self._transport.is_closing():
            raise httpcore2.WriteError("the connection is closed")
        self._transport.write(buffer)
        async with _within(timeout, httpcore2.WriteTimeout):
            await self._wire.room()
        if self._wire.error is not None:
            raise httpcore2.WriteError(str(self._wire.error)) from self._wire.error

    async def aclose(self) -> None:
        self._transport.abort()  # whatever is still under way was given up
        await asyncio.sleep(0)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> _Stream:
        loop = asyncio.get_running_loop()
        wire = _Wire()
        try:
            async with _within(timeout, httpcore2.ConnectTimeout):
                transport = await loop.start_tls(
                    self._transport, wire, ssl_context, server_hostname=server_hostname, ssl_handshake_timeout=timeout
                )
        except (OSError, ssl.SSLError) as error:  # a handshake that takes too long is a ConnectionAbortedError
            await self.aclose()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:
            await self.aclose()
            raise
        if transport is None:
            raise httpcore2.ConnectError("the connection was closed in the handshake")
        wire.connection_made(transport)
        return _Stream(wire, transport)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._wire.readable
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))


class _Backend(httpcore2.AsyncNetworkBackend):
    def __init__(self, reach: Bound | None) -> None:
        self._reach = reach

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        async with _within(timeout, httpcore2.ConnectTimeout):
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise httpcore2.ConnectError(f"{host}: {error.strerror}") from error
            addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
            if self._reach is not None:
                self._reach.check(host, port, addresses)
            for address in addresses:
                last = address == addresses[-1]
                try:
                    async with asyncio.timeout(None if last else NEXT_ADDRESS_AFTER_S):
                        transport, wire = await loop.create_connection(_Wire, address, port)
                        return _Stream(wire, transport)
                except (OSError, TimeoutError) as error:  # a TimeoutError is an OSError, and here the next one's turn
                    if last:
                        raise httpcore2.ConnectError(f"{address}: {error.strerror or 'no answer'}") from error
        raise httpcore2.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        async with _within(timeout, httpcore2.ConnectTimeout):
            try:
                transport, wire = await asyncio.get_running_loop().create_unix_connection(_Wire, path)
            except OSError as error:
                raise httpcore2.ConnectError(error.strerror or str(error)) from error
        return _Stream(wire, transport)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def _within(seconds: float | None, late: type[Exception]) -> AsyncIterator[None]:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise late(f"nothing within {seconds:g} seconds") from error
