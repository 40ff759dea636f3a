"""A sealed tag needs its complete content; mutable tags and pushes by digest may be sparse."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_MANIFEST,
    OCI_FOREIGN_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    error_of,
    image,
    index,
    meaning,
    push,
    push_blob,
    push_parts,
    put,
    to_json,
)
from tests.serving import FLOATING, serving

WHOLE = image("whole", layer_count=2)


@pytest.mark.parametrize("missing", [0, 1, 2], ids=["config", "first layer", "last layer"])
async def test_a_sealed_tag_needs_every_blob(client: httpx2.AsyncClient, missing: int) -> None:
    """Without its config or a layer, a sealed push gets MANIFEST_BLOB_UNKNOWN that names it, and with it 201."""
    for number, blob in enumerate(WHOLE.blobs):
        if number != missing:
            await push_blob(client, "shop/app", blob)

    refused = await put(client, "shop/app", "1.4.2", WHOLE)
    await push_blob(client, "shop/app", WHOLE.blobs[missing])
    accepted = await put(client, "shop/app", "1.4.2", WHOLE)

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert WHOLE.blobs[missing].digest in error_of(refused)[1]
    assert accepted.status_code == 201


async def test_a_sealed_index_needs_every_child(client: httpx2.AsyncClient) -> None:
    """An index with a missing child is refused under a sealed tag."""
    there, missing = image("there"), image("missing")
    await push(client, "shop/app", there.digest, there)

    refused = await put(client, "shop/app", "1.4.2", index(there, missing))

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert missing.digest in error_of(refused)[1]


async def test_a_sealed_index_needs_what_its_children_need(client: httpx2.AsyncClient) -> None:
    """An index whose child lacks a layer can't be sealed."""
    await push_blob(client, "shop/app", WHOLE.config)
    sparse = await put(client, "shop/app", WHOLE.digest, WHOLE)
    inner = index(WHOLE)
    inner_pushed = await put(client, "shop/app", inner.digest, inner)
    outer = index(inner)

    refused = await put(client, "shop/app", "1.4.2", outer)
    await push_parts(client, "shop/app", WHOLE)
    accepted = await put(client, "shop/app", "1.4.2", outer)

    assert sparse.status_code == 201
    assert inner_pushed.status_code == 201
    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert accepted.status_code == 201


async def test_a_push_by_digest_may_be_sparse(client: httpx2.AsyncClient) -> None:
    """A manifest pushed by digest without a tag may lack content."""
    manifest = await put(client, "shop/app", WHOLE.digest, WHOLE)
    parent = await put(client, "shop/app", index(WHOLE).digest, index(WHOLE))

    assert manifest.status_code == 201
    assert parent.status_code == 201


async def test_a_floating_tag_may_be_sparse(client: httpx2.AsyncClient) -> None:
    """An image under a mutable tag may lack content."""
    answer = await put(client, "shop/app", "latest", WHOLE)

    assert answer.status_code == 201


async def test_one_sealed_tag_among_floating_ones_needs_completeness_for_all(client: httpx2.AsyncClient) -> None:
    """With several tags in `?tag=`, a refused sealed one refuses all."""
    refused = await put(client, "shop/app", WHOLE.digest, WHOLE, tags=["latest", "1.4.2"])

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert await meaning(client, "shop/app", "latest") is None
    assert await meaning(client, "shop/app", WHOLE.digest) is None


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [(OCI_MANIFEST, OCI_FOREIGN_LAYER), (DOCKER_MANIFEST, DOCKER_FOREIGN_LAYER)],
    ids=["oci", "docker"],
)
async def test_foreign_layers_are_excepted(client: httpx2.AsyncClient, media_type: str, kind: str) -> None:
    """Non-distributable layers with URLs need not be stored for a sealed tag."""
    own = image("foreign", docker=media_type == DOCKER_MANIFEST)
    foreign = Blob(b"licensed elsewhere", kind)
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": own.config.descriptor(),
        "layers": [own.layers[0].descriptor(), foreign.descriptor(urls=["https://store.example.com/x"])],
    }

    answer = await push(client, "shop/app", "1.4.2", Document(to_json(body), media_type, own.blobs))

    assert answer.status_code == 201


async def test_a_subject_need_not_be_there(client: httpx2.AsyncClient) -> None:
    """A subject need not be stored, because it is not part of the manifest that refers to it."""
    document = image("pointing", subject=image("never pushed").descriptor())

    answer = await push(client, "shop/app", "1.4.2", document)

    assert answer.status_code == 201


async def test_a_blob_where_a_manifest_is_needed_is_not_enough(client: httpx2.AsyncClient) -> None:
    """A child of an index must be stored as a manifest, and not only as a blob."""
    child = image("child")
    await push_parts(client, "shop/app", child)
    await push_blob(client, "shop/app", Blob(child.raw))

    refused = await put(client, "shop/app", "1.4.2", index(child))

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"


async def test_a_manifest_where_a_blob_is_needed_is_not_enough(client: httpx2.AsyncClient) -> None:
    """A layer must be stored as a blob, and not only as a manifest."""
    other = image("other")
    await push(client, "shop/app", other.digest, other)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": other.config.descriptor(),
        "layers": [other.descriptor()],
    }

    refused = await put(client, "shop/app", "1.4.2", Document(to_json(body), OCI_MANIFEST))

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"


async def test_a_floating_tag_that_is_incomplete_can_not_be_sealed(data: Path) -> None:
    """A mutable tag with a missing part can't be sealed by another push under a rule that now seals."""
    async with serving(data, FLOATING) as registry:
        sparse = await put(registry.client, "shop/app", "1.4.2", WHOLE)
    async with serving(data) as registry:
        refused = await put(registry.client, "shop/app", "1.4.2", WHOLE)

    assert sparse.status_code == 201
    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"
