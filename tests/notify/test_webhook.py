"""A webhook: what is sent, and to which addresses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import socket
import ssl
import time
from pathlib import Path

import pytest

from boltseal.notify.webhook import NotDelivered, ReceiverAddresses, Webhook, WebhookInvalid
from tests.authority import authority
from tests.client.listening import listening
from tests.notify.receivers import ENDLESS, HANGS, Inbox, answer, inbox

SECRET = "a secret of enough length"  # noqa: S105 - a secret of this test
BODY = b'{"specversion":"1.0"}'


async def send(box: Inbox, *, secret: str | None = SECRET, within_s: float = 5.0) -> None:
    webhook = Webhook(box.url, secret=secret, within_s=within_s)
    try:
        await webhook.send("id-1", BODY, 1_790_000_000)
    finally:
        await webhook.aclose()


async def test_a_document_is_sent_structured_and_signed() -> None:
    """CloudEvents HTTP binding in structured mode; Standard Webhooks: ID, time and signature."""
    async with inbox() as box:
        await send(box)
        signed = hmac.new(SECRET.encode(), b"id-1.1790000000." + BODY, hashlib.sha256).digest()

    assert box.bodies == [BODY]
    assert box.header(0, "content-type") == "application/cloudevents+json; charset=utf-8"
    assert (box.header(0, "webhook-id"), box.header(0, "webhook-timestamp")) == ("id-1", "1790000000")
    assert box.header(0, "webhook-signature") == "v1," + base64.b64encode(signed).decode()


async def test_a_whsec_secret_is_decoded() -> None:
    """Standard Webhooks: a secret that begins with whsec_ is decoded from base64."""
    key = b"0123456789abcdef0123456789abcdef"
    async with inbox() as box:
        await send(box, secret="whsec_" + base64.b64encode(key).decode())
        signed = hmac.new(key, b"id-1.1790000000." + BODY, hashlib.sha256).digest()

    assert box.header(0, "webhook-signature") == "v1," + base64.b64encode(signed).decode()


async def test_without_a_secret_nothing_is_signed() -> None:
    """Without a secret, the signature header is missing."""
    async with inbox() as box:
        await send(box, secret=None)

    assert b"webhook-signature" not in box.heads[0]


@pytest.mark.parametrize(
    ("answered", "says", "again"),
    [
        (answer("500 Internal Server Error"), "HTTP 500", True),
        (answer("429 Too Many Requests"), "HTTP 429", True),
        (answer("401 Unauthorized"), "HTTP 401", False),
        (b"nonsense\r\n\r\n", "does not answer", True),
    ],
)
async def test_failures_say_whether_a_retry_may_help(answered: bytes, says: str, again: bool) -> None:
    """The HTTP status decides whether a failed delivery is retried."""
    async with inbox(answered) as box:
        with pytest.raises(NotDelivered, match=says) as raised:
            await send(box)

    assert raised.value.retry_now is again


async def test_a_redirect_is_not_followed() -> None:
    """A webhook's redirect is not followed, not even to the same host."""
    async with inbox() as other, inbox(answer("307 Temporary Redirect", f"location: {other.url}\r\n")) as box:
        with pytest.raises(NotDelivered, match="not followed"):
            await send(box)

    assert other.bodies == []


async def test_a_receiver_that_never_answers_times_out() -> None:
    """A receiver that never answers ends in a time-out of a few seconds."""
    began = time.monotonic()
    async with inbox(HANGS) as box:
        with pytest.raises(NotDelivered, match="Timeout"):
            await send(box, within_s=0.3)

    assert time.monotonic() - began < 10


