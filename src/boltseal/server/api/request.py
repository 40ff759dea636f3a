"""A request as the handlers see it: method, headers and query are read on demand, the body arrives in chunks.

It is a view of an ASGI scope without copies, because most requests need one header or none. A body is never buffered
beyond a stated limit. A body that ends before it is complete raises `ClientGone`; it is never taken for a shorter one.
A client that sends nothing, or too little, is refused, which releases its locks and sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from starlette.types import Receive, Scope

from boltseal.errors import ErrorCode, Invalid, TooLarge, quote
from boltseal.oci.reference import Repository
from boltseal.policy.client_address import Network, forwarded_client, whose
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.api.errors import BodyStalled, ClientGone
from boltseal.server.api.query import Query
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.auth.caller import ANONYMOUS_CALLER, Caller, EitherName

_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How long to wait for a body, and how much of a refused body is read.

    `idle_s`: without a byte. `min_bytes_per_s`: the minimum average of each `idle_s` of waiting; 0: none.
    `drain_bytes`, `drain_s`: limits for reading the rest of a body after the response.
    """

    idle_s: float = 60.0
    min_bytes_per_s: int = 512
    drain_bytes: int = 8 * 1024 * 1024
    drain_s: float = 2.0


DEFAULT_LIMITS: Final = BodyLimits()


class LengthInvalid(Invalid):
    """Content-Length is not a number, or not the length of the body."""

    code = ErrorCode.SIZE_INVALID


class DocumentTooLarge(TooLarge):
    """The manifest or form is larger than the limit."""

    code = ErrorCode.SIZE_INVALID


