"""Attempts to make a sealed tag resolve to something else, one test each; the tag's digest is checked after each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.images import (
    OCI_MANIFEST,
    Blob,
    artifact,
    digest_of,
    error_of,
    image,
    index,
    meaning,
    push,
    push_blob,
    push_parts,
    put,
    signature,
    signature_tag,
    start_upload,
    with_digest,
)

pytestmark = pytest.mark.usefixtures("whole_store")

SEALED, EVIL = image("sealed"), image("evil")
TAG = "/v2/shop/app/manifests/1.4.2"


@pytest.fixture
async def victim(client: httpx2.AsyncClient) -> AsyncIterator[httpx2.AsyncClient]:
    """A registry with a sealed tag, and all parts of another image; afterwards the tag must have the same digest."""
    await push(client, "shop/app", "1.4.2", SEALED)
    await push_parts(client, "shop/app", EVIL)
    yield client
    got = await client.get(TAG)
    blob = await client.get(f"/v2/shop/app/blobs/{SEALED.layers[0].digest}")

    assert got.content == SEALED.raw
    assert got.headers["Docker-Content-Digest"] == SEALED.digest
    assert blob.content == SEALED.layers[0].data


async def test_deleting_it_first(victim: httpx2.AsyncClient) -> None:
    """Deleting a sealed tag and pushing it anew does not change its digest."""
    deleted = await victim.delete(TAG)
    pushed = await put(victim, "shop/app", "1.4.2", EVIL)

    assert deleted.status_code == 405
    assert pushed.status_code == 409


async def test_deleting_the_manifest_first(victim: httpx2.AsyncClient) -> None:
    """Deleting the manifest by its digest and pushing the tag anew does not change the digest."""
    deleted = await victim.delete(f"/v2/shop/app/manifests/{SEALED.digest}")
    pushed = await put(victim, "shop/app", "1.4.2", EVIL)

    assert deleted.status_code == 405
    assert pushed.status_code == 409


async def test_deleting_the_manifest_as_a_blob(victim: httpx2.AsyncClient) -> None:
    """A manifest cannot be deleted through the address of blobs."""
    answer = await victim.delete(f"/v2/shop/app/blobs/{SEALED.digest}")

    assert answer.status_code in {404, 405}


async def test_deleting_a_blob_as_a_manifest(victim: httpx2.AsyncClient) -> None:
    """A layer cannot be deleted through the address of manifests."""
    answer = await victim.delete(f"/v2/shop/app/manifests/{SEALED.layers[0].digest}")

    assert answer.status_code in {404, 405}


async def test_deleting_a_manifest_that_was_also_pushed_as_a_blob(victim: httpx2.AsyncClient) -> None:
    """Pushing the manifest's bytes as a blob and deleting that blob leaves the manifest."""
    await push_blob(victim, "shop/app", Blob(SEALED.raw))
    await victim.delete(f"/v2/shop/app/blobs/{SEALED.digest}")

    assert await meaning(victim, "shop/app", SEALED.digest) == SEALED.digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_naming_it_beside_other_tags(victim: httpx2.AsyncClient, algorithm: str) -> None:
    """Naming the sealed tag in `?tag=` of a push by digest is refused."""
    answer = await put(victim, "shop/app", digest_of(EVIL.raw, algorithm), EVIL, tags=["1.5.0", "1.4.2"])

    assert answer.status_code == 409
    assert await meaning(victim, "shop/app", "1.5.0") is None


async def test_claiming_to_have_seen_it(victim: httpx2.AsyncClient) -> None:
    """`If-Match` with the current digest, as for a mutable tag, does not allow a move."""
    answer = await put(victim, "shop/app", "1.4.2", EVIL, headers={"If-Match": f'"{SEALED.digest}"'})

    assert answer.status_code == 409


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method", "X-Force", "Overwrite"]
)
async def test_overriding_the_method(victim: httpx2.AsyncClient, name: str) -> None:
    """A method-override header is ignored."""
    read = await victim.get(TAG, headers={name: "DELETE"})
    written = await put(victim, "shop/app", "1.4.2", EVIL, headers={name: "T"})

    assert read.content == SEALED.raw
    assert written.status_code == 409


@pytest.mark.parametrize(
    "parameter", ["force=true", "overwrite=1", "_method=DELETE", "ns=docker.io", "unseal=1", "tag=1.4.2"]
)
async def test_asking_nicely(victim: httpx2.AsyncClient, parameter: str) -> None:
    """An invented query parameter is ignored."""
    answer = await victim.put(f"{TAG}?{parameter}", content=EVIL.raw, headers={"Content-Type": EVIL.media_type})

    assert answer.status_code in {400, 409}


