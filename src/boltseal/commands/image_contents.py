"""The packages and files of an image: by an SBOM that is attached to it, and by its layers.

1. Find an SBOM: an attestation in the index (BuildKit), or a referrer with a known type. It is its publisher's claim.
2. Read the layers, the lowest first: each blob is downloaded to a file and verified by its digest, and its tar by the
   config's diff_id. Whiteouts remove files. Only package databases are kept; of each file its kind, mode and hash.
3. Without an SBOM, the package databases in the files give the packages.

Downloads are bounded, and nothing is unpacked to disk. What could not be read is a result, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, TooLarge
from boltseal.host.scrub.layer_blob import BlobTar
from boltseal.host.scrub.tar_header import Header, TarMalformed
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import is_foreign_layer
from boltseal.transfer.image_config import ImageConfig
from boltseal.transfer.inspect import Inspected
from boltseal.transfer.packages.databases import MAX_DATABASE_BYTES, is_database, read_databases
from boltseal.transfer.packages.package_list import Package, PackagesUnreadable
from boltseal.transfer.packages.sbom import MAX_SBOM_BYTES, MEDIA_TYPES, parse_sbom
from boltseal.transfer.protocols import ContentDamaged, ImageSource

MAX_DOWNLOAD_BYTES: Final = 2 * 1024**3
MAX_UNPACKED_BYTES: Final = 16 * 1024**3
MAX_FILES: Final = 500_000
MAX_SBOMS: Final = 5
_ATTESTS: Final = "vnd.docker.reference.digest"
_PREDICATE: Final = "in-toto.io/predicate-type"
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"


class FileState(NamedTuple):
    """A file of an image. `kind`: the tar's type of it; `content`: a hash of its bytes, or the target of a link."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: bytes


class PackageList(NamedTuple):
    """The packages by one source; None if it could not be read, and `reason` says why."""

    packages: tuple[Package, ...] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageContents:
    """What an image contains. `sbom`: packages by an attached SBOM. `layers`: packages by the databases in its layers.

    `files`: by path; None if they could not be read, and `files_reason` says why.
    """

    sbom: PackageList
    layers: PackageList
    files: Mapping[bytes, FileState] | None = None
    files_reason: str = ""


@dataclass(slots=True)
class _Merged:
    """The layers so far. `databases`: contents of package databases by path."""

    files: dict[bytes, FileState] = field(default_factory=dict)
    databases: dict[str, bytes] = field(default_factory=dict)
    folders: set[bytes] = field(default_factory=set)
    unpacked: int = 0


async def read_contents(
    source: ImageSource, image: Inspected, *, most_bytes: int = MAX_DOWNLOAD_BYTES
) -> ImageContents:
    """Return packages and files of an inspected image. `most_bytes`: how much is downloaded at most."""
    sbom = await _by_sbom(source, image)
    try:
        merged = await _layers(source, image.image, image.config, most_bytes)
    except (BoltsealError, TarMalformed) as error:
        reason = error.message if isinstance(error, BoltsealError) else str(error)
        return ImageContents(sbom, PackageList(None, reason), None, reason)
    try:
        found = read_databases(merged.databases)
        layers = PackageList(found, "" if found is not None else "it has no package database")
    except PackagesUnreadable as error:
        layers = PackageList(None, error.message)
    return ImageContents(sbom, layers, merged.files)


async def _by_sbom(source: ImageSource, image: Inspected) -> PackageList:
    """Return the packages of the first readable SBOM."""
    reason = "no SBOM is attached to it"
    for manifest in await _sbom_manifests(source, image):
        for layer in manifest.layers:
            predicate = layer.annotations.get(_PREDICATE, "")
            if layer.media_type not in MEDIA_TYPES or (
                predicate and "spdx" not in predicate and "cyclonedx" not in predicate
            ):
                continue
            try:
                if layer.size > MAX_SBOM_BYTES:
                    raise PackagesUnreadable(f"it has more than {MAX_SBOM_BYTES} bytes")
                raw = b"".join([piece async for piece in source.blob(layer)])
                return PackageList(await asyncio.to_thread(parse_sbom, raw))
            except BoltsealError as error:
                reason = f"its SBOM can't be read: {error.message}"
    return PackageList(None, reason)


async def _sbom_manifests(source: ImageSource, image: Inspected) -> list[Manifest]:
    """Return manifests that may have an SBOM: BuildKit's attestations of the image, then referrers; at most MAX_SBOMS."""
    own = image.platforms.get(image.chosen, image.digest)
    found = [each.digest for each in image.manifest.manifests if each.annotations.get(_ATTESTS) == str(own)]
    referrers = list(image.referrers)
    try:
        if own != image.digest:
            referrers += await source.referrers(own)
        found += [each.digest for each in referrers if each.artifact_type in MEDIA_TYPES]
        return [await source.manifest(digest) for digest in found[:MAX_SBOMS]]
    except BoltsealError:
        return []


