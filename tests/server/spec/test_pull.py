"""Pulling: end-1, end-2 and end-3 of the distribution spec, and what a client may rely on in their answers."""

from __future__ import annotations

import gzip

import httpx2
import pytest

from tests.asgi import send
from tests.images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    digest_of,
    error_of,
    image,
    index,
    push,
    push_blob,
    put,
)
from tests.serving import Serving

ABSENT = "sha256:" + "0" * 64


async def test_the_base_route_answers_200(client: httpx2.AsyncClient) -> None:
    """end-1: GET /v2/ answers 200 where the spec is implemented and the caller may use it."""
    got = await client.get("/v2/")
    head = await client.head("/v2/")

    assert got.status_code == 200
    assert head.status_code == 200
    assert head.content == b""


async def test_a_manifest_is_returned_byte_for_byte(client: httpx2.AsyncClient) -> None:
    """A pulled manifest has the pushed bytes, with odd spacing and unknown members."""
    plain = image("odd", extra={"x-unknown": {"b": 1, "a": [1.50, "\u00e9"]}})
    odd = Document(plain.raw.replace(b":", b" :\t", 3) + b"\n\n", plain.media_type, plain.blobs)
    await push(client, "shop/app", "1.0.0", odd)

    by_tag = await client.get("/v2/shop/app/manifests/1.0.0")
    by_digest = await client.get(f"/v2/shop/app/manifests/{odd.digest}")

    assert by_tag.content == odd.raw
    assert by_digest.content == odd.raw


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_content_type_is_the_pushed_type(client: httpx2.AsyncClient, docker: bool) -> None:
    """A pulled manifest has the Content-Type of its push, whatever Accept says."""
    child = image("typed", docker=docker)
    parent = index(child, docker=docker)
    await push(client, "shop/app", "1.0.0", parent)
    accept = {"Accept": "application/json"}

    got_parent = await client.get("/v2/shop/app/manifests/1.0.0", headers=accept)
    got_child = await client.head(f"/v2/shop/app/manifests/{child.digest}", headers=accept)

    assert got_parent.headers["Content-Type"] == (DOCKER_LIST if docker else OCI_INDEX)
    assert got_child.headers["Content-Type"] == (DOCKER_MANIFEST if docker else OCI_MANIFEST)


async def test_content_type_parameters_are_accepted_and_dropped(client: httpx2.AsyncClient) -> None:
    """Parameters of a push's Content-Type are accepted, and not part of the served type."""
    document = image("parameters")

    pushed = await push(
        client, "shop/app", "1.0.0", document, headers={"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"}
    )
    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert pushed.status_code == 201
    assert got.headers["Content-Type"] == OCI_MANIFEST


async def test_head_of_a_manifest_has_length_and_digest(client: httpx2.AsyncClient) -> None:
    """HEAD of a manifest has 200, Content-Length and Docker-Content-Digest, and no body."""
    document = image("head")
    await push(client, "shop/app", "1.0.0", document)

    head = await client.head("/v2/shop/app/manifests/1.0.0")

    assert head.status_code == 200
    assert head.headers["Content-Length"] == str(len(document.raw))
    assert head.headers["Docker-Content-Digest"] == document.digest
    assert head.content == b""


async def test_a_blob_is_returned_byte_for_byte(client: httpx2.AsyncClient) -> None:
    """GET of a blob has 200 with the bytes and their length."""
    blob = image("blob").layers[0]
    await push_blob(client, "shop/app", blob)

    got = await client.get(f"/v2/shop/app/blobs/{blob.digest}")

    assert got.status_code == 200
    assert got.content == blob.data
    assert got.headers["Content-Length"] == str(len(blob.data))


async def test_head_of_a_blob_has_length_and_digest(client: httpx2.AsyncClient) -> None:
    """HEAD of a blob has 200 with its size and no body."""
    blob = image("blob").layers[0]
    await push_blob(client, "shop/app", blob)

    head = await client.head(f"/v2/shop/app/blobs/{blob.digest}")

    assert head.status_code == 200
    assert head.headers["Content-Length"] == str(len(blob.data))
    assert head.headers["Docker-Content-Digest"] == blob.digest
    assert head.content == b""


