"""The packages and files of an image: by an SBOM that is attached to it, and by its layers.

1. Find an SBOM: an attestation in the index (BuildKit), or a referrer with a known type. It is its publisher's claim.
2. Read the layers, the lowest first: each blob is downloaded to a file and verified by its digest, and its tar by the
   config's diff_id (`build.layer_changes`). Only package databases are kept; of each file its kind, mode and hash.
3. Without an SBOM, the package databases in the files give the packages.

Downloads are bounded, and nothing is unpacked to disk. What could not be read is a result, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from boltseal.build.layer_changes import KeptFiles, LayerLimits, read_layer
from boltseal.errors import BoltsealError, TooLarge
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.layer_tree import ChangeKind, FileKind, FileState, LayerTree, shown
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
MAX_DATABASES_BYTES: Final = MAX_DATABASE_BYTES
"""Maximum length of the package databases that are in memory: of one layer, and of the image up to it."""
MAX_FILES: Final = 500_000
MAX_SBOMS: Final = 5
NO_DATABASE: Final = "it has no package database"
NO_SBOM: Final = "no SBOM is attached to it"
_WRITES: Final = (ChangeKind.WRITE, ChangeKind.LINK)
_ATTESTS: Final = "vnd.docker.reference.digest"
_PREDICATE: Final = "in-toto.io/predicate-type"


class PackageList(NamedTuple):
    """The packages by one source; None if it could not be read, and `reason` says why."""

    packages: tuple[Package, ...] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImageContents:
    """What an image contains. `sbom`: packages by an attached SBOM. `layers`: packages by the databases in its layers.

    `files`: by path, without folders; None if they could not be read, and `files_reason` says why. `folders`: by path.
    `own`: the paths that layers above those of its base write.
    """

    sbom: PackageList
    layers: PackageList
    files: Mapping[bytes, FileState] | None = None
    files_reason: str = ""
    folders: Mapping[bytes, FileState] = field(default_factory=dict)
    own: frozenset[bytes] = frozenset()


class _ReadLayers:
    """The files of an image, the contents of package databases by their hash, and the paths that its own layers write.

    Each layer is read in one call of a thread with small arguments: a thread may keep the arguments of its last call for a while,
    and with them the contents of a layer.
    """

    def __init__(self, most_unpacked_bytes: int) -> None:
        self.tree = LayerTree(MAX_FILES)
        self.kept: dict[bytes, bytes] = {}
        self.own: set[bytes] = set()
        self._left_bytes = most_unpacked_bytes

    def add(self, path: Path, diff_id: str, *, own: bool) -> None:
        """Apply the next layer, the tar in a file. Raises: TooLarge, NotCompared, TreeUnsuitable, ContentDamaged."""
        keep = KeptFiles(_is_database, MAX_DATABASE_BYTES, MAX_DATABASES_BYTES)
        with path.open("rb") as file:
            contents = read_layer(file, diff_id, lambda _: None, LayerLimits(self._left_bytes, MAX_FILES), keep)
        self.tree.apply(contents.changes)
        self.kept = _still_there(self.tree, self.kept | contents.kept)
        self._left_bytes -= contents.tar_bytes
        if own:
            self.own |= {change.path for change in contents.changes if change.kind in _WRITES}


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much of an image is read at most. `layer_bytes`: as they are stored; `unpacked_bytes`: of their tars."""

    layer_bytes: int = MAX_DOWNLOAD_BYTES
    unpacked_bytes: int = MAX_UNPACKED_BYTES


LIMITS: Final = ReadLimits()


async def read_contents(
    source: ImageSource, image: Inspected, *, limits: ReadLimits = LIMITS, base_layers: Sequence[str] = ()
) -> ImageContents:
    """Return packages and files of an inspected image.

    `base_layers`: the diff_ids of its base, or of what may be its base.
    """
    sbom = await attached_packages(source, image)
    try:
        read = await _layers(source, image.image, image.config, limits, base_layers)
    except BoltsealError as error:
        return ImageContents(sbom, PackageList(None, error.message), None, error.message)
    files: dict[bytes, FileState] = {}
    folders: dict[bytes, FileState] = {}
    for path in read.tree.paths():
        if (state := read.tree.file(path)) is not None:
            (folders if state.kind is FileKind.FOLDER else files)[path] = state
    try:
        found = await asyncio.to_thread(lambda: read_databases(_databases(read.tree, read.kept)))
        layers = PackageList(found, "" if found is not None else NO_DATABASE)
    except PackagesUnreadable as error:
        layers = PackageList(None, error.message)
    return ImageContents(sbom, layers, files, folders=folders, own=frozenset(read.own))


