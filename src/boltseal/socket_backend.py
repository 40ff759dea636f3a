"""Socket backend of the HTTP client: a read returns everything that has arrived, instead of at most 64 KiB.

httpcore reads 64 KiB at a time, and its own backend cuts what arrived into such pieces. Each piece passes through a
dozen functions, which costs as much as hashing a layer. Here the kernel writes into one buffer per connection, and a
read empties it. A read may return more than requested; httpcore's parser accepts that. The buffer is also the
back-pressure: while it is nearly full, nothing more is read from the network.

Pool, parser, TLS, timeouts and errors are those of httpcore and httpx2. Registries are reached over these sockets, and
engines too, also over Unix sockets. The reasons are in docs/adr/0028.
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
"""Of a host with several addresses, an address that does not answer is given up after this time."""


class AddressCheck(Protocol):
    """Decides which connections may be made."""

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Raise an error if a connection to any of the host's addresses is not allowed."""


class SocketTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport without a proxy, on this backend. `reach`: None allows any address; `uds`: path of a Unix
    socket.
    """

    def __init__(
        self, verify: ssl.SSLContext, limits: httpx2.Limits, *, reach: AddressCheck | None, uds: str | None = None
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
    """httpx2's client on this backend, which still uses the proxies of the environment, if any.

    Passing a transport to httpx2 would disable those proxies; so this class replaces the method that creates
    transports.
    """

    def __init__(self, *args: Any, reach: AddressCheck | None, **options: Any) -> None:
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
    """One connection: received bytes that were not read yet, and whether the send buffer has space."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._filled = 0
        self._stopped = False
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport | None = None
        self.ended = False
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class does not derive from it
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
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    @property
    def readable(self) -> bool:
        """Return whether a read would return at once."""
        return self._filled > 0 or self.ended

    async def arrival(self) -> None:
        """Wait until a read would return at once."""
        if not self.readable:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader

    def take(self) -> bytes:
        """Return everything that has arrived."""
        taken = bytes(self._buffer[: self._filled])
        self._filled = 0
        if self._stopped and not self.ended and self.transport is not None:
            self._stopped = False
            self.transport.resume_reading()
        return taken

    async def writable(self) -> None:
        """Wait until the send buffer has space, or the connection is closed."""
        await self._writable.wait()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection with httpcore's interface. `max_bytes` of a read is ignored."""

    def __init__(self, wire: _Wire, transport: asyncio.Transport) -> None:
        self._wire = wire
        self._transport = transport

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        if self._wire.readable:
            # A fast sender must not starve other tasks and timers: `read` would never suspend.
            await asyncio.sleep(0)
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
            await self._wire.writable()
        if self._wire.error is not None:
            raise httpcore2.WriteError(str(self._wire.error)) from self._wire.error

    async def aclose(self) -> None:
        self._transport.abort()  # unsent bytes belong to a cancelled request
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
        except (OSError, ssl.SSLError) as error:  # a handshake timeout is a ConnectionAbortedError
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
    def __init__(self, reach: AddressCheck | None) -> None:
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
            except UnicodeError as error:  # an empty label, or one of more than 63 characters
                raise httpcore2.ConnectError(f"{host} is no host name") from error
            addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
            if self._reach is not None:
                self._reach.check(host, port, addresses)
            for address in addresses:
                last = address == addresses[-1]
                try:
                    async with asyncio.timeout(None if last else NEXT_ADDRESS_AFTER_S):
                        transport, wire = await loop.create_connection(_Wire, address, port)
                        return _Stream(wire, transport)
                except (OSError, TimeoutError) as error:  # a TimeoutError is an OSError; try the next address
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
