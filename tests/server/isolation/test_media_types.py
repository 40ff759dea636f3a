"""A document must not have two interpretations for two clients (CVE-2021-41190)."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Document,
    error_of,
    image,
    index,
    meaning,
    push,
    put,
    to_json,
)

IMAGE = image("typed")


@pytest.mark.parametrize("content_type", [OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
async def test_the_header_must_match_the_document(client: httpx2.AsyncClient, content_type: str) -> None:
    """A Content-Type other than the document's own mediaType gets 400."""
    answer = await push(client, "shop/app", "latest", IMAGE, headers={"Content-Type": content_type})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
    assert await meaning(client, "shop/app", "latest") is None


def mixed(media_type: str, *parts: str) -> Document:
    """Return a document with the members of an image and of an index, as `parts` lists."""
    body = json.loads(IMAGE.raw) | json.loads(index(IMAGE).raw) | {"mediaType": media_type}
    return Document(
        to_json({key: value for key, value in body.items() if key in {"schemaVersion", "mediaType", *parts}}),
        media_type,
        IMAGE.blobs,
        (IMAGE,),
    )


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
@pytest.mark.parametrize(
    "parts",
    [("manifests", "layers"), ("manifests", "config"), ("manifests", "config", "layers")],
    ids=["layers", "config", "both"],
)
async def test_an_image_and_an_index_in_one_is_400(
    client: httpx2.AsyncClient, media_type: str, parts: tuple[str, ...]
) -> None:
    """A document with `manifests` and `layers` or `config` is refused, whatever type it states."""
    answer = await push(client, "shop/app", "latest", mixed(media_type, *parts))

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


@pytest.mark.parametrize("member", ["Layers", "LAYERS", "Config", "mediatype", "MediaType"])
async def test_members_that_differ_only_in_case_are_400(client: httpx2.AsyncClient, member: str) -> None:
    """A member such as `Layers`, which Go reads as `layers` and others ignore, is refused."""
    body = json.loads(index(IMAGE).raw)
    extra = {"mediatype": OCI_MANIFEST, "MediaType": OCI_MANIFEST}
    body[member] = extra.get(member, json.loads(IMAGE.raw)["layers" if member.lower() == "layers" else "config"])

    answer = await push(client, "shop/app", "latest", Document(to_json(body), OCI_INDEX, (), (IMAGE,)))

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


@pytest.mark.parametrize("member", ["layers", "config", "mediaType", "subject", "schemaVersion"])
async def test_a_duplicate_member_is_400(client: httpx2.AsyncClient, member: str) -> None:
    """A document with a repeated member is refused, since decoders differ in which one counts."""
    body = json.loads(image("pointing", subject=IMAGE.descriptor()).raw)
    once = json.dumps({member: body[member]})[1:-1]
    raw = to_json(body).replace(b"{", b"{" + once.encode() + b",", 1)

    answer = await client.put("/v2/shop/app/manifests/latest", content=raw, headers={"Content-Type": OCI_MANIFEST})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_a_digest_keeps_the_type_of_its_first_push(client: httpx2.AsyncClient) -> None:
    """The media type of a digest in a repository is fixed at its first PUT; another one is refused."""
    body = to_json({"schemaVersion": 2, "config": IMAGE.config.descriptor(), "layers": []})
    as_oci = Document(body, OCI_MANIFEST, (IMAGE.config,))
    await push(client, "shop/app", as_oci.digest, as_oci)

    by_digest = await put(client, "shop/app", as_oci.digest, as_oci, headers={"Content-Type": DOCKER_MANIFEST})
    by_tag = await put(client, "shop/app", "latest", as_oci, headers={"Content-Type": DOCKER_MANIFEST})
    got = await client.get(f"/v2/shop/app/manifests/{as_oci.digest}")

    assert by_digest.status_code == 400
    assert by_tag.status_code == 400
    assert got.headers["Content-Type"] == OCI_MANIFEST


@pytest.mark.parametrize("content_type", [OCI_MANIFEST, DOCKER_MANIFEST])
async def test_an_index_without_a_type_is_not_accepted_as_an_image(
    client: httpx2.AsyncClient, content_type: str
) -> None:
    """A document of `manifests` without a mediaType is refused as an image."""
    body = to_json({"schemaVersion": 2, "manifests": [IMAGE.descriptor()]})

    answer = await push(client, "shop/app", "latest", Document(body, content_type, (), (IMAGE,)))

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


@pytest.mark.parametrize("content_type", [OCI_INDEX, DOCKER_LIST])
async def test_an_image_without_a_type_is_not_accepted_as_an_index(
    client: httpx2.AsyncClient, content_type: str
) -> None:
    """A document of `layers` without a mediaType is refused as an index."""
    body = {"schemaVersion": 2, "config": IMAGE.config.descriptor(), "layers": []}

    answer = await push(client, "shop/app", "latest", Document(to_json(body), content_type, IMAGE.blobs))

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
