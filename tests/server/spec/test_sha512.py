"""sha512 wherever sha256 is possible: blobs, manifests, indexes, tags, referrers, and `digest-algorithm` (end-4c)."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import (
    Blob,
    artifact,
    digest_of,
    error_of,
    holds_blob,
    image,
    index,
    meaning,
    push,
    put,
    start_upload,
    with_digest,
)

BLOB = Blob(b"bytes with a long digest " * 40, algorithm="sha512")


@pytest.mark.parametrize("params", [{}, {"digest-algorithm": "sha512"}], ids=["unannounced", "announced"])
@pytest.mark.parametrize("how", ["put", "stream", "chunks"])
async def test_a_blob_is_uploaded_under_its_sha512_digest(
    client: httpx2.AsyncClient, how: str, params: dict[str, str]
) -> None:
    """end-4c: a session may be closed with a sha512 digest, announced at its start or not."""
    location = await start_upload(client, "shop/app", **params)
    body = BLOB.data
    if how == "stream":
        await client.patch(location, content=body)
        body = b""
    elif how == "chunks":
        await client.patch(location, content=body[:400], headers={"Content-Range": "0-399"})
        body = body[400:]

    closed = await client.put(with_digest(location, BLOB.digest), content=body)

    assert closed.status_code == 201
    assert closed.headers["Docker-Content-Digest"] == BLOB.digest
    assert (await client.get(f"/v2/shop/app/blobs/{BLOB.digest}")).content == BLOB.data


async def test_a_session_announced_as_sha512_may_be_closed_with_sha256(client: httpx2.AsyncClient) -> None:
    """A session announced as sha512 may be closed with a sha256 digest."""
    location = await start_upload(client, "shop/app", **{"digest-algorithm": "sha512"})
    await client.patch(location, content=BLOB.data)

    closed = await client.put(with_digest(location, digest_of(BLOB.data)))

    assert closed.status_code == 201


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "SHA256", "", "sha512/256"])
async def test_an_unknown_digest_algorithm_is_400(client: httpx2.AsyncClient, algorithm: str) -> None:
    """An unsupported `digest-algorithm` is refused when the session is opened."""
    answer = await client.post("/v2/shop/app/blobs/uploads/", params={"digest-algorithm": algorithm})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_bytes_with_another_sha512_digest_are_400(client: httpx2.AsyncClient) -> None:
    """Bytes without the given sha512 digest are 400."""
    location = await start_upload(client, "shop/app")
    other = digest_of(b"something else", "sha512")

    answer = await client.put(with_digest(location, other), content=BLOB.data)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"
    assert not await holds_blob(client, "shop/app", other)


async def test_an_image_with_sha512_inside_is_pulled_by_digest(client: httpx2.AsyncClient) -> None:
    """A manifest whose digests are all sha512 is pushed and pulled like any other."""
    document = image("long", algorithm="sha512")
    pushed = await push(client, "shop/app", document.digest, document)

    got = await client.get(pushed.headers["Location"])

    assert pushed.status_code == 201
    assert got.content == document.raw


async def test_an_index_of_sha512_children_is_published(client: httpx2.AsyncClient) -> None:
    """An index may name its children by sha512."""
    children = [image("one", algorithm="sha512"), image("two", algorithm="sha512")]
    parent = index(*children, algorithm="sha512")

    answer = await push(client, "shop/app", "1.0.0", parent)

    assert answer.status_code == 201
    assert await meaning(client, "shop/app", children[0].digest) == children[0].digest


async def test_a_manifest_with_another_sha512_digest_is_400(client: httpx2.AsyncClient) -> None:
    """A manifest pushed under a wrong sha512 digest is 400."""
    document = image("long", algorithm="sha512")

    answer = await push(client, "shop/app", digest_of(b"something else", "sha512"), document)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_referrers_of_a_sha512_subject_are_listed(client: httpx2.AsyncClient) -> None:
    """Referrers that name a subject by its sha512 digest are found by that digest."""
    subject = image("subject", algorithm="sha512")
    sbom = artifact("sbom", subject=subject, algorithm="sha512")
    await push(client, "shop/app", subject.digest, subject)
    pushed = await push(client, "shop/app", sbom.digest, sbom)

    listed = await client.get(f"/v2/shop/app/referrers/{subject.digest}")

    assert pushed.headers["OCI-Subject"] == subject.digest
    assert [each["digest"] for each in listed.json()["manifests"]] == [sbom.digest]


async def test_a_manifest_is_deleted_by_its_sha512_digest(floating_client: httpx2.AsyncClient) -> None:
    """A manifest that was pushed by its sha512 digest is deleted by it."""
    document = image("long", algorithm="sha512")
    await push(floating_client, "shop/app", document.digest, document)

    deleted = await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")

    assert deleted.status_code == 202
    assert await meaning(floating_client, "shop/app", document.digest) is None


async def test_a_blob_may_be_pushed_under_both_digests(client: httpx2.AsyncClient) -> None:
    """A blob may be pushed under both digests, and is returned by each."""
    short = Blob(BLOB.data)
    for blob in (short, BLOB):
        location = await start_upload(client, "shop/app")
        await client.put(with_digest(location, blob.digest), content=blob.data)

    assert await holds_blob(client, "shop/app", short.digest)
    assert await holds_blob(client, "shop/app", BLOB.digest)


async def test_a_sha512_push_may_set_a_tag(client: httpx2.AsyncClient) -> None:
    """A manifest pushed by sha512 may be tagged in the same request, and the tag pulls it."""
    document = image("long", algorithm="sha512")
    await push(client, "shop/app", document.digest, document, tags=["1.0.0"])

    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert got.content == document.raw


async def test_a_push_by_tag_after_a_sha512_push_is_accepted(client: httpx2.AsyncClient) -> None:
    """Equal bytes under one tag are the same push, whatever digest algorithm the URL has."""
    document = image("long", algorithm="sha512")
    await push(client, "shop/app", document.digest, document, tags=["1.0.0"])

    again = await put(client, "shop/app", "1.0.0", document)

    assert again.status_code == 201
