"""A webhook: one POST of a CloudEvents document, signed, to exactly the host that somebody configured.

    content-type: application/cloudevents+json; charset=utf-8         (CloudEvents HTTP binding, structured mode)
    webhook-id, webhook-timestamp                                      (Standard Webhooks)
    webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">

Rules kept: the host's addresses are looked at when the connection is made, and the connection goes to the one that was
looked at; none that lies in a network of ours is taken, unless that was said; no redirect is followed, no proxy asked; of
the answer nothing but the status is read; all of it has to be over in a few seconds. No error names more than the host.
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
from boltseal.client.hosts import is_loopback
from boltseal.client.ssrf_guard import AddressBlocked, is_public
from boltseal.client.transport import tls_context
from boltseal.errors import Invalid, Unavailable
from boltseal.socket_backend import SocketTransport

WITHIN_S: Final = 10.0
CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
MIN_SECRET_BYTES: Final = 16
_WHSEC: Final = "whsec_"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotDelivered(Unavailable):
    """A receiver was not told. `again_at_once`: whether another try in a moment may help."""

    def __init__(self, message: str, *, again_at_once: bool = False) -> None:
        super().__init__(message)
        self.again_at_once = again_at_once


class WebhookInvalid(Invalid):
    """An address or a secret that can't be one of a webhook."""


@dataclass(frozen=True, slots=True)
class ReceiverReach:
    """Where a receiver's address may lie: of `localhost` on this machine, of others in the world or in `networks`."""

    host: str
    networks: tuple[Network, ...] = ()

    def check(self, host: str, port: int, addresses: Iterable[str]) -> None:
        """AddressBlocked for another host, and when any address of this one lies where it may not. `port` is the host's."""
        if host.strip("[]").lower() != self.host.strip("[]").lower():
            raise AddressBlocked(f"{host}:{port} is not the host that was configured: not asked")
        for address in addresses:
            if not self.allows(address):
                raise AddressBlocked(
                    f"{host} is {address}, an address inside some network and not in the world: not asked; if that is "
                    "meant, say so with networks"
                )

    def allows(self, address: str) -> bool:
        """Whether a connection to this IP address may be made."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if any(found in network for network in self.networks):
            return True
        return found.is_loopback if is_loopback(self.host) else is_public(address)


class Webhook:
    """One receiver. Close it with `aclose`. Made and used in one event loop."""

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        networks: tuple[Network, ...] = (),
        ca_file: Path | None = None,
        within_s: float = WITHIN_S,
    ) -> None:
        """WebhookInvalid, AuthorityInvalid. The messages show neither address nor secret."""
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise WebhookInvalid("the address of a webhook can't be read") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise WebhookInvalid("the address of a webhook has no scheme or no host; expected https://HOST/PATH")
        if parsed.scheme == "http" and not is_loopback(parsed.host) and not networks:
            raise WebhookInvalid(
                f"the webhook at {parsed.host} is not encrypted; expected https, or networks to say that it is near"
            )
        self.host = parsed.raw_host.decode("ascii")  # as the wire has it, also of a name in other letters
        self._url = parsed
        self._key = None if secret is None else _key(secret)
        self._within_s = within_s
        verify: ssl.SSLContext = tls_context(ca_file)
        limits = httpx2.Limits(max_connections=2, max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(
            transport=SocketTransport(verify, limits, reach=ReceiverReach(self.host, networks)),
            timeout=within_s,
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"boltseal/{__version__}", "accept-encoding": "identity"},
        )

    async def send(self, id_: str, body: bytes, time_s: int) -> None:
        """Deliver a document once. NotDelivered."""
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
            raise NotDelivered(f"{self.host} does not answer: {type(error).__name__}", again_at_once=True) from error
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise NotDelivered(f"{self.host} sends us elsewhere (HTTP {status}): not followed; configure where it is")
        raise NotDelivered(f"{self.host} answered HTTP {status}", again_at_once=status >= 500 or status in (408, 429))

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()


def signature(key: bytes, id_: str, time_s: int, body: bytes) -> str:
    """The `webhook-signature` of a message (Standard Webhooks, "Verifying signatures")."""
    signed = f"{id_}.{time_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _key(secret: str) -> bytes:
    """`whsec_` and base64, as the receivers' libraries have it; anything else is taken as it is."""
    try:
        key = (
            base64.b64decode(secret.removeprefix(_WHSEC), validate=True)
            if secret.startswith(_WHSEC)
            else secret.encode("utf-8", "strict")
        )
    except (binascii.Error, ValueError) as error:
        raise WebhookInvalid("the secret of a webhook begins with whsec_, and base64 does not follow") from error
    if len(key) < MIN_SECRET_BYTES:
        raise WebhookInvalid(f"the secret of a webhook is shorter than {MIN_SECRET_BYTES} bytes")
    return key
