"""Attacks in the body: bytes with a wrong digest, documents that exhaust a parser, wrong lengths."""

from __future__ import annotations

import gzip
import json

import httpx2
import pytest

from tests.asgi import send
from tests.images import (
    OCI_INDEX,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    digest_of,
    error_of,
    holds_blob,
    image,
    index,
    meaning,
    push,
    push_blob,
    put,
    start_upload,
    with_digest,
)
from tests.serving import Serving

pytestmark = pytest.mark.usefixtures("whole_store")

DOCUMENT = image("honest")
MEBIBYTE = 1024 * 1024
LIMIT = 4 * MEBIBYTE

BOMBS = {
    "open lists": b"[" * LIMIT,
    "open objects": b'{"a":' * (LIMIT // 5),
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep in a known member": b'{"schemaVersion":2,"manifests":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "deep in an unknown member": b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "many members": b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
    "many entries": b'{"schemaVersion":2,"manifests":[' + b",".join([b"{}"] * 1_000_000) + b"]}",
    "many annotations": b'{"schemaVersion":2,"manifests":[],"annotations":{'
    + b",".join(b'"k%d":""' % number for number in range(300_000))
    + b"}}",
    "one number": b'{"schemaVersion":' + b"9" * (LIMIT - 30) + b"}",
    "one exponent": b'{"schemaVersion":1e999999999,"manifests":[]}',
    "half a surrogate": b'{"schemaVersion":2,"manifests":[],"mediaType":"\\ud800"}',
    "blanks": b" " * LIMIT,
    "zeros": b"\x00" * LIMIT,
    "not a number": b'{"schemaVersion":NaN,"manifests":[]}',
    "infinity": b'{"schemaVersion":Infinity,"manifests":[]}',
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
async def test_a_manifest_that_is_a_bomb_is_refused(client: httpx2.AsyncClient, bomb: bytes) -> None:
    """Deep, wide or endless JSON within the size limit gets 400 and leaves nothing stored."""
    answer = await client.put("/v2/shop/app/manifests/latest", content=bomb, headers={"Content-Type": OCI_INDEX})

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
    assert len(error_of(answer)[1]) < 600
    assert await meaning(client, "shop/app", "latest") is None


async def test_an_index_that_contains_itself_by_a_made_up_digest(client: httpx2.AsyncClient) -> None:
    """An index that lists a digest that does not exist, such as its own, is stored but can never be sealed."""
    body = b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"mediaType":"%s","size":3,"digest":"%s"}]}' % (
        OCI_INDEX.encode(),
        OCI_INDEX.encode(),
        digest_of(b"me").encode(),
    )

    refused = await client.put("/v2/shop/app/manifests/1.0.0", content=body, headers={"Content-Type": OCI_INDEX})

    assert refused.status_code == 400
    assert error_of(refused)[0] == "MANIFEST_BLOB_UNKNOWN"


async def test_a_very_long_chain_of_indexes_is_sealed_and_guarded(client: httpx2.AsyncClient) -> None:
    """A chain of a hundred indexes is followed to its end when completeness and protection are checked."""
    document = DOCUMENT
    await push(client, "shop/app", document.digest, document)
    for _ in range(100):
        document = index(document)
        await put(client, "shop/app", document.digest, document)

    sealed = await put(client, "shop/app", "1.0.0", document)
    deleted = await client.delete(f"/v2/shop/app/blobs/{DOCUMENT.config.digest}")

    assert sealed.status_code == 201
    assert deleted.status_code == 405


async def test_a_subject_that_points_in_a_circle_ends(client: httpx2.AsyncClient) -> None:
    """A circle of subjects and referrers ends: the check of protection visits each manifest once."""
    subject = DOCUMENT
    await push(client, "shop/app", "1.0.0", subject)
    for number in range(30):
        pointing = artifact(f"level {number}", subject=subject)
        await push(client, "shop/app", pointing.digest, pointing)
        subject = pointing

    answer = await client.delete(f"/v2/shop/app/manifests/{DOCUMENT.digest}")

    assert answer.status_code == 405


async def test_a_blob_under_the_digest_of_another(client: httpx2.AsyncClient) -> None:
    """Bytes sent under another blob's digest neither replace that blob nor are stored."""
    honest = DOCUMENT.layers[0]
    await push_blob(client, "shop/app", honest)
    location = await start_upload(client, "shop/app")

    put_answer = await client.put(with_digest(location, honest.digest), content=b"evil")
    post_answer = await client.post("/v2/shop/app/blobs/uploads/", params={"digest": honest.digest}, content=b"evil")
    got = await client.get(f"/v2/shop/app/blobs/{honest.digest}")

    assert put_answer.status_code == 400
    assert post_answer.status_code == 400
    assert got.content == honest.data


async def test_a_manifest_under_the_digest_of_another(client: httpx2.AsyncClient) -> None:
    """A manifest sent under another's digest does not replace it."""
    await push(client, "shop/app", DOCUMENT.digest, DOCUMENT)

    answer = await push(client, "shop/app", DOCUMENT.digest, image("evil"))
    got = await client.get(f"/v2/shop/app/manifests/{DOCUMENT.digest}")

    assert answer.status_code == 400
    assert error_of(answer)[0] == "DIGEST_INVALID"
    assert got.content == DOCUMENT.raw