async def attached_packages(source: ImageSource, image: Inspected) -> PackageList:
    """Return the packages of the first readable SBOM among BuildKit's attestations of the image, then its referrers."""
    reason = NO_SBOM
    own = image.platforms.get(image.chosen, image.digest)
    found = [each.digest for each in image.manifest.manifests if each.annotations.get(_ATTESTS) == str(own)]
    referrers = list(image.referrers)
    try:
        if own != image.digest:
            referrers += await source.referrers(own)
    except BoltsealError as error:
        reason = f"could not check which SBOMs are attached to it: {error.message}"
    found += [each.digest for each in referrers if each.artifact_type in MEDIA_TYPES]
    for digest in found[:MAX_SBOMS]:
        try:
            manifest = await source.manifest(digest)
        except BoltsealError as error:
            reason = f"its SBOM can't be read: {error.message}"
            continue
        for layer in filter(_may_be_sbom, manifest.layers):
            try:
                return PackageList(await _sbom_packages(source, layer))
            except BoltsealError as error:
                reason = f"its SBOM can't be read: {error.message}"
    return PackageList(None, reason)


def _may_be_sbom(layer: Descriptor) -> bool:
    predicate = layer.annotations.get(_PREDICATE, "")
    return layer.media_type in MEDIA_TYPES and (not predicate or "spdx" in predicate or "cyclonedx" in predicate)


async def _sbom_packages(source: ImageSource, layer: Descriptor) -> tuple[Package, ...]:
    """Return the packages of an SBOM. Raises: PackagesUnreadable, and errors of the source."""
    if layer.size > MAX_SBOM_BYTES:
        raise PackagesUnreadable(f"it has more than {MAX_SBOM_BYTES} bytes")
    raw = bytearray()  # pieces and their sum at the same time would be twice its size
    async for piece in source.blob(layer):
        raw += piece
    return await asyncio.to_thread(parse_sbom, raw)


async def _layers(
    source: ImageSource, manifest: Manifest, config: ImageConfig | None, limits: ReadLimits, base_layers: Sequence[str]
) -> _ReadLayers:
    """Return what the layers of an image contain; all are its own if it does not begin with the base's.

    Raises: TooLarge, NotCompared, TreeUnsuitable, ContentDamaged, and errors of the source.
    """
    if config is None or len(config.diff_ids) != len(manifest.layers):
        raise ContentDamaged(f"{source.title}: it is not a container image whose config describes its layers")
    size = sum(layer.size for layer in manifest.layers)
    if size > limits.layer_bytes:
        raise TooLarge(f"its layers have {size} bytes; at most {limits.layer_bytes} are read")
    inherited = len(base_layers) if config.diff_ids[: len(base_layers)] == tuple(base_layers) else 0
    read = _ReadLayers(limits.unpacked_bytes)
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        path = Path(scratch) / "layer"
        for number, (layer, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True)):
            if is_foreign_layer(layer.media_type):
                raise ContentDamaged(
                    f"{source.title}: layer {layer.digest.short} is not in the registry (foreign layer)"
                )
            await _download(source, layer, path)
            await asyncio.to_thread(read.add, path, diff_id, own=number >= inherited)
    return read


async def _download(source: ImageSource, layer: Descriptor, path: Path) -> None:
    """Write a blob to a file; the source verifies it by its digest. Raises: errors of the source."""
    with path.open("wb") as file:
        async for piece in source.blob(layer):
            file.write(piece)


def _still_there(tree: LayerTree, kept: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the contents that a file of the image still has: each layer may have another database. Raises: TooLarge."""
    if not kept:
        return kept
    states = [tree.file(path) for path in tree.paths()]
    there = {state.content for state in states if state is not None and state.kind is FileKind.REGULAR}
    found = {content: raw for content, raw in kept.items() if content in there}
    if sum(map(len, found.values())) > MAX_DATABASES_BYTES:
        raise TooLarge(f"its package databases have more than {MAX_DATABASES_BYTES} bytes")
    return found


def _is_database(path: bytes) -> bool:
    return is_database(_text(path))


def _databases(tree: LayerTree, kept: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """Return the package databases of an image by path. Raises: PackagesUnreadable: one was not kept."""
    found = {}
    for path in tree.paths():
        if not _is_database(path):
            continue
        file = tree.followed(path)
        if file is None or file.kind is not FileKind.FOLDER:
            if file is None or file.content not in kept:
                raise PackagesUnreadable(
                    f"{shown(path)} can't be read: it is a link to no package database, or has more than {MAX_DATABASE_BYTES} bytes"
                )
            found[_text(path)] = kept[file.content]
    return found


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
