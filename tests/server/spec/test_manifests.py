"""Pushing manifests: end-7a, optional fields, and invalid documents."""

from __future__ import annotations

import base64
import json

import httpx2
import pytest

from tests.images import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    OCI_CONFIG,
    OCI_FOREIGN_LAYER,
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    config,
    digest_of,
    error_of,
    image,
    in_pieces,
    index,
    meaning,
    push,
    push_blob,
    push_parts,
    put,
    to_json,
)

MANIFEST_LIMIT = 4 * 1024 * 1024


def padded(size: int) -> Document:
    """Return an image manifest of exactly `size` bytes."""
    plain = image("large", annotations={"padding": ""})
    padding = "A" * (size - len(plain.raw))
    return Document(plain.raw.replace(b'"padding":""', b'"padding":"%s"' % padding.encode()), OCI_MANIFEST, plain.blobs)


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
@pytest.mark.parametrize("many", [False, True], ids=["image", "index"])
async def test_a_push_is_201_and_its_location_pulls_it(client: httpx2.AsyncClient, docker: bool, many: bool) -> None:
    """end-7a: PUT answers 201 with a Location from which the manifest can be pulled."""
    document = image("pushed", docker=docker)
    if many:
        document = index(document, image("other", docker=docker), docker=docker)

    answer = await push(client, "shop/app", "1.0.0", document)
    got = await client.get(answer.headers["Location"])

    assert answer.status_code == 201
    assert got.status_code == 200
    assert got.content == document.raw


async def test_a_push_by_digest_is_201_and_its_location_pulls_it(client: httpx2.AsyncClient) -> None:
    """A PUT by digest answers 201 with a Location as well, and sets no tag."""
    document = image("pushed")

    answer = await push(client, "shop/app", document.digest, document)
    got = await client.get(answer.headers["Location"])
    tags = await client.get("/v2/shop/app/tags/list")

    assert answer.status_code == 201
    assert got.content == document.raw
    assert tags.json()["tags"] == []


async def test_a_body_with_another_digest_is_400(client: httpx2.AsyncClient) -> None:
    """A PUT by digest whose body has another digest is 400 DIGEST_INVALID, and nothing is stored."""
    document = image("pushed")
    wrong = Document(document.raw + b"  ", document.media_type, document.blobs)

    answer = await push(client, "shop/app", document.digest, wrong)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"
    assert await meaning(client, "shop/app", document.digest) is None
    assert await meaning(client, "shop/app", wrong.digest) is None


async def test_a_malformed_digest_is_refused(client: httpx2.AsyncClient) -> None:
    """`sha256:baddigeststring` is 400 on PUT and 400 or 404 on GET, never 500."""
    document = image("pushed")

    pushed = await push(client, "shop/app", "sha256:baddigeststring", document)
    got = await client.get("/v2/shop/app/manifests/sha256:baddigeststring")

    assert pushed.status_code == 400
    assert error_of(pushed)[0] == "DIGEST_INVALID"
    assert got.status_code in {400, 404}


async def test_a_missing_subject_is_accepted(client: httpx2.AsyncClient) -> None:
    """A manifest whose subject does not exist is accepted, also under a tag."""
    document = artifact("sbom", subject=image("never pushed"))

    by_digest = await push(client, "shop/app", document.digest, document)
    by_tag = await put(client, "shop/app", "1.0.0-sbom", document)

    assert by_digest.status_code == 201
    assert by_tag.status_code == 201


@pytest.mark.parametrize("many", [False, True], ids=["image", "index"])
async def test_a_manifest_with_a_subject_is_answered_with_it(client: httpx2.AsyncClient, many: bool) -> None:
    """`OCI-Subject` confirms that the registry processed the subject, for images and indexes."""
    subject = image("subject")
    document = index(image("child"), subject=subject.descriptor()) if many else artifact("sbom", subject=subject)

    answer = await push(client, "shop/app", document.digest, document)

    assert answer.headers["OCI-Subject"] == subject.digest


async def test_a_manifest_without_a_subject_has_no_oci_subject(client: httpx2.AsyncClient) -> None:
    """A manifest without a subject gets no OCI-Subject."""
    answer = await push(client, "shop/app", "1.0.0", image("plain"))

    assert "OCI-Subject" not in answer.headers