@pytest.mark.parametrize(
    ("length", "body"),
    [
        ("10", b"0123"),
        ("2", b"0123"),
        ("0", b"0123"),
        ("-4", b"0123"),
        ("four", b"0123"),
        ("4, 4", b"0123"),
        ("", b"0123"),
        ("99999999999999999999", b"0123"),
    ],
    ids=["short", "long", "zero", "negative", "word", "twice", "empty", "huge"],
)
@pytest.mark.parametrize("what", ["patch", "put", "post", "manifest"])
async def test_a_wrong_content_length_is_refused(registry: Serving, what: str, length: str, body: bytes) -> None:
    """A body shorter or longer than its Content-Length is never taken for complete."""
    client = registry.client
    location = await start_upload(client, "shop/app")
    digest = digest_of(body)
    method, target = {
        "patch": ("PATCH", location),
        "put": ("PUT", with_digest(location, digest)),
        "post": ("POST", f"/v2/shop/app/blobs/uploads/?digest={digest}"),
        "manifest": ("PUT", "/v2/shop/app/manifests/latest"),
    }[what]

    answer = await send(
        registry.app,
        method,
        target,
        headers=[("Content-Length", length), ("Content-Type", OCI_MANIFEST)],
        body=[body],
    )

    assert 400 <= answer.status < 500
    assert not await holds_blob(client, "shop/app", digest)


async def test_a_compressed_body_is_not_unpacked(client: httpx2.AsyncClient) -> None:
    """`Content-Encoding` on a push is ignored, so the body is stored as sent and a gzip bomb stays small."""
    bomb = gzip.compress(b"\x00" * (50 * MEBIBYTE))
    blob = Blob(bomb)
    location = await start_upload(client, "shop/app")

    pushed = await client.put(with_digest(location, blob.digest), content=bomb, headers={"Content-Encoding": "gzip"})
    manifest = await client.put(
        "/v2/shop/app/manifests/latest",
        content=gzip.compress(DOCUMENT.raw),
        headers={"Content-Encoding": "gzip", "Content-Type": OCI_MANIFEST},
    )
    got = await client.get(f"/v2/shop/app/blobs/{blob.digest}")

    assert pushed.status_code in {201, 415}
    assert manifest.status_code in {400, 415}
    assert got.status_code == 404 or got.content == bomb


async def test_annotations_can_not_put_anything_into_a_header(client: httpx2.AsyncClient) -> None:
    """Annotations with header syntax are returned only in JSON bodies, never in a header."""
    sbom = artifact(
        "sbom",
        subject=DOCUMENT,
        annotations={"a\r\nX-Evil": "1\r\nX-Evil: 2", "\u202e": "\u0000"},
    )
    pushed = await push(client, "shop/app", sbom.digest, sbom)

    listed = await client.get(f"/v2/shop/app/referrers/{DOCUMENT.digest}")

    assert pushed.status_code == 201
    assert "x-evil" not in pushed.headers
    assert "x-evil" not in listed.headers
    assert listed.json()["manifests"][0]["annotations"] == {"a\r\nX-Evil": "1\r\nX-Evil: 2", "\u202e": "\u0000"}


@pytest.mark.parametrize("media_type", ["a/b\r\nX-Evil: 1", "text/html", "a/b;c=d", "\u00fc/x", "x" * 5000], ids=ascii)
async def test_a_config_type_can_not_put_anything_into_a_header(client: httpx2.AsyncClient, media_type: str) -> None:
    """Media types with header syntax inside a document never become a response header."""
    body = json.loads(DOCUMENT.raw)
    body["config"]["mediaType"] = media_type
    body["subject"] = image("subject").descriptor()
    document = Document(json.dumps(body).encode(), OCI_MANIFEST, DOCUMENT.blobs)

    pushed = await push(client, "shop/app", document.digest, document)
    listed = await client.get(f"/v2/shop/app/referrers/{image('subject').digest}")
    got = await client.get(f"/v2/shop/app/blobs/{DOCUMENT.config.digest}")

    assert pushed.status_code in {201, 400}
    assert listed.status_code == 200
    for answer in (pushed, listed, got):
        assert "x-evil" not in answer.headers
    assert got.headers["Content-Type"] == "application/octet-stream"


async def test_a_blob_is_never_served_as_a_page(client: httpx2.AsyncClient) -> None:
    """A blob of HTML is served as octets, so that a browser can't run it as a page of the registry's origin."""
    blob = Blob(b"<html><script>alert(1)</script></html>")
    await push_blob(client, "shop/app", blob)

    got = await client.get(f"/v2/shop/app/blobs/{blob.digest}", headers={"Accept": "text/html"})

    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_dead_client_publishes_no_manifest(registry: Serving) -> None:
    """A manifest whose body broke off is not published, even if the received part is a valid document."""
    await push(registry.client, "shop/app", DOCUMENT.digest, DOCUMENT)
    other = image("other")
    for blob in other.blobs:
        await push_blob(registry.client, "shop/app", blob)

    answer = await send(
        registry.app,
        "PUT",
        "/v2/shop/app/manifests/1.0.0",
        headers=[("Content-Type", OCI_MANIFEST), ("Transfer-Encoding", "chunked")],
        body=[other.raw],
        dies=True,
    )

    assert answer.status != 201
    assert await meaning(registry.client, "shop/app", "1.0.0") is None
