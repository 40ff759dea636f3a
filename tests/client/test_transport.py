"""Requests to another registry: authorization, retries, redirects, verification."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from starlette.responses import Response

from boltseal.client.certificates import AuthorityInvalid
from boltseal.client.credentials import Credentials, CredentialStore
from boltseal.client.errors import (
    RemoteBusy,
    RemoteDenied,
    RemoteMismatch,
    RemoteNotFound,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from boltseal.client.head_requests import resolve_tags
from boltseal.client.registry_client import RegistryClient
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from tests.client.listening import listening
from tests.fakes.hub import FakeHub

pytestmark = pytest.mark.usefixtures("three_attempts")

OCI = "application/vnd.oci.image.manifest.v1+json"
NODE = Repository("library/node")
BODY = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + "1" * 64, "size": 2},
        "layers": [],
    }
).encode()


@pytest.fixture
def hub() -> FakeHub:
    hub = FakeHub()
    hub.publish("library/node", "16.13", BODY, OCI)
    return hub


@pytest.fixture
async def connect(hub: FakeHub, tmp_path: Path) -> AsyncIterator[Callable[..., Transport]]:
    opened = []

    def open_(logins: dict[str, object] | None = None) -> Transport:
        path = tmp_path / "config.json"
        if logins is not None:
            path.write_text(json.dumps(logins))
        opened.append(Transport(CredentialStore([path]), TransportOptions(), app=hub.transport()))
        return opened[-1]

    yield open_
    for transport in opened:
        await transport.aclose()


async def test_a_tag_is_resolved_by_head_and_never_fetched(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """A tag is resolved by HEAD, which Docker Hub's pull limit does not count."""
    found = await RegistryClient(connect(), "docker.io").resolve(NODE, Tag("16.13"))

    assert (found.digest, found.media_type, found.size) == (Digest.of(BODY), OCI, len(BODY))
    assert hub.counted == {"token": 1, "HEAD manifest": 1}
    assert {request.url.hostname for request in hub.seen} == {"registry-1.docker.io", "auth.test"}


async def test_one_token_serves_many_repositories(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """Two hundred repositories need one token and one HEAD per reference."""
    for number in range(200):
        hub.publish(f"team/app{number}", "1.0.0", BODY, OCI)
    references = [Reference.parse(f"docker.io/team/app{number}:1.0.0") for number in range(200)] * 2
    answers = [answer async for answer in resolve_tags(connect(), references)]

    assert len(answers) == 200
    assert all(answer.resolved and answer.resolved.digest == Digest.of(BODY) for answer in answers)
    assert hub.counted == {"token": 1, "HEAD manifest": 200}
    assert (
        len([request for request in hub.seen if request.method == "HEAD"]) == 201
    )  # the first request learns that a token is needed


async def test_a_login_goes_to_the_realm_and_nowhere_else(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """User and password are sent to the token service only, and the token to the registry."""
    transport = connect({"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpzM2NyZXQ="}}})
    await RegistryClient(transport, "docker.io").resolve(NODE, Tag("16.13"))
    sent = {request.url.hostname: request.headers.get("authorization", "") for request in hub.seen}

    assert sent["auth.test"] == "Basic dXNlcjpzM2NyZXQ="
    assert sent["registry-1.docker.io"].startswith("Bearer ")


async def test_a_realm_without_tls_gets_no_login(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """No password is sent to a token service without TLS."""
    hub.realm = "http://auth.test/token"
    transport = connect({"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpzM2NyZXQ="}}})
    with pytest.raises(RemoteUnauthenticated, match="not encrypted") as refused:
        await RegistryClient(transport, "docker.io").resolve(NODE, Tag("16.13"))

    assert hub.counted["token"] == 0
    assert "s3cret" not in str(refused.value)


async def test_a_redirect_to_another_host_carries_no_authorization(
    hub: FakeHub, connect: Callable[..., Transport]
) -> None:
    """The token is not sent to another host after a redirect."""
    blob = b"x" * 700_000
    hub.blobs[str(Digest.of(blob))] = blob
    hub.blobs_at = "https://cdn.test"
    client = RegistryClient(connect(), "docker.io")
    pieces = [piece async for piece in client.blob(NODE, Digest.of(blob), len(blob))]
    at_cdn = [request for request in hub.seen if request.url.hostname == "cdn.test"]

    assert b"".join(pieces) == blob
    assert len(at_cdn) == 1
    assert "authorization" not in at_cdn[0].headers


