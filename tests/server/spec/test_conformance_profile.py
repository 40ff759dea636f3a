"""The requests of the public conformance suite, on the profile made for it (`examples/conformance.toml`).

The suite pushes one set of documents after the other into one repository, lists, pulls and deletes each, and reuses
tags for other content. These tests send the same requests with other documents; only running the suite shows whether
it passes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from pathlib import Path

import httpx2
import pytest

from boltseal.server.configuration import load
from tests.images import (
    OCI_FOREIGN_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    image,
    in_pieces,
    index,
    put,
    start_upload,
    to_json,
    with_digest,
)
from tests.serving import serving_as

pytestmark = pytest.mark.usefixtures("whole_store")

PROFILE = Path(__file__).parents[3] / "examples" / "conformance.toml"
REPOSITORY = "conformance/repo1"


def foreign() -> Document:
    """An image whose layers are stored elsewhere."""
    own = image("foreign")
    lost = Blob(b"elsewhere", OCI_FOREIGN_LAYER)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": own.config.descriptor(),
        "layers": [lost.descriptor(urls=["https://store.example.com/x"]), own.layers[0].descriptor()],
    }
    return Document(to_json(body), OCI_MANIFEST, own.blobs)


def sparse() -> Document:
    """An image with one layer that is never pushed."""
    whole = image("sparse", layer_count=3)
    return Document(whole.raw, whole.media_type, whole.blobs[:-1])


SUBJECT = image("subject")
# One round each: a tag, the document under it, and documents that are pushed by digest only.
ROUNDS: list[tuple[str, Document, list[Document]]] = [
    ("image", image("image", layer_count=3), []),
    ("large-manifest", image("large", annotations={f"large-{number}": "A" * 10000 for number in range(390)}), []),
    ("index", index(image("one"), image("two")), []),
    ("index-of-index", index(index(image("a"), image("b")), index(image("c"), image("d"))), []),
    ("index", index(), []),
    ("artifact", artifact("artifact"), []),
    ("artifact-index", index(artifact("one"), artifact("two"), artifactType="application/vnd.example.x"), []),
    ("image", SUBJECT, [artifact("sbom", subject=SUBJECT), image("pointing", subject=SUBJECT.descriptor())]),
    ("index", index(SUBJECT), [index(artifact("x"), subject=index(SUBJECT).descriptor(), artifactType="a/b")]),
    ("tagged-artifact", artifact("lonely", subject=image("missing")), []),
    ("non-distributable-image", foreign(), []),
    ("custom-fields", index(image("i", extra={"x-y": 1}), unknown={"a": [1]}), []),
    ("no-layers", image("none", layer_count=0), []),
    ("sparse-image", sparse(), []),
    ("sparse-index", Document(index(image("x"), image("never")).raw, index().media_type, (), (image("x"),)), []),
]


@pytest.fixture
async def conformance(data: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a registry with the profile's settings, except for its data folder."""
    async with serving_as(load(PROFILE, {"server": {"data": data}})) as registry:
        yield registry.client


def below(document: Document) -> Iterator[Document]:
    """Return every manifest under a document, children first, then itself."""
    for child in document.children:
        yield from below(child)
    yield document


async def upload(client: httpx2.AsyncClient, blob: Blob, how: str) -> httpx2.Response:
    """Push a blob in one of the four ways that the suite uses."""
    uploads = f"/v2/{REPOSITORY}/blobs/uploads/"
    if how == "post":
        return await client.post(uploads, params={"digest": blob.digest}, content=blob.data)
    location = await start_upload(client, REPOSITORY)
    if how == "post and put":
        return await client.put(with_digest(location, blob.digest), content=blob.data)
    if how == "stream":
        location = (await client.patch(location, content=in_pieces(blob.data, 100))).headers["Location"]
        return await client.put(with_digest(location, blob.digest))
    size = len(blob.data) // 3 + 1
    for start in range(0, len(blob.data), size):
        piece = blob.data[start : start + size]
        headers = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        location = (await client.patch(location, content=piece, headers=headers)).headers["Location"]
    return await client.put(with_digest(location, blob.digest))