async def test_replacing_a_layer_under_its_digest(victim: httpx2.AsyncClient) -> None:
    """Other bytes under the digest of a sealed layer are refused, in one request and in an upload session."""
    digest = SEALED.layers[0].digest
    location = await start_upload(victim, "shop/app")
    await victim.patch(location, content=b"evil")

    answers = [
        await victim.put(with_digest(location, digest)),
        await victim.post("/v2/shop/app/blobs/uploads/", params={"digest": digest}, content=b"evil"),
    ]

    assert [answer.status_code for answer in answers] == [400, 400]


async def test_pushing_a_layer_again_in_an_endless_session(victim: httpx2.AsyncClient) -> None:
    """Cancelling an upload session for a sealed layer's digest leaves the layer."""
    location = await start_upload(victim, "shop/app")
    await victim.patch(location, content=SEALED.layers[0].data)

    cancelled = await victim.delete(location)

    assert cancelled.status_code == 204


async def test_calling_a_tag_like_the_digest(victim: httpx2.AsyncClient) -> None:
    """A tag that looks like the sealed digest never answers a pull by digest."""
    lookalikes = [signature_tag(SEALED, ""), SEALED.digest.removeprefix("sha256:"), "sha256." + SEALED.digest[7:]]
    for tag in lookalikes:
        await put(victim, "shop/app", tag, EVIL)

    by_digest = await victim.get(f"/v2/shop/app/manifests/{SEALED.digest}")

    assert by_digest.content == SEALED.raw


@pytest.mark.parametrize("tag", [SEALED.digest, "sha256:", "sha256:1.4.2"])
async def test_giving_a_digest_as_a_tag(victim: httpx2.AsyncClient, tag: str) -> None:
    """A digest in `?tag=` is refused, so a pull by digest can't return something else."""
    answer = await put(victim, "shop/app", EVIL.digest, EVIL, tags=[tag])

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_hiding_it_in_a_signature_tag(victim: httpx2.AsyncClient) -> None:
    """A signature tag is append-only and cannot change the sealed tag that it refers to."""
    await push(victim, "shop/app", signature_tag(SEALED), signature(SEALED, "mallory"))

    answer = await put(victim, "shop/app", "1.4.2", signature(SEALED, "mallory"))

    assert answer.status_code == 409


async def test_pushing_an_index_that_contains_it(victim: httpx2.AsyncClient) -> None:
    """An index that contains the sealed image has another digest and is refused as the tag."""
    answer = await push(victim, "shop/app", "1.4.2", index(SEALED, EVIL))

    assert answer.status_code == 409


async def test_pointing_at_it(victim: httpx2.AsyncClient) -> None:
    """Adding and deleting referrers does not change the sealed image."""
    sbom = artifact("sbom", subject=SEALED)
    await push(victim, "shop/app", sbom.digest, sbom)
    await victim.delete(f"/v2/shop/app/manifests/{sbom.digest}")

    assert await meaning(victim, "shop/app", "1.4.2") == SEALED.digest


@pytest.mark.parametrize("raw", [SEALED.raw + b"\n", SEALED.raw.replace(b",", b", ", 1)], ids=["newline", "blank"])
async def test_pushing_the_same_document_in_other_bytes(victim: httpx2.AsyncClient, raw: bytes) -> None:
    """JSON that differs only in white space has another digest and is refused."""
    answer = await victim.put(TAG, content=raw, headers={"Content-Type": OCI_MANIFEST})

    assert answer.status_code == 409


async def test_mounting_over_it(victim: httpx2.AsyncClient) -> None:
    """Mounting a sealed layer elsewhere and deleting it there leaves the sealed one."""
    digest = SEALED.layers[0].digest
    await victim.post("/v2/shop/elsewhere/blobs/uploads/", params={"mount": digest, "from": "shop/app"})

    deleted = await victim.delete(f"/v2/shop/elsewhere/blobs/{digest}")

    assert deleted.status_code == 202


async def test_using_the_repository_below(victim: httpx2.AsyncClient) -> None:
    """The repository `shop/app/manifests` is separate and can't change the tags of `shop/app`."""
    answer = await push(victim, "shop/app/manifests", "1.4.2", EVIL)

    assert answer.status_code == 201
    assert await meaning(victim, "shop/app", "1.4.2") == SEALED.digest
