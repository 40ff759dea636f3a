"""sha512 digests of blobs, manifests, indexes, tags and referrers; and `digest-algorithm` (end-4c)."""

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
    """end-4c: a session may be closed with a sha512 digest, whether it was announced at its start or not."""
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
    """The digest that closes a session decides, not the announcement."""
    location = await start_upload(client, "shop/app", **{"digest-algorithm": "sha512"})
    await client.patch(location, content=BLOB.data)

    closed = await client.put(with_digest(location, digest_of(BLOB.data)))

    assert closed.status_code == 201


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "SHA256", "", "sha512/256"])
async def test_an_unknown_digest_algorithm_is_400(client: httpx2.AsyncClient, algorithm: str) -> None:
    """An algorithm that is not supported is refused when the session is opened."""
    answer = await client.post("/v2/shop/app/blobs/uploads/", params={"digest-algorithm": algorithm})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_bytes_that_are_not_the_sha512_digest_are_400(client: httpx2.AsyncClient) -> None:
    """A sha512 digest is checked as strictly as any."""
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


async def test_a_manifest_body_that_is_not_its_sha512_digest_is_400(client: httpx2.AsyncClient) -> None:
    """A manifest pushed by a sha512 digest must have that digest."""
    document = image("long", algorithm="sha512")

    answer = await push(client, "shop/app", digest_of(b"something else", "sha512"), document)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_referrers_of_a_sha512_subject(client: httpx2.AsyncClient) -> None:
    """A subject named by its sha512 digest is found by that digest."""
    subject = image("subject", algorithm="sha512")
    sbom = artifact("sbom", subject=subject, algorithm="sha512")
    await push(client, "shop/app", subject.digest, subject)
    pushed = await push(client, "shop/app", sbom.digest, sbom)

    listed = await client.get(f"/v2/shop/app/referrers/{subject.digest}")

    assert pushed.headers["OCI-Subject"] == subject.digest
    assert [each["digest"] for each in listed.json()["manifests"]] == [sbom.digest]


async def test_deleting_by_sha512_digest(floating_client: httpx2.AsyncClient) -> None:
    """A manifest pushed by its sha512 digest is deleted by it."""
    document = image("long", algorithm="sha512")
    await push(floating_client, "shop/app", document.digest, document)

    deleted = await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")

    assert deleted.status_code == 202
    assert await meaning(floating_client, "shop/app", document.digest) is None


async def test_a_blob_known_by_one_digest_is_pushed_under_the_other(client: httpx2.AsyncClient) -> None:
    """A manifest may be pushed under two digests and is found by each."""
    short = Blob(BLOB.data)
    for blob in (short, BLOB):
        location = await start_upload(client, "shop/app")
        await client.put(with_digest(location, blob.digest), content=blob.data)

    assert await holds_blob(client, "shop/app", short.digest)
    assert await holds_blob(client, "shop/app", BLOB.digest)


async def test_a_tag_and_a_sha512_digest_in_one_push(client: httpx2.AsyncClient) -> None:
    """A manifest pushed by its sha512 digest may be tagged in the same request; the tag pulls it."""
    document = image("long", algorithm="sha512")
    await push(client, "shop/app", document.digest, document, tags=["1.0.0"])

    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert got.content == document.raw


async def test_a_plain_push_of_what_a_sha512_push_tagged_is_accepted(client: httpx2.AsyncClient) -> None:
    """A push of the current content of a tag is accepted, whatever algorithm the URL used."""
    document = image("long", algorithm="sha512")
    await push(client, "shop/app", document.digest, document, tags=["1.0.0"])

    again = await put(client, "shop/app", "1.0.0", document)

    assert again.status_code == 201
