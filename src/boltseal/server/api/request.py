"""One request as the handlers see it: method, headers and query read on demand, and a body that comes in chunks.

A thin view of an ASGI scope, without copies: most requests ask for one header or none. The body keeps three
rules: it is never collected beyond a stated limit, a client that leaves in the middle is `ClientGone` and never
a shorter body, and one that sends nothing, or next to nothing, is refused so that it frees what it holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

from starlette.types import Receive, Scope

from boltseal.errors import ErrorCode, Invalid, TooLarge, quote
from boltseal.policy.client_address import whose
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.api.errors import BodyStalled, ClientGone
from boltseal.server.api.query import Query
from boltseal.server.auth.access import ANONYMOUS_CALLER, Caller
from boltseal.server.auth.actor import ANONYMOUS, Actor

_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How long a body is waited for, and how much of a refused one is taken off the client's hands.

    `idle_s`: without a byte. `min_bytes_per_s`: what each `idle_s` of waiting must bring, on average; 0: anything.
    `drain_bytes`, `drain_s`: of what still comes after the answer.
    """

    idle_s: float = 60.0
    min_bytes_per_s: int = 512
    drain_bytes: int = 8 * 1024 * 1024
    drain_s: float = 2.0


DEFAULT_LIMITS: Final = BodyLimits()


class LengthInvalid(Invalid):
    """A Content-Length that is no number, or that is not the length of the body."""

    code = ErrorCode.SIZE_INVALID


class DocumentTooLarge(TooLarge):
    """A manifest over the limit."""

    code = ErrorCode.SIZE_INVALID


