"""Bearer tokens: fetched from the realm that a registry names, cached until they expire, shared by many repositories.

A token is requested with all scopes of its group (`announce`), so that HEADs in 200 repositories cost one token.
Registries limit the size of a group differently and do not state the limit: the URL or the token may get too long for a
proxy, and some issue no token if one of many scopes is denied. A group that fails is halved until it succeeds; if its
length was the reason, the smaller size is used from then on.

Tokens live in memory only. A realm is contacted over TLS or on loopback; a password goes nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import httpx2
import msgspec

from boltseal.client.challenges import Challenge
from boltseal.client.credentials import Credentials
from boltseal.client.errors import (
    RemoteBusy,
    RemoteUnauthenticated,
    RemoteUnavailable,
    RemoteUntrusted,
    error_text,
    is_untrusted,
)
from boltseal.client.hosts import is_loopback
from boltseal.client.pull_limit import parse_retry_after
from boltseal.errors import BoltsealError
from boltseal.oci.jsontext import decode

GROUP: Final = 512
LONG: Final = 4096
MARGIN_S: Final = 20.0
DEFAULT_LIFE_S: Final = 60.0
MAX_ANSWER_BYTES: Final = 256 * 1024
MOST_HELD: Final = 500
"""Cached tokens of one registry: clients of a mirror, unauthenticated ones too, choose the repositories."""


class _Refused(RemoteUnauthenticated):
    """The token service issued no token for the request."""


class _TooLong(RemoteUnavailable):
    """The token service rejects a request of this length."""


@dataclass(frozen=True, slots=True)
class _Token:
    scopes: frozenset[str]
    text: str = field(repr=False)
    ends_s: float


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class TokenCache:
    """The tokens of one process. `client_for`: the HTTP client for a registry and a URL. `clock`: monotonic seconds."""

    def __init__(
        self,
        client_for: Callable[[str, httpx2.URL], httpx2.AsyncClient],
        clock: Callable[[], float] = time.monotonic,
        most_held: int = MOST_HELD,
    ) -> None:
        self._client_for = client_for
        self._most_held = most_held
        self._clock = clock
        self._held: dict[str, list[_Token]] = {}
        self._groups: dict[tuple[str, str], frozenset[str]] = {}
        self._most: dict[str, int] = {}
        self._locks: WeakValueDictionary[tuple[str, frozenset[str]], asyncio.Lock] = WeakValueDictionary()
        self.asked = 0

    def announce(self, registry: str, scopes: Iterable[str]) -> None:
        """Declare scopes that will be needed: a token for one of them is then requested for its whole group."""
        wanted, most = sorted(set(scopes)), self._most.get(registry, GROUP)
        for start in range(0, len(wanted), most):
            self._group(registry, wanted[start : start + most])

    def held(self, registry: str, scopes: frozenset[str]) -> str | None:
        """Return a cached token that covers the scopes and does not expire soon, or None."""
        now = self._clock()
        tokens = [token for token in self._held.get(registry, ()) if token.ends_s > now]
        self._held[registry] = tokens
        return next((token.text for token in tokens if scopes <= token.scopes), None)

    def forget(self, registry: str, text: str) -> None:
        """Drop a token that the registry rejected."""
        self._held[registry] = [token for token in self._held.get(registry, ()) if token.text != text]

    def use_shorter(self, registry: str, text: str) -> bool:
        """Return whether a retry with another token may help, because the rejected one is long; halve its group if so."""
        token = next((token for token in self._held.get(registry, ()) if token.text == text), None)
        if len(text) <= LONG or (token is not None and len(token.scopes) < 2):
            return False
        if token is not None:  # else another task halved the group meanwhile
            self.forget(registry, text)
            self._halve(registry, token.scopes, too_long=True)
        return True

    async def ask(
        self,
        registry: str,
        scopes: frozenset[str],
        challenge: Challenge,
        credentials: Credentials | None,
        *,
        alone: bool = False,
    ) -> str:
        """Return a token for the scopes and, unless `alone`, for their groups. Concurrent callers share one request."""
        while True:
            wanted = scopes if alone else self._wanted(registry, scopes)
            async with self._locks.setdefault(
                (registry, wanted), asyncio.Lock()
            ):  # exists as long as a task holds it or waits
                held = self.held(registry, scopes)
                if held is not None:
                    return held
                if not alone and wanted != self._wanted(registry, scopes):
                    continue  # the group was halved meanwhile
                try:
                    return await self._new(registry, wanted, challenge, credentials)
                except (_Refused, _TooLong) as error:
                    if len(wanted) <= len(scopes):
                        raise
                    self._halve(registry, wanted, too_long=isinstance(error, _TooLong))

    def _wanted(self, registry: str, scopes: frozenset[str]) -> frozenset[str]:
        return scopes.union(*(self._groups.get((registry, scope), frozenset()) for scope in scopes))

    def _group(self, registry: str, scopes: Sequence[str]) -> None:
        group = frozenset(scopes)
        for scope in group:
            self._groups[registry, scope] = group

    def _halve(self, registry: str, scopes: frozenset[str], *, too_long: bool) -> None:
        """Split a group that failed; if it was too long, split every other group of its size too."""
        ordered = sorted(scopes)
        middle = (len(ordered) + 1) // 2
        self._group(registry, ordered[:middle])
        self._group(registry, ordered[middle:])
        if too_long:
            self._most[registry] = min(middle, self._most.get(registry, GROUP))
            for group in {each for (name, _), each in self._groups.items() if name == registry and len(each) > middle}:
                self.announce(registry, group)

    async def _new(
        self, registry: str, wanted: frozenset[str], challenge: Challenge, credentials: Credentials | None
    ) -> str:
        answer = await self._fetch(registry, wanted, challenge, credentials)
        text = answer.token or answer.access_token
        life_s = max(DEFAULT_LIFE_S, answer.expires_in or 0.0)
        held = self._held.setdefault(registry, [])
        held.append(_Token(wanted, text, self._clock() + life_s - MARGIN_S))
        del held[: -self._most_held]
        return text

    async def _fetch(
        self, registry: str, scopes: frozenset[str], challenge: Challenge, credentials: Credentials | None
    ) -> _Answer:
        realm = _checked_realm(registry, challenge.parameters.get("realm", ""))
        http = self._client_for(registry, realm)
        service = challenge.parameters.get("service", "")
        self.asked += 1
        try:
            if credentials is not None and credentials.identity_token:
                form = {
                    "grant_type": "refresh_token",
                    "service": service,
                    "client_id": "boltseal",
                    "scope": " ".join(sorted(scopes)),
                    "refresh_token": credentials.secret,
                }
                asking = http.stream("POST", realm, data=form)
            else:
                query = httpx2.QueryParams({"scope": sorted(scopes)} | ({"service": service} if service else {}))
                login = None if credentials is None else (credentials.username, credentials.secret)
                asking = http.stream("GET", realm, params=query, auth=login)
            async with asking as response:
                if response.status_code != 200:
                    raise await _failure(registry, response, anonymous=credentials is None)
                body = await _read(registry, response)
        except httpx2.HTTPError as error:
            if is_untrusted(error):
                where = realm.netloc.decode("ascii")
                raise RemoteUntrusted(f"{registry}: its token service {where} was not asked: {error}") from error
            broken = isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.RemoteProtocolError)
            kind = _TooLong if broken else RemoteUnavailable  # some close the connection instead of answering 414
            raise kind(f"{registry}: its token service did not answer: {type(error).__name__}") from error
        return _read_answer(registry, body)


def _checked_realm(registry: str, realm: str) -> httpx2.URL:
    try:
        url = httpx2.URL(realm)
    except httpx2.InvalidURL as error:
        raise RemoteUnavailable(f"{registry} names a token service with a malformed URL") from error
    if url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host)):
        return url
    raise RemoteUnauthenticated(
        f"{registry} asks for a login at {url.scheme or 'no scheme'}://{url.host}, which is not encrypted: not sent"
    )


async def _read(registry: str, response: httpx2.Response) -> bytes:
    """Return the body of a token service's answer as it was sent, without decompression."""
    pieces, size = [], 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise RemoteUnavailable(
                f"{registry}: its token service answered more than {MAX_ANSWER_BYTES} bytes: not read"
            )
        pieces.append(piece)
    return b"".join(pieces)


