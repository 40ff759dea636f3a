"""Bundle the manifests and configs of an image for its receipt: an archive of an OCI layout without layers.

Docker's classic store keeps no manifests, and the registry may cease to exist. With the bundle, hashes alone connect the
digest in a receipt with the digest of every layer and (in the configs) of every layer's uncompressed files.

    oci-layout, index.json      the image, under its reference
    blobs/ALGORITHM/HEX         the manifest of the receipt, its children as far as the registry has them, their configs
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.errors import Invalid, NotFound, quote
from boltseal.files.atomic_files import Disk, write_file
from boltseal.files.named_files import FileMissing
from boltseal.oci.annotations import REF_NAME
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, ManifestInvalid, parse_manifest
from boltseal.oci.mediatype import DOCKER_CONFIG, MANIFEST_TYPES, OCI_CONFIG, OCI_INDEX
from boltseal.transfer.protocols import (
    ContentDamaged,
    ImageSource,
    LocationNotFound,
    LocationUnavailable,
    check_replaceable,
)

MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
MAX_DOCUMENTS: Final = 2_000
MAX_DEPTH: Final = 8
_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})


class BundleInvalid(Invalid):
    """An archive that is not a bundle of manifests and configs."""


class BundleMissing(NotFound):
    """The archive has another image."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Numbers of verified documents. `missing`: referenced manifests and configs that the archive lacks; layers are not counted."""

    manifests: int
    configs: int
    layers: int
    missing: tuple[Digest, ...]


async def collect(source: ImageSource, digest: Digest) -> dict[Digest, bytes]:
    """Fetch a manifest with all its children and configs, verified. Children that the source lacks are left out."""
    found: dict[Digest, bytes] = {}
    waiting = [(digest, 0)]
    while waiting:
        wanted, depth = waiting.pop()
        if wanted in found:
            continue
        try:
            manifest = await source.manifest(wanted)
        except (RemoteNotFound, LocationNotFound):
            if depth == 0:
                raise
            continue
        found[wanted] = manifest.raw
        waiting += [(child.digest, depth + 1) for child in _children(manifest) if depth < MAX_DEPTH]
        config = _config(manifest)
        if config is not None and config.digest not in found and config.size <= MAX_DOCUMENT_BYTES:
            found[config.digest] = b"".join([piece async for piece in source.blob(config)])
        if len(found) > MAX_DOCUMENTS:
            raise BundleInvalid(f"{digest.short} has more than {MAX_DOCUMENTS} documents below it")
    return found


def write(path: Path, documents: Mapping[Digest, bytes], digest: Digest, media_type: str, name: str) -> None:
    """Write the archive atomically. `documents`: of `collect`; `digest`, `media_type`, `name`: of the image.

    Raises: LocationInvalid, LocationUnavailable.
    """
    entry = {
        "mediaType": media_type,
        "digest": str(digest),
        "size": len(documents[digest]),
        "annotations": {REF_NAME: name},
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    files |= {_path(each): raw for each, raw in sorted(documents.items())}
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file, raw in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(raw)
            tar.addfile(member, BytesIO(raw))
    replace_bytes(path, buffer.getvalue())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, in place of the old one. Raises: LocationInvalid, LocationUnavailable."""
    check_replaceable(path)
    try:
        write_file(Disk(), path, content, 0o666)  # less what the umask forbids, as any file of the user
    except OSError as error:
        raise LocationUnavailable(f"{path} can't be written: {error.strerror}") from error


def check(path: Path, digest: Digest) -> Checked:
    """Verify all documents of an archive by their digests, starting at `digest`.

    Raises: ContentDamaged, BundleInvalid, LocationUnavailable, FileMissing.
    """
    try:
        with closing(tarfile.open(path)) as tar:
            return _follow(tar, path, digest)
    except FileNotFoundError as error:
        raise FileMissing(path) from error
    except (tarfile.TarError, EOFError) as error:
        raise BundleInvalid(f"{path} is no tar archive, or it is cut off: {error}") from error
    except OSError as error:
        raise LocationUnavailable(f"{path} can't be read: {error.strerror or error}") from error


def _follow(tar: tarfile.TarFile, path: Path, digest: Digest) -> Checked:
    members = {member.name.removeprefix("./"): member for member in tar if member.isreg()}
    seen: set[Digest] = set()
    missing: list[Digest] = []
    layers: set[Digest] = set()
    configs: set[Digest] = set()
    waiting: list[tuple[Digest, str | None]] = [(digest, None)]
    while waiting:
        wanted, media_type = waiting.pop()
        if wanted in seen:
            continue
        raw = _read(tar, members, path, wanted)
        if raw is None:
            if wanted == digest:
                raise BundleMissing(f"{path} lacks {digest}, the image of the receipt")
            missing.append(wanted)
            continue
        seen.add(wanted)
        manifest = _parse(raw, media_type, path, wanted)
        waiting += [(child.digest, child.media_type) for child in _children(manifest)]
        layers |= {layer.digest for layer in manifest.layers}
        config = _config(manifest)
        if config is not None and config.digest not in configs:
            if _read(tar, members, path, config.digest) is None:
                missing.append(config.digest)
            else:
                configs.add(config.digest)
        if len(seen) > MAX_DOCUMENTS:
            raise BundleInvalid(f"{path} has more than {MAX_DOCUMENTS} documents below {digest.short}")
    return Checked(len(seen), len(configs), len(layers), tuple(missing))


def _read(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], path: Path, digest: Digest) -> bytes | None:
    member = members.get(_path(digest))
    file = None if member is None else tar.extractfile(member)
    if member is None or file is None:
        return None
    if member.size > MAX_DOCUMENT_BYTES:
        raise BundleInvalid(f"{path}: {digest.short} is too large for what it is")
    raw = file.read()
    if Digest.of(raw, digest.algorithm) != digest:
        raise ContentDamaged(f"{path}: the bytes of {digest.short} have another digest")
    return raw


def _parse(raw: bytes, media_type: str | None, path: Path, digest: Digest) -> Manifest:
    try:
        document = json.loads(raw)
        stated = document.get("mediaType") if isinstance(document, dict) else None
        return parse_manifest(raw, media_type or stated or OCI_INDEX)
    except (ValueError, RecursionError, ManifestInvalid) as error:
        raise BundleInvalid(f"{path}: {quote(str(digest))} is no manifest") from error


def _children(manifest: Manifest) -> tuple[Descriptor, ...]:
    return tuple(child for child in manifest.manifests if child.media_type in MANIFEST_TYPES)


def _config(manifest: Manifest) -> Descriptor | None:
    """Return the config of an image; None for an artifact, whose config does not describe files."""
    return manifest.config if manifest.config is not None and manifest.config.media_type in _CONFIGS else None


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"
