"""An upstream that sends wrong bytes: none are stored, and no client gets them as a complete answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from boltseal.client.registry_client import MAX_MANIFEST_BYTES
from boltseal.server.mirror.blob_fetch import HELD_BACK_BYTES
from tests.asgi import Answer, send
from tests.fakes.upstream import Asked, FakeUpstream, Speak, raw, status
from tests.images import OCI_MANIFEST, digest_of, image
from tests.polling import until
from tests.server.mirror.mirrors import NAME
from tests.serving import Serving
from tests.storage_choice import read_rows

BLOB = bytes(range(256)) * 8192  # 2 MiB
DIGEST = digest_of(BLOB)
TARGET = f"/v2/{NAME}/team/app/blobs/{DIGEST}"
ASKED = f"GET /v2/team/app/blobs/{DIGEST}"


def head(length: int | None) -> bytes:
    length_header = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 200 OK\r\n{length_header}\r\n\r\n".encode()


async def broken_then_mended(mirror: Serving, upstream: FakeUpstream, answer: Speak) -> Answer:
    """Return what a client gets of a bad answer; then repair the upstream and require that the mirror recovers."""
    upstream.answers[ASKED] = answer
    bad = await send(mirror.app, "GET", TARGET)
    held = list((mirror.data / "blobs").rglob("*")), (await mirror.client.get("/v2/_catalog")).json()
    assert not [path for path in held[0] if path.is_file()]
    assert held[1] == {"repositories": []}
    upstream.answers.clear()
    upstream.blobs[DIGEST] = BLOB
    good = await send(mirror.app, "GET", TARGET)
    assert (good.status, good.body == BLOB) == (200, True)
    return bad


async def test_a_wrong_body_is_never_served_completely(mirror: Serving, upstream: FakeUpstream) -> None:
    """A body of the right length with a wrong first byte is never served completely: its last part is withheld."""
    bad = await broken_then_mended(mirror, upstream, status(200, b"!" + BLOB[1:]))

    assert len(bad.body) <= len(BLOB) - HELD_BACK_BYTES


async def test_a_small_wrong_body_is_an_error(mirror: Serving, upstream: FakeUpstream) -> None:
    """A wrong body that is smaller than the withheld part gets an error before any byte is sent."""
    digest = digest_of(b"right")
    upstream.answers[f"GET /v2/team/app/blobs/{digest}"] = status(200, b"wrong")
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{digest}")

    assert answer.status_code == 503
    assert "does not match its digest" in answer.text


@pytest.mark.slow
async def test_a_truncated_body_is_never_served_completely(mirror: Serving, upstream: FakeUpstream) -> None:
    """A body that ends before its stated length, at every attempt, is never served as complete."""
    bad = await broken_then_mended(mirror, upstream, raw(head(len(BLOB)), BLOB[:-1000]))

    assert len(bad.body) < len(BLOB)


async def test_a_body_that_ends_early_without_an_error_is_never_complete(
    mirror: Serving, upstream: FakeUpstream
) -> None:
    """A body whose Content-Length is correct but smaller than the manifest's size is never served as complete."""
    shown = upstream.publish("team/app", "1", image("first"))
    await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1")
    layer = shown.layers[0]
    upstream.answers[f"GET /v2/team/app/blobs/{layer.digest}"] = status(200, layer.data[:-1])
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{layer.digest}")

    assert answer.status_code == 503


async def test_an_endless_body_is_cut_off(mirror: Serving, upstream: FakeUpstream) -> None:
    """The mirror reads no more bytes of a body than the manifest states."""
    shown = upstream.publish("team/app", "1", image("first"))
    await mirror.client.get(f"/v2/{NAME}/team/app/manifests/1")
    sent = 0

    async def endless(_: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(None))
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
            sent += 0x10000

    layer = shown.layers[0]
    upstream.answers[f"GET /v2/team/app/blobs/{layer.digest}"] = endless
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{layer.digest}")

    assert answer.status_code == 503
    assert sent < 64 * 1024 * 1024  # the capacity of the sockets between both sides


async def test_a_body_of_unknown_length_that_no_manifest_lists_is_not_started(
    mirror: Serving, upstream: FakeUpstream
) -> None:
    """Without a length from the answer or a manifest, the end of the body would be unknown."""
    upstream.answers[ASKED] = raw(head(None), b"5\r\nhello\r\n0\r\n\r\n")
    answer = await mirror.client.get(TARGET)

    assert answer.status_code == 503
    assert "does not say how large" in answer.text


async def test_a_huge_manifest_is_not_read(mirror: Serving, upstream: FakeUpstream) -> None:
    """The mirror stops reading a manifest at the size limit of manifests."""
    sent = 0

    async def huge(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(None))
        for _ in range(1024):
            writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            await writer.drain()
            sent += 0x10000

    digest = digest_of(b"huge")
    upstream.answers[f"GET /v2/team/app/manifests/{digest}"] = huge
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/{digest}")

    assert answer.status_code == 503
    assert sent < 4 * MAX_MANIFEST_BYTES


@pytest.mark.parametrize("body", [b"{}", b"not json", image("other").raw])
async def test_a_manifest_with_another_digest_is_not_used(mirror: Serving, upstream: FakeUpstream, body: bytes) -> None:
    """A valid manifest whose digest differs from the requested one is not used."""
    digest = digest_of(b"asked for")
    upstream.answers[f"GET /v2/team/app/manifests/{digest}"] = status(200, body, content_type=OCI_MANIFEST)

    assert (await mirror.client.get(f"/v2/{NAME}/team/app/manifests/{digest}")).status_code == 503


async def test_another_digest_for_head_than_for_get_is_not_followed(mirror: Serving, upstream: FakeUpstream) -> None:
    """The HEAD of a tag decides its digest; a GET that returns other content is discarded, and the former image is
    served."""
    first = upstream.publish("team/app", "latest", image("first"))
    await mirror.client.get(f"/v2/{NAME}/team/app/manifests/latest")
    second, third = image("second"), image("third")
    upstream.answers["HEAD /v2/team/app/manifests/latest"] = status(
        200, content_type=OCI_MANIFEST, docker_content_digest=second.digest
    )
    upstream.answers[f"GET /v2/team/app/manifests/{second.digest}"] = status(200, third.raw, content_type=OCI_MANIFEST)
    answer = await mirror.client.get(f"/v2/{NAME}/team/app/manifests/latest")

    assert answer.content == first.raw
    assert "not used" in answer.headers["warning"]
    assert upstream.counted["GET /v2/team/app/manifests/latest"] == 0


def is_stored(data: Path, digest: str) -> bool:
    """Return whether the mirror has stored a blob, which it does after the client has it."""
    return bool(read_rows(data, "SELECT 1 FROM blob WHERE digest = ?", digest))


async def test_a_manifest_with_a_false_blob_size_is_not_stored(mirror: Serving, upstream: FakeUpstream) -> None:
    """A manifest that states another size for a stored blob than the blob has is not stored."""
    layer = image("first").layers[0]
    upstream.blobs[layer.digest] = layer.data
    await mirror.client.get(f"/v2/{NAME}/team/app/blobs/{layer.digest}")
    await until(lambda: is_stored(mirror.data, layer.digest), "the blob is stored")
    lie = image("first")
    lying = type(lie)(lie.raw.replace(f'"size":{len(layer.data)}'.encode(), b'"size":1'), lie.media_type)
    upstream.publish("team/app", None, lying)

    assert (await mirror.client.get(f"/v2/{NAME}/team/app/manifests/{lying.digest}")).status_code == 503
