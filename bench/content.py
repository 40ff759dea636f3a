"""The content of the servers: the same bytes in each.

Everything is incompressible and a function of a seed, so that runs can be compared and nothing comes from a
network. `DistinctBlobs` gives blobs that no server has seen, as fast as they are needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

REPOSITORY = "bench/app"
SEALED_TAG = "1.0.0"
FLOATING_TAG = "latest"
LAYERS = 12

#: The real image of the copies: twelve layers, 299 MiB together, a few large and many small as images have them.
IMAGE_LAYERS_MIB = (112, 64, 48, 32, 16, 12, 8, 4, 1, 1, 1, 0.25)


#: The same shape, 1 GiB together.
GIB_LAYERS_MIB = (384, 218, 163, 109, 54, 41, 27, 14, 4, 4, 4, 2)


@dataclass(frozen=True)
class Blob:
    """Some bytes and their digest."""

    data: bytes

    @cached_property
    def digest(self) -> str:
        """`sha256:...`"""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"


@dataclass(frozen=True)
class Content:
    """A manifest with its blobs, and two further blobs to download."""

    manifest: Blob
    parts: tuple[Blob, ...]
    small: Blob
    large: Blob


def make_content(large_bytes: int) -> Content:
    """Return the content of every server for read tests."""
    source = random.Random(1)  # noqa: S311 - bytes to send, not a secret
    config = Blob(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode())
    layers = tuple(Blob(_noise(source, KIB)) for _ in range(LAYERS))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, config),
        "layers": [_descriptor(LAYER_TYPE, layer) for layer in layers],
    }
    return Content(
        manifest=Blob(json.dumps(manifest, indent=2).encode()),
        parts=(config, *layers),
        small=Blob(_noise(source, 10 * KIB)),
        large=Blob(_noise(source, large_bytes)),
    )


class DistinctBlobs:
    """Distinct blobs of one size that share all but their last bytes, so that hashing each costs nothing."""

    def __init__(self, size: int) -> None:
        self._head = _noise(random.Random(2), size - 16)  # noqa: S311 - bytes to send, not a secret
        self._hash = hashlib.sha256(self._head)
        self._numbers = random.Random()  # noqa: S311 - only has to differ from run to run

    @staticmethod
    @cache
    def of(size: int) -> DistinctBlobs:
        """Return the blobs of this size. Making them takes a while, once."""
        return DistinctBlobs(size)

    def __iter__(self) -> Iterator[tuple[bytes, bytes, str]]:
        """Yield head, tail and digest of one blob after the other."""
        while True:
            tail = self._numbers.randbytes(16)
            whole = self._hash.copy()
            whole.update(tail)
            yield self._head, tail, f"sha256:{whole.hexdigest()}"


def write_image(folder: Path, layers_mib: Sequence[float] = IMAGE_LAYERS_MIB) -> None:
    """Write an image with layers of these sizes as an OCI layout that skopeo can copy from."""
    source = random.Random(3)  # noqa: S311 - bytes to send, not a secret
    layers, diff_ids = [], []
    for size_mib in layers_mib:
        archive = _tar(_noise(source, int(size_mib * MIB)))
        diff_ids.append(Blob(archive).digest)
        layers.append(_store(folder, LAYER_TYPE, gzip.compress(archive, compresslevel=0, mtime=0)))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _store(folder, CONFIG_TYPE, json.dumps(config).encode()),
        "layers": layers,
    }
    image = _store(folder, MANIFEST_TYPE, json.dumps(manifest).encode())
    image["annotations"] = {"org.opencontainers.image.ref.name": "image"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image]}))


def _noise(source: random.Random, size: int) -> bytes:
    """Return random bytes, made in chunks because the source gives less than 256 MiB at once."""
    return b"".join(source.randbytes(min(MIB, size - at)) for at in range(0, size, MIB))


def _descriptor(media_type: str, blob: Blob) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": len(blob.data)}


def _store(folder: Path, media_type: str, data: bytes) -> dict[str, object]:
    blob = Blob(data)
    path = folder / "blobs" / "sha256" / blob.digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return _descriptor(media_type, blob)


def _tar(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