async def test_a_sealed_push_that_lacks_a_blob_is_refused(client: httpx2.AsyncClient) -> None:
    """A sealed push that lacks a blob is refused with MANIFEST_BLOB_UNKNOWN, which names the blob."""
    document = image("incomplete", layer_count=2)
    await push_blob(client, "shop/app", document.config)
    await push_blob(client, "shop/app", document.layers[0])

    answer = await put(client, "shop/app", "1.0.0", document)

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_BLOB_UNKNOWN"
    assert document.layers[1].digest in error_of(answer)[1]
    assert await meaning(client, "shop/app", "1.0.0") is None


@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_non_distributable_layers_need_not_be_stored(client: httpx2.AsyncClient, docker: bool) -> None:
    """Non-distributable (Docker: foreign) layers need not be stored, also for a sealed tag."""
    kind = DOCKER_FOREIGN_LAYER if docker else OCI_FOREIGN_LAYER
    foreign = Blob(b"licensed elsewhere", kind)
    own_config = Blob(config([]).data, DOCKER_CONFIG if docker else OCI_CONFIG)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": own_config.descriptor(),
        "layers": [foreign.descriptor(urls=["https://store.example.com/layer"])],
    }
    document = Document(to_json(body), media_type, (own_config,))

    answer = await push(client, "shop/app", "1.0.0", document)

    assert answer.status_code == 201


async def test_an_image_without_layers_is_accepted(client: httpx2.AsyncClient) -> None:
    """An image without layers is accepted."""
    answer = await push(client, "shop/app", "1.0.0", image("none", layer_count=0))

    assert answer.status_code == 201


@pytest.mark.parametrize(
    "document",
    [
        index(),
        index(index(image("one")), index(image("two"))),
        index(artifact("sbom"), artifactType="application/vnd.example.bundle"),
        artifact("sbom"),
        artifact("sbom", artifact_type=None),
        image("annotated", annotations={"org.example.words": "hello"}),
        image("typed", artifactType="application/vnd.example.thing"),
        image("extended", extra={"com.example.unknown": [{"deep": [1, None, True]}]}),
    ],
    ids=["empty-index", "nested-index", "artifact-index", "artifact", "untyped", "annotated", "typed", "extended"],
)
async def test_every_kind_of_document_is_accepted_under_a_sealed_tag(
    client: httpx2.AsyncClient, document: Document
) -> None:
    """Indexes, nested ones, artifacts with and without a type, and unknown members are accepted under a sealed tag."""
    answer = await push(client, "shop/app", "1.0.0", document)
    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert answer.status_code == 201
    assert got.content == document.raw


async def test_a_descriptor_may_carry_its_data(client: httpx2.AsyncClient) -> None:
    """A descriptor with embedded `data` is stored unchanged."""
    plain = image("data")
    body = json.loads(plain.raw)
    body["config"]["data"] = base64.b64encode(plain.config.data).decode()
    document = Document(to_json(body), OCI_MANIFEST, plain.blobs)

    answer = await push(client, "shop/app", "1.0.0", document)
    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert answer.status_code == 201
    assert got.content == document.raw


@pytest.mark.parametrize("embedded", ["e30=", "***"], ids=["other", "garbage"])
async def test_data_with_another_digest_is_400(client: httpx2.AsyncClient, embedded: str) -> None:
    """Embedded `data` without the descriptor's size or digest is 400, because clients could differ about it."""
    body = json.loads(image("data").raw)
    body["config"]["data"] = embedded

    answer = await push(client, "shop/app", "1.0.0", Document(to_json(body), OCI_MANIFEST, image("data").blobs))

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_the_same_blob_twice_in_one_manifest_is_accepted(client: httpx2.AsyncClient) -> None:
    """A manifest may name one blob more than once."""
    plain = image("doubled")
    body = json.loads(plain.raw)
    body["layers"] *= 3

    answer = await push(client, "shop/app", "1.0.0", Document(to_json(body), OCI_MANIFEST, plain.blobs))

    assert answer.status_code == 201


async def test_four_mebibytes_are_accepted(client: httpx2.AsyncClient) -> None:
    """A manifest of 4 MiB is accepted."""
    document = padded(MANIFEST_LIMIT)

    answer = await push(client, "shop/app", "1.0.0", document)
    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert answer.status_code == 201
    assert got.content == document.raw


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_larger_manifest_is_413(client: httpx2.AsyncClient, chunked: bool) -> None:
    """A manifest over the limit is 413, whether its length was announced or not."""
    document = padded(MANIFEST_LIMIT + 1)
    await push_parts(client, "shop/app", document)

    answer = await client.put(
        "/v2/shop/app/manifests/1.0.0",
        content=in_pieces(document.raw, 65536) if chunked else document.raw,
        headers={"Content-Type": OCI_MANIFEST},
    )

    assert answer.status_code == 413
    assert error_of(answer)[0] == "SIZE_INVALID"
    assert await meaning(client, "shop/app", "1.0.0") is None


