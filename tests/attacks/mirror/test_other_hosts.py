"""An upstream that redirects the mirror to internal networks, or to a host that collects logins."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.authority import authority
from tests.fakes.upstream import FakeUpstream, status
from tests.images import digest_of, image
from tests.server.mirror.mirrors import NAME, mirror_settings, mirroring, table_of
from tests.serving import Serving, serving_as

SECRET = "correct-horse-battery"  # noqa: S105 - an invented password
BLOB = b"a blob that lies elsewhere"
TARGET = f"/v2/{NAME}/team/app/blobs/{digest_of(BLOB)}"
ASKED = f"GET /v2/team/app/blobs/{digest_of(BLOB)}"


@pytest.fixture
async def elsewhere() -> AsyncIterator[FakeUpstream]:
    """Another server on this machine that should not be reachable from outside."""
    async with FakeUpstream().listening() as listening:
        listening.blobs[digest_of(BLOB)] = BLOB
        yield listening


@pytest.fixture
async def with_login(
    data: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Serving, dict[str, Any]]]:
    """A mirror that has a login for its upstream."""
    monkeypatch.setenv("UPSTREAM_PASSWORD", SECRET)
    login: dict[str, Any] = {"username": "us", "password_env": "UPSTREAM_PASSWORD"}
    async with mirroring(data, upstream, **login) as serving:
        yield serving, login


@pytest.mark.slow
async def test_a_redirect_to_loopback_is_not_followed(
    mirror: Serving, upstream: FakeUpstream, elsewhere: FakeUpstream
) -> None:
    """A redirect to loopback, by address or by name, is refused even when the upstream runs on this machine."""
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0"):  # noqa: S104 - an address in a redirect
        upstream.answers[ASKED] = status(307, location=f"http://{host}:{elsewhere.port}/v2/team/app/blobs/x")
        answer = await mirror.client.get(TARGET)
        assert answer.status_code == 503
        assert "allow_redirects_to" in answer.text

    assert elsewhere.asked == []


@pytest.mark.slow
async def test_a_redirect_to_a_metadata_service_is_not_followed(mirror: Serving, upstream: FakeUpstream) -> None:
    """A redirect of a manifest or a blob to a cloud metadata service is refused."""
    upstream.answers["*"] = status(302, location="http://169.254.169.254/latest/meta-data/")
    answers = [
        await mirror.client.get(TARGET),
        await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1"),
        await mirror.client.get(f"/v2/{NAME}/team/app/manifests/{digest_of(b'x')}"),
    ]

    assert [answer.status_code for answer in answers] == [503] * 3
    assert all("169.254.169.254" in answer.text for answer in answers)


async def test_a_redirect_that_is_allowed_is_followed(
    data: Path, upstream: FakeUpstream, elsewhere: FakeUpstream
) -> None:
    """A redirect to a host that the operator allowed is followed."""
    upstream.answers[ASKED] = status(307, location=f"http://{elsewhere.authority}/v2/team/app/blobs/{digest_of(BLOB)}")
    async with mirroring(data, upstream, allow_redirects_to=["127.0.0.1"]) as serving:
        answer = await serving.client.get(TARGET)

    assert answer.content == BLOB


@pytest.mark.slow
async def test_a_token_service_in_an_internal_network_is_not_contacted(
    mirror: Serving, upstream: FakeUpstream, elsewhere: FakeUpstream
) -> None:
    """A token service in an internal network is not contacted: a challenge is checked as a redirect is."""
    realm = f"http://{elsewhere.authority}/token"
    upstream.answers["*"] = status(401, www_authenticate=f'Bearer realm="{realm}",service="x"')

    assert (await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1")).status_code == 503
    assert elsewhere.asked == []


async def test_the_login_is_not_sent_with_a_redirect(
    data: Path, upstream: FakeUpstream, elsewhere: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror follows an allowed redirect without sending its login."""
    monkeypatch.setenv("UPSTREAM_PASSWORD", SECRET)
    upstream.login = "Basic " + base64.b64encode(f"us:{SECRET}".encode()).decode()
    upstream.publish("team/app", "1", image("first"))
    login: dict[str, Any] = {"username": "us", "password_env": "UPSTREAM_PASSWORD", "allow_redirects_to": ["127.0.0.1"]}
    async with mirroring(data, upstream, **login) as serving:
        assert (await serving.client.get(f"/v2/{NAME}/team/app/manifests/1")).status_code == 200
        upstream.answers[ASKED] = status(307, location=f"http://{elsewhere.authority}{ASKED.removeprefix('GET ')}")
        assert (await serving.client.get(TARGET)).content == BLOB

    assert upstream.asked[-1].headers["authorization"] == upstream.login
    assert [asked.headers.get("authorization") for asked in elsewhere.asked] == [None]


async def test_the_login_is_not_sent_to_a_foreign_token_service(
    with_login: tuple[Serving, dict[str, Any]], upstream: FakeUpstream
) -> None:
    """The mirror never sends its login to a foreign token service, even over TLS; no answer contains the secret."""
    serving, _ = with_login
    upstream.answers["*"] = status(401, www_authenticate='Bearer realm="https://evil.example/token",service="x"')
    answer = await serving.client.get(f"/v2/{NAME}/team/app/manifests/1")

    assert answer.status_code == 403
    assert "evil.example" in answer.text
    assert "not sent" in answer.text
    assert SECRET not in answer.text


async def test_one_upstreams_login_does_not_go_to_another(
    data: Path, upstream: FakeUpstream, elsewhere: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each upstream receives its own login or none."""
    monkeypatch.setenv("UPSTREAM_PASSWORD", SECRET)
    first = table_of(upstream, username="us", password_env="UPSTREAM_PASSWORD")  # noqa: S106 - a variable's name
    second = {"name": "other.example", "url": f"http://{elsewhere.authority}"}
    elsewhere.login = "Basic of another user"
    async with serving_as(mirror_settings(data, first, second)) as serving:
        answer = await serving.client.get("/v2/other.example/team/app/manifests/1")

    assert answer.status_code == 403
    assert {asked.headers.get("authorization") for asked in elsewhere.asked} == {None}


async def test_a_clients_login_is_not_sent_upstream(mirror: Serving, upstream: FakeUpstream) -> None:
    """The credentials of the mirror's own clients are never sent upstream."""
    upstream.publish("team/app", "1", image("first"))
    headers = {"authorization": "Basic dXM6cGFzcw==", "cookie": "a=b", "x-secret": "c"}
    await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1", headers=headers)

    assert upstream.asked
    assert not any({"authorization", "cookie", "x-secret"} & set(asked.headers) for asked in upstream.asked)


@pytest.mark.slow
async def test_a_certificate_of_an_unknown_authority_is_refused(data: Path, tmp_path: Path) -> None:
    """An upstream with an unknown certificate authority is refused, and used once that authority is configured."""
    ours = authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(ours.cert, ours.key)
    async with FakeUpstream().listening(tls) as upstream:
        shown = upstream.publish("team/app", "1", image("first"))
        table = {"name": NAME, "url": f"https://{upstream.authority}"}
        async with serving_as(mirror_settings(data, table)) as serving:
            refused = await serving.client.get(f"/v2/{NAME}/team/app/manifests/1")
        asked_before = list(upstream.asked)
        async with serving_as(mirror_settings(data, table | {"ca_file": str(ours.ca)})) as serving:
            served = await serving.client.get(f"/v2/{NAME}/team/app/manifests/1")

    assert refused.status_code == 503
    assert asked_before == []
    assert served.content == shown.raw
