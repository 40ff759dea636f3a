"""`Docker-Content-Digest`: on every response about content, in the requested algorithm."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, digest_of, image, push, push_blob, put


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_manifest_asked_for_by_digest_is_answered_with_that_digest(
    client: httpx2.AsyncClient, method: str, algorithm: str
) -> None:
    """GET and HEAD of a manifest by digest must carry that same digest."""
    document = image("by digest", algorithm=algorithm)
    await push(client, "shop/app", document.digest, document)

    answer = await client.request(method, f"/v2/shop/app/manifests/{document.digest}")

    assert answer.headers["Docker-Content-Digest"] == document.digest


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_manifest_asked_for_by_tag_is_answered_with_its_digest(client: httpx2.AsyncClient, method: str) -> None:
    """GET and HEAD of a manifest by tag must carry the digest to which the tag resolves."""
    document = image("by tag")
    await push(client, "shop/app", "1.0.0", document)

    answer = await client.request(method, "/v2/shop/app/manifests/1.0.0")

    assert answer.headers["Docker-Content-Digest"] == document.digest


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_blob_is_answered_with_the_digest_asked_for(
    client: httpx2.AsyncClient, method: str, algorithm: str
) -> None:
    """GET and HEAD of a blob must carry that same digest."""
    blob = Blob(b"some bytes", algorithm=algorithm)
    await push_blob(client, "shop/app", blob)

    answer = await client.request(method, f"/v2/shop/app/blobs/{blob.digest}")

    assert answer.headers["Docker-Content-Digest"] == blob.digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_push_by_digest_is_answered_with_the_clients_digest(client: httpx2.AsyncClient, algorithm: str) -> None:
    """The answer to a PUT by digest must carry the digest that the client sent."""
    document = image("pushed", algorithm=algorithm)

    answer = await push(client, "shop/app", document.digest, document)

    assert answer.status_code == 201
    assert answer.headers["Docker-Content-Digest"] == document.digest


async def test_a_push_by_tag_is_answered_with_its_digest(client: httpx2.AsyncClient) -> None:
    """The answer to a PUT by tag has the digest of the pushed manifest."""
    document = image("pushed")

    answer = await push(client, "shop/app", "1.0.0", document)

    assert answer.headers["Docker-Content-Digest"] == document.digest


async def test_a_tag_pushed_with_a_sha512_digest_is_answered_with_it(client: httpx2.AsyncClient) -> None:
    """A tag set by a push by sha512 digest resolves to that digest."""
    document = image("sha512 tagged", algorithm="sha512")
    await push(client, "shop/app", document.digest, document, tags=["1.0.0"])

    head = await client.head("/v2/shop/app/manifests/1.0.0")

    assert head.headers["Docker-Content-Digest"] == document.digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_finished_upload_is_answered_with_the_clients_digest(
    client: httpx2.AsyncClient, algorithm: str
) -> None:
    """The answer to a finished blob upload carries the digest that the client sent."""
    answer = await push_blob(client, "shop/app", Blob(b"uploaded", algorithm=algorithm))

    assert answer.headers["Docker-Content-Digest"] == Blob(b"uploaded", algorithm=algorithm).digest


async def test_a_manifest_pushed_by_both_digests_is_returned_by_each(client: httpx2.AsyncClient) -> None:
    """One manifest that was pushed by sha256 and by sha512 is returned under each with that digest."""
    document = image("both")
    long_digest = digest_of(document.raw, "sha512")
    await push(client, "shop/app", document.digest, document)
    await put(client, "shop/app", long_digest, document)

    short = await client.head(f"/v2/shop/app/manifests/{document.digest}")
    long = await client.head(f"/v2/shop/app/manifests/{long_digest}")

    assert short.headers["Docker-Content-Digest"] == document.digest
    assert long.headers["Docker-Content-Digest"] == long_digest