async def check_there(client: httpx2.AsyncClient, path: str, content: bytes, digest: str) -> None:
    """Require that GET and HEAD return the content, its length and its digest."""
    url = f"/v2/{REPOSITORY}/{path}"
    got, head = await client.get(url), await client.head(url)

    assert got.status_code == 200
    assert head.status_code == 200
    assert got.content == content
    assert head.headers["Content-Length"] == str(len(content))
    assert got.headers["Docker-Content-Digest"] == digest
    assert head.headers["Docker-Content-Digest"] == digest


async def check_deleted(client: httpx2.AsyncClient, path: str) -> None:
    """Require that DELETE is 202, and HEAD 404 from then on."""
    url = f"/v2/{REPOSITORY}/{path}"

    assert (await client.delete(url)).status_code == 202
    assert (await client.head(url)).status_code == 404


async def test_every_round_passes_on_one_repository(conformance: httpx2.AsyncClient) -> None:
    """Each document is pushed by digest and tag, listed, pulled and deleted, in one repository and with reused tags."""
    methods = cycle(["post", "post and put", "stream", "chunks"])
    for tag, document, others in ROUNDS:
        manifests = [each for top in (document, *others) for each in below(top)]
        blobs = {blob.digest: blob for manifest in manifests for blob in manifest.blobs}
        for blob in blobs.values():
            assert (await upload(conformance, blob, next(methods))).status_code == 201
        for manifest in manifests:
            pushed = await put(conformance, REPOSITORY, manifest.digest, manifest)
            assert pushed.status_code == 201
            assert pushed.headers["Docker-Content-Digest"] == manifest.digest
        assert (await put(conformance, REPOSITORY, tag, document)).status_code == 201

        assert tag in (await conformance.get(f"/v2/{REPOSITORY}/tags/list")).json()["tags"]
        await check_there(conformance, f"manifests/{tag}", document.raw, document.digest)
        for manifest in manifests:
            await check_there(conformance, f"manifests/{manifest.digest}", manifest.raw, manifest.digest)
        for digest, blob in blobs.items():
            await check_there(conformance, f"blobs/{digest}", blob.data, digest)
        listed = (await conformance.get(f"/v2/{REPOSITORY}/referrers/{document.digest}")).json()["manifests"]
        assert {each["digest"] for each in listed} == {other.digest for other in others}

        await check_deleted(conformance, f"manifests/{tag}")
        for manifest in reversed(manifests):
            await check_deleted(conformance, f"manifests/{manifest.digest}")
        for digest in blobs:
            await check_deleted(conformance, f"blobs/{digest}")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_tags_in_the_query_may_be_reused(conformance: httpx2.AsyncClient, algorithm: str) -> None:
    """`?tag=` sets reused tags again, each with the pushed digest."""
    for words in ("first", "second"):
        document = image(words, algorithm=algorithm)
        for blob in document.blobs:
            await upload(conformance, blob, "post and put")
        pushed = await put(conformance, REPOSITORY, document.digest, document, tags=["tag-param", "tag-param-0"])

        assert pushed.status_code == 201
        await check_there(conformance, "manifests/tag-param-0", document.raw, document.digest)


async def test_a_manifest_with_a_bad_digest_leaves_nothing(conformance: httpx2.AsyncClient) -> None:
    """A manifest pushed under a wrong digest is 400, and is stored under neither digest."""
    document = image("manifest")
    padded = Document(document.raw + b"  ", document.media_type)

    answer = await put(conformance, REPOSITORY, document.digest, padded)

    assert answer.status_code == 400
    for digest in (document.digest, padded.digest):
        assert (await conformance.head(f"/v2/{REPOSITORY}/manifests/{digest}")).status_code == 404
