"""Cacheability of responses: digests for a year, sealed tags for a day, mutable tags and 404s never."""

from __future__ import annotations

import httpx2

from tests.images import image, push


async def test_content_by_digest_may_be_cached_for_a_year(client: httpx2.AsyncClient) -> None:
    """Content requested by digest has `max-age` of a year and `immutable`."""
    document = image("kept")
    await push(client, "shop/app", "1.0.0", document)

    manifest = await client.get(f"/v2/shop/app/manifests/{document.digest}")
    blob = await client.get(f"/v2/shop/app/blobs/{document.config.digest}")

    assert "max-age=31536000" in manifest.headers["Cache-Control"]
    assert "immutable" in manifest.headers["Cache-Control"]
    assert "max-age=31536000" in blob.headers["Cache-Control"]
    assert "immutable" in blob.headers["Cache-Control"]


async def test_a_sealed_tag_may_be_cached_for_a_day(client: httpx2.AsyncClient) -> None:
    """A sealed tag may be cached for a day, because it always resolves to one digest."""
    await push(client, "shop/app", "1.0.0", image("sealed"))

    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert "max-age=86400" in got.headers["Cache-Control"]


async def test_a_floating_tag_is_not_cached(client: httpx2.AsyncClient) -> None:
    """A mutable tag must not be cached."""
    await push(client, "shop/app", "latest", image("floating"))

    got = await client.get("/v2/shop/app/manifests/latest")

    assert got.headers["Cache-Control"] == "no-store"


async def test_a_404_is_not_cached(client: httpx2.AsyncClient) -> None:
    """A 404 must not be cached, because the content may be pushed at any time."""
    manifest = await client.get("/v2/shop/app/manifests/1.0.0")
    blob = await client.get("/v2/shop/app/blobs/sha256:" + "0" * 64)

    assert manifest.headers["Cache-Control"] == "no-store"
    assert blob.headers["Cache-Control"] == "no-store"


async def test_a_missing_tag_is_found_directly_after_its_push(client: httpx2.AsyncClient) -> None:
    """A tag that was 404 is found directly after its push."""
    document = image("appears")
    before = await client.head("/v2/shop/app/manifests/latest")
    await push(client, "shop/app", "latest", document)
    after = await client.head("/v2/shop/app/manifests/latest")

    assert before.status_code == 404
    assert after.headers["Docker-Content-Digest"] == document.digest


async def test_a_floating_tag_is_seen_to_move_at_once(client: httpx2.AsyncClient) -> None:
    """The first GET after a move of a mutable tag returns the new manifest."""
    first, second = image("first"), image("second")
    await push(client, "shop/app", "latest", first)
    one = await client.get("/v2/shop/app/manifests/latest")
    await push(client, "shop/app", "latest", second)
    two = await client.get("/v2/shop/app/manifests/latest")

    assert one.content == first.raw
    assert two.content == second.raw
