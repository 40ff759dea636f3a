"""Makes images, indexes, artifacts and signatures for tests, and pushes them over an HTTP client.

The images are real: a layer is a gzipped tar archive of one file, and its config has the archive's digest, so that
docker, podman and skopeo accept it. The same arguments always give the same bytes. Media types are written out here
from the specifications, independently of the code under test, so that a mistake there is found.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_FOREIGN_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SBOM_TYPE = "application/vnd.example.sbom.v1"
OCTETS = "application/octet-stream"

JsonObject = dict[str, Any]


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """`algorithm:hex` of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with the media type of their descriptor. `algorithm`: the digest algorithm of the descriptor."""

    data: bytes
    media_type: str = OCTETS
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.data, self.algorithm)

    def descriptor(self, **more: Any) -> JsonObject:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest as bytes, with what must be pushed before it: its blobs and child documents."""

    raw: bytes
    media_type: str
    blobs: tuple[Blob, ...] = ()
    children: tuple[Document, ...] = ()
    algorithm: str = "sha256"

    @property
    def digest(self) -> str:
        return digest_of(self.raw, self.algorithm)

    @property
    def config(self) -> Blob:
        return self.blobs[0]

    @property
    def layers(self) -> tuple[Blob, ...]:
        return self.blobs[1:]

    def descriptor(self, **more: Any) -> JsonObject:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw), **more}


def to_json(value: Mapping[str, Any]) -> bytes:
    """Compact JSON, keys in the order given."""
    return json.dumps(value, separators=(",", ":")).encode()


def tarball(name: str, content: bytes) -> bytes:
    """A tar archive with one file, the same bytes on every machine and day."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def layer(words: str, media_type: str = OCI_LAYER, algorithm: str = "sha256") -> Blob:
    """Return a layer of one file with this text."""
    return Blob(gzipped(tarball("words.txt", words.encode())), media_type, algorithm)


def gzipped(data: bytes) -> bytes:
    """A gzip member, the same bytes on every Python: 3.11 writes the system's number into the header, 3.13 writes 255."""
    made = gzip.compress(data, mtime=0)
    return made[:9] + b"\xff" + made[10:]


def config(
    layers: Sequence[Blob], *, docker: bool = False, architecture: str = "amd64", algorithm: str = "sha256"
) -> Blob:
    """The config of an image with these layers."""
    diff_ids = [digest_of(gzip.decompress(each.data)) for each in layers]
    body = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/words.txt"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "words"} for _ in layers],
    }
    return Blob(to_json(body), DOCKER_CONFIG if docker else OCI_CONFIG, algorithm)


def image(
    words: str,
    *,
    layer_count: int = 1,
    docker: bool = False,
    architecture: str = "amd64",
    algorithm: str = "sha256",
    extra: Mapping[str, Any] | None = None,
    **more: Any,
) -> Document:
    """Return an image with this text in its layers.

    `more`: further members of the manifest, such as `annotations`; `extra`: those whose names are no Python names.
    """
    kind = DOCKER_LAYER if docker else OCI_LAYER
    layers = [layer(f"{words} {number}", kind, algorithm) for number in range(layer_count)]
    own_config = config(layers, docker=docker, architecture=architecture, algorithm=algorithm)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": own_config.descriptor(),
        "layers": [each.descriptor() for each in layers],
        **more,
        **(extra or {}),
    }
    return Document(to_json(body), media_type, (own_config, *layers), algorithm=algorithm)


def index(*children: Document, docker: bool = False, algorithm: str = "sha256", **more: Any) -> Document:
    """An index (Docker: a manifest list) of these documents. `more`: further members of the index."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    architectures = ("amd64", "arm64", "s390x", "ppc64le", "riscv64")
    entries = [
        child.descriptor(platform={"os": "linux", "architecture": architectures[number % len(architectures)]})
        for number, child in enumerate(children)
    ]
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries, **more}
    return Document(to_json(body), media_type, (), children, algorithm)


def artifact(
    words: str,
    *,
    subject: Document | None = None,
    artifact_type: str | None = SBOM_TYPE,
    algorithm: str = "sha256",
    **more: Any,
) -> Document:
    """An artifact such as an SBOM: an image manifest with the empty config and one blob. It may point at a subject."""
    empty = Blob(b"{}", OCI_EMPTY, algorithm)
    content = Blob(words.encode(), "text/plain", algorithm)
    body: JsonObject = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    if artifact_type is not None:
        body["artifactType"] = artifact_type
    body |= {"config": empty.descriptor(), "layers": [content.descriptor()]}
    if subject is not None:
        body["subject"] = subject.descriptor()
    return Document(to_json(body | more), OCI_MANIFEST, (empty, content), algorithm=algorithm)


def referrer(subject: Document, artifact_type: str, *layers: Blob) -> Document:
    """A referrer of an image: a manifest of a type with the empty config and these layers."""
    empty = Blob(b"{}", OCI_EMPTY)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty.descriptor(),
        "layers": [each.descriptor() for each in layers],
        "subject": subject.descriptor(),
    }
    return Document(to_json(body), OCI_MANIFEST, (empty, *layers))


def signature(subject: Document, *signers: str, more_layers: Sequence[Blob] = ()) -> Document:
    """Return cosign's manifest for a `.sig` tag: one layer per signer, whose payload names the signed digest."""
    payloads = [
        Blob(
            to_json(
                {
                    "critical": {
                        "identity": {"docker-reference": signer},
                        "image": {"docker-manifest-digest": subject.digest},
                        "type": "cosign container image signature",
                    },
                    "optional": None,
                }
            ),
            COSIGN_PAYLOAD,
        )
        for signer in signers
    ] + list(more_layers)
    own_config = Blob(
        to_json({"rootfs": {"type": "layers", "diff_ids": [each.digest for each in payloads]}}), OCI_CONFIG
    )
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": own_config.descriptor(),
        "layers": [
            each.descriptor(annotations={"dev.cosignproject.cosign/signature": each.digest[-24:]}) for each in payloads
        ],
    }
    return Document(to_json(body), OCI_MANIFEST, (own_config, *payloads))