class _BodyTimeout:
    """Cancels a wait for body bytes that takes too long or brings too little, as `asyncio.timeout` does.

    One timer serves all waits of a body: a timer for each would cost more than the chunk. Only time spent waiting
    counts: a client is not slow if its bytes are there and our disk is slow.
    """

    __slots__ = (
        "_body",
        "_cancelling",
        "_interval_start_bytes",
        "_interval_start_s",
        "_limits",
        "_loop",
        "_task",
        "_timer",
        "_wait_start_s",
        "_waited_s",
        "expired",
    )

    def __init__(self, body: Body, limits: BodyLimits) -> None:
        self._body = body
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = 0
        self._wait_start_s: float | None = None
        self._waited_s = 0.0
        self._interval_start_s, self._interval_start_bytes = 0.0, body.received_bytes
        self._timer: asyncio.TimerHandle | None = None
        self.expired: str | None = None

    def start_wait(self) -> None:
        """Start a wait."""
        self.expired = None
        self._wait_start_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.idle_s, self._check)

    def end_wait(self) -> None:
        """End the wait."""
        if self._wait_start_s is not None:
            self._waited_s += self._loop.time() - self._wait_start_s
            self._wait_start_s = None

    def stop(self) -> None:
        """Stop the timer; no other wait follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def caused_cancel(self) -> bool:
        """Return whether a cancelled wait was cancelled by this timeout only. Call it once, after the cancellation."""
        return self.expired is not None and self._task.uncancel() <= self._cancelling

    def _check(self) -> None:
        self._timer = None
        if self._wait_start_s is None:
            return
        idle_s = self._limits.idle_s
        this_wait_s = self._loop.time() - self._wait_start_s
        waited_s = self._waited_s + this_wait_s
        if this_wait_s >= idle_s:
            self.expired = f"no byte of the body arrived for {idle_s:g} seconds; send the request again"
        elif waited_s - self._interval_start_s >= idle_s and not self._begin_interval(waited_s):
            self.expired = (
                f"the body arrived at less than {self._limits.min_bytes_per_s} bytes per second; send the request again "
                "over a faster connection, or ask the operator for a lower min_body_bytes_per_s"
            )
        else:
            left_s = idle_s - max(this_wait_s, waited_s - self._interval_start_s)
            self._timer = self._loop.call_later(left_s, self._check)
            return
        self._cancelling = self._task.cancelling()
        self._task.cancel()

    def _begin_interval(self, waited_s: float) -> bool:
        """Begin another interval and return True if enough bytes arrived in the one that ends now."""
        arrived_bytes = self._body.received_bytes - self._interval_start_bytes
        if arrived_bytes < (waited_s - self._interval_start_s) * self._limits.min_bytes_per_s:
            return False
        self._interval_start_s, self._interval_start_bytes = waited_s, self._body.received_bytes
        return True


class Body:
    """The body of a request: iterate over its chunks once, in one task. `at_end`: awaited after the last chunk; may refuse the body."""

    __slots__ = ("_at_end", "_body_timeout", "_limits", "_receive", "finished", "received_bytes")

    def __init__(
        self,
        receive: Receive,
        limits: BodyLimits = DEFAULT_LIMITS,
        at_end: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._receive = receive
        self._limits = limits
        self._at_end = at_end
        self._body_timeout: _BodyTimeout | None = None
        self.finished = False
        self.received_bytes = 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk, never empty. Raises: ClientGone, BodyStalled, and what `at_end` raises."""
        while not self.finished:
            chunk = await self._next()
            if chunk:
                return chunk
        if self._at_end is not None:
            await self._at_end()
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        body_timeout = self._body_timeout
        if body_timeout is None:
            body_timeout = self._body_timeout = _BodyTimeout(self, self._limits)
        body_timeout.start_wait()
        try:
            message = await self._receive()
        except asyncio.CancelledError as error:
            if not body_timeout.caused_cancel():
                raise
            raise BodyStalled(str(body_timeout.expired)) from error
        finally:
            body_timeout.end_wait()
        if message["type"] == "http.disconnect":
            self.finished = True
            body_timeout.stop()
            raise ClientGone
        if not message.get("more_body", False):
            self.finished = True
            body_timeout.stop()
        chunk: bytes = message.get("body", b"")
        self.received_bytes += len(chunk)
        return chunk

    async def read(self, limit: int) -> bytes:
        """Return the whole body. Raises: DocumentTooLarge: more than `limit` bytes arrived; ClientGone, BodyStalled."""
        chunks = []
        async for chunk in self:
            if self.received_bytes > limit:
                raise DocumentTooLarge(_too_large(limit))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Read and discard the rest of the body, within limits of size and time.

        If the server closes a connection on which the client is still sending, the client misses the response: its next
        write fails before it reads. This is best effort: a client that left or is slow is not waited for.
        """
        limit = self.received_bytes + self._limits.drain_bytes
        try:
            async with asyncio.timeout(self._limits.drain_s):
                while not self.finished and self.received_bytes < limit:
                    await self._next()
        except (TimeoutError, BodyStalled, ClientGone):
            self.finished = True


class Request:
    """One request. Header names are lower-case bytes, as in ASGI; values are text.

    `id`: for the log and the client. `caller` and `actor`: set after authentication. `route`: the template of the path.
    `repository`: that of the path, after name resolution. `either`: the names between which that decided by what is stored.
    `asked`: the parsed scopes of a token request, for the log. `upstream`: of a mirrored image, None for a local one.
    `fault`: what is wrong with the framing of the body, for the log. `manifest`: of a push, once it was read. `admit_again`: checks the
    rights at the end of the body, which may take hours to arrive. Set it before the body is read.
    """

    __slots__ = (
        "_body",
        "_limits",
        "_query",
        "actor",
        "admit_again",
        "asked",
        "caller",
        "either",
        "fault",
        "id",
        "manifest",
        "receive",
        "repository",
        "route",
        "scope",
        "upstream",
    )

    def __init__(
        self, scope: Scope, receive: Receive, request_id: str = "", limits: BodyLimits = DEFAULT_LIMITS
    ) -> None:
        self.id = request_id
        self._limits = limits
        self.route = "unknown"
        self.asked = ""
        self.repository: Repository | None = None
        self.either: EitherName | None = None
        self.fault = ""
        self.manifest: bytes | None = None
        self.upstream: UpstreamTerms | None = None
        self.scope = scope
        self.receive = receive
        self.caller: Caller = ANONYMOUS_CALLER
        self.actor: Actor = ANONYMOUS
        self.admit_again: Callable[[], Awaitable[object]] | None = None
        self._body: Body | None = None
        self._query: Query | None = None

    @property
    def body(self) -> Body:
        """The request body."""
        if self._body is None:
            self._body = Body(self.receive, self._limits, self.admit_again)
        return self._body

    @property
    def received_bytes(self) -> int:
        """How many bytes of the body were read so far."""
        return 0 if self._body is None else self._body.received_bytes

    @property
    def address(self) -> str:
        """The client's address without a port; "" if the server does not provide it."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def sender(self) -> Actor:
        """The user of the request, as far as that is known: also of a login that lacks the right."""
        return self.caller.actor if self.actor is ANONYMOUS and self.caller.user is not None else self.actor

    @property
    def network(self) -> str:
        """The network of the client's address, for limits per client; see `policy.client_address`."""
        return whose(self.address)

    @property
    def method(self) -> str:
        """`GET`, `HEAD`, ..."""
        method: str = self.scope["method"]
        return method

    @property
    def query(self) -> Query:
        """The parsed query. Raises: QueryInvalid, UriTooLong."""
        if self._query is None:
            self._query = Query(self.scope.get("query_string", b""))
        return self._query

    @property
    def is_chunked(self) -> bool:
        """Whether the body has a transfer coding, so that its chunks say where it ends."""
        return self.header(b"transfer-encoding") is not None

    @property
    def framing(self) -> str:
        """The header by which the client announced its body, quoted for messages."""
        name = "transfer-encoding" if self.is_chunked else "content-length"
        return f"{name} {quote(self.header(name.encode()) or '')}"

    def header(self, name: bytes) -> str | None:
        """Return a header's value, or None. Several lines are joined by a comma (RFC 9110, section 5.3)."""
        joined: bytes | None = None
        for key, value in self.scope["headers"]:
            if key == name:
                joined = value if joined is None else joined + b", " + value
        return None if joined is None else joined.decode("latin-1").strip()

    def content_length(self) -> int | None:
        """Return the Content-Length, or None. Raises: LengthInvalid."""
        text = self.header(b"content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            msg = f"Content-Length is {quote(text)}; expected the number of bytes in the body"
            raise LengthInvalid(msg)
        return int(text)

    async def read_body(self, limit: int) -> bytes:
        """Return the body. Raises: DocumentTooLarge: more than `limit` bytes; LengthInvalid: wrong Content-Length."""
        length = self.content_length()
        if length is not None and length > limit:
            raise DocumentTooLarge(_too_large(limit, length))
        raw = await self.body.read(limit)
        if length is not None and length != len(raw):
            msg = f"the body has {len(raw)} bytes; Content-Length is {length}"
            raise LengthInvalid(msg)
        return raw

    async def drain_body(self) -> None:
        """Read the rest of the body after the response, if the client is going to send it."""
        awaits_continue = not self.body.received_bytes and (self.header(b"expect") or "").lower() == "100-continue"
        if not self.body.finished and self.has_body() and not awaits_continue:
            await self.body.drain()

    def has_body(self) -> bool:
        """Return whether the client announced a body."""
        length = self.header(b"content-length")
        return length != "0" if length is not None else self.header(b"transfer-encoding") is not None


def with_forwarded_client(scope: Scope, trusted: Sequence[Network]) -> Scope:
    """Return the scope with the client that the trusted proxies in front name, for limits per client and for the log."""
    host, _ = scope.get("client") or ("", 0)
    forwarded_for = ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == b"x-forwarded-for")
    client = forwarded_client(host, forwarded_for, trusted)
    return scope if client == host else {**scope, "client": (client, 0)}


def _too_large(limit: int, length: int | None = None) -> str:
    size = "more" if length is None else f"{length}"
    return f"a manifest may have at most {limit} bytes; this one has {size}"
