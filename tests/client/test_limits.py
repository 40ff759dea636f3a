"""Rate-limit headers are read, whatever the body of an answer is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteBusy, RemoteDenied, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from tests.fakes.upstream import Asked, FakeUpstream, Speak, raw, status
from tests.images import image

pytestmark = pytest.mark.usefixtures("one_attempt")

APP = Repository("team/app")
IMAGE = image("one")
BLOB = Digest.parse(IMAGE.layers[0].digest)
ASKED = [
    f"HEAD /v2/{APP}/manifests/1.4.2",
    f"GET /v2/{APP}/manifests/{IMAGE.digest}",
    f"GET /v2/{APP}/blobs/{BLOB}",
]
BUSY = b"HTTP/1.1 429 X\r\nconnection: close\r\nretry-after: 90\r\nratelimit-limit: 100;w=21600\r\nratelimit-remaining: 0;w=21600\r\n"
REASON = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'


async def _without_end(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(BUSY + b"content-length: 10\r\n\r\n123")
    await writer.drain()
    await asyncio.sleep(30)  # a body without an end


BODIES: dict[str, Speak] = {
    "none": raw(BUSY + b"content-length: 0\r\n\r\n"),
    "OCI error": raw(BUSY + b"content-length: %d\r\n\r\n" % len(REASON) + REASON),
    "HTML": raw(BUSY + b"content-type: text/html\r\ncontent-length: 13\r\n\r\n<p>429</p>   "),
    "too long": raw(BUSY + b"content-length: 10000000\r\n\r\n" + b"x" * 10_000_000),
    "broken off": raw(BUSY + b"content-length: 1000\r\n\r\n<p>"),
    "without end": _without_end,
}


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream().listening() as listening:
        listening.publish(APP, "1.4.2", IMAGE)
        yield listening


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(CredentialStore([]), TransportOptions(reason_s=0.2))
    yield transport
    await transport.aclose()


async def failure(transport: Transport, upstream: FakeUpstream, what: str) -> BoltsealError:
    """Return the error of a request."""
    with pytest.raises(BoltsealError) as error:
        await ask(RegistryClient(transport, upstream.authority), what)
    return error.value


async def ask(client: RegistryClient, what: str) -> None:
    match what:
        case "tag":
            await client.resolve(APP, Tag("1.4.2"))
        case "manifest":
            await client.manifest(APP, Digest.parse(IMAGE.digest))
        case _:
            async with client.stream_blob(APP, BLOB):
                pass


@pytest.mark.parametrize("what", ["manifest", "blob"])
@pytest.mark.parametrize("body", BODIES)
async def test_a_429_carries_retry_after_and_the_pull_limit(
    upstream: FakeUpstream, transport: Transport, body: str, what: str
) -> None:
    """A 429 has Retry-After and the pull limit in its error, even if its body can't be read."""
    upstream.answers |= dict.fromkeys(ASKED, BODIES[body])
    found = await failure(transport, upstream, what)

    assert isinstance(found, RemoteBusy)
    assert (found.retry_after_s, found.pulls) == (90.0, False)
    assert transport.quotas[upstream.authority].remaining == 0
    assert ("slow down" in found.message) == (body == "OCI error")


async def test_a_streamed_blob_updates_the_pull_limit(upstream: FakeUpstream, transport: Transport) -> None:
    """The rate-limit headers of a streamed blob are read like those of a document."""
    answer = status(200, IMAGE.layers[0].data, ratelimit_limit="100;w=21600", ratelimit_remaining="7;w=21600")
    upstream.answers[f"GET /v2/{APP}/blobs/{BLOB}"] = answer
    async with RegistryClient(transport, upstream.authority).stream_blob(APP, BLOB) as arriving:
        known_before = transport.quotas[upstream.authority].remaining
        size = sum([len(piece) async for piece in arriving.pieces])

    assert known_before == 7
    assert size == len(IMAGE.layers[0].data)


@pytest.mark.parametrize(
    ("code", "kind"), [(429, RemoteBusy), (403, RemoteDenied), (503, RemoteUnavailable), (500, RemoteUnavailable)]
)
@pytest.mark.parametrize("what", ["tag", "manifest", "blob"])
async def test_every_transient_failure_carries_retry_after(
    upstream: FakeUpstream, transport: Transport, code: int, kind: type[RemoteBusy], what: str
) -> None:
    """Transient failures of HEAD and GET, documents and streams, have Retry-After in the error."""
    answer = status(code, b"" if what == "tag" else REASON, retry_after="90", connection="close")
    upstream.answers |= dict.fromkeys(ASKED, answer)
    found = await failure(transport, upstream, what)

    assert isinstance(found, kind)
    assert found.retry_after_s == 90.0


@pytest.mark.parametrize(("code", "kind"), [(429, RemoteBusy), (403, RemoteBusy), (503, RemoteUnavailable)])
@pytest.mark.parametrize("body", [b"", REASON, b"x" * 1_000_000], ids=["none", "OCI error", "too long"])
async def test_a_rate_limit_of_the_token_service_carries_retry_after(
    upstream: FakeUpstream, transport: Transport, code: int, kind: type[RemoteBusy], body: bytes
) -> None:
    """A rate limit of the token service has Retry-After, and is not reported as a wrong login."""
    realm = f'Bearer realm="http://{upstream.authority}/token",service="up"'
    upstream.answers |= dict.fromkeys(ASKED, status(401, www_authenticate=realm, connection="close"))
    upstream.answers["GET /token"] = status(code, body, retry_after="90", connection="close")
    found = await failure(transport, upstream, "manifest")

    assert isinstance(found, kind)
    assert found.retry_after_s == 90.0
    assert "its token service" in found.message
