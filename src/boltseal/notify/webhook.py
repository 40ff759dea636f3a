"""A webhook: one signed POST of a CloudEvents document to exactly the configured host.

    content-type: application/cloudevents+json; charset=utf-8         (CloudEvents HTTP binding, structured mode)
    webhook-id, webhook-timestamp                                      (Standard Webhooks)
    webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">

The host's addresses are checked when the connection is made, and the connection goes to a checked address. Internal
addresses are blocked unless configured. No redirect is followed, no proxy is used, only the status of the answer is
read, and all of it is limited to a few seconds. Errors contain nothing of the URL but the host.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from boltseal import __version__
from boltseal.client.certificates import tls_context
from boltseal.client.hosts import is_loopback
from boltseal.client.ssrf_guard import AddressBlocked, is_public
from boltseal.errors import Invalid, Unavailable
from boltseal.socket_backend import SocketTransport

TIMEOUT_S: Final = 10.0
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
MIN_SECRET_BYTES: Final = 16
_WHSEC: Final = "whsec_"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotDelivered(Unavailable):
    """A receiver did not accept an event. `retry_now`: a retry in a moment may succeed."""

    def __init__(self, message: str, *, retry_now: bool = False) -> None:
        super().__init__(message)
        self.retry_now = retry_now


class WebhookInvalid(Invalid):
    """A malformed URL or secret of a webhook."""


@dataclass(frozen=True, slots=True)
class ReceiverAddresses:
    """The allowed addresses of a receiver: loopback for `localhost`, else public addresses and those in `networks`."""

    host: str
    networks: tuple[Network, ...] = ()

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """Check a host before a connection is made. Raises: AddressBlocked: another host, or a blocked address."""
        if host.strip("[]").lower() != self.host.strip("[]").lower():
            raise AddressBlocked(f"{host}:{port} is not the configured host: blocked")
        for address in addresses:
            if not self.allows(address):
                raise AddressBlocked(
                    f"{host} is at {address}, which is not a public address: blocked; if that is intended, configure "
                    "networks"
                )

    def allows(self, address: str) -> bool:
        """Return whether a connection to this IP address is allowed."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if any(found in network for network in self.networks):
            return True
        return found.is_loopback if is_loopback(self.host) else is_public(address)


class Webhook:
    """One receiver. Create and use it in one event loop; close it with `aclose`."""

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        networks: tuple[Network, ...] = (),
        ca_file: Path | None = None,
        within_s: float = TIMEOUT_S,
    ) -> None:
        """Raises: WebhookInvalid, AuthorityInvalid. The messages contain neither URL nor secret."""
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise WebhookInvalid("malformed webhook URL") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise WebhookInvalid("the webhook URL has no scheme or no host; expected https://HOST/PATH")
        if parsed.scheme == "http" and not is_loopback(parsed.host) and not networks:
            raise WebhookInvalid(f"the webhook at {parsed.host} is not encrypted; use https, or configure networks")
        self.host = parsed.raw_host.decode("ascii")  # the IDNA form of a non-ASCII name, as on the wire
        self._url = parsed
        self._key = None if secret is None else _key(secret)
        self._within_s = within_s
        verify: ssl.SSLContext = tls_context(ca_file)
        limits = httpx2.Limits(max_connections=2, max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(
            transport=SocketTransport(verify, limits, reach=ReceiverAddresses(self.host, networks)),
            timeout=within_s,
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"boltseal/{__version__}", "accept-encoding": "identity"},
        )

    async def send(self, id_: str, body: bytes, time_s: int) -> None:
        """Deliver a document once. Raises: NotDelivered."""
        headers = {"content-type": CONTENT_TYPE, "webhook-id": id_, "webhook-timestamp": str(time_s)}
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, id_, time_s, body)
        try:
            async with (
                asyncio.timeout(self._within_s),
                self._http.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except AddressBlocked as error:
            raise NotDelivered(error.message) from error
        except (httpx2.HTTPError, TimeoutError) as error:
            raise NotDelivered(f"{self.host} does not answer: {type(error).__name__}", retry_now=True) from error
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise NotDelivered(f"{self.host} redirects (HTTP {status}): not followed; configure the new URL")
        raise NotDelivered(f"{self.host} answered HTTP {status}", retry_now=status >= 500 or status in (408, 429))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def signature(key: bytes, id_: str, time_s: int, body: bytes) -> str:
    """Return the `webhook-signature` of a message (Standard Webhooks, "Verifying signatures")."""
    signed = f"{id_}.{time_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _key(secret: str) -> bytes:
    """Return the key of a secret: base64 after `whsec_`, as in Standard Webhooks; anything else as its bytes."""
    try:
        key = (
            base64.b64decode(secret.removeprefix(_WHSEC), validate=True)
            if secret.startswith(_WHSEC)
            else secret.encode("utf-8", "strict")
        )
    except (binascii.Error, ValueError) as error:
        raise WebhookInvalid("the webhook secret begins with whsec_ but is not base64") from error
    if len(key) < MIN_SECRET_BYTES:
        raise WebhookInvalid(f"the webhook secret is shorter than {MIN_SECRET_BYTES} bytes")
    return key
