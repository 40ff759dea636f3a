"""Attempts to make a sealed tag resolve to something else, one test each; after each the tag has its digest."""

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
    """Delete the tag, then push it anew."""
    deleted = await victim.delete(TAG)
    pushed = await put(victim, "shop/app", "1.4.2", EVIL)

    assert deleted.status_code == 405
    assert pushed.status_code == 409


async def test_deleting_the_manifest_first(victim: httpx2.AsyncClient) -> None:
    """Delete the manifest by its digest, then push the tag anew."""
    deleted = await victim.delete(f"/v2/shop/app/manifests/{SEALED.digest}")
    pushed = await put(victim, "shop/app", "1.4.2", EVIL)

    assert deleted.status_code == 405
    assert pushed.status_code == 409


async def test_deleting_the_manifest_as_a_blob(victim: httpx2.AsyncClient) -> None:
    """Delete the manifest by the address of blobs."""
    answer = await victim.delete(f"/v2/shop/app/blobs/{SEALED.digest}")

    assert answer.status_code in {404, 405}


async def test_deleting_a_blob_as_a_manifest(victim: httpx2.AsyncClient) -> None:
    """Delete a layer by the address of manifests."""
    answer = await victim.delete(f"/v2/shop/app/manifests/{SEALED.layers[0].digest}")

    assert answer.status_code in {404, 405}


async def test_deleting_a_manifest_that_was_also_pushed_as_a_blob(victim: httpx2.AsyncClient) -> None:
    """Push the manifest's bytes as a blob and delete that: the manifest is another thing."""
    await push_blob(victim, "shop/app", Blob(SEALED.raw))
    await victim.delete(f"/v2/shop/app/blobs/{SEALED.digest}")

    assert await meaning(victim, "shop/app", SEALED.digest) == SEALED.digest


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_naming_it_beside_other_tags(victim: httpx2.AsyncClient, algorithm: str) -> None:
    """Name the sealed tag in `?tag=` of a push by digest."""
    answer = await put(victim, "shop/app", digest_of(EVIL.raw, algorithm), EVIL, tags=["1.5.0", "1.4.2"])

    assert answer.status_code == 409
    assert await meaning(victim, "shop/app", "1.5.0") is None


async def test_claiming_to_have_seen_it(victim: httpx2.AsyncClient) -> None:
    """Send `If-Match` with the current digest, as for a mutable tag."""
    answer = await put(victim, "shop/app", "1.4.2", EVIL, headers={"If-Match": f'"{SEALED.digest}"'})

    assert answer.status_code == 409


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method", "X-Force", "Overwrite"]
)
async def test_overriding_the_method(victim: httpx2.AsyncClient, name: str) -> None:
    """Ask for another method in a header."""
    read = await victim.get(TAG, headers={name: "DELETE"})
    written = await put(victim, "shop/app", "1.4.2", EVIL, headers={name: "T"})

    assert read.content == SEALED.raw
    assert written.status_code == 409


@pytest.mark.parametrize(
    "parameter", ["force=true", "overwrite=1", "_method=DELETE", "ns=docker.io", "unseal=1", "tag=1.4.2"]
)
async def test_asking_nicely(victim: httpx2.AsyncClient, parameter: str) -> None:
    """Add a parameter that might mean something."""
    answer = await victim.put(f"{TAG}?{parameter}", content=EVIL.raw, headers={"Content-Type": EVIL.media_type})

    assert answer.status_code in {400, 409}


async def test_replacing_a_layer_under_its_digest(victim: httpx2.AsyncClient) -> None:
    """Upload other bytes under the digest of a sealed layer, in one request and over a session."""
    digest = SEALED.layers[0].digest
    location = await start_upload(victim, "shop/app")
    await victim.patch(location, content=b"evil")

    answers = [
        await victim.put(with_digest(location, digest)),
        await victim.post("/v2/shop/app/blobs/uploads/", params={"digest": digest}, content=b"evil"),
    ]

    assert [answer.status_code for answer in answers] == [400, 400]


async def test_pushing_a_layer_again_in_an_endless_session(victim: httpx2.AsyncClient) -> None:
    """Open a session for the sealed layer and cancel it: the layer is not the session's."""
    location = await start_upload(victim, "shop/app")
    await victim.patch(location, content=SEALED.layers[0].data)

    cancelled = await victim.delete(location)

    assert cancelled.status_code == 204


async def test_calling_a_tag_like_the_digest(victim: httpx2.AsyncClient) -> None:
    """Other content under a tag that reads like the sealed digest is not returned for a pull by digest."""
    lookalikes = [signature_tag(SEALED, ""), SEALED.digest.removeprefix("sha256:"), "sha256." + SEALED.digest[7:]]
    for tag in lookalikes:
        await put(victim, "shop/app", tag, EVIL)

    by_digest = await victim.get(f"/v2/shop/app/manifests/{SEALED.digest}")

    assert by_digest.content == SEALED.raw


@pytest.mark.parametrize("tag", [SEALED.digest, "sha256:", "sha256:1.4.2"])
async def test_giving_a_digest_as_a_tag(victim: httpx2.AsyncClient, tag: str) -> None:
    """Name a digest in `?tag=`, so that a pull by digest would give something else."""
    answer = await put(victim, "shop/app", EVIL.digest, EVIL, tags=[tag])

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_hiding_it_in_a_signature_tag(victim: httpx2.AsyncClient) -> None:
    """Signature tags are append-only, not a way round: a sealed tag is not touched by what they mean."""
    await push(victim, "shop/app", signature_tag(SEALED), signature(SEALED, "mallory"))

    answer = await put(victim, "shop/app", "1.4.2", signature(SEALED, "mallory"))

    assert answer.status_code == 409


async def test_pushing_an_index_that_contains_it(victim: httpx2.AsyncClient) -> None:
    """An index with the sealed image in it is still something else."""
    answer = await push(victim, "shop/app", "1.4.2", index(SEALED, EVIL))

    assert answer.status_code == 409


async def test_pointing_at_it(victim: httpx2.AsyncClient) -> None:
    """Referrers come and go without the image being touched."""
    sbom = artifact("sbom", subject=SEALED)
    await push(victim, "shop/app", sbom.digest, sbom)
    await victim.delete(f"/v2/shop/app/manifests/{sbom.digest}")

    assert await meaning(victim, "shop/app", "1.4.2") == SEALED.digest


@pytest.mark.parametrize("raw", [SEALED.raw + b"\n", SEALED.raw.replace(b",", b", ", 1)], ids=["newline", "blank"])
async def test_pushing_the_same_document_in_other_bytes(victim: httpx2.AsyncClient, raw: bytes) -> None:
    """The same JSON with other white space has another digest, and is other content."""
    answer = await victim.put(TAG, content=raw, headers={"Content-Type": OCI_MANIFEST})

    assert answer.status_code == 409


async def test_mounting_over_it(victim: httpx2.AsyncClient) -> None:
    """Mount a sealed layer elsewhere and delete it there."""
    digest = SEALED.layers[0].digest
    await victim.post("/v2/shop/elsewhere/blobs/uploads/", params={"mount": digest, "from": "shop/app"})

    deleted = await victim.delete(f"/v2/shop/elsewhere/blobs/{digest}")

    assert deleted.status_code == 202


async def test_using_the_repository_below(victim: httpx2.AsyncClient) -> None:
    """`shop/app/manifests` is another repository, and can't reach this one's tags."""
    answer = await push(victim, "shop/app/manifests", "1.4.2", EVIL)

    assert answer.status_code == 201
    assert await meaning(victim, "shop/app", "1.4.2") == SEALED.digest
