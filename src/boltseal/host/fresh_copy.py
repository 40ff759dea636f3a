"""Makes an archive of an image from its registry that an engine loads with layers of their own.

An engine skips layers that it has, by their chain IDs, and blobs that it has, by their digests; so does Podman with diff IDs
of blobs that it knows. The copy has empty layers below (`oci.fresh_layers`), and each layer is compressed with another gzip
header, so that no engine knows its blob.

All bytes from the registry are compared with their digests, and each uncompressed layer with its diff ID in the config.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import msgspec

from boltseal.client.registry_client import MAX_MANIFEST_BYTES, RegistryClient
from boltseal.errors import Invalid, Mismatch, Unavailable
from boltseal.host.scrub.layer_blob import BlobTar
from boltseal.host.scrub.plans import Allowance, diff_ids
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.fresh_layers import EMPTY_LAYER, MAX_EMPTY_LAYERS, with_empty_layers
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_CONFIG, OCI_MANIFEST
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Repository
from boltseal.transfer.archive import ArchiveTarget

GZIP_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
PIECE_BYTES: Final = 1 << 20
_GZIP_NAME_AT: Final = 10
"""Where a gzip header has the name of the file (RFC 1952); its checksum does not cover it."""


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """An image from a registry, in files. `layers`: compressed with gzip, their content verified, lowest first."""

    config: bytes
    layers: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class CopyArchive:
    """An archive of a copy. `config`, `manifest`: the image's ID in an engine is one of them."""

    path: Path
    config: Digest
    manifest: Digest


async def platform_manifest(
    client: RegistryClient, repository: Repository, digest: Digest, platform: Platform, image: Digest | None
) -> Manifest:
    """Return the manifest of a digest; of an index that of this image ID, else of the platform.

    Raises: Invalid: the index has none of the platform; client errors.
    """
    manifest = await client.manifest(repository, digest)
    if not manifest.is_index:
        return manifest
    fitting = [each for each in manifest.manifests if f"{each.platform}/".startswith(f"{platform}/")]
    children = [await client.manifest(repository, each.digest) for each in fitting]
    named = [each for each in children if each.config is not None and each.config.digest == image]
    if not children:
        raise Invalid(f"{digest.short} has no image for {platform}; name another platform's image by its digest")
    return (named or children)[0]


async def copy_ids(
    client: RegistryClient, repository: Repository, digest: Digest, platform: Platform, image: Digest
) -> frozenset[Digest]:
    """Return the digests that the configs of all possible copies of an image have. Raises: as `fetch_image`."""
    manifest = await platform_manifest(client, repository, digest, platform, image)
    config = await _config_of(client, repository, manifest)
    return frozenset(Digest.of(with_empty_layers(config, count)) for count in range(1, MAX_EMPTY_LAYERS + 1))


async def _config_of(client: RegistryClient, repository: Repository, manifest: Manifest) -> bytes:
    """Return the config of an image. Raises: Invalid, Mismatch; client errors."""
    if manifest.config is None:
        raise Invalid("the digest is not that of an image")
    if manifest.config.size > MAX_MANIFEST_BYTES:
        raise Invalid(f"the image's config has {manifest.config.size} bytes; at most {MAX_MANIFEST_BYTES} are read")
    return b"".join([piece async for piece in client.blob(repository, manifest.config.digest, manifest.config.size)])


async def fetch_image(client: RegistryClient, repository: Repository, manifest: Manifest, folder: Path) -> FetchedImage:
    """Fetch an image into a folder. Raises: Invalid, Mismatch, Unavailable: no space; client errors."""
    config = await _config_of(client, repository, manifest)
    diffs = diff_ids(config, "the image's config", Allowance())
    if len(diffs) != len(manifest.layers) or any(each.foreign for each in manifest.layers):
        raise Invalid("the registry does not have all of the image's layers")
    layers: list[Path] = []
    for number, (described, diff) in enumerate(zip(manifest.layers, diffs, strict=True)):
        arriving = folder / f"{number}.arriving"
        try:
            with arriving.open("wb") as file:
                async for piece in client.blob(repository, described.digest, described.size):
                    await asyncio.to_thread(file.write, piece)
            layers.append(await asyncio.to_thread(_compressed, arriving, folder / f"{number}.gz", diff))
            arriving.unlink()
        except OSError as error:
            raise Unavailable(f"a layer can't be written to {folder}: {error.strerror}") from error
    return FetchedImage(config, tuple(layers))


def _compressed(source: Path, target: Path, diff_id: Digest) -> Path:
    """Decompress a layer, verify it, and compress it with gzip. Raises: Mismatch, TarMalformed, OSError."""
    with source.open("rb") as blob, target.open("wb") as file:
        tar = BlobTar(blob, diff_id.algorithm, lambda _: None)
        with gzip.GzipFile(_new_name(), "wb", compresslevel=1, fileobj=file) as packed:
            for piece in tar.pieces():
                packed.write(piece)
    if tar.diff_id != diff_id.hex:
        raise Mismatch(
            f"a layer of the registry is not the one in the image's config (got sha256:{tar.diff_id}, expected {diff_id})"
        )
    return target


def _described_anew(layer: Path) -> Descriptor:
    """Give a compressed layer another name in its gzip header, so that no engine knows the blob. Raises: OSError."""
    with layer.open("r+b") as file:
        file.seek(_GZIP_NAME_AT)
        file.write(_new_name().encode())
        file.seek(0)
        digest = Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
    return Descriptor(GZIP_LAYER, digest, layer.stat().st_size)


def _new_name() -> str:
    """Return a name for a gzip header, always of the same length."""
    return secrets.token_hex(8)


async def write_archive(image: FetchedImage, count: int, name: Reference, path: Path) -> CopyArchive:
    """Write the archive of a copy with `count` empty layers below. Raises: ConfigUnsuitable, LocationUnavailable."""
    config = with_empty_layers(image.config, count)
    packed = BytesIO()
    with gzip.GzipFile(_new_name(), "wb", fileobj=packed) as file:
        file.write(EMPTY_LAYER)
    empty = Descriptor(GZIP_LAYER, Digest.of(packed.getvalue()), len(packed.getvalue()))
    layers = [await asyncio.to_thread(_described_anew, each) for each in image.layers]
    described = Descriptor(OCI_CONFIG, Digest.of(config), len(config))
    manifest = parse_manifest(
        msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _written(described),
                "layers": [_written(each) for each in (*[empty] * count, *layers)],
            }
        ),
        OCI_MANIFEST,
    )
    target, complete = ArchiveTarget(path, force=True), False
    try:
        await target.put_blob(described, lambda: _bytes(config))
        await target.put_blob(empty, lambda: _bytes(packed.getvalue()))
        for file_, descriptor in zip(image.layers, layers, strict=True):
            await target.put_blob(descriptor, lambda file_=file_: _file(file_))  # type: ignore[misc]  # its default binds it
        digest = Digest.of(manifest.raw)
        await target.put_manifest(manifest, digest, str(name), only_new=False)
        complete = True
    finally:
        await target.close(complete=complete)
    return CopyArchive(path, described.digest, digest)


def _written(descriptor: Descriptor) -> dict[str, object]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece
