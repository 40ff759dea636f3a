"""Whatever prevents upstream from answering, stored content is served with a warning and counted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.authority import authority
from tests.fakes.upstream import Asked, FakeUpstream
from tests.images import Document, image
from tests.server.mirror.mirrors import NAME, mirror_settings, table_of
from tests.serving import serving_as

Ask = Callable[[dict[str, Any]], Awaitable[None]]


@pytest.fixture
async def shown(data: Path, upstream: FakeUpstream) -> Document:
    """A stored image."""
    image_ = upstream.publish("team/app", "1.4.2", image("first"))
    async with serving_as(mirror_settings(data, table_of(upstream))) as serving:
        assert (await serving.client.get(f"/v2/{NAME}/team/app/manifests/1.4.2")).status_code == 200
        for blob in image_.blobs:
            assert (await serving.client.get(f"/v2/{NAME}/team/app/blobs/{blob.digest}")).status_code == 200
    return image_


@pytest.fixture
def still_served(data: Path, shown: Document) -> Ask:
    """Check a restarted mirror with this table for its upstream."""

    async def ask(table: dict[str, Any]) -> None:
        async with serving_as(mirror_settings(data, table), upstream_timeout_s=0.5) as serving:
            answer = await serving.client.get(f"/v2/{NAME}/team/app/manifests/1.4.2")
            by_digest = await serving.client.get(f"/v2/{NAME}/team/app/manifests/{shown.digest}")
            blob = await serving.client.get(f"/v2/{NAME}/team/app/blobs/{shown.layers[0].digest}")
            tags = await serving.client.get(f"/v2/{NAME}/team/app/tags/list")
            metrics = (await serving.client.get("/metrics")).text

        assert answer.content == by_digest.content == shown.raw
        assert blob.content == shown.layers[0].data
        assert tags.json()["tags"] == ["1.4.2"]
        assert "warning" in answer.headers
        assert "warning" in tags.headers
        assert "warning" not in by_digest.headers
        assert "boltseal_mirror_served_with_warning_total 2.0" in metrics

    return ask


@pytest.mark.slow
async def test_connection_refused(still_served: Ask) -> None:
    """If upstream refuses connections, stored content is served."""
    await still_served({"name": NAME, "url": "http://127.0.0.1:1", "fresh": "0s"})


@pytest.mark.slow
async def test_the_host_name_does_not_resolve(still_served: Ask) -> None:
    """If upstream's host name does not resolve, stored content is served."""
    await still_served({"name": NAME, "url": "http://no-such-host.invalid", "fresh": "0s"})


@pytest.mark.slow
async def test_upstream_never_answers(still_served: Ask, upstream: FakeUpstream) -> None:
    """If upstream accepts a request and never answers, stored content is served."""

    async def silent(_: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)  # the upstream that does not answer

    upstream.answers["*"] = silent
    await still_served(table_of(upstream))


@pytest.mark.slow
async def test_upstream_closes_the_connection(still_served: Ask, upstream: FakeUpstream) -> None:
    """If upstream closes the connection in the middle of its answer, stored content is served."""

    async def half(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")

    upstream.answers["*"] = half
    await still_served(table_of(upstream))


@pytest.mark.slow
async def test_upstreams_certificate_is_not_trusted(still_served: Ask, tmp_path: Path) -> None:
    """If upstream's certificate has an unknown authority, stored content is served."""
    ours = authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(ours.cert, ours.key)
    async with FakeUpstream().listening(tls) as upstream:
        await still_served({"name": NAME, "url": f"https://{upstream.authority}", "fresh": "0s"})


@pytest.mark.slow
async def test_upstream_does_not_speak_http(still_served: Ask, upstream: FakeUpstream) -> None:
    """If upstream does not speak HTTP, stored content is served."""

    async def mumbles(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01\x02\x00" * 100)

    upstream.answers["*"] = mumbles
    await still_served(table_of(upstream))
