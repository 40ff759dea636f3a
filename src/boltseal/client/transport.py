"""One request to another registry: address, authorization, retries, redirects, limits.

The steps of a request, in order:

1. Choose the scheme: TLS, except on loopback and where the user allowed plain HTTP; on loopback plain HTTP is tried
   first. A registry that does not speak TLS is asked without only if registries.conf allows it. Certificate authorities
   of a registry are trusted for requests to it, its token service and its redirects, and for no other registry.
2. Use what is known: a cached token that covers the scopes, or the scheme that the registry asked for before.
3. Answer one 401: with a token of the realm that it names, or Basic.
4. Follow redirects of GET and HEAD, at most five. Authorization is sent to the original host only, and no redirect from
   TLS to plain HTTP is followed.
5. If a token may be too long for a proxy of the registry (400, 413, 431, closed connection), repeat a GET or HEAD with
   tokens for fewer repositories.
6. Retry a missing answer, 408, 429 and 5xx with growing pauses, or after `Retry-After` if that is short. A refusal
   (400, 401, 403, 404, 405, 409, 412) is never retried.

Rate-limit headers (`Retry-After`, `ratelimit-*`) are recorded before the body is read, and count even if the body is
too long, breaks off or never ends.

Bodies are bounded: the rest of a longer one is not read. Time is bounded too: a registry that sends a byte now and then
is given up like one that sends none.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import httpx2

from boltseal import __version__
from boltseal.client.authorization import Authorization
from boltseal.client.certificates import no_trust, tls_context
from boltseal.client.config_files import FileUnusable
from boltseal.client.credentials import LoginSource
from boltseal.client.errors import (
    RemoteBusy,
    RemoteMismatch,
    RemoteUnavailable,
    RemoteUntrusted,
    advice_about_certificate,
    from_status,
    is_untrusted,
)
from boltseal.client.hosts import api_host, host_name, is_loopback
from boltseal.client.pull_limit import PullLimit, PullsLeft, parse_pull_limit, parse_retry_after
from boltseal.client.registry_configuration import RegistryConfiguration
from boltseal.client.registry_request import RegistryRequest, RegistryResponse
from boltseal.client.request_trace import Trace, TracedClient
from boltseal.client.retries import RETRIED, retried
from boltseal.client.ssrf_guard import AddressBlocked, LinkLocalGuard, SsrfGuard
from boltseal.client.tag_prover import TagProver
from boltseal.client.tokens import TokenCache
from boltseal.errors import BoltsealError
from boltseal.socket_backend import SocketClient

MAX_REDIRECTS: Final = 5
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
MAX_UNWANTED_BYTES: Final = 64 * 1024
MAX_SHORTER: Final = 12
PATIENCE_S: Final = 30.0
WHOLE_S: Final = 300.0
SLOWEST_BYTES_PER_S: Final = 512
"""A stream slower than this for a minute is aborted; a push may take as long as its size takes at this rate."""
_TOO_LONG: Final = frozenset({400, 413, 431})
_FINAL: Final = (RemoteMismatch, RemoteUntrusted, AddressBlocked, FileUnusable)
"""Errors of a kind that is retried, which a retry would only repeat."""
_BROKEN_OFF: Final = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
_QUOTED_BYTES: Final = re.compile(r""":?\s*(?:bytearray\()?b['"]""")


@dataclass(frozen=True, slots=True)
class MinimumRate:
    """The slowest acceptable stream: bytes per second, on average over each `over_s` seconds of waiting."""

    bytes_per_s: int = SLOWEST_BYTES_PER_S
    over_s: float = 60.0


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Options of a transport. `plain_http`: registries that may be asked without TLS. `ca_file`: a private CA, in PEM.
    `registries`: how each registry is reached, by the user's files; without it no file is read.

    `timeout_s`: longest time without a byte. `whole_s`: longest time for a whole document, or until a stream begins,
    including redirects, tokens and retries; a server that sends a byte now and then never triggers `timeout_s`. `pace`:
    the slowest acceptable stream. `retry_busy`: whether a 429 without `Retry-After` is retried. `patience_s`: the longest
    `Retry-After` that is waited for. `reason_s`: longest time for the body of an error, which only explains it. `reach`: the
    addresses that a registry may send the client to; None: all but link-local ones. `trace`: called with a line for each
    request.
    """

    plain_http: frozenset[str] = frozenset()
    ca_file: Path | None = None
    timeout_s: float = 30.0
    whole_s: float = WHOLE_S
    pace: MinimumRate = MinimumRate()
    attempts: int = 4
    retry_busy: bool = True
    patience_s: float = PATIENCE_S
    reason_s: float = 10.0
    reach: SsrfGuard | None = None
    registries: RegistryConfiguration = field(default_factory=RegistryConfiguration)
    trace: Trace | None = None


class _Trust(NamedTuple):
    """What an HTTP client is for: requests for one registry with its own CAs; `home`: to the registry's own host."""

    registry: str
    home: bool


class Transport:
    """Sends requests to any registry over one connection pool. Close it with `aclose`."""

    def __init__(
        self,
        credentials: LoginSource,
        options: TransportOptions = TransportOptions(),
        *,
        app: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._app = app
        self._options = options
        self._plain_http = self._new_client(None, tls=False)
        # a wrong file is reported at once; the system's CAs are loaded when a connection needs them
        self._tls_http = None if options.ca_file is None else self._new_client(None)
        self._own_http: dict[_Trust, SocketClient] = {}
        self._speaks_tls: set[str] = set()
        self.pace = options.pace
        self._schemes: dict[str, str] = {}
        self.tokens = TokenCache(self._client)
        self._authorization = Authorization(credentials, self.tokens, options.reach)
        self.quotas: dict[str, PullLimit] = {}
        self.pulls: dict[str, PullsLeft] = {}
        self.prover: TagProver | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        for http in (self._plain_http, self._tls_http, *self._own_http.values()):
            if http is not None:
                await http.aclose()

    def _new_client(self, trust: _Trust | None, *, tls: bool = True) -> SocketClient:
        options, app = self._options, self._app
        own = None if trust is None else options.registries.certificates(trust.registry)
        home = trust is not None and trust.home
        kind = SocketClient if options.trace is None else partial(TracedClient, trace=options.trace)
        return kind(
            verify=tls_context(options.ca_file, own, home=home) if tls else no_trust(),
            timeout=options.timeout_s,
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30.0),
            headers={"user-agent": f"boltseal/{__version__}", "accept-encoding": "identity"},
            transport=app,
            reach=options.reach or LinkLocalGuard(),
            # a proxy from the environment would resolve loopback to itself
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")} if app is None else None,
        )

    def _client(self, registry: str, url: httpx2.URL) -> SocketClient:
        """Return the HTTP client for a request on behalf of a registry: a shared one, or one with its certificates."""
        if self._app is not None or url.scheme != "https":  # an in-process application needs no TLS
            return self._plain_http
        certificates = self._options.registries.certificates(registry)
        if certificates.empty:
            if self._tls_http is None:
                self._tls_http = self._new_client(None)
            return self._tls_http
        home = httpx2.URL(f"https://{api_host(registry)}")
        trust = _Trust(registry, certificates.client is None or (url.host, url.port) == (home.host, home.port))
        if trust not in self._own_http:
            self._own_http[trust] = self._new_client(trust)
        return self._own_http[trust]

    async def request(self, call: RegistryRequest, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> RegistryResponse:
        """Send a request and return the answer with its body.

        Raises: the error that `errors.from_status` returns for a status that is not in `call.ok`; RemoteUnavailable;
        RemoteMismatch: the body is longer than `max_bytes`.
        """

        async def once() -> RegistryResponse:
            async with AsyncExitStack() as stack:
                response = await self._accepted(call, stack)
                body = await _read(call, response, max_bytes)
                return RegistryResponse(response.status_code, dict(response.headers), body)

        async with self._deadline(call):
            return await retried(once, self._retry_delay, self._options.attempts if call.idempotent else 1)

    @asynccontextmanager
    async def stream(self, call: RegistryRequest) -> AsyncIterator[httpx2.Response]:
        """Send a request and yield the answer while its body arrives. Only the request is retried, not the body."""
        async with AsyncExitStack() as stack:
            async with self._deadline(call):
                accepted = partial(self._accepted, call, stack)
                response = await retried(accepted, self._retry_delay, self._options.attempts)
            try:
                yield response
            except httpx2.HTTPError as error:
                raise RemoteUnavailable(f"{call.registry} aborted {call.what}: {type(error).__name__}") from error

    @asynccontextmanager
    async def _deadline(self, call: RegistryRequest) -> AsyncIterator[None]:
        """Limit the time of a block; a push gets the time that its body needs. Raises: RemoteUnavailable."""
        within_s = self._options.whole_s + int(call.headers.get("content-length", "0")) / SLOWEST_BYTES_PER_S
        limit = asyncio.timeout(within_s)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RemoteUnavailable(f"{call.registry} did not answer for {call.what} within {within_s:g} s") from error

    async def _accepted(self, call: RegistryRequest, stack: AsyncExitStack) -> httpx2.Response:
        """Send a request once and return its answer. Raises the error for a status that is not in `call.ok`."""
        response = await self._send(call, stack)
        if response.status_code not in call.ok:
            raise await self._failure(call, response)
        return response

    def _retry_delay(self, error: Exception) -> bool | float:
        """Return whether to retry, or after how many seconds if the registry sent Retry-After."""
        if isinstance(error, _FINAL) or not isinstance(error, RETRIED):
            return False
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is None:
            return self._options.retry_busy or not isinstance(error, RemoteBusy)
        return retry_after_s if retry_after_s <= self._options.patience_s else False

    def _note_limits(self, call: RegistryRequest, response: httpx2.Response) -> None:
        quota = parse_pull_limit(response.headers)
        if quota is not None:
            self.quotas[call.registry] = quota
        if quota is not None or ("/manifests/" in call.path and response.status_code in call.ok):
            self.pulls[call.registry] = PullsLeft(None if quota is None else quota.remaining)

    async def _failure(self, call: RegistryRequest, response: httpx2.Response) -> BoltsealError:
        """Return the error of an answer. Its body only explains the error: a failure to read it changes nothing."""
        body = b""
        with suppress(BoltsealError, TimeoutError):
            async with asyncio.timeout(self._options.reason_s):
                body = await _read(call, response, MAX_UNWANTED_BYTES)
        return from_status(
            call.registry,
            call.what,
            response.status_code,
            body,
            retry_after_s=parse_retry_after(response.headers.get("retry-after"), time.time()),
            bound=response.headers.get("boltseal-bound"),
            counted="ratelimit-remaining" in response.headers,
        )

    async def _send(self, call: RegistryRequest, stack: AsyncExitStack) -> httpx2.Response:
        try:
            response = await self._authorized(call, stack)
            self._note_limits(call, response)
            return response
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last two: an invalid host name
            reason = _reason(error)
            if is_untrusted(error):
                advice = advice_about_certificate(error)
                if advice is None:
                    advice = self._options.registries.certificates(call.registry).advice()
                lines = [f"{call.registry} was not asked for {call.what}: {reason}", *([advice] if advice else [])]
                raise RemoteUntrusted("; ".join(lines)) from error
            raise RemoteUnavailable(f"{call.registry} did not answer for {call.what}: {reason}") from error

    async def _authorized(self, call: RegistryRequest, stack: AsyncExitStack) -> httpx2.Response:
        for _ in range(MAX_SHORTER):
            try:
                response, authorization = await self._ask(call, stack)
            except _BROKEN_OFF:
                if not self._may_use_shorter(call, self.tokens.held(call.registry, call.scopes)):
                    raise
                continue
            if response.status_code not in _TOO_LONG or not self._may_use_shorter(call, authorization):
                return response
            await _drain(response)
        raise RemoteUnavailable(f"{call.registry} rejects even the shortest token for {call.what}")

    async def _ask(self, call: RegistryRequest, stack: AsyncExitStack) -> tuple[httpx2.Response, str | None]:
        """Return the answer, and the authorization that was sent with the accepted request."""
        authorization = await self._authorization.known(call)
        response = await self._follow(call, authorization, stack)
        if response.status_code != 401:
            return response, authorization
        answer = await self._authorization.answer_challenge(call, response, authorization)
        if answer is None or answer == authorization:
            return response, authorization
        await _drain(response)
        return await self._follow(call, answer, stack), answer

    def _may_use_shorter(self, call: RegistryRequest, authorization: str | None) -> bool:
        """Return whether a retry with a token for fewer repositories may help, because this one may be too long."""
        token = (authorization or "").removeprefix("Bearer ")
        return call.method in ("GET", "HEAD") and self.tokens.use_shorter(call.registry, token)

    async def _follow(self, call: RegistryRequest, authorization: str | None, stack: AsyncExitStack) -> httpx2.Response:
        url = httpx2.URL(f"{await self._scheme(call.registry)}://{api_host(call.registry)}{call.path}")
        home = (url.scheme, url.host, url.port)
        for _ in range(MAX_REDIRECTS + 1):
            headers = dict(call.headers)
            if authorization is not None and (url.scheme, url.host, url.port) == home:
                headers["authorization"] = authorization
            content = call.body() if callable(call.body) else call.body
            http = self._client(call.registry, url)
            timeout = httpx2.Timeout(self._options.timeout_s, read=call.answer_s or self._options.timeout_s)
            request = http.build_request(call.method, url, headers=headers, content=content, timeout=timeout)
            try:
                response = await http.send(request, stream=True)
            except httpx2.ConnectError as error:
                if url.scheme != "https" or not self._may_ask_without_tls(call.registry, error):
                    raise
                self._schemes[call.registry] = "http"
                return await self._follow(call, authorization, stack)
            if url.scheme == "https":
                self._speaks_tls.add(call.registry)
            stack.push_async_callback(response.aclose)
            if not response.has_redirect_location or call.method not in ("GET", "HEAD"):
                return response
            url = self._next(call, url, response)
            await _drain(response)
        raise RemoteUnavailable(f"{call.registry} redirects {call.what} more than {MAX_REDIRECTS} times")

    def _may_ask_without_tls(self, registry: str, error: httpx2.ConnectError) -> bool:
        """Return whether to repeat a request without TLS, which was not sent: the registry has never spoken TLS."""
        if registry in self._speaks_tls or is_untrusted(error) or self._schemes.get(registry) != "https":
            return False
        return self._options.registries.allows_plain_http(registry)

    def _next(self, call: RegistryRequest, url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
        try:
            target = url.join(response.headers["location"])
        except httpx2.InvalidURL as error:
            raise RemoteUnavailable(f"{call.registry} redirects {call.what} to a malformed URL") from error
        if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
            raise RemoteUnavailable(f"{call.registry} redirects {call.what} out of TLS, to {target.host}: not followed")
        if self._options.reach is not None:  # a proxy from the environment resolves names itself
            self._options.reach.check_literal(target.host, target.port or DEFAULT_PORTS[target.scheme])
        return target

    async def _scheme(self, registry: str) -> str:
        known = self._schemes.get(registry)
        if known is not None:
            return known
        scheme = "https"
        plain = self._options.plain_http
        if registry in plain or host_name(registry) in plain or self._options.registries.plain_http(registry):
            scheme = "http"
        elif is_loopback(registry):
            scheme = await self._try_plain(registry)
        self._schemes[registry] = scheme
        return scheme

    async def _try_plain(self, registry: str) -> str:
        """Return `http` if a registry on loopback speaks it, as Docker does: loopback traffic can't be intercepted."""
        try:
            async with self._plain_http.stream("GET", f"http://{registry}/v2/", timeout=5.0) as response:
                await _drain(response)
        except httpx2.ConnectError:
            return "http"
        except httpx2.HTTPError:
            return "https"
        return (
            "http" if "docker-distribution-api-version" in response.headers or response.status_code != 400 else "https"
        )


def _reason(error: Exception) -> str:
    """Return why a request failed, without the bytes that a protocol error quotes: a header may have a signature or a token."""
    return _QUOTED_BYTES.split(str(error), 1)[0] or type(error).__name__


async def _read(call: RegistryRequest, response: httpx2.Response, max_bytes: int) -> bytes:
    """Return the whole body. The empty body of a HEAD is read too, or its connection could not be reused."""
    pieces, size = [], 0
    try:
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > max_bytes:
                raise RemoteMismatch(f"{call.registry} answered {call.what} with more than {max_bytes} bytes: not read")
            pieces.append(piece)
    except httpx2.HTTPError as error:
        raise RemoteUnavailable(f"{call.registry} broke off {call.what}: {type(error).__name__}") from error
    return b"".join(pieces)


async def _drain(response: httpx2.Response) -> None:
    """Read and drop an unwanted body so that its connection can be reused; a long one is cut off."""
    size = 0
    with suppress(httpx2.HTTPError):
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > MAX_UNWANTED_BYTES:
                break
    await response.aclose()