async def test_an_endless_answer_is_not_read() -> None:
    """Of a receiver's answer only the status is read."""
    async with inbox(ENDLESS) as box:
        await send(box)

    assert box.sent < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("host", "address", "networks", "allowed"),
    [
        ("localhost", "127.0.0.1", (), True),
        ("127.0.0.1", "127.0.0.1", (), True),
        ("[::1]", "::1", (), True),
        ("hooks.example.com", "93.184.215.14", (), True),
        ("hooks.example.com", "127.0.0.1", (), False),
        ("hooks.example.com", "169.254.169.254", (), False),
        ("hooks.example.com", "::ffff:169.254.169.254", (), False),
        ("hooks.example.com", "10.1.2.3", (), False),
        ("hooks.example.com", "10.1.2.3", ("10.1.0.0/16",), True),
        ("hooks.example.com", "::ffff:10.1.2.3", ("10.1.0.0/16",), True),
        ("hooks.example.com", "fd00::1%eth0", (), False),
        ("10.1.2.3", "10.1.2.3", (), False),
        ("localhost", "10.1.2.3", (), False),
        ("hooks.example.com", "64:ff9b::a9fe:a9fe", (), False),
    ],
)
def test_allowed_addresses_of_a_receiver(host: str, address: str, networks: tuple[str, ...], allowed: bool) -> None:
    """SSRF: loopback only by its own name, internal networks only if configured, public addresses always."""
    reach = ReceiverAddresses(host, tuple(ipaddress.ip_network(one) for one in networks))

    assert reach.allows(address) is allowed


async def test_a_name_that_resolves_to_loopback_is_blocked() -> None:
    """DNS rebinding: all addresses of a name are checked when the connection is made."""
    async with inbox() as box:
        webhook = Webhook(f"https://localhost.localdomain:{box.port}/", secret=SECRET)
        webhook._url = webhook._url.copy_with(host="127.0.0.1")
        with pytest.raises(NotDelivered, match="not the configured host"):
            await webhook.send("id", BODY, 1)
        await webhook.aclose()

    assert box.heads == []


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("http://hooks.example.com/x", None, "not encrypted"),
        ("ftp://hooks.example.com/x", None, "no scheme"),
        ("https://", None, "no host"),
        ("https://hooks.example.com/x", "abc", "shorter than 16"),
        ("https://hooks.example.com/x", "whsec_%%%", "base64"),
    ],
)
def test_a_malformed_webhook_is_refused_without_showing_it(url: str, secret: str | None, says: str) -> None:
    """The error for a malformed webhook has neither its path, which may be secret, nor its secret."""
    with pytest.raises(WebhookInvalid, match=says) as raised:
        Webhook(url, secret=secret)

    assert "/x" not in raised.value.message
    assert secret is None or secret not in raised.value.message


async def test_an_idna_name_is_the_configured_host() -> None:
    """An internationalized host name is resolved in its IDNA form."""
    webhook = Webhook("https://b\u00fccher.invalid/x", within_s=5)
    try:
        with pytest.raises(NotDelivered, match="does not answer"):
            await webhook.send("id", BODY, 1)
    finally:
        await webhook.aclose()

    assert webhook.host == "xn--bcher-kva.invalid"


async def test_a_name_that_resolves_to_an_internal_address_is_blocked() -> None:
    """A host name that resolves to an internal address is blocked; loopback is allowed as `localhost` only."""
    name = socket.gethostname()
    async with inbox() as box:
        webhook = Webhook(f"https://{name}:{box.port}/x", secret=SECRET)
        with pytest.raises(NotDelivered, match="not a public address") as raised:
            await webhook.send("id", BODY, 1)
        await webhook.aclose()

    assert box.heads == []
    assert not raised.value.retry_now
    assert "/x" not in raised.value.message


async def test_a_receiver_with_an_untrusted_certificate_gets_nothing(tmp_path: Path) -> None:
    """A receiver with an untrusted certificate gets no request; the configured CA is trusted."""
    for folder in (tmp_path / "own", tmp_path / "other"):
        folder.mkdir()
    own, other = authority(tmp_path / "own"), authority(tmp_path / "other")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(own.cert, own.key)
    box = Inbox()
    async with listening(box._serve, tls) as box.port:
        for trusted in (other, own):
            webhook = Webhook(f"https://127.0.0.1:{box.port}/", ca_file=trusted.ca)
            try:
                if trusted is other:
                    with pytest.raises(NotDelivered, match="does not answer"):
                        await webhook.send("id", BODY, 1)
                else:
                    await webhook.send("id", BODY, 1)
            finally:
                await webhook.aclose()

    assert box.bodies == [BODY]
