"""HTTP requests to an issuer, which is trusted for what its tokens say, not for where it sends this server.

No redirect is followed and no proxy used, an answer has a bounded size and time, addresses in internal networks are blocked when the
connection is made (`client.ssrf_guard`) except the issuer's own and `allow_keys_from`, and everything comes over https, except from
an issuer on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx2
import structlog

from boltseal import __version__
from boltseal.client.certificates import AuthorityInvalid, tls_context
from boltseal.client.ssrf_guard import AddressBlocked, SsrfGuard
from boltseal.errors import Unavailable, quote
from boltseal.policy.pipeline_rules import IssuerTerms
from boltseal.socket_backend import SocketTransport

WITHIN_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 256 * 1024
_PORTS: Final = {"https": 443, "http": 80}

_log = structlog.get_logger(__name__)


class IssuerUnavailable(Unavailable):
    """The issuer cannot be asked now, so its tokens can be neither accepted nor refused."""


class IssuerAnswer(NamedTuple):
    """An answer of an issuer."""

    status: int
    body: bytes


class IssuerClient:
    """Sends requests to one issuer. `within_s`: longest time of one answer."""

    def __init__(self, terms: IssuerTerms, *, within_s: float = WITHIN_S) -> None:
        self._terms = terms
        self._within_s = within_s

    def check_address(self, address: str, what: str) -> None:
        """Check where the issuer says that something is, such as `its keys are`. Raises: IssuerUnavailable."""
        own = urlsplit(self._terms.url)
        try:
            parts = urlsplit(address)
            ok = bool(parts.hostname) and "@" not in parts.netloc and address.isascii() and address.isprintable()
            same = (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
        except ValueError:
            ok = same = False
        if not ok or (parts.scheme != "https" and not same):
            raise IssuerUnavailable(f"it says that {what} at {quote(address)}; expected an https address")

    async def get(self, address: str) -> bytes:
        """Return the body of an answer with status 200. Raises: IssuerUnavailable."""
        answer = await self._send("GET", address, {}, None)
        if answer.status != 200:
            raise IssuerUnavailable(f"{_host(address)} answered HTTP {answer.status}; expected 200")
        return answer.body

    async def post(self, address: str, form: Mapping[str, str], headers: Mapping[str, str]) -> IssuerAnswer:
        """Send a form, and return the answer, whatever its status. Raises: IssuerUnavailable."""
        return await self._send("POST", address, headers, form)

    async def _send(
        self, method: str, address: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> IssuerAnswer:
        terms, host = self._terms, _host(address)
        own = urlsplit(terms.url)
        guard = SsrfGuard(((own.hostname or "").lower(), own.port or _PORTS[own.scheme]), terms.allow_keys_from)
        try:
            verify = tls_context(None if terms.ca_file is None else Path(terms.ca_file))
        except AuthorityInvalid as error:
            _log.error("the certificate authority of an issuer is not valid", issuer=terms.name, reason=error.message)
            raise IssuerUnavailable("the file of its certificate authority (ca_file) cannot be read") from error
        async with httpx2.AsyncClient(
            transport=SocketTransport(verify, httpx2.Limits(max_keepalive_connections=0), reach=guard),
            timeout=self._within_s,
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"boltseal/{__version__}", "accept-encoding": "identity", **headers},
        ) as http:
            body = b""
            try:
                async with (
                    asyncio.timeout(self._within_s),
                    http.stream(method, address, data=None if form is None else dict(form)) as response,
                ):
                    async for piece in response.aiter_raw():  # undecoded: a short body could decompress to gigabytes
                        body += piece
                        if len(body) > MAX_ANSWER_BYTES:
                            raise IssuerUnavailable(f"{host} answered with more than {MAX_ANSWER_BYTES} bytes")
            except AddressBlocked as error:
                raise IssuerUnavailable(
                    f"{host} has an address that is not public: blocked; if that is intended, add the host to "
                    "allow_keys_from of [[auth.issuer]], or allow_hosts of [auth.oidc]"
                ) from error
            except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
                raise IssuerUnavailable(f"{host} does not answer: {type(error).__name__}") from error
        return IssuerAnswer(response.status_code, body)


def _host(address: str) -> str:
    return urlsplit(address).hostname or ""