async def _layers(source: ImageSource, manifest: Manifest, config: ImageConfig | None, most_bytes: int) -> _Merged:
    """Read all layers of an image. Raises: TooLarge, TarMalformed, ContentDamaged, and errors of the source."""
    if config is None or len(config.diff_ids) != len(manifest.layers):
        raise ContentDamaged(f"{source.title}: it is not a container image whose config describes its layers")
    size = sum(layer.size for layer in manifest.layers)
    if size > most_bytes:
        raise TooLarge(f"its layers have {size} bytes; at most {most_bytes} are read")
    merged = _Merged()
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        path = Path(scratch) / "layer"
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if is_foreign_layer(layer.media_type):
                raise ContentDamaged(
                    f"{source.title}: layer {layer.digest.short} is not in the registry (foreign layer)"
                )
            await _download(source, layer, path)
            await asyncio.to_thread(_merge, merged, path, layer.digest, diff_id)
    return merged


async def _download(source: ImageSource, layer: Descriptor, path: Path) -> None:
    """Write a blob to a file; the source verifies it by its digest. Raises: errors of the source."""
    with path.open("wb") as file:
        async for piece in source.blob(layer):
            file.write(piece)


def _merge(merged: _Merged, path: Path, digest: Digest, diff_id: str) -> None:
    """Apply a layer's tar. Raises: TarMalformed, TooLarge, ContentDamaged: it does not match the config."""
    layer = _Layer()
    with path.open("rb") as file:
        tar = BlobTar(file, "sha256", lambda _: None)
        for header in tar.entries():
            layer.add(header, tar)
            merged.unpacked += header.stored
            if merged.unpacked > MAX_UNPACKED_BYTES or len(layer.files) + len(merged.files) > MAX_FILES:
                raise TooLarge(f"it has more than {MAX_UNPACKED_BYTES} bytes or {MAX_FILES} files")
    if f"sha256:{tar.diff_id}" != diff_id:
        raise ContentDamaged(f"the tar of layer {digest.short} does not match the image's config")
    _remove(merged, layer)
    merged.files.update(layer.files)
    merged.databases.update(layer.databases)
    merged.folders.update(parent for name in layer.files for parent in _parents(name))
    if sum(map(len, merged.databases.values())) > 2 * MAX_DATABASE_BYTES:
        raise TooLarge(f"its package databases have more than {2 * MAX_DATABASE_BYTES} bytes")


@dataclass(slots=True)
class _Layer:
    """The entries of one layer. `removed`: by whiteouts; `cleared`: folders whose former content is removed."""

    files: dict[bytes, FileState] = field(default_factory=dict)
    databases: dict[str, bytes] = field(default_factory=dict)
    removed: set[bytes] = field(default_factory=set)
    cleared: set[bytes] = field(default_factory=set)

    def add(self, header: Header, tar: BlobTar) -> None:
        """Add the current entry of a tar."""
        name = _normal(header.name)
        folder, _, last = name.rpartition(b"/")
        if last == _OPAQUE:
            self.cleared.add(folder)
        elif last.startswith(_WHITEOUT):
            self.removed.add(b"/".join(filter(None, (folder, last.removeprefix(_WHITEOUT)))))
        elif name and header.kind != b"5":
            text = name.decode("utf-8", "replace")
            kept = bytearray() if is_database(text) and header.stored <= MAX_DATABASE_BYTES else None
            hashed = sha256()
            for piece in tar.content():
                hashed.update(piece)
                if kept is not None:
                    kept += piece
            content = header.link if header.kind in (b"1", b"2") else hashed.digest()
            self.files[name] = FileState(header.kind, header.mode, (header.uid, header.gid), content)
            if kept is not None:
                self.databases[text] = bytes(kept)


def _remove(merged: _Merged, layer: _Layer) -> None:
    """Apply a layer's whiteouts to the lower layers, and files that replace folders."""
    replaced = layer.files.keys() & merged.folders
    if not (layer.removed or layer.cleared or replaced):
        return
    gone = layer.removed | layer.cleared | replaced

    def is_gone(name: bytes) -> bool:
        return name in layer.removed or b"" in layer.cleared or any(each in gone for each in _parents(name))

    merged.files = {name: state for name, state in merged.files.items() if not is_gone(name)}
    merged.databases = {name: raw for name, raw in merged.databases.items() if not is_gone(name.encode())}


def _parents(name: bytes) -> list[bytes]:
    return [name[:at] for at in range(len(name)) if name[at : at + 1] == b"/"]


def _normal(name: bytes) -> bytes:
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b".", b".."))