async def _failure(registry: str, response: httpx2.Response, *, anonymous: bool) -> BoltsealError:
    """Return the error of an answer without a token, from its status, `Retry-After` and, for a refusal, its message."""
    status = response.status_code
    retry_after_s = parse_retry_after(response.headers.get("retry-after"), time.time())
    if status in (413, 414, 431):
        return _TooLong(f"{registry}: its token service rejects a request of this length (HTTP {status})")
    if status in (400, 401, 403) and retry_after_s is None:
        hint = "log in with `docker login`" if anonymous else "check the login"
        reason = await _reason(registry, response)
        return _Refused(f"{registry} issued no token (HTTP {status}{reason and f', {reason}'}); {hint}")
    if status in (403, 429):
        return RemoteBusy(f"{registry}: its token service has a rate limit (HTTP {status})", retry_after_s)
    return RemoteUnavailable(f"{registry}: its token service answered HTTP {status}", retry_after_s)


async def _reason(registry: str, response: httpx2.Response) -> str:
    """Return the message of a refusal, quoted; "" if it has none that can be read."""
    try:
        return error_text(await _read(registry, response))
    except (RemoteUnavailable, httpx2.HTTPError):
        return ""


def _read_answer(registry: str, body: bytes) -> _Answer:
    try:
        answer = decode(body, _Answer)
    except ValueError:
        raise RemoteUnavailable(f"{registry}: its token service answered no token document") from None
    text = answer.token or answer.access_token
    if not text or not text.isascii() or any(character <= " " for character in text):
        raise RemoteUnavailable(f"{registry}: its token service answered without a token")
    return answer