class _Patience:
    """Ends a wait of one task that takes too long or brings too little, by cancelling it, as `asyncio.timeout` does.

    One timer for all the waits of a body: a timer for each would cost more than the chunk that is waited for. Only the
    time that was waited counts: a client that we keep waiting (its bytes are there, our disk is slow) is not slow.
    """

    __slots__ = (
        "_body",
        "_cancelling",
        "_from_bytes",
        "_from_s",
        "_limits",
        "_loop",
        "_since",
        "_task",
        "_timer",
        "_waited_s",
        "expired",
    )

    def __init__(self, body: Body, limits: BodyLimits) -> None:
        self._body = body
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = 0
        self._since: float | None = None
        self._waited_s = 0.0
        self._from_s, self._from_bytes = 0.0, body.received
        self._timer: asyncio.TimerHandle | None = None
        self.expired: str | None = None

    def begin(self) -> None:
        """A wait begins."""
        self.expired = None
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.idle_s, self._look)

    def end(self) -> None:
        """It is over."""
        if self._since is not None:
            self._waited_s += self._loop.time() - self._since
            self._since = None

    def forget(self) -> None:
        """There will be no other."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ended_it(self) -> bool:
        """Asked when the wait was cancelled: whether this did it, and nobody else meant the task as well."""
        return self.expired is not None and self._task.uncancel() <= self._cancelling

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        idle_s = self._limits.idle_s
        for_s = self._loop.time() - self._since
        waited_s = self._waited_s + for_s
        if for_s >= idle_s:
            self.expired = f"no byte of the body came for {idle_s:g} seconds; send the request again"
        elif waited_s - self._from_s >= idle_s and not self._next_stretch(waited_s):
            self.expired = (
                f"the body came with less than {self._limits.min_bytes_per_s} bytes a second; send the request again "
                "over a faster line, or ask whoever runs this registry for a lower min_body_bytes_per_s"
            )
        else:
            left_s = idle_s - max(for_s, waited_s - self._from_s)
            self._timer = self._loop.call_later(left_s, self._look)
            return
        self._cancelling = self._task.cancelling()
        self._task.cancel()

    def _next_stretch(self, waited_s: float) -> bool:
        """Whether the stretch of waiting that ends now brought enough; if so another one begins."""
        came_bytes = self._body.received - self._from_bytes
        if came_bytes < (waited_s - self._from_s) * self._limits.min_bytes_per_s:
            return False
        self._from_s, self._from_bytes = waited_s, self._body.received
        return True


class Body:
    """The body of a request: iterate over it once, in one task, for its chunks as the server hands them over."""

    __slots__ = ("_limits", "_patience", "_receive", "finished", "received")

    def __init__(self, receive: Receive, limits: BodyLimits = DEFAULT_LIMITS) -> None:
        self._receive = receive
        self._limits = limits
        self._patience: _Patience | None = None
        self.finished = False
        self.received = 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk, never empty. ClientGone, BodyStalled."""
        while not self.finished:
            chunk = await self._next()
            if chunk:
                return chunk
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        patience = self._patience
        if patience is None:
            patience = self._patience = _Patience(self, self._limits)
        patience.begin()
        try:
            message = await self._receive()
        except asyncio.CancelledError as error:
            if not patience.ended_it():
                raise
            raise BodyStalled(str(patience.expired)) from error
        finally:
            patience.end()
        if message["type"] == "http.disconnect":
            self.finished = True
            patience.forget()
            raise ClientGone
        if not message.get("more_body", False):
            self.finished = True
            patience.forget()
        chunk: bytes = message.get("body", b"")
        self.received += len(chunk)
        return chunk

    async def whole(self, limit: int) -> bytes:
        """All of it; DocumentTooLarge as soon as there is more than `limit` bytes of it."""
        chunks = []
        async for chunk in self:
            if self.received > limit:
                raise DocumentTooLarge(_over(limit))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Reads and forgets what still comes, within bounds of size and time.

        A server that closes on a client which is still sending makes it miss the answer already sent: its next
        write fails before it reads. Best effort: a client that has left, or dawdles, is not waited for.
        """
        limit = self.received + self._limits.drain_bytes
        try:
            async with asyncio.timeout(self._limits.drain_s):
                while not self.finished and self.received < limit:
                    await self._next()
        except (TimeoutError, BodyStalled, ClientGone):
            self.finished = True


class Request:
    """One request. Header names are lower-case bytes, as ASGI gives them; values are text.

    `caller` and `actor`: who sends it, once the gate has said so. `id`: its number, for the log and for the client.
    `route`: the kind of place it is about, a word of a small set. `asked`: what it asks for beyond its path, for the
    log; only what was parsed. `upstream`: whose image it is about, None where it is ours.
    """

    __slots__ = (
        "_body",
        "_limits",
        "_query",
        "actor",
        "asked",
        "caller",
        "id",
        "receive",
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
        self.upstream: UpstreamTerms | None = None
        self.scope = scope
        self.receive = receive
        self.caller: Caller = ANONYMOUS_CALLER
        self.actor: Actor = ANONYMOUS
        self._body: Body | None = None
        self._query: Query | None = None

    @property
    def body(self) -> Body:
        """What the client sends along."""
        if self._body is None:
            self._body = Body(self.receive, self._limits)
        return self._body

    @property
    def received_bytes(self) -> int:
        """How much of the body has been taken so far."""
        return 0 if self._body is None else self._body.received

    @property
    def address(self) -> str:
        """The address that the request came from, without a port; "" where the server does not say."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def network(self) -> str:
        """The same, as what one sender has for themselves: see `policy.client_address`."""
        return whose(self.address)

    @property
    def method(self) -> str:
        """`GET`, `HEAD`, ..."""
        method: str = self.scope["method"]
        return method

    @property
    def query(self) -> Query:
        """The parameters after the question mark. QueryInvalid, UriTooLong."""
        if self._query is None:
            self._query = Query(self.scope.get("query_string", b""))
        return self._query

    def header(self, name: bytes) -> str | None:
        """A header's value, several lines of it joined by a comma (RFC 9110, section 5.3), None without it."""
        found: bytes | None = None
        for key, value in self.scope["headers"]:
            if key == name:
                found = value if found is None else found + b", " + value
        return None if found is None else found.decode("latin-1").strip()

    def content_length(self) -> int | None:
        """How long the body will be, None when the client does not say. LengthInvalid."""
        text = self.header(b"content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            msg = f"Content-Length is {quote(text)}; expected the number of bytes in the body"
            raise LengthInvalid(msg)
        return int(text)

    async def document(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes, as long as it says it is. DocumentTooLarge, LengthInvalid."""
        length = self.content_length()
        if length is not None and length > limit:
            raise DocumentTooLarge(_over(limit, length))
        raw = await self.body.whole(limit)
        if length is not None and length != len(raw):
            msg = f"the body has {len(raw)} bytes; Content-Length says {length}"
            raise LengthInvalid(msg)
        return raw

    async def take_leave(self) -> None:
        """After the answer: takes the rest of a body off the client's hands, if there is one that it will send."""
        waits_for_leave = not self.body.received and (self.header(b"expect") or "").lower() == "100-continue"
        if not self.body.finished and self.has_body() and not waits_for_leave:
            await self.body.drain()

    def has_body(self) -> bool:
        """Whether the client announced one."""
        length = self.header(b"content-length")
        return length != "0" if length is not None else self.header(b"transfer-encoding") is not None


def _over(limit: int, length: int | None = None) -> str:
    has = "more" if length is None else f"{length}"
    return f"a manifest may have at most {limit} bytes; this one has {has}"
