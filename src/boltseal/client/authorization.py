"""Authorization of requests to registries: which token or login is sent, and how a 401 is answered.

One object for all registries of a transport. It remembers by registry which scheme was asked for, and has the tokens.
"""

from __future__ import annotations

import re
from typing import Final

import httpx2

from boltseal.client.challenges import Challenge, parse_challenges
from boltseal.client.credentials import Credentials, LoginSource
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.ssrf_guard import SsrfGuard
from boltseal.client.tokens import TokenCache
from boltseal.errors import BoltsealError

_REPOSITORY_IN_PATH: Final = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/")


class Authorization:
    """Authorizes the requests of one transport. `reach`: the addresses to which a login may be sent; None: any."""

    def __init__(self, credentials: LoginSource, tokens: TokenCache, reach: SsrfGuard | None) -> None:
        self._credentials = credentials
        self._tokens = tokens
        self._reach = reach
        self._basic: set[str] = set()
        self._bearer: dict[str, Challenge] = {}

    async def known(self, call: RegistryRequest) -> str | None:
        """Return the authorization for a request by what the registry asked for before; None: send it without."""
        token = self._tokens.held(call.registry, call.scopes)
        if token is not None:
            return f"Bearer {token}"
        if call.registry in self._basic:
            return _basic(await self._login(call))
        challenge = self._bearer.get(call.registry)
        if challenge is not None and call.scopes:
            try:
                return f"Bearer {await self._token(call, call.scopes, challenge)}"
            except BoltsealError:
                # The registry may want another scheme now: wait for its next challenge.
                self._bearer.pop(call.registry, None)
                raise
        return None

    async def answer_challenge(self, call: RegistryRequest, response: httpx2.Response, sent: str | None) -> str | None:
        """Return the authorization that a 401 asks for; None if there is none that would be accepted. `sent`: the former one."""
        credentials = await self._login(call)
        for challenge in parse_challenges(response.headers.get("www-authenticate", "")):
            if challenge.scheme == "bearer":
                if sent is not None and sent.startswith("Bearer "):
                    if challenge.parameters.get("error") == "insufficient_scope":
                        return None  # the token is valid but lacks the right: another one would lack it too
                    self._tokens.forget(call.registry, sent.removeprefix("Bearer "))
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
        # Where paths of a registry have their own logins, a token must not mix scopes of two logins.
        alone = bool(self._credentials.below(call.registry))
        login = await self._login(call)
        if login is not None and self._reach is not None:
            self._reach.check_login(host_of(challenge.parameters.get("realm", "")))
        return await self._tokens.ask(call.registry, scopes, challenge, login, alone=alone)


def host_of(address: str) -> str:
    """Return the host of a URL, "" if it has none or is malformed."""
    try:
        return httpx2.URL(address).host
    except httpx2.InvalidURL:
        return ""


def _basic(credentials: Credentials | None) -> str | None:
    if credentials is None or credentials.identity_token:
        return None
    request = httpx2.Request("GET", "http://localhost/")
    return next(httpx2.BasicAuth(credentials.username, credentials.secret).auth_flow(request)).headers["authorization"]
