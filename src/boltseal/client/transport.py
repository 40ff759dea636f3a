"""One request to another registry: address, authorization, retries, redirects, bounds.

The steps of a request, in order:

1. The address: TLS, except on loopback and where the user said so; on loopback plain HTTP is tried first.
2. What we know already: a token that covers the scopes, or how the registry wanted to be asked before (a token of its
   realm, or Basic).
3. A 401 is answered once: a token from the realm it names, or Basic.
4. Redirects of GET and HEAD are followed, at most five; authorization stays with the host it was meant for, and nothing
   is sent in the clear that came over TLS.
5. A token may be too long for what stands before a registry (400, 413, 431, or it breaks off): a GET or HEAD is then asked
   again with tokens for fewer repositories.
6. No answer, 408, 429 and 5xx are tried again with growing pauses, or after what `Retry-After` says when that is short.
   A refusal (400, 401, 403, 404, 405, 409, 412) never is.

What an answer's headers say of limits (`Retry-After`, `ratelimit-*`) is noted before its body is read, and holds whatever
the body says, also where it is too long, breaks off or never ends.

Bodies of answers are bounded: what is longer than it may be is not read to its end. So is time: a registry that sends a
byte now and then is given up as one that sends none.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import stamina

from boltseal import __version__
from boltseal.client.challenges import Challenge, parse_challenges
from boltseal.client.credentials import Credentials, LoginSource
from boltseal.client.errors import RemoteBusy, RemoteMismatch, RemoteUnavailable, from_status
from boltseal.client.hosts import api_host, host_name, is_loopback
from boltseal.client.pull_limit import PullLimit, PullsLeft, parse_quota, parse_retry_after
from boltseal.client.ssrf_guard import AddressBlocked, NoNeighbour, SsrfGuard
from boltseal.client.tokens import TokenCache
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.socket_backend import SocketClient

MAX_REDIRECTS: Final = 5
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
MAX_UNWANTED_BYTES: Final = 64 * 1024
MAX_SHORTER: Final = 12
PATIENCE_S: Final = 30.0
WHOLE_S: Final = 300.0
SLOWEST_BYTES_PER_S: Final = 512
"""Slower than this, for a minute, nothing is waited for; a body that is pushed may take as long as it does at this pace."""
_TOO_LONG: Final = frozenset({400, 413, 431})
_BROKEN_OFF: Final = (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)
_REPOSITORY_IN_PATH: Final = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/")

Body = bytes | Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class MinimumRate:
    """How slowly a stream may come: what each `over_s` seconds of waiting must bring, on average."""

    bytes_per_s: int = SLOWEST_BYTES_PER_S
    over_s: float = 60.0


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How we talk. `plain_http`: registries that may be asked without TLS. `ca_file`: a private authority, in PEM.

    `timeout_s`: without a byte. `whole_s`: how long asking for what is read whole may take in all, since who sends a byte now
    and then is never silent, and until a stream has begun; redirects, tokens and other tries included. `pace`: how slowly a
    stream may come. `patience_s`: the longest `Retry-After` that is waited for. `reason_s`: how long the body of a failure may
    take, which only says why. `reach`: where a registry may send us; None:
    anywhere but to link-local addresses.
    """

    plain_http: frozenset[str] = frozenset()
    ca_file: Path | None = None
    timeout_s: float = 30.0
    whole_s: float = WHOLE_S
    pace: MinimumRate = MinimumRate()
    attempts: int = 4
    patience_s: float = PATIENCE_S
    reason_s: float = 10.0
    reach: SsrfGuard | None = None


@dataclass(frozen=True, slots=True)
class RegistryRequest:
    """One request. `path` begins with `/v2/`; `what` is said in errors; `ok` are the statuses that are no error."""

    registry: str
    method: str
    path: str
    what: str
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    ok: frozenset[int] = frozenset({200})
    idempotent: bool = True


