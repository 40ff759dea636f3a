"""Deleting tags, manifests and blobs: end-9 and end-10. What a seal protects is in tests/server/seal/."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import Blob, error_of, holds_blob, image, index, meaning, push, push_blob, put

pytestmark = pytest.mark.usefixtures("whole_store")

ABSENT = "sha256:" + "0" * 64


async def test_deleting_a_tag_leaves_its_manifest(floating_client: httpx2.AsyncClient) -> None:
    """DELETE of a tag is 202; the tag is then 404, and its manifest still exists by digest."""
    document = image("tagged")
    await push(floating_client, "shop/app", "1.0.0", document)

    answer = await floating_client.delete("/v2/shop/app/manifests/1.0.0")

    assert answer.status_code == 202
    assert await meaning(floating_client, "shop/app", "1.0.0") is None
    assert await meaning(floating_client, "shop/app", document.digest) == document.digest


async def test_deleting_a_tag_leaves_other_tags_of_the_manifest(floating_client: httpx2.AsyncClient) -> None:
    """DELETE of one tag leaves the manifest's other tags."""
    document = image("tagged")
    await push(floating_client, "shop/app", "1.0.0", document)
    await put(floating_client, "shop/app", "1.0", document)
    await floating_client.delete("/v2/shop/app/manifests/1.0.0")

    assert await meaning(floating_client, "shop/app", "1.0") == document.digest


async def test_deleting_a_manifest_deletes_its_tags(floating_client: httpx2.AsyncClient) -> None:
    """DELETE by digest is 202; the digest and all its tags are then 404."""
    document = image("tagged")
    await push(floating_client, "shop/app", "1.0.0", document)
    await put(floating_client, "shop/app", "1.0", document)

    answer = await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")

    assert answer.status_code == 202
    assert await meaning(floating_client, "shop/app", document.digest) is None
    assert await meaning(floating_client, "shop/app", "1.0.0") is None
    assert await meaning(floating_client, "shop/app", "1.0") is None
    assert (await floating_client.get("/v2/shop/app/tags/list")).json()["tags"] == []


async def test_deleting_a_manifest_by_digest_on_the_default_rules(client: httpx2.AsyncClient) -> None:
    """With default rules a manifest that no sealed tag reaches may be deleted by digest."""
    document = image("untagged")
    await push(client, "shop/app", document.digest, document)

    answer = await client.delete(f"/v2/shop/app/manifests/{document.digest}")

    assert answer.status_code == 202
    assert await meaning(client, "shop/app", document.digest) is None


async def test_deleting_an_index_leaves_its_children(floating_client: httpx2.AsyncClient) -> None:
    """DELETE of an index leaves its children, which are manifests of their own."""
    child = image("child")
    parent = index(child)
    await push(floating_client, "shop/app", "1.0.0", parent)
    await floating_client.delete(f"/v2/shop/app/manifests/{parent.digest}")

    assert await meaning(floating_client, "shop/app", child.digest) == child.digest


async def test_deleting_a_blob_is_202(floating_client: httpx2.AsyncClient) -> None:
    """DELETE of a blob is 202, and the blob is then 404."""
    blob = Blob(b"to be deleted")
    await push_blob(floating_client, "shop/app", blob)
    await floating_client.get(f"/v2/shop/app/blobs/{blob.digest}")

    answer = await floating_client.delete(f"/v2/shop/app/blobs/{blob.digest}")

    assert answer.status_code == 202
    assert not await holds_blob(floating_client, "shop/app", blob.digest)


async def test_deleted_manifests_and_blobs_may_be_pushed_again(floating_client: httpx2.AsyncClient) -> None:
    """A deleted manifest or blob can be pushed again and is complete."""
    document = image("again")
    await push(floating_client, "shop/app", "1.0.0", document)
    await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")
    for blob in document.blobs:
        await floating_client.delete(f"/v2/shop/app/blobs/{blob.digest}")

    answer = await push(floating_client, "shop/app", "1.0.0", document)
    got = await floating_client.get(f"/v2/shop/app/blobs/{document.layers[0].digest}")

    assert answer.status_code == 201
    assert got.content == document.layers[0].data


async def test_a_deleted_floating_tag_may_return_with_other_content(floating_client: httpx2.AsyncClient) -> None:
    """A deleted mutable tag may be pushed with other content."""
    await push(floating_client, "shop/app", "1.0.0", image("before"))
    await floating_client.delete("/v2/shop/app/manifests/1.0.0")

    answer = await push(floating_client, "shop/app", "1.0.0", image("after"))

    assert answer.status_code == 201
    assert await meaning(floating_client, "shop/app", "1.0.0") == image("after").digest


@pytest.mark.parametrize("reference", ["1.0.0", ABSENT], ids=["tag", "digest"])
async def test_deleting_an_unknown_manifest_is_404(floating_client: httpx2.AsyncClient, reference: str) -> None:
    """DELETE of an unknown manifest is 404."""
    await push(floating_client, "shop/app", "2.0.0", image("other"))

    answer = await floating_client.delete(f"/v2/shop/app/manifests/{reference}")

    assert answer.status_code == 404
    assert error_of(answer)[0] == "MANIFEST_UNKNOWN"


async def test_deleting_an_unknown_blob_is_404(floating_client: httpx2.AsyncClient) -> None:
    """DELETE of an unknown blob is 404."""
    await push(floating_client, "shop/app", "2.0.0", image("other"))

    answer = await floating_client.delete(f"/v2/shop/app/blobs/{ABSENT}")

    assert answer.status_code == 404
    assert error_of(answer)[0] == "BLOB_UNKNOWN"


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_deleting_in_an_unknown_repository_is_404(floating_client: httpx2.AsyncClient, kind: str) -> None:
    """DELETE in an unknown repository is 404."""
    answer = await floating_client.delete(f"/v2/nowhere/at-all/{kind}/{ABSENT}")

    assert answer.status_code == 404


async def test_deleting_twice_is_404_the_second_time(floating_client: httpx2.AsyncClient) -> None:
    """A second DELETE of the same content is 404."""
    document = image("once")
    await push(floating_client, "shop/app", "1.0.0", document)
    first = await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")
    second = await floating_client.delete(f"/v2/shop/app/manifests/{document.digest}")

    assert first.status_code == 202
    assert second.status_code == 404


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_deleting_a_malformed_digest_is_400(floating_client: httpx2.AsyncClient, kind: str) -> None:
    """DELETE of a malformed digest is 400."""
    answer = await floating_client.delete(f"/v2/shop/app/{kind}/sha256:abc")

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"


async def test_a_delete_that_a_seal_refuses_is_405_with_allow(client: httpx2.AsyncClient) -> None:
    """A delete that a seal refuses is 405 DENIED with Allow, where the spec permits 400 or 405."""
    document = image("sealed")
    await push(client, "shop/app", "1.0.0", document)

    by_tag = await client.delete("/v2/shop/app/manifests/1.0.0")
    by_digest = await client.delete(f"/v2/shop/app/manifests/{document.digest}")
    blob = await client.delete(f"/v2/shop/app/blobs/{document.config.digest}")

    for answer in (by_tag, by_digest, blob):
        assert answer.status_code == 405
        assert error_of(answer)[0] == "DENIED"
        assert "GET" in answer.headers["Allow"]
        assert "DELETE" not in answer.headers["Allow"]