async def test_a_redirect_out_of_tls_is_not_followed(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """A redirect from HTTPS to HTTP is not followed."""
    hub.blobs_at = "http://cdn.test"
    with pytest.raises(RemoteUnavailable, match="out of TLS"):
        await anext(RegistryClient(connect(), "docker.io").blob(NODE, Digest.of(b""), 0))

    assert hub.counted["GET blob"] == 0


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_a_transient_failure_gets_another_attempt(
    hub: FakeHub, connect: Callable[..., Transport], status: int
) -> None:
    """A transient failure is retried."""
    hub.failures = [Response(status_code=status)]
    found = await RegistryClient(connect(), "docker.io").resolve(NODE, Tag("16.13"))

    assert found.digest == Digest.of(BODY)


@pytest.mark.parametrize(("status", "kind"), [(403, RemoteDenied), (404, RemoteNotFound)])
async def test_a_refusal_is_not_retried(
    hub: FakeHub, connect: Callable[..., Transport], status: int, kind: type[Exception]
) -> None:
    """A refused request is not retried."""
    transport = connect()
    await RegistryClient(transport, "docker.io").resolve(NODE, Tag("16.13"))
    before = len(hub.seen)
    hub.failures = [Response('{"errors":[{"code":"DENIED","message":"no\\u0007 way"}]}', status_code=status)] * 5
    with pytest.raises(kind, match=r"no\\x07 way"):
        await RegistryClient(transport, "docker.io").manifest(NODE, Digest.of(BODY))

    assert len(hub.seen) == before + 1


async def test_a_busy_registry_is_left_alone_and_the_rest_could_not_be_checked(
    hub: FakeHub, connect: Callable[..., Transport]
) -> None:
    """A 429 with a long wait ends requests to that registry, and all open references get that error."""
    hub.failures = [Response(status_code=429, headers={"retry-after": "3600"}) for _ in range(100)]
    references = [Reference.parse(f"docker.io/team/app{number}:1.0.0") for number in range(60)]
    answers = [answer async for answer in resolve_tags(connect(), references)]

    assert all(isinstance(answer.error, RemoteBusy) for answer in answers)
    assert len(answers) == 60
    assert len(hub.seen) <= 16


async def test_pull_limit_headers_are_recorded(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """Pull-limit headers of any answer about a manifest are recorded."""
    hub.quota = 76
    transport = connect()
    await RegistryClient(transport, "docker.io").resolve(NODE, Tag("16.13"))
    quota = transport.quotas["docker.io"]

    assert (quota.limit, quota.remaining, quota.window_s) == (100, 76, 21600)


async def test_a_manifest_with_wrong_bytes_is_a_mismatch(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """Manifest bytes without the requested digest are not used."""
    hub.wrong_bytes = True
    with pytest.raises(RemoteMismatch, match="bytes of digest"):
        await RegistryClient(connect(), "docker.io").manifest(NODE, Digest.of(BODY))

    assert hub.counted["GET manifest"] == 1


async def test_the_last_piece_of_a_wrong_blob_is_not_yielded(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """The last chunk of a wrong blob is withheld, so a consumer never has a complete wrong blob."""
    blob = b"y" * 3_000_000
    hub.blobs[str(Digest.of(blob))] = blob[:-1] + b"z"
    received = 0

    async def receive() -> None:
        nonlocal received
        async for piece in RegistryClient(connect(), "docker.io").blob(NODE, Digest.of(blob), len(blob)):
            received += len(piece)

    with pytest.raises(RemoteMismatch, match="does not match its digest"):
        await receive()

    assert received < len(blob)


async def test_all_pages_of_tags_are_read(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """All pages of tags are read, each tag once and in order, whatever the page size."""
    for number in range(7):
        hub.publish("library/node", f"v{number}", BODY, OCI)
    found = [tag async for tag in RegistryClient(connect(), "docker.io").tags(NODE)]

    assert found == ["16.13", *(f"v{number}" for number in range(7))]


async def test_a_secret_is_in_no_repr() -> None:
    """No repr of a login has the password, so that a log line can't reveal it."""
    assert "s3cret" not in repr(Credentials("user", "s3cret"))


async def test_resolving_can_be_stopped_early(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """Closing the generator cancels the remaining requests."""
    for number in range(40):
        hub.publish(f"team/app{number}", "1.0.0", BODY, OCI)
    references = [Reference.parse(f"docker.io/team/app{number}:1.0.0") for number in range(40)]
    async with aclosing(resolve_tags(connect(), references, at_once=4)) as answers:
        first = await anext(answers)
    asked = hub.counted["HEAD manifest"]
    await asyncio.sleep(0.01)  # time in which a request that continues would arrive

    assert first.resolved is not None
    assert hub.counted["HEAD manifest"] == asked < 10


async def test_one_denied_repository_does_not_affect_the_others(
    hub: FakeHub, connect: Callable[..., Transport]
) -> None:
    """If a registry issues no token for a group, each repository is requested separately."""
    for number in range(3):
        hub.publish(f"team/app{number}", "1.0.0", BODY, OCI)
    hub.closed = "team/app1"
    references = [Reference.parse(f"docker.io/team/app{number}:1.0.0") for number in range(3)]
    answers = {answer.reference.repository: answer async for answer in resolve_tags(connect(), references)}

    assert isinstance(answers[Repository("team/app1")].error, RemoteUnauthenticated)
    assert answers[Repository("team/app0")].resolved
    assert answers[Repository("team/app2")].resolved


async def test_a_valid_token_that_lacks_a_scope_is_kept(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """A token that lacks the scope of a denied repository is kept for the others."""
    for number in range(20):
        hub.publish(f"team/app{number:02}", "1.0.0", BODY, OCI)
    hub.private = "team/app07"
    references = [Reference.parse(f"docker.io/team/app{number:02}:1.0.0") for number in range(20)]
    answers = [answer async for answer in resolve_tags(connect(), references, at_once=2)]

    assert [str(answer.reference.repository) for answer in answers if answer.error] == ["team/app07"]
    assert hub.counted["token"] == 1


async def test_a_blob_is_resumed_without_range_requests(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """If a registry ignores Range and starts at byte 0, the bytes already received are skipped."""
    blob = bytes(range(256)) * 12_000
    hub.blobs[str(Digest.of(blob))] = blob
    hub.breaks, hub.ranges = 1, False
    pieces = [piece async for piece in RegistryClient(connect(), "docker.io").blob(NODE, Digest.of(blob), len(blob))]

    assert b"".join(pieces) == blob
    assert hub.counted["GET blob"] == 2


async def test_a_file_without_a_certificate_is_refused() -> None:
    """A CA file without a certificate is the caller's error, not the registry's."""
    with pytest.raises(AuthorityInvalid, match="no PEM certificate"):
        Transport(CredentialStore([]), TransportOptions(ca_file=Path(__file__)))
    with pytest.raises(AuthorityInvalid, match="No such file"):
        Transport(CredentialStore([]), TransportOptions(ca_file=Path("/nowhere/ca.pem")))


async def test_a_path_of_a_registry_has_its_own_login(hub: FakeHub, connect: Callable[..., Transport]) -> None:
    """As in Podman, the login with the longest matching path is used, and tokens do not mix logins."""
    auths = {
        "docker.io": {"auth": _auth("everybody:1")},
        "docker.io/team": {"auth": _auth("team:2")},
        "docker.io/team/app": {"auth": _auth("app:3")},
    }
    names = ("team/app", "team/app/x", "team/apple", "teams/app", "library/node")
    for name in names:
        hub.publish(name, "1.0.0", BODY, OCI)
    references = [Reference.parse(f"docker.io/{name}:1.0.0") for name in names]
    answers = [answer async for answer in resolve_tags(connect({"auths": auths}), references, at_once=1)]
    asked = {
        request.query_params["scope"]: base64.b64decode(request.headers["authorization"].split()[1]).decode()
        for request in hub.seen
        if request.url.path == "/token"
    }

    assert all(answer.resolved for answer in answers)
    assert asked == {
        "repository:team/app:pull": "app:3",
        "repository:team/app/x:pull": "app:3",
        "repository:team/apple:pull": "team:2",
        "repository:teams/app:pull": "everybody:1",
        "repository:library/node:pull": "everybody:1",
    }


def _auth(login: str) -> str:
    return base64.b64encode(login.encode()).decode()


async def test_a_server_that_sends_a_byte_now_and_then_times_out() -> None:
    """A server that sends single bytes, in head or body, ends in a time-out."""
    for beginning in (b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"):

        async def drip(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beginning: bytes = beginning
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(beginning)
            while True:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.02)  # a body that arrives byte by byte

        async with listening(drip) as port:
            host = f"127.0.0.1:{port}"
            options = TransportOptions(plain_http=frozenset({host}), whole_s=0.5)
            transport = Transport(CredentialStore(()), options)
            with pytest.raises(RemoteUnavailable, match=r"within 0\.5 s"):
                await transport.request(RegistryRequest(host, "GET", "/v2/x/y/manifests/1", "manifest 1"))
            await transport.aclose()


async def test_an_impossible_host_name_is_an_unavailable_registry() -> None:
    """A host name that is too long for DNS is an unavailable registry."""
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1))
    for host in (f"{'x' * 100}.com", f"{'x.' * 200}com"):
        with pytest.raises(RemoteUnavailable, match="did not answer"):
            await transport.request(RegistryRequest(host, "GET", "/v2/x/y/manifests/1", "manifest 1"))
    await transport.aclose()
