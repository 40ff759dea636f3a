"""Reader of Docker's own store (image store "graphdriver"), below its data root.

    image/DRIVER/repositories.json                   tags, and the image of each
    image/DRIVER/imagedb/content/sha256/ID           an image's config; ID is its SHA-256
    image/DRIVER/layerdb/sha256/CHAIN/               diff (the diff ID), parent (a chain ID), cache-id, tar-split.json.gz
    image/DRIVER/layerdb/mounts/CONTAINER/           mount-id, init-id, parent
    DRIVER/CACHE-ID/diff                             the layer's files; its stack is in link and lower (`host.scrub.overlay_stack`)
    vfs/dir/CACHE-ID                                 the files of the layer and of all layers below it, of the driver vfs
    containers/CONTAINER/config.v2.json              the container, and its image

The store contains no manifests: the link from a manifest to an image has to come from elsewhere.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from boltseal.engines.json_documents import (
    MAX_DOCUMENT_BYTES,
    MAX_IMAGES,
    MAX_LIST_BYTES,
    MAX_WORD_BYTES,
    decoded,
    digest,
    word,
)
from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreMissing
from boltseal.errors import quote
from boltseal.oci.digest import Digest

OVERLAY2: Final = "overlay2"
VFS: Final = "vfs"
MAX_TAGS: Final = 100_000
MAX_LAYERDB: Final = 1_000_000
_HEX: Final = re.compile(rb"[0-9a-f]{64}")


def is_container_id(text: str) -> bool:
    """Return whether a text is an ID that Docker gives to containers."""
    return _HEX.fullmatch(text.encode()) is not None


class _Repositories(msgspec.Struct):
    repositories: dict[str, dict[str, str]] = msgspec.field(default_factory=dict, name="Repositories")


class _State(msgspec.Struct, rename="pascal"):
    pid: int = 0
    dead: bool = False
    removal_in_progress: bool = False


class _Container(msgspec.Struct, rename="pascal"):
    name: str = ""
    image: str = ""
    driver: str = ""
    state: _State = msgspec.field(default_factory=_State)


@dataclass(frozen=True, slots=True)
class DockerLayer:
    """The layerdb entry of one layer."""

    diff: Digest
    parent: Digest | None
    cache_id: str
    size: int


@dataclass(frozen=True, slots=True)
class DockerContainer:
    """A container and the layers it was mounted from; these are None if it uses another driver."""

    id: str
    name: str
    image: Digest | None
    driver: str
    pid: int
    going: bool
    """Docker is removing it, or failed to."""
    mount_id: str | None
    init_id: str | None
    parent: Digest | None


class DockerStore:
    """The store below one data root. Every method may raise StoreMissing, StoreUnreadable or StoreMalformed."""

    def __init__(self, root: Path, driver: str = OVERLAY2) -> None:
        self.root = root
        self.driver = driver
        self.files = open_store(root)
        self._images = f"image/{driver}".encode()
        self._folders = b"vfs/dir" if driver == VFS else driver.encode()

    def drivers(self) -> list[str]:
        """Return the storage drivers that have images here."""
        return [os.fsdecode(name) for name in self.files.names(b"image")] if self.files.exists(b"image") else []

    def tags(self) -> dict[str, Digest]:
        """Return `name:tag` and `name@digest`, as Docker writes them, with the image of each."""
        path = self._images + b"/repositories.json"
        if not self.files.exists(path):
            return {}
        read = decoded(self.files.read(path, MAX_LIST_BYTES), _Repositories, "repositories.json")
        if sum(map(len, read.repositories.values())) > MAX_TAGS:
            raise StoreMalformed(f"repositories.json names more than {MAX_TAGS} tags and digests")
        found: dict[str, Digest] = {}
        for repository, of_one in read.repositories.items():
            for name, image in of_one.items():
                tag = name.removeprefix(repository)
                if tag == name or tag[:1] not in (":", "@") or "/" in tag:  # Docker would not find it there
                    raise StoreMalformed(
                        f"repositories.json has {quote(name, 300)} among the names of {quote(repository, 300)}"
                    )
                found[name] = digest(image, f"repositories.json, {name}")
        return found

    def images(self) -> list[Digest]:
        """Return the IDs of all images, intermediate ones included."""
        path = self._images + b"/imagedb/content/sha256"
        if not self.files.exists(path):
            return []
        names = self.files.names(path, MAX_IMAGES)
        return [Digest("sha256", name.decode()) for name in names if _HEX.fullmatch(name)]

    def parent(self, image: Digest) -> Digest | None:
        """Return the parent image of an image built by the classic builder, or None."""
        path = self._images + b"/imagedb/metadata/sha256/%s/parent" % image.hex.encode()
        if not self.files.exists(path):
            return None
        return digest(self.files.read(path, MAX_WORD_BYTES), f"the parent of image {image.short}")

    def config(self, image: Digest) -> bytes:
        """Return the bytes of an image's config, unverified."""
        return self.files.read(self._images + b"/imagedb/content/sha256/" + image.hex.encode(), MAX_DOCUMENT_BYTES)

    def layer_at(self, chain: Digest) -> bytes:
        """Return the path of a layer's layerdb entry."""
        return self._images + b"/layerdb/sha256/" + chain.hex.encode()

    def folder_of(self, cache_id: str) -> bytes:
        """Return the path of a layer's folder."""
        return self._folders + b"/" + os.fsencode(cache_id) + (b"" if self.driver == VFS else b"/diff")

    def layers(self) -> list[Digest]:
        """Return the chain IDs of all layers in layerdb."""
        path = self._images + b"/layerdb/sha256"
        names = self.files.names(path, MAX_LAYERDB) if self.files.exists(path) else []
        return [Digest("sha256", name.decode()) for name in names if _HEX.fullmatch(name)]

    def folders(self) -> list[bytes]:
        """Return the names of all folders of the storage driver, those of containers and of BuildKit's cache included."""
        names = self.files.names(self._folders, MAX_LAYERDB) if self.files.exists(self._folders) else []
        return [name for name in names if name != b"l"]

    def layer(self, chain: Digest) -> DockerLayer:
        """Return the layerdb entry of a layer."""
        at = self.layer_at(chain)
        parent = at + b"/parent"
        return DockerLayer(
            digest(self.files.read(at + b"/diff", MAX_WORD_BYTES), f"the diff of layer {chain.short}"),
            digest(self.files.read(parent, MAX_WORD_BYTES), f"the parent of layer {chain.short}")
            if self.files.exists(parent)
            else None,
            word(self.files.read(at + b"/cache-id", MAX_WORD_BYTES), f"the cache-id of layer {chain.short}"),
            self._size(at + b"/size"),
        )

    def _size(self, path: bytes) -> int:
        """Return a number, or 0 if it is missing or malformed: it only balances the work of a scrub."""
        try:
            text = self.files.read(path, MAX_WORD_BYTES)
        except (StoreMissing, StoreMalformed):
            return 0
        return int(text) if text.isdigit() and len(text) < 19 else 0

    def containers(self) -> list[str]:
        """Return the IDs of all containers, stopped ones included.

        The daemon loads each folder that has a config with its name as ID, also if Docker gives no such IDs. In JSON, an ID is
        UTF-8.
        """
        if not self.files.exists(b"containers"):
            return []
        names = self.files.names(b"containers", MAX_IMAGES)
        return [name.decode() for name in names if _HEX.fullmatch(name) or self._has_config(name)]

    def _has_config(self, name: bytes) -> bool:
        try:
            name.decode()
        except UnicodeDecodeError:
            return False
        try:
            return self.files.exists(b"containers/" + name + b"/config.v2.json")
        except StoreMalformed:  # a file, which the daemon skips
            return False

    def container(self, id_: str) -> DockerContainer:
        """Return one container."""
        raw = self.files.read(f"containers/{id_}/config.v2.json".encode(), MAX_DOCUMENT_BYTES)
        read = decoded(raw, _Container, f"container {id_[:12]}")
        mount = self._images + f"/layerdb/mounts/{id_}".encode()

        def named(what: bytes) -> str | None:
            try:
                return word(self.files.read(mount + b"/" + what, MAX_WORD_BYTES), f"{what.decode()} of {id_[:12]}")
            except StoreMissing:
                return None

        parent = None
        if self.files.exists(mount + b"/parent"):
            parent = digest(self.files.read(mount + b"/parent", MAX_WORD_BYTES), f"the parent of container {id_[:12]}")
        try:
            image = digest(read.image, f"the image of container {id_[:12]}")
        except StoreMalformed:
            image = None
        state = read.state
        return DockerContainer(
            id_, read.name.lstrip("/"), image, read.driver, state.pid, state.dead or state.removal_in_progress,
            named(b"mount-id"), named(b"init-id"), parent,
        )  # fmt: skip
