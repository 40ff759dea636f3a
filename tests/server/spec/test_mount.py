"""Mounting a blob of another repository: end-11. If it can't be mounted, an ordinary upload starts."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, error_of, holds_blob, image, push_blob, put, with_digest

BLOB = Blob(b"shared by two repositories")
UPLOADS = "/v2/shop/target/blobs/uploads/"


async def test_a_mounted_blob_is_201_and_can_be_pulled(client: httpx2.AsyncClient) -> None:
    """A readable blob of another repository is mounted: 201, with the Location to pull it."""
    await push_blob(client, "shop/source", BLOB)

    answer = await client.post(UPLOADS, params={"mount": BLOB.digest, "from": "shop/source"})
    got = await client.get(answer.headers["Location"])

    assert answer.status_code == 201
    assert answer.headers["Docker-Content-Digest"] == BLOB.digest
    assert got.content == BLOB.data


async def test_a_mounted_blob_outlives_its_source(floating_client: httpx2.AsyncClient) -> None:
    """A mounted blob stays after it was deleted in its source repository."""
    await push_blob(floating_client, "shop/source", BLOB)
    await floating_client.post(UPLOADS, params={"mount": BLOB.digest, "from": "shop/source"})

    deleted = await floating_client.delete(f"/v2/shop/source/blobs/{BLOB.digest}")
    got = await floating_client.get(f"/v2/shop/target/blobs/{BLOB.digest}")

    assert deleted.status_code == 202
    assert got.content == BLOB.data


@pytest.mark.parametrize("source", ["shop/source", "nowhere/at-all", "Not a NAME", ""])
async def test_an_impossible_mount_becomes_an_upload(client: httpx2.AsyncClient, source: str) -> None:
    """A mount from an unknown or malformed source, or one without the blob, is 202 with a working session."""
    await push_blob(client, "shop/source", Blob(b"another blob"))

    answer = await client.post(UPLOADS, params={"mount": BLOB.digest, "from": source})
    closed = await client.put(with_digest(answer.headers["Location"], BLOB.digest), content=BLOB.data)

    assert answer.status_code == 202
    assert closed.status_code == 201


async def test_mounting_without_a_source_finds_the_blob(client: httpx2.AsyncClient) -> None:
    """Without `from`, the blob is searched in every repository that the client may read."""
    await push_blob(client, "shop/source", BLOB)

    answer = await client.post(UPLOADS, params={"mount": BLOB.digest})

    assert answer.status_code == 201
    assert await holds_blob(client, "shop/target", BLOB.digest)


async def test_mounting_an_unknown_blob_without_a_source_becomes_an_upload(client: httpx2.AsyncClient) -> None:
    """Without `from`, an unknown blob is 202 with a working session."""
    answer = await client.post(UPLOADS, params={"mount": BLOB.digest})
    closed = await client.put(with_digest(answer.headers["Location"], BLOB.digest), content=BLOB.data)

    assert answer.status_code == 202
    assert closed.status_code == 201


async def test_mounting_from_the_same_repository_is_201(client: httpx2.AsyncClient) -> None:
    """A mount of a blob that the repository already has is 201."""
    await push_blob(client, "shop/target", BLOB)

    answer = await client.post(UPLOADS, params={"mount": BLOB.digest, "from": "shop/target"})

    assert answer.status_code == 201


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "x"])
async def test_mounting_a_malformed_digest_is_400(client: httpx2.AsyncClient, digest: str) -> None:
    """A mount of a malformed digest is 400 DIGEST_INVALID."""
    answer = await client.post(UPLOADS, params={"mount": digest, "from": "shop/source"})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_a_mounted_blob_is_enough_for_a_sealed_push(client: httpx2.AsyncClient) -> None:
    """A mounted blob counts as present for a sealed push."""
    document = image("mounted parts")
    for blob in document.blobs:
        await push_blob(client, "shop/source", blob)
        await client.post(UPLOADS, params={"mount": blob.digest, "from": "shop/source"})

    answer = await put(client, "shop/target", "1.0.0", document)

    assert answer.status_code == 201