@dataclass(frozen=True, slots=True)
class RegistryResponse:
    """An answer that was read whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AuthorityInvalid(Invalid):
    """A file that holds no certificate authority."""


class Transport:
    """Requests to any registry, over one pool of connections. Close it with `aclose`."""

    def __init__(
        self,
        credentials: LoginSource,
        options: TransportOptions = TransportOptions(),
        *,
        app: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = SocketClient(
            verify=trusting(options.ca_file) if app is None else False,  # an application is reached by no network
            timeout=options.timeout_s,
            limits=httpx2.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30.0),
            headers={"user-agent": f"boltseal/{__version__}", "accept-encoding": "identity"},
            transport=app,
            reach=options.reach or NoNeighbour(),
            # a proxy of the environment would look for its own loopback, not for ours
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")} if app is None else None,
        )
        self._credentials = credentials
        self._options = options
        self.pace = options.pace
        self._schemes: dict[str, str] = {}
        self._basic: set[str] = set()
        self._bearer: dict[str, Challenge] = {}
        self.tokens = TokenCache(self._http)
        self.quotas: dict[str, PullLimit] = {}
        self.pulls: dict[str, PullsLeft] = {}

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(self, call: RegistryRequest, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> RegistryResponse:
        """Ask and read the answer whole. Raises what `errors.from_status` makes of a status that is not in `call.ok`."""
        attempts = self._options.attempts if call.idempotent else 1
        async with self._in_time(call):
            async for attempt in stamina.retry_context(on=self._pause, attempts=attempts, timeout=120.0, wait_max=8.0):
                with attempt:
                    async with AsyncExitStack() as stack:
                        response = await self._send(call, stack)
                        if response.status_code not in call.ok:
                            raise await self._failure(call, response)
                        body = await _read(call, response, max_bytes)
                        return RegistryResponse(response.status_code, dict(response.headers), body)
        raise AssertionError("stamina returns or raises")

    @asynccontextmanager
    async def stream(self, call: RegistryRequest) -> AsyncIterator[httpx2.Response]:
        """Ask and hand out the answer while it arrives. Only getting an answer is tried again, not its body."""
        async with AsyncExitStack() as stack:
            async with self._in_time(call):
                async for attempt in stamina.retry_context(
                    on=self._pause, attempts=self._options.attempts, timeout=120.0, wait_max=8.0
                ):
                    with attempt:
                        response = await self._send(call, stack)
                        if response.status_code not in call.ok:
                            raise await self._failure(call, response)
            try:
                yield response
            except httpx2.HTTPError as error:
                raise RemoteUnavailable(f"{call.registry} broke off {call.what}: {type(error).__name__}") from error

    @asynccontextmanager
    async def _in_time(self, call: RegistryRequest) -> AsyncIterator[None]:
        """RemoteUnavailable when what is done in it takes too long; what is pushed is given the time that it needs."""
        within_s = self._options.whole_s + int(call.headers.get("content-length", "0")) / SLOWEST_BYTES_PER_S
        limit = asyncio.timeout(within_s)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RemoteUnavailable(f"{call.registry} did not answer for {call.what} within {within_s:g} s") from error

    def _pause(self, error: Exception) -> bool | float:
        """Whether to try again, and after how many seconds if the registry said so."""
        if isinstance(error, RemoteMismatch | AddressBlocked) or not isinstance(error, Unavailable | RemoteBusy):
            return False
        retry_after_s: float | None = getattr(error, "retry_after_s", None)
        if retry_after_s is None:
            return True
        return retry_after_s if retry_after_s <= self._options.patience_s else False

    def _note_limits(self, call: RegistryRequest, response: httpx2.Response) -> None:
        quota = parse_quota(response.headers)
        if quota is not None:
            self.quotas[call.registry] = quota
        if quota is not None or ("/manifests/" in call.path and response.status_code in call.ok):
            self.pulls[call.registry] = PullsLeft(None if quota is None else quota.remaining)

    async def _failure(self, call: RegistryRequest, response: httpx2.Response) -> BoltsealError:
        """The error that an answer is. Its body only says why: what can't be read of it changes nothing."""
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
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:  # the last two: of a name that no host has
            reason = str(error) or type(error).__name__
            raise RemoteUnavailable(f"{call.registry} did not answer for {call.what}: {reason}") from error

    async def _authorized(self, call: RegistryRequest, stack: AsyncExitStack) -> httpx2.Response:
        for _ in range(MAX_SHORTER):
            try:
                response, authorization = await self._ask(call, stack)
            except _BROKEN_OFF:
                if not self._shorter(call, self.tokens.held(call.registry, call.scopes)):
                    raise
                continue
            if response.status_code not in _TOO_LONG or not self._shorter(call, authorization):
                return response
            await _take_leave(response)
        raise RemoteUnavailable(f"{call.registry} takes no token for {call.what}, however short")

    async def _ask(self, call: RegistryRequest, stack: AsyncExitStack) -> tuple[httpx2.Response, str | None]:
        """The answer, and the authorization that it was given to."""
        authorization = await self._known_authorization(call)
        response = await self._follow(call, authorization, stack)
        if response.status_code != 401:
            return response, authorization
        answer = await self._answer_challenge(call, response, authorization)
        if answer is None or answer == authorization:
            return response, authorization
        await _take_leave(response)
        return await self._follow(call, answer, stack), answer

    def _shorter(self, call: RegistryRequest, authorization: str | None) -> bool:
        """Whether it is worth asking again with a token for fewer repositories, because this one may be too long."""
        token = (authorization or "").removeprefix("Bearer ")
        return call.method in ("GET", "HEAD") and self.tokens.shorten(call.registry, token)

    async def _known_authorization(self, call: RegistryRequest) -> str | None:
        token = self.tokens.held(call.registry, call.scopes)
        if token is not None:
            return f"Bearer {token}"
        if call.registry in self._basic:
            return _basic(await self._login(call))
        challenge = self._bearer.get(call.registry)
        if challenge is not None and call.scopes:
            try:
                return f"Bearer {await self._token(call, call.scopes, challenge)}"
            except BoltsealError:
                self._bearer.pop(call.registry, None)  # it may want to be asked otherwise by now: let it say so again
                raise
        return None

    async def _answer_challenge(self, call: RegistryRequest, response: httpx2.Response, sent: str | None) -> str | None:
        credentials = await self._login(call)
        for challenge in parse_challenges(response.headers.get("www-authenticate", "")):
            if challenge.scheme == "bearer":
                if sent is not None and sent.startswith("Bearer "):
                    if challenge.parameters.get("error") == "insufficient_scope":
                        return None  # the token is good, and this is not in it: another one would say the same
                    self.tokens.forget(call.registry, sent.removeprefix("Bearer "))
                scopes = call.scopes or frozenset(challenge.parameters.get("scope", "").split())
                token = await self._token(call, scopes, challenge)
                self._bearer[call.registry] = challenge
                return f"Bearer {token}"
            if challenge.scheme == "basic" and credentials is not None and not credentials.identity_token:
                self._basic.add(call.registry)
                return _basic(credentials)
        return None

    async def _login(self, call: RegistryRequest) -> Credentials | None:
        found = _REPOSITORY_IN_PATH.match(call.path)
        return await self._credentials.find(call.registry, found[1] if found else None)

    async def _token(self, call: RegistryRequest, scopes: frozenset[str], challenge: Challenge) -> str:
        # Where parts of a registry have logins of their own, one of them is not asked for what is another's.
        alone = bool(self._credentials.below(call.registry))
        login = await self._login(call)
        if login is not None and self._options.reach is not None:
            self._options.reach.check_login(host_of(challenge.parameters.get("realm", "")))
        return await self.tokens.ask(call.registry, scopes, challenge, login, alone=alone)

    async def _follow(self, call: RegistryRequest, authorization: str | None, stack: AsyncExitStack) -> httpx2.Response:
        url = httpx2.URL(f"{await self._scheme(call.registry)}://{api_host(call.registry)}{call.path}")
        home = (url.scheme, url.host, url.port)
        for _ in range(MAX_REDIRECTS + 1):
            headers = dict(call.headers)
            if authorization is not None and (url.scheme, url.host, url.port) == home:
                headers["authorization"] = authorization
            content = call.body() if callable(call.body) else call.body
            request = self._http.build_request(call.method, url, headers=headers, content=content)
            response = await self._http.send(request, stream=True)
            stack.push_async_callback(response.aclose)
            if not response.has_redirect_location or call.method not in ("GET", "HEAD"):
                return response
            url = self._next(call, url, response)
            await _take_leave(response)
        raise RemoteUnavailable(f"{call.registry} redirects {call.what} more than {MAX_REDIRECTS} times")

    def _next(self, call: RegistryRequest, url: httpx2.URL, response: httpx2.Response) -> httpx2.URL:
        try:
            target = url.join(response.headers["location"])
        except httpx2.InvalidURL as error:
            raise RemoteUnavailable(f"{call.registry} redirects {call.what} to what is no address") from error
        if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme == "http"):
            raise RemoteUnavailable(f"{call.registry} redirects {call.what} out of TLS, to {target.host}: not followed")
        if self._options.reach is not None:  # a proxy of the environment looks names up itself
            self._options.reach.check_literal(target.host, target.port or DEFAULT_PORTS[target.scheme])
        return target

    async def _scheme(self, registry: str) -> str:
        known = self._schemes.get(registry)
        if known is not None:
            return known
        scheme = "https"
        if registry in self._options.plain_http or host_name(registry) in self._options.plain_http:
            scheme = "http"
        elif is_loopback(registry):
            scheme = await self._try_plain(registry)
        self._schemes[registry] = scheme
        return scheme

    async def _try_plain(self, registry: str) -> str:
        """On loopback nobody listens in: a registry there that speaks plain HTTP is asked so, as Docker does."""
        try:
            async with self._http.stream("GET", f"http://{registry}/v2/", timeout=5.0) as response:
                await _take_leave(response)
        except httpx2.ConnectError:
            return "http"
        except httpx2.HTTPError:
            return "https"
        return (
            "http" if "docker-distribution-api-version" in response.headers or response.status_code != 400 else "https"
        )


def host_of(address: str) -> str:
    """The host of a URL, "" where it has none or is none."""
    try:
        return httpx2.URL(address).host
    except httpx2.InvalidURL:
        return ""


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS with the system's authorities, and one of the user's own. AuthorityInvalid."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "there is no PEM certificate in it"
            raise AuthorityInvalid(f"{ca_file}: {reason}; expected the certificate of an authority") from error
    return context


def _basic(credentials: Credentials | None) -> str | None:
    if credentials is None or credentials.identity_token:
        return None
    request = httpx2.Request("GET", "http://localhost/")
    return next(httpx2.BasicAuth(credentials.username, credentials.secret).auth_flow(request)).headers["authorization"]


async def _read(call: RegistryRequest, response: httpx2.Response, max_bytes: int) -> bytes:
    """All of an answer. A HEAD's is empty, and read all the same: only then its connection can be used again."""
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


async def _take_leave(response: httpx2.Response) -> None:
    """Read the little that an answer says which is not wanted, for the same reason; a long one is cut off."""
    size = 0
    with suppress(httpx2.HTTPError):
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > MAX_UNWANTED_BYTES:
                break
    await response.aclose()