def signature_tag(subject: Document, suffix: str = ".sig") -> str:
    """Return the tag under which signature tools find an image's signatures; suffix "" is the referrers fallback tag."""
    return subject.digest.replace(":", "-") + suffix


async def push_blob(client: httpx2.AsyncClient, repository: str, blob: Blob) -> httpx2.Response:
    """Push one blob in a single request. The answer must be 201."""
    answer = await client.post(
        f"/v2/{repository}/blobs/uploads/",
        params={"digest": blob.digest},
        content=blob.data,
        headers={"Content-Type": OCTETS},
    )
    if answer.status_code != httpx2.codes.CREATED:
        raise AssertionError(f"blob {blob.digest} of {repository}: {answer.status_code} {answer.text}")
    return answer


async def push_parts(client: httpx2.AsyncClient, repository: str, document: Document) -> None:
    """Push everything that a document references: its blobs, and each child by digest."""
    for blob in document.blobs:
        await push_blob(client, repository, blob)
    for child in document.children:
        answer = await push(client, repository, child.digest, child)
        if answer.status_code != httpx2.codes.CREATED:
            raise AssertionError(f"child {child.digest} of {repository}: {answer.status_code} {answer.text}")


async def put(
    client: httpx2.AsyncClient,
    repository: str,
    reference: str,
    document: Document,
    *,
    tags: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """PUT a manifest and nothing else. `tags` become `?tag=`; `headers` may override the Content-Type."""
    return await client.put(
        f"/v2/{repository}/manifests/{reference}",
        params=[("tag", tag) for tag in tags],
        content=document.raw,
        headers={"Content-Type": document.media_type, **(headers or {})},
    )


async def push(
    client: httpx2.AsyncClient,
    repository: str,
    reference: str,
    document: Document,
    *,
    tags: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """Push a document with everything it references, under a tag or its digest; return the last answer."""
    await push_parts(client, repository, document)
    return await put(client, repository, reference, document, tags=tags, headers=headers)


async def meaning(client: httpx2.AsyncClient, repository: str, reference: str) -> str | None:
    """Return the digest to which a tag or digest resolves, or None."""
    answer = await client.head(f"/v2/{repository}/manifests/{reference}")
    if answer.status_code == httpx2.codes.NOT_FOUND:
        return None
    if answer.status_code != httpx2.codes.OK:
        raise AssertionError(f"HEAD {repository} {reference}: {answer.status_code}")
    return answer.headers["Docker-Content-Digest"]


async def holds_blob(client: httpx2.AsyncClient, repository: str, digest: str) -> bool:
    """Return whether this repository has the blob."""
    answer = await client.head(f"/v2/{repository}/blobs/{digest}")
    if answer.status_code not in (httpx2.codes.OK, httpx2.codes.NOT_FOUND):
        raise AssertionError(f"HEAD blob {digest} of {repository}: {answer.status_code}")
    return answer.status_code == httpx2.codes.OK


def error_of(answer: httpx2.Response) -> tuple[str, str]:
    """Return code and message of the first error in an answer's body."""
    first = answer.json()["errors"][0]
    return first["code"], first["message"]


async def start_upload(client: httpx2.AsyncClient, repository: str, **params: str) -> str:
    """Open an upload session; return its Location."""
    answer = await client.post(f"/v2/{repository}/blobs/uploads/", params=params)
    if answer.status_code != httpx2.codes.ACCEPTED:
        raise AssertionError(f"upload to {repository}: {answer.status_code} {answer.text}")
    return answer.headers["Location"]


def with_digest(location: str, digest: str) -> str:
    """Return the Location with `digest` added as clients do it: after `?`, or after `&` if it has a query."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


async def in_pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Return a body of unknown length, which the client sends chunked, without Content-Length."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
