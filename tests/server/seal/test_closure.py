"""A seal covers everything under it: nothing that a sealed tag reaches can be deleted by any address."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import (
    OCI_FOREIGN_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    digest_of,
    error_of,
    holds_blob,
    image,
    index,
    meaning,
    push,
    push_blob,
    put,
    to_json,
)
from tests.serving import FLOATING, serving


async def is_kept(client: httpx2.AsyncClient, path: str) -> bool:
    """Return whether a seal refuses to delete this: the answer must then be 405 DENIED, and 202 otherwise."""
    answer = await client.delete(f"/v2/shop/app/{path}")
    if answer.status_code == 202:
        return False
    if answer.status_code != 405 or error_of(answer)[0] != "DENIED":
        raise AssertionError(f"{answer.status_code} {answer.text}")
    return True


def everything(document: Document) -> list[str]:
    """Return the paths of a document and of everything under it."""
    paths = [f"manifests/{document.digest}"] + [f"blobs/{blob.digest}" for blob in document.blobs]
    for child in document.children:
        paths += everything(child)
    return paths


@pytest.mark.parametrize(
    "document",
    [
        image("single", layer_count=2),
        image("docker", docker=True),
        image("long", algorithm="sha512"),
        index(image("one"), image("two")),
        index(index(image("deep")), index(image("deeper"))),
        index(image("d1", docker=True), image("d2", docker=True), docker=True),
    ],
    ids=["image", "docker", "sha512", "index", "nested", "list"],
)
async def test_nothing_under_a_sealed_tag_can_be_deleted(client: httpx2.AsyncClient, document: Document) -> None:
    """A delete of a sealed tag's manifest, child, config or layer is refused, and everything is still stored."""
    if document.algorithm == "sha512":
        await push(client, "shop/app", document.digest, document, tags=["1.4.2"])
    else:
        await push(client, "shop/app", "1.4.2", document)
    paths = everything(document)

    for path in ["manifests/1.4.2", *paths]:
        assert await is_kept(client, path), path
    for path in paths:
        assert (await client.head(f"/v2/shop/app/{path}")).status_code == 200


async def test_deleting_by_digest_respects_a_seal_beside_floating_tags(client: httpx2.AsyncClient) -> None:
    """A manifest with a mutable and a sealed tag can't be deleted by digest; its mutable tag can."""
    document = image("both")
    await push(client, "shop/app", "1.4.2", document)
    await put(client, "shop/app", "latest", document)

    assert await is_kept(client, f"manifests/{document.digest}")
    assert not await is_kept(client, "manifests/latest")
    assert await meaning(client, "shop/app", "1.4.2") == document.digest


async def test_a_child_is_kept_although_it_has_a_floating_tag_of_its_own(client: httpx2.AsyncClient) -> None:
    """A child of a sealed index can't be deleted by digest, even if a mutable tag resolves to it."""
    child = image("child")
    await push(client, "shop/app", "latest", child)
    await push(client, "shop/app", "1.4.2", index(child))

    assert await is_kept(client, f"manifests/{child.digest}")
    assert not await is_kept(client, "manifests/latest")


async def test_a_blob_shared_with_what_is_not_sealed_is_kept(client: httpx2.AsyncClient) -> None:
    """A blob that a sealed and a mutable image share stays when the mutable one is deleted."""
    sealed = image("shared", layer_count=1)
    floating = image("shared", layer_count=2)
    await push(client, "shop/app", "1.4.2", sealed)
    await push(client, "shop/app", "latest", floating)

    assert not await is_kept(client, f"manifests/{floating.digest}")
    assert await is_kept(client, f"blobs/{sealed.layers[0].digest}")
    assert not await is_kept(client, f"blobs/{floating.layers[1].digest}")


async def test_what_no_seal_reaches_can_be_deleted(client: httpx2.AsyncClient) -> None:
    """Content outside of every sealed closure can be deleted."""
    await push(client, "shop/app", "1.4.2", image("sealed"))
    floating = image("floating")
    await push(client, "shop/app", "latest", floating)
    lone = Blob(b"no manifest names this")
    await push_blob(client, "shop/app", lone)

    for path in ["manifests/latest", *everything(floating), f"blobs/{lone.digest}"]:
        assert not await is_kept(client, path), path


async def test_a_seal_in_one_repository_protects_nothing_in_another(client: httpx2.AsyncClient) -> None:
    """A seal protects content in its own repository only."""
    document = image("twice")
    await push(client, "shop/other", "1.4.2", document)
    await push(client, "shop/app", document.digest, document)

    for path in everything(document):
        assert not await is_kept(client, path), path
    assert await meaning(client, "shop/other", "1.4.2") == document.digest
    assert await holds_blob(client, "shop/other", document.config.digest)


async def test_a_seal_covers_parts_that_were_pushed_after_the_parent(data: Path) -> None:
    """Parts that are pushed after their parent are covered by its seal too."""
    document = image("late")
    async with serving(data, FLOATING) as registry:
        await put(registry.client, "shop/app", "1.4.2", document)
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", document)

        for path in everything(document):
            assert await is_kept(registry.client, path), path


async def test_a_stored_foreign_layer_is_kept_too(client: httpx2.AsyncClient) -> None:
    """A non-distributable layer need not be stored, but a stored one is covered by the seal."""
    own = image("foreign")
    foreign = Blob(b"licensed elsewhere", OCI_FOREIGN_LAYER)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": own.config.descriptor(),
        "layers": [foreign.descriptor(urls=["https://store.example.com/x"])],
    }
    document = Document(to_json(body), OCI_MANIFEST, (own.config, foreign))
    await push(client, "shop/app", "1.4.2", document)

    assert await is_kept(client, f"blobs/{foreign.digest}")


async def test_a_displaced_manifest_may_be_deleted_when_the_tag_is_sealed_elsewhere(data: Path) -> None:
    """The digest that a mutable tag had before it was sealed at another one can be deleted."""
    before, after = image("before"), image("after")
    async with serving(data, FLOATING) as registry:
        await push(registry.client, "shop/app", "1.4.2", before)
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", after)

        assert not await is_kept(registry.client, f"manifests/{before.digest}")
        assert await is_kept(registry.client, f"manifests/{after.digest}")


async def test_the_digest_of_another_algorithm_does_not_bypass_the_seal(client: httpx2.AsyncClient) -> None:
    """A delete of a sealed manifest by its other digest leaves tag, bytes and parts."""
    document = image("twin")
    await push(client, "shop/app", "1.4.2", document)
    twin = digest_of(document.raw, "sha512")
    await put(client, "shop/app", twin, document)
    await client.delete(f"/v2/shop/app/manifests/{twin}")
    got = await client.get("/v2/shop/app/manifests/1.4.2")

    assert got.content == document.raw
    assert await is_kept(client, f"manifests/{document.digest}")
    assert await is_kept(client, f"blobs/{document.config.digest}")