async def test_a_document_without_media_type_takes_that_of_the_header(client: httpx2.AsyncClient) -> None:
    """An OCI document without `mediaType` has the type of the Content-Type."""
    plain = image("silent")
    body = json.loads(plain.raw)
    del body["mediaType"]
    document = Document(to_json(body), OCI_MANIFEST, plain.blobs)

    answer = await push(client, "shop/app", "1.0.0", document)
    got = await client.get("/v2/shop/app/manifests/1.0.0")

    assert answer.status_code == 201
    assert got.headers["Content-Type"] == OCI_MANIFEST


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", OCI_MANIFEST),
        (b"not json", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"null", OCI_MANIFEST),
        (b'"text"', OCI_MANIFEST),
        (b"{}", OCI_MANIFEST),
        (b"{", OCI_MANIFEST),
        (b'{"schemaVersion":2}', OCI_MANIFEST),
        (b'{"schemaVersion":2,"config":{},"layers":[]}', OCI_MANIFEST),
        (b'{"schemaVersion":1,"manifests":[]}', OCI_INDEX),
        (b'{"schemaVersion":"2","manifests":[]}', OCI_INDEX),
        (b'{"schemaVersion":2,"manifests":{}}', OCI_INDEX),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","size":1}]}', OCI_INDEX),
        (b'{"schemaVersion":2,"manifests":[{"mediaType":"a/b","size":1,"digest":"sha256:x"}]}', OCI_INDEX),
        (b'\xff\xfe{"schemaVersion":2,"manifests":[]}', OCI_INDEX),
        (b'{"schemaVersion":2,"manifests":[],"annotations":{"a":1}}', OCI_INDEX),
    ],
)
async def test_an_invalid_manifest_is_400(client: httpx2.AsyncClient, body: bytes, content_type: str) -> None:
    """A body that does not match its media type is 400 MANIFEST_INVALID in one sentence."""
    answer = await client.put("/v2/shop/app/manifests/1.0.0", content=body, headers={"Content-Type": content_type})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
    assert error_of(answer)[1]


@pytest.mark.parametrize("size", [-1, 2**63, 1.5, "12"], ids=str)
async def test_an_impossible_size_is_400(client: httpx2.AsyncClient, size: object) -> None:
    """A descriptor's size that is not a possible number of bytes is 400."""
    body = json.loads(image("sizes").raw)
    body["layers"][0]["size"] = size

    answer = await client.put(
        "/v2/shop/app/manifests/latest", content=to_json(body), headers={"Content-Type": OCI_MANIFEST}
    )

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_docker_schema_1_is_refused_with_a_sentence(client: httpx2.AsyncClient) -> None:
    """Docker's schema 1 is refused with the reason."""
    body = b'{"schemaVersion":1,"name":"shop/app","tag":"1.0.0","architecture":"amd64","fsLayers":[],"history":[]}'

    answer = await client.put("/v2/shop/app/manifests/1.0.0", content=body, headers={"Content-Type": DOCKER_SCHEMA1})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
    assert "schema 1" in error_of(answer)[1]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "application/vnd.example+json", "x", "a/b/c"]
)
async def test_a_type_that_is_no_manifest_is_400(client: httpx2.AsyncClient, content_type: str) -> None:
    """A Content-Type that is no manifest's is 400."""
    document = image("typed")

    answer = await push(client, "shop/app", "1.0.0", document, headers={"Content-Type": content_type})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"


async def test_a_push_creates_its_repository(client: httpx2.AsyncClient) -> None:
    """The first push creates a repository."""
    answer = await push(client, "brand/new/place", "1.0.0", image("first"))

    assert answer.status_code == 201


async def test_the_digest_of_a_manifest_is_that_of_its_bytes(client: httpx2.AsyncClient) -> None:
    """A tag resolves to the digest of the pushed bytes, not of the parsed document."""
    document = image("bytes")
    spaced = Document(document.raw + b"\n", document.media_type, document.blobs)
    await push(client, "shop/app", "1.0.0", spaced)

    assert await meaning(client, "shop/app", "1.0.0") == digest_of(document.raw + b"\n")