async def test_a_blob_larger_than_any_buffer_is_returned(client: httpx2.AsyncClient) -> None:
    """A blob too large for memory is returned as pushed."""
    data = bytes(range(256)) * 4096 * 3 + b"tail"
    answer = await client.post(
        "/v2/shop/app/blobs/uploads/", params={"digest": (digest := digest_of(data))}, content=data
    )

    got = await client.get(f"/v2/shop/app/blobs/{digest}")

    assert answer.status_code == 201
    assert got.content == data


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", ["1.0.0", ABSENT], ids=["tag", "digest"])
@pytest.mark.parametrize("repository", ["shop/app", "nowhere/at-all"], ids=["known", "unknown"])
async def test_a_missing_manifest_is_404(
    client: httpx2.AsyncClient, method: str, reference: str, repository: str
) -> None:
    """A missing manifest, tag or repository is 404, since pushing clients give up on any other status."""
    await push_blob(client, "shop/app", image("something").layers[0])

    answer = await client.request(method, f"/v2/{repository}/manifests/{reference}")

    assert answer.status_code == 404
    if method == "GET":
        assert error_of(answer)[0] in {"MANIFEST_UNKNOWN", "NAME_UNKNOWN"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("repository", ["shop/app", "nowhere/at-all"], ids=["known", "unknown"])
async def test_a_missing_blob_is_404(client: httpx2.AsyncClient, method: str, repository: str) -> None:
    """A missing blob or repository is 404."""
    await push(client, "shop/app", "1.0.0", image("something"))

    answer = await client.request(method, f"/v2/{repository}/blobs/{ABSENT}")

    assert answer.status_code == 404
    if method == "GET":
        assert error_of(answer)[0] in {"BLOB_UNKNOWN", "NAME_UNKNOWN"}


async def test_content_is_never_compressed_for_transfer(client: httpx2.AsyncClient) -> None:
    """A client that accepts gzip gets the stored bytes with their Content-Length."""
    document = image("compressible " * 200)
    await push(client, "shop/app", "1.0.0", document)
    accept = {"Accept-Encoding": "gzip, deflate, br, zstd"}

    manifest = await client.get("/v2/shop/app/manifests/1.0.0", headers=accept)
    blob = await client.get(f"/v2/shop/app/blobs/{document.layers[0].digest}", headers=accept)

    assert "Content-Encoding" not in manifest.headers
    assert "Content-Encoding" not in blob.headers
    assert manifest.headers["Content-Length"] == str(len(document.raw))
    assert gzip.decompress(blob.content)


async def test_a_manifest_is_not_served_as_a_blob_nor_a_blob_as_a_manifest(client: httpx2.AsyncClient) -> None:
    """A manifest is not found at the address of blobs, nor a blob at that of manifests."""
    document = image("kinds")
    await push(client, "shop/app", "1.0.0", document)

    blob_as_manifest = await client.get(f"/v2/shop/app/manifests/{document.config.digest}")
    manifest_as_blob = await client.get(f"/v2/shop/app/blobs/{document.digest}")

    assert blob_as_manifest.status_code == 404
    assert manifest_as_blob.status_code == 404


async def test_an_escaped_colon_in_a_digest_is_accepted(registry: Serving) -> None:
    """An escaped colon (%3A) in a digest is accepted, as some clients send it."""
    document = image("escaped")
    await push(registry.client, "shop/app", "1.0.0", document)

    manifest = await send(registry.app, "GET", f"/v2/shop/app/manifests/{document.digest.replace(':', '%3A')}")
    blob = await send(registry.app, "HEAD", f"/v2/shop/app/blobs/{document.config.digest.replace(':', '%3a')}")

    assert manifest.status == 200
    assert manifest.body == document.raw
    assert blob.status == 200


async def test_pushing_again_does_not_change_what_is_pulled(client: httpx2.AsyncClient) -> None:
    """A manifest that was pushed by tag and by digest is one manifest."""
    document = image("twice")
    await push(client, "shop/app", "1.0.0", document)
    await put(client, "shop/app", document.digest, document)

    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert got.content == document.raw
