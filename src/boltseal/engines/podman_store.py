"""Reader of containers/storage, the store of Podman, Buildah, CRI-O and Skopeo, below its root.

overlay-images/images.json          id (the config's digest), digest (the manifest's), names, layer (the top one)
overlay-images/ID/manifest          the manifest as it was pulled
overlay-images/ID/=BASE64           further documents; the name is the key, in base64 if it has special characters
overlay-layers/layers.json          id, parent, diff-digest (the diff ID), uidmap, gidmap; also volatile-layers.json
overlay-layers/ID.tar-split.gz      the layer's tar without its files
overlay/.has-mount-program          "true" where fuse-overlayfs mounts, which uses its own whiteouts in layers
overlay/ID/diff                     the layer's files; its stack is in link and lower (`host.scrub.overlay_stack`)
overlay/ID/diff1                    below it, the layer before its owners were remapped; diff2 and so on too
overlay-containers/containers.json  containers and their images; also volatile-containers.json
vfs-images, vfs-layers, ...         the same lists of the driver vfs
vfs/dir/ID                          its layers' files, each with those of all layers below it
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from boltseal.engines.json_documents import (
    MAX_DOCUMENT_BYTES,
    MAX_IMAGES,
    MAX_LIST_BYTES,
    MAX_WORD_BYTES,
    decoded,
    word,
)
from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed
from boltseal.oci.digest import Digest

Row = TypeVar("Row", "StoredImage", "StoredLayer", "StoredContainer")

OVERLAY: Final = "overlay"
VFS: Final = "vfs"
MAX_DOCUMENTS: Final = 1000
MAX_LISTED_LAYERS: Final = 100_000
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")


class StoredImage(msgspec.Struct, frozen=True, rename="kebab"):
    """A line of images.json."""

    id: str
    layer: str = ""
    names: list[str] | None = None
    digest: str = ""
    """The digest of the manifest with which the image was first stored."""
    big_data_digests: dict[str, str] | None = None
    """The digests of the documents stored with it, by key. A later pull or commit replaces that of `manifest`."""
    mapped_layers: list[str] | None = None
    """Copies of the top layer with remapped owners, each with copies of all layers below."""


class IdRange(msgspec.Struct, frozen=True):
    """A range of IDs inside a container, and the host's IDs."""

    container_id: int
    host_id: int
    size: int


class StoredLayer(msgspec.Struct, frozen=True, rename="kebab"):
    """A line of layers.json."""

    id: str
    parent: str = ""
    diff_digest: str = ""
    diff_size: int = 0
    toc_digest: str = ""
    uidmap: list[IdRange] | None = None
    gidmap: list[IdRange] | None = None


class StoredContainer(msgspec.Struct, frozen=True, rename="kebab"):
    """A line of containers.json."""

    id: str
    names: list[str] | None = None
    image: str = ""
    layer: str = ""


class PodmanStore:
    """The store below one root. Every method may raise StoreMissing, StoreUnreadable or StoreMalformed.

    `damaged`: malformed lines of the lists, with the reason; the other lines are used.
    """

    def __init__(self, root: Path, driver: str = OVERLAY) -> None:
        self.root = root
        self.driver = driver
        self.damaged: list[str] = []
        self.files = open_store(root)

    def drivers(self) -> list[str]:
        """Return the storage drivers that have images here."""
        found = [os.fsdecode(name) for name in self.files.names(b"", 10_000) if name.endswith(b"-images")]
        return [name.removesuffix("-images") for name in found]

    def folder_of(self, layer: str) -> bytes:
        """Return the path of a layer's files."""
        return (f"vfs/dir/{layer}" if self.driver == VFS else f"{self.driver}/{layer}/diff").encode()

    def split_at(self, layer: str) -> bytes:
        """Return the path of a layer's tar-split."""
        return f"{self.driver}-layers/{layer}.tar-split.gz".encode()

    def has_mount_program(self) -> bool:
        """Return whether fuse-overlayfs mounts the layers; its whiteouts differ from the kernel's."""
        path = b"overlay/.has-mount-program"
        return self.files.exists(path) and self.files.read(path, MAX_WORD_BYTES).strip() != b"false"

    def images(self) -> list[StoredImage]:
        """Return all images."""
        return self._list(f"{self.driver}-images/images.json".encode(), StoredImage)

    def layers(self) -> dict[str, StoredLayer]:
        """Return all layers by ID, those of containers included."""
        names = ("layers", "volatile-layers")
        paths = [f"{self.driver}-layers/{name}.json".encode() for name in names]
        return {layer.id: layer for path in paths for layer in self._list(path, StoredLayer, MAX_LISTED_LAYERS)}

    def containers(self) -> list[StoredContainer]:
        """Return all containers."""
        names = ("containers", "volatile-containers")
        paths = [f"{self.driver}-containers/{name}.json".encode() for name in names]
        return [each for path in paths for each in self._list(path, StoredContainer)]

    def documents(self, image: StoredImage) -> Iterator[tuple[str, bytes]]:
        """Yield the documents stored with an image, by key."""
        at = self._image_at(image)
        for name in self.files.names(at, MAX_DOCUMENTS):
            key = _key(name)
            if key is not None and (key == "manifest" or key.startswith(("manifest-", "sha256:"))):
                yield key, self.files.read(at + b"/" + name, MAX_DOCUMENT_BYTES)

    def config(self, image: StoredImage, digest: Digest) -> bytes:
        """Return the config with this digest, unverified."""
        return self.files.read(self._image_at(image) + b"/" + _name(str(digest)), MAX_DOCUMENT_BYTES)

    def _image_at(self, image: StoredImage) -> bytes:
        return f"{self.driver}-images/{image.id}".encode()

    def _list(self, path: bytes, shape: type[Row], most: int = MAX_IMAGES) -> list[Row]:
        if not self.files.exists(path):
            return []
        name = path.decode()
        lines = decoded(self.files.read(path, MAX_LIST_BYTES), list[msgspec.Raw], name)
        if len(lines) > most:
            raise StoreMalformed(f"{name} has {len(lines)} entries (expected at most {most})")
        found: list[Row] = []
        for number, line in enumerate(lines, 1):
            try:
                row = decoded(bytes(line), shape, f"{name}, entry {number}")
                word(row.id.encode(), f"{name}, entry {number}, its id")
                found.append(row)
            except StoreMalformed as error:
                self.damaged.append(error.message)
        return found


def _name(key: str) -> bytes:
    raw = key.encode()
    return raw if all(c in _PLAIN for c in raw) else b"=" + b64encode(raw)


def _key(name: bytes) -> str | None:
    if not name.startswith(b"="):
        return name.decode("ascii", "replace")
    try:
        return b64decode(name[1:], validate=True).decode()
    except ValueError:
        return None
