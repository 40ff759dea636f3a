"""Pushes and pulls over a socket, with bytes made as they go, so that size is no matter of this process's memory.

Rules kept here: the same seed always makes the same bytes; what was acknowledged (201) is written down only after the
answer has come; a pull compares every byte's hash with what was pushed and fails loudly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx2

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """`size` bytes that the seed determines, and that no other seed has."""

    seed: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        """The bytes, piece by piece: one block of hash output, its first bytes counted up."""
        block = hashlib.shake_128(self.seed.encode()).digest(min(self.size, CHUNK_BYTES))
        for number, start in enumerate(range(0, self.size, CHUNK_BYTES)):
            yield (number.to_bytes(8, "big") + block[8:])[: self.size - start]

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield a body in pieces, for a client that sends asynchronously."""
        for chunk in self.chunks():
            yield chunk

    @property
    def digest(self) -> str:
        """What the registry must call it."""
        hasher = hashlib.sha256()
        for chunk in self.chunks():
            hasher.update(chunk)
        return f"sha256:{hasher.hexdigest()}"


@dataclass(slots=True)
class Acknowledged:
    """What was answered with 201: blobs as (repository, digest) -> size, tags as (repository, tag) -> manifest."""

    blobs: dict[tuple[str, str], int] = field(default_factory=dict)
    tags: dict[tuple[str, str], bytes] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is not the expected one. `status` is its HTTP status."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
        self.status = answer.status_code


def client_of(url: str, *, connections: int = 64) -> httpx2.AsyncClient:
    """A client with patience, for a server that is busy."""
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=limits)


async def push_blob(
    client: httpx2.AsyncClient, repository: str, body: Body, digest: str, into: Acknowledged, *, patch: bool = False
) -> None:
    """POST, then a PUT with everything, or (as docker does) a PATCH with everything and an empty PUT."""
    began = expect(await client.post(f"/v2/{repository}/blobs/uploads/"), 202)
    location = began.headers["location"]
    headers = {"content-type": "application/octet-stream"}
    content: AsyncIterator[bytes] | bytes = body.stream()
    if patch:
        location = expect(await client.patch(location, content=content, headers=headers), 202).headers["location"]
        content = b""
    else:
        headers["content-length"] = str(body.size)
    separator = "&" if "?" in location else "?"
    expect(await client.put(f"{location}{separator}digest={digest}", content=content, headers=headers), 201)
    into.blobs[repository, digest] = body.size


def manifest_of(config: tuple[str, int], *layers: tuple[str, int]) -> bytes:
    """An image manifest that names these blobs."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config[0], "size": config[1]},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}
                for digest, size in layers
            ],
        }
    ).encode()


async def push_image(
    client: httpx2.AsyncClient, repository: str, tag: str, bodies: list[Body], into: Acknowledged
) -> None:
    """An image whose first body is its config, published under a tag."""
    named = [(body.digest, body.size) for body in bodies]
    for number, (body, (digest, _)) in enumerate(zip(bodies, named, strict=True)):
        await push_blob(client, repository, body, digest, into, patch=number % 2 == 1)
    manifest = manifest_of(*named)
    await put_manifest(client, repository, tag, manifest, into)


async def put_manifest(
    client: httpx2.AsyncClient, repository: str, tag: str, manifest: bytes, into: Acknowledged
) -> None:
    """Publishes a tag."""
    url = f"/v2/{repository}/manifests/{tag}"
    expect(await client.put(url, content=manifest, headers={"content-type": OCI_MANIFEST}), 201)
    into.tags[repository, tag] = manifest


async def pull_blob(client: httpx2.AsyncClient, repository: str, digest: str) -> int:
    """Reads a blob to its end and compares its digest. Returns its size in bytes."""
    hasher = hashlib.sha256()
    size = 0
    async with client.stream("GET", f"/v2/{repository}/blobs/{digest}") as answer:
        if answer.status_code != httpx2.codes.OK:
            await answer.aread()
            raise Refused(answer)
        async for chunk in answer.aiter_raw():
            hasher.update(chunk)
            size += len(chunk)
    assert f"sha256:{hasher.hexdigest()}" == digest, f"{repository}: {digest} came back as {hasher.hexdigest()}"
    return size


async def pull_all(client: httpx2.AsyncClient, acknowledged: Acknowledged) -> None:
    """Everything acknowledged is there, byte for byte."""
    for (repository, tag), manifest in acknowledged.tags.items():
        answer = expect(await client.get(f"/v2/{repository}/manifests/{tag}", headers={"accept": OCI_MANIFEST}), 200)
        assert answer.content == manifest, f"{repository}:{tag} is another manifest"
    for (repository, digest), size in acknowledged.blobs.items():
        assert await pull_blob(client, repository, digest) == size


def expect(answer: httpx2.Response, status: int) -> httpx2.Response:
    """The answer, if it has this status."""
    if answer.status_code != status:
        raise Refused(answer)
    return answer
