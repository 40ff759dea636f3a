"""Compare the layers of a rebase: read each layer once, and judge what the image's own layers change.

1. Each layer's blob is fetched by digest into a file, and read as hostile input (`layer_changes`). It must have the content
   (diff_id) that the config states. So the configs' equal diff_ids prove that the image begins with the old base's layers.
2. The files of the old and of the new base are compared with the changes of the image's own layers (`rebase_conflicts`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from boltseal.build.layer_changes import (
    LayerContents,
    LayerLimits,
    NotCompared,
    libraries_of,
    read_layer,
    release_of,
)
from boltseal.build.rebase_images import PlatformRebase
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.jsontext import decode
from boltseal.oci.layer_tree import LayerChange, LayerTree, TreeUnsuitable
from boltseal.oci.rebased_image import ImageParts
from boltseal.policy.rebase_conflicts import Conflict, layer_conflicts, library_conflicts, release_conflict

MAX_CONFLICTS: Final = 20
"""Maximum number of conflicts that are listed."""

Blob = Callable[[Descriptor], AsyncIterator[bytes]]
"""Yields the bytes of a blob, verified."""


class _RootFs(msgspec.Struct):
    diff_ids: list[str]


class _Config(msgspec.Struct):
    rootfs: _RootFs


class LayerBlob(NamedTuple):
    """A layer to read: its blob, the digest of its tar, and where the blob is read."""

    descriptor: Descriptor
    diff_id: str
    blob: Blob


class LayerComparer:
    """Compares the layers of one image after the other. `scratch`: a folder for one blob at a time.

    `progress`: called with the bytes that were read so far.
    """

    def __init__(
        self,
        of_image: Blob,
        of_base: Blob,
        scratch: Path,
        progress: Callable[[int], None],
        limits: LayerLimits = LayerLimits(),  # noqa: B008 - it has no state
    ) -> None:
        self._of_image = of_image
        self._of_base = of_base
        self._scratch = scratch
        self._progress = progress
        self._limits = limits
        self._read = 0

    async def conflicts(self, part: PlatformRebase) -> list[Conflict]:
        """Return why one platform's image can't be rebased, at most `MAX_CONFLICTS` reasons; () if it can.

        Raises: NotCompared, and the errors of the registries.
        """
        image, new = _layers(part.image, self._of_image), _layers(part.new, self._of_base)
        count = len(part.old.manifest.layers)
        contents: dict[str, LayerContents] = {}
        for layer in (*image, *new):
            if layer.diff_id not in contents:
                used = sum(each.tar_bytes for each in contents.values())
                contents[layer.diff_id] = await self._contents(layer, self._limits.tar_bytes - used)
        old_layers, own_layers, new_layers = (
            [contents[layer.diff_id] for layer in some] for some in (image[:count], image[count:], new)
        )
        return await asyncio.to_thread(_compared, old_layers, own_layers, new_layers)

    async def _contents(self, layer: LayerBlob, left: int) -> LayerContents:
        file = self._scratch / "layer"
        limits = LayerLimits(left, self._limits.entries, self._limits.names_bytes)
        try:
            with await asyncio.to_thread(file.open, "w+b") as opened:
                async for piece in layer.blob(layer.descriptor):
                    await asyncio.to_thread(opened.write, piece)
                    self._read += len(piece)
                    self._progress(self._read)
                opened.seek(0)
                return await asyncio.to_thread(read_layer, opened, layer.diff_id, lambda _: None, limits)
        except OSError as error:
            raise NotCompared(f"a layer can't be kept in {file}: {error.strerror}") from error


def _layers(parts: ImageParts, blob: Blob) -> list[LayerBlob]:
    diff_ids = decode(parts.config, _Config).rootfs.diff_ids
    return [
        LayerBlob(descriptor, diff_id, blob)
        for descriptor, diff_id in zip(parts.manifest.layers, diff_ids, strict=True)
    ]


def _compared(
    old_layers: Sequence[LayerContents], own_layers: Sequence[LayerContents], new_layers: Sequence[LayerContents]
) -> list[Conflict]:
    """Compare the layers. Raises: NotCompared."""
    try:
        old, new = _tree(old_layers), _tree(new_layers)
    except TreeUnsuitable as error:
        raise NotCompared(f"a base can't be compared: {error.message}") from error
    releases: dict[bytes, bytes] = {}
    versions: dict[bytes, tuple[int, ...]] = {}
    for layer in (*old_layers, *new_layers):
        releases |= layer.releases
        versions |= layer.versions
    different = release_conflict(release_of(old, releases), release_of(new, releases))
    found = [different] if different is not None else []
    found += library_conflicts(libraries_of(old, versions), libraries_of(new, versions))
    found += islice(layer_conflicts(old, new, _changes(own_layers)), MAX_CONFLICTS)
    return found


def _tree(layers: Sequence[LayerContents]) -> LayerTree:
    tree = LayerTree()
    for layer in layers:
        tree.apply(layer.changes)
    return tree


def _changes(layers: Sequence[LayerContents]) -> Iterator[LayerChange]:
    for layer in layers:
        yield from layer.changes


def layer_bytes(parts: Sequence[PlatformRebase]) -> int:
    """Return how many bytes the comparison of these images reads, by their manifests."""
    total = 0
    for part in parts:
        blobs = {each.digest: each.size for each in (*part.image.manifest.layers, *part.new.manifest.layers)}
        total += sum(blobs.values())
    return total
