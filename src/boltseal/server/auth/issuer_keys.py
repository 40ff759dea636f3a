"""The public keys of an issuer: found by OpenID Connect discovery, cached, and fetched again when they rotate.

    GET <url>/.well-known/openid-configuration   {"issuer": <exactly url>, "jwks_uri": ...}
    GET <jwks_uri>                               {"keys": [...]}

`issuer_client` bounds what an issuer can make this server do. The discovery document is read with the keys, and what it says of a
login in a browser (`endpoints`) is as old as they are.

- Keys are used for `FRESH_S`, and while the issuer does not answer until they are `TRUSTED_S` old: a key that the issuer has
  withdrawn is refused after that time.
- An unknown key identifier fetches the keys again, but no more often than once in `AGAIN_S`, whatever senders write.
- Where the issuer cannot be asked, a login is neither right nor wrong: 503. Sessions that are open do not depend on it.

Trusted: the issuer. If it is compromised, the attacker has the rights of all its rules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
import structlog

from boltseal.errors import quote
from boltseal.oci.jsontext import decode
from boltseal.policy.pipeline_rules import IssuerTerms
from boltseal.server.auth.id_tokens import IssuerKey, KeysInvalid, parse_keys
from boltseal.server.auth.issuer_client import WITHIN_S, IssuerClient
from boltseal.server.auth.issuer_client import IssuerUnavailable as IssuerUnavailable

FRESH_S: Final = 600.0
TRUSTED_S: Final = 3600.0
AGAIN_S: Final = 30.0
DISCOVERY: Final = "/.well-known/openid-configuration"

_log = structlog.get_logger(__name__)


class Endpoints(NamedTuple):
    """Where a person logs in, and where the code is exchanged for a token; each None if the issuer does not say.

    `names_itself`: the issuer adds `iss` to each answer (RFC 9207). `secret_in_header`: it takes the client's secret as Basic.
    """

    authorization: str | None
    token: str | None
    names_itself: bool
    secret_in_header: bool


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    authorization_response_iss_parameter_supported: bool = False
    token_endpoint_auth_methods_supported: list[str] = []


class IssuerKeys:
    """The keys of one issuer, for one process. `clock`: monotonic seconds. `within_s`: longest time of one answer."""

    def __init__(
        self, terms: IssuerTerms, clock: Callable[[], float] = time.monotonic, *, within_s: float = WITHIN_S
    ) -> None:
        self.terms = terms
        self._clock = clock
        self.client = IssuerClient(terms, within_s=within_s)
        self._endpoints: Endpoints | None = None
        self._keys: Mapping[str, IssuerKey] = {}
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._failure = ""
        self._one_at_a_time = asyncio.Lock()

    async def with_key(self, key_id: str) -> Mapping[str, IssuerKey]:
        """Return the issuer's keys, fetched again if they are old or this one is not among them.

        Raises:
            IssuerUnavailable: they cannot be fetched, or not yet again.
        """
        just_fetched = False
        if not self._is_current(key_id):
            async with self._one_at_a_time:
                just_fetched = not self._is_current(key_id) and await self._refresh()
        if self._age_s() < TRUSTED_S and (key_id in self._keys or just_fetched):
            return self._keys
        raise self._unavailable()

    async def endpoints(self) -> Endpoints:
        """Return where people log in, read again if that is old. Raises: IssuerUnavailable."""
        if self._age_s() >= FRESH_S:
            async with self._one_at_a_time:
                if self._age_s() >= FRESH_S:
                    await self._refresh()
        if self._age_s() >= TRUSTED_S or self._endpoints is None:
            raise self._unavailable()
        return self._endpoints

    def _unavailable(self) -> IssuerUnavailable:
        return IssuerUnavailable(
            f"the keys of issuer {self.terms.name} cannot be fetched now: {self._failure or 'they were fetched a moment ago'}; "
            "try the login again in a minute",
        )

    def _is_current(self, key_id: str) -> bool:
        return self._age_s() < FRESH_S and key_id in self._keys

    def _age_s(self) -> float:
        return float("inf") if self._fetched_s is None else self._clock() - self._fetched_s

    async def _refresh(self) -> bool:
        """Fetch the keys, unless that was tried a moment ago. Return whether they were fetched."""
        if self._tried_s is not None and self._clock() - self._tried_s < AGAIN_S:
            return False
        self._tried_s = began_s = self._clock()
        try:
            self._keys = await self._fetch()
        except IssuerUnavailable as error:
            self._failure = error.message
            _log.warning("the keys of an issuer cannot be fetched", issuer=self.terms.name, reason=error.message)
            return False
        self._fetched_s, self._failure = began_s, ""
        return True

    async def _fetch(self) -> Mapping[str, IssuerKey]:
        terms = self.terms
        raw = await self.client.get(terms.url.rstrip("/") + DISCOVERY)
        try:
            found = decode(raw, _Discovery)
        except ValueError as error:
            raise IssuerUnavailable("its discovery document is not valid") from error
        if found.issuer != terms.url:
            raise IssuerUnavailable(
                f"its discovery document is of issuer {quote(found.issuer)}; expected {quote(terms.url)}"
            )
        self.client.check_address(found.jwks_uri, "its keys are")
        try:
            keys = parse_keys(await self.client.get(found.jwks_uri))
        except KeysInvalid as error:
            raise IssuerUnavailable(f"its keys are not valid: {error}") from error
        self._endpoints = Endpoints(
            found.authorization_endpoint,
            found.token_endpoint,
            found.authorization_response_iss_parameter_supported,
            # Basic is the default of the specification where the issuer does not say.
            not found.token_endpoint_auth_methods_supported
            or "client_secret_basic" in found.token_endpoint_auth_methods_supported,
        )
        return keys
