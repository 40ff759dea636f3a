"""An image as a store has it, and the chain from its config to its layers (image-spec "config.md")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from boltseal.engines.json_documents import decoded, digest
from boltseal.engines.safe_open import StoreMalformed, StoreUnreadable
from boltseal.host.scrub.differences import Difference
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.ownership import IdMap, Ownership
from boltseal.oci.digest import Digest

MAX_LAYERS: Final = 1000
MAX_LAYERS_IN_ALL: Final = 200_000
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFs | None = None


Init = tuple[bytes, int]
"""A folder between an image's layers that only holds what Docker mounts over, left by `docker build` and `docker commit`; and
how many layers lie below it."""


@dataclass(frozen=True, slots=True)
class MappedCopy:
    """A copy of all that an image's layers show together, with other owners. `layers`: the topmost first.

    `users`, `groups`: from the ids of the layers to those of the copy, both as the store's user has them: `store_ids` are
    what these ids are on the disk. `unproven`: why these maps can't be relied on. `loses_rights`: whether setuid, setgid
    and capabilities may be gone, as who made it did not put them back.
    """

    folder: bytes
    layers: tuple[bytes, ...]
    users: IdMap
    groups: IdMap
    store_ids: Ownership = field(default_factory=Ownership)
    unproven: str = ""
    loses_rights: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image of one store: what it is called, what it should be by its own word, and what is to be read.

    `id`: as its engine shows it. `config`: the digest of its config. `documents`: manifests and indexes that lie with it,
    as they lie there. `differences`: what was found in metadata and stack. `unknown`: what can't be checked, and why.
    """

    store: str
    root: Path
    id: Digest
    config: Digest
    names: tuple[str, ...] = ()
    layers: tuple[LayerFiles, ...] = ()
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()
    documents: Mapping[Digest, bytes] = field(default_factory=dict)
    inits: tuple[Init, ...] = ()
    copies: tuple[MappedCopy, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container on an image. `changed`: what its own layer adds, changes or hides, which is its right."""

    store: str
    root: Path
    id: str
    name: str
    image: Digest | None
    upper: bytes | None
    lowers: tuple[bytes, ...] = ()
    """The folders below its own layer, the topmost first, relative to `root`."""
    init: bytes | None = None
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()
    pid: int = 0
    """The process that the store says is its first; 0 for none. It may be long gone, or of another host."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """All that one store holds. `unknown`: why it could not be read whole."""

    store: str
    root: Path
    images: tuple[ImagePlan, ...] = ()
    containers: tuple[ContainerPlan, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(slots=True)
class Allowance:
    """What the images of one store may take together: a short list may name a large one again and again.

    Whatever is too much is StoreUnreadable: what came before it is checked, what comes after it is said not to be.
    """

    layers: int = MAX_LAYERS_IN_ALL
    kept_bytes: int = MAX_KEPT_BYTES
    _met: dict[LayerFiles, LayerFiles] = field(default_factory=dict)

    def once(self, layer: LayerFiles) -> LayerFiles:
        """The same layer of an image before, if there was one: most are shared."""
        return self._met.setdefault(layer, layer)

    def take_layers(self, count: int) -> None:
        self.layers -= count
        if self.layers < 0:
            raise StoreUnreadable(f"the images of this store have more than {MAX_LAYERS_IN_ALL} layers together")

    def keep(self, raw: bytes) -> bytes:
        """A document that is held on to."""
        self.kept_bytes -= len(raw)
        if self.kept_bytes < 0:
            raise StoreUnreadable(f"the manifests of this store have more than {MAX_KEPT_BYTES >> 20} MiB together")
        return raw


def diff_ids(config: bytes, what: str, allowance: Allowance) -> tuple[Digest, ...]:
    """The diff IDs that a config names, lowest layer first. StoreMalformed, StoreUnreadable."""
    read = decoded(config, _Config, what)
    named = (read.rootfs or _RootFs()).diff_ids or ()
    if len(named) > MAX_LAYERS:
        raise StoreMalformed(f"{what} names {len(named)} layers; at most {MAX_LAYERS} are read")
    allowance.take_layers(len(named))
    return tuple(digest(each, f"{what}, a diff ID") for each in named)


def chain_ids(layers: Sequence[Digest]) -> list[Digest]:
    """The ID of each layer with all below it: the first is its diff ID, each further one a hash of ID and diff ID."""
    chain: list[Digest] = []
    for diff in layers:
        chain.append(Digest.of(f"{chain[-1]} {diff}".encode()) if chain else diff)
    return chain
