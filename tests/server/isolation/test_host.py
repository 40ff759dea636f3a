"""Addresses in answers come from the configuration or are relative, never from the client's headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from tests.images import Blob, image, push_blob, push_parts, put, start_upload, with_digest
from tests.serving import serving

ANYWHERE = "0.0.0.0:5000"  # on loopback a foreign Host is refused altogether (tests/attacks/test_rebinding.py)
EVIL: list[Mapping[str, str]] = [
    {"Host": "evil.example"},
    {"X-Forwarded-Host": "evil.example"},
    {"Forwarded": "host=evil.example;proto=https"},
    {"X-Forwarded-Proto": "evil", "X-Forwarded-Port": "666", "X-Forwarded-Prefix": "/evil.example"},
    {"X-Original-URL": "/v2/evil.example/", "X-Rewrite-URL": "/v2/evil.example/"},
]


async def headers_of_a_push(client: httpx2.AsyncClient, headers: Mapping[str, str]) -> list[httpx2.Response]:
    """Return the headers of every kind of answer with an address."""
    blob = Blob(b"pushed")
    document = image("pushed")
    await push_blob(client, "shop/source", blob)
    await push_parts(client, "shop/app", document)
    uploads = "/v2/shop/app/blobs/uploads/"
    location = await start_upload(client, "shop/app")
    path = location.removeprefix("https://registry.example:8443")
    return [
        await client.post(uploads, headers=headers),
        await client.patch(path, content=b"pus", headers=headers),
        await client.get(path, headers=headers),
        await client.put(with_digest(path, blob.digest), content=b"hed", headers=headers),
        await client.post(f"{uploads}?mount={blob.digest}&from=shop/source", headers=headers),
        await client.post(f"{uploads}?digest={blob.digest}", content=blob.data, headers=headers),
        await put(client, "shop/app", "1.0.0", document, headers=headers),
        await client.get("/v2/shop/app/tags/list?n=1", headers=headers),
    ]


@pytest.mark.parametrize("headers", EVIL, ids=lambda headers: next(iter(headers)))
async def test_no_header_decides_the_location(data: Path, headers: Mapping[str, str]) -> None:
    """Whatever host a client claims, each Location is a path on this registry."""
    async with serving(data, listen=ANYWHERE, allow_anonymous=True) as registry:
        answers = await headers_of_a_push(registry.client, headers)

    assert [answer.status_code for answer in answers] == [202, 202, 204, 201, 201, 201, 201, 200]
    for answer in answers[:-1]:
        assert answer.headers["Location"].startswith("/v2/shop/app/")
    for answer in answers:
        assert "evil" not in str(answer.headers)


async def test_with_a_public_url_every_location_starts_with_it(data: Path) -> None:
    """With `public_url` set, each Location begins with it."""
    async with serving(
        data, listen=ANYWHERE, allow_anonymous=True, public_url="https://registry.example:8443"
    ) as registry:
        answers = await headers_of_a_push(registry.client, {"Host": "evil.example"})

    for answer in answers[:-1]:
        assert answer.headers["Location"].startswith("https://registry.example:8443/v2/shop/app/")
