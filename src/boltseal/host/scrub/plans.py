"""Plans of what to check in a store, and the chain from an image's config to its layers (image-spec "config.md")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from boltseal.engines.json_documents import decoded, digest
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
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


class Init(NamedTuple):
    """A folder between an image's layers that has only mount targets of Docker, such as /etc/hosts.

    `docker build` and `docker commit` leave it. `layers_below`: the number of the image's layers below it.
    """

    folder: bytes
    layers_below: int


@dataclass(frozen=True, slots=True)
class MappedCopy:
    """A copy of an image's merged layers with other owners. `layers`: the copied ones, topmost first.

    `users`, `groups`: map IDs of the layers to those of the copy, inside the namespace of the store's user; `store_ids` maps
    that namespace to IDs on disk. `unproven`: why `users` and `groups` can't be relied on, "" if they can.
    `loses_privileges`: whether setuid, setgid and capabilities may be missing, because the engine did not restore them.
    """

    folder: bytes
    layers: tuple[bytes, ...]
    users: IdMap
    groups: IdMap
    store_ids: Ownership = field(default_factory=Ownership)
    unproven: str = ""
    loses_privileges: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An image of a store, with its layers to check.

    `id`: as its engine shows it. `config`: the digest of its config; `copy_of`: those of the images that it may be a copy of with
    empty layers below (`oci.fresh_layers`). `documents`: the store's manifests and indexes of it, unverified. `differences`: in
    metadata and stack. `unknown`: reasons why something can't be checked. `notes`: what else a person should know, without any
    effect on the result. `unchecked`: what the check of it leaves out (`report.ScrubReport`).
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
    notes: tuple[str, ...] = ()
    copy_of: tuple[Digest, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container to check.

    `upper`: its own layer; `lowers`: the layers below, topmost first, relative to `root`. `init`: Docker's -init layer.
    `pid`: its first process in the store's metadata, 0 for none; the process may have ended, or belong to another host.
    `copy_of`: with the driver vfs the folder of its image's top layer, of which the container's own layer is a copy.
    """

    store: str
    root: Path
    id: str
    name: str
    image: Digest | None
    upper: bytes | None
    lowers: tuple[bytes, ...] = ()
    init: bytes | None = None
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()
    pid: int = 0
    copy_of: bytes | None = None


@dataclass(frozen=True, slots=True)
class StorePlan:
    """The contents of one store. `unknown`: reasons why it could not be read completely.

    `cached`: layers that belong to no image but have a digest, so that they can be checked. `unreferenced`: the
    folders of layers that belong to no image and no container and have none: those of build steps. Images built on them have
    their files. `orphaned`: those of them that are of no build either; an interrupted pull or removal leaves such a folder.
    """

    store: str
    root: Path
    images: tuple[ImagePlan, ...] = ()
    containers: tuple[ContainerPlan, ...] = ()
    unknown: tuple[str, ...] = ()
    cached: tuple[ImagePlan, ...] = ()
    unreferenced: frozenset[bytes] = frozenset()
    orphaned: frozenset[bytes] = frozenset()

    def merged(self, other: StorePlan) -> StorePlan:
        """Return this plan with the contents of another one of the same store, such as those of a second storage driver."""
        return replace(
            self,
            images=(*self.images, *other.images),
            containers=(*self.containers, *other.containers),
            unknown=(*self.unknown, *other.unknown),
            cached=(*self.cached, *other.cached),
            unreferenced=self.unreferenced | other.unreferenced,
            orphaned=self.orphaned | other.orphaned,
        )


def plan_of_drivers(
    empty: StorePlan, drivers: Callable[[], Sequence[str]], plan_of: Callable[[str], StorePlan]
) -> StorePlan:
    """Return the plan of a store that may have layers of several storage drivers. `plan_of`: the plan of one driver.

    If the drivers can't be listed, the plan says why.
    """
    try:
        listed = drivers()
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        return replace(empty, unknown=(error.message,))
    return reduce(StorePlan.merged, map(plan_of, listed), empty)


def folders_in_use(images: Sequence[ImagePlan], containers: Sequence[ContainerPlan]) -> set[bytes]:
    """Return the folders of all layers that belong to an image or a container."""
    used = {layer.folder for image in images for layer in image.layers}
    used |= {folder for image in images for copy in image.copies for folder in (copy.folder, *copy.layers)}
    used |= {init.folder for image in images for init in image.inits}
    used |= {folder for each in containers for folder in (each.upper, *each.lowers)}
    return {folder for folder in used if folder is not None}


@dataclass(slots=True)
class Allowance:
    """Limits for all images of one store together, since a short list can refer to a large image many times.

    Exceeding one raises StoreUnreadable: images before that point are checked, later ones are reported as not checked.
    """

    layers: int = MAX_LAYERS_IN_ALL
    kept_bytes: int = MAX_KEPT_BYTES
    _met: dict[LayerFiles, LayerFiles] = field(default_factory=dict)

    def once(self, layer: LayerFiles) -> LayerFiles:
        """Return the equal layer of an earlier image if there was one, since most layers are shared."""
        return self._met.setdefault(layer, layer)

    def take_layers(self, count: int) -> None:
        self.layers -= count
        if self.layers < 0:
            raise StoreUnreadable(f"the images of this store have more than {MAX_LAYERS_IN_ALL} layers together")

    def keep(self, raw: bytes) -> bytes:
        """Count a document that is kept in memory, and return it."""
        self.kept_bytes -= len(raw)
        if self.kept_bytes < 0:
            raise StoreUnreadable(f"the manifests of this store have more than {MAX_KEPT_BYTES >> 20} MiB together")
        return raw


def diff_ids(config: bytes, what: str, allowance: Allowance) -> tuple[Digest, ...]:
    """Return the diff IDs in a config, lowest layer first.

    Raises: StoreMalformed, StoreUnreadable.
    """
    read = decoded(config, _Config, what)
    named = (read.rootfs or _RootFs()).diff_ids or ()
    if len(named) > MAX_LAYERS:
        raise StoreMalformed(f"{what} has too many layers (got {len(named)}, expected at most {MAX_LAYERS})")
    allowance.take_layers(len(named))
    return tuple(digest(each, f"{what}, a diff ID") for each in named)


def chain_ids(layers: Sequence[Digest]) -> list[Digest]:
    """Return the chain ID of each layer: the first is its diff ID, each further one a hash of chain ID and diff ID."""
    chain: list[Digest] = []
    for diff in layers:
        chain.append(Digest.of(f"{chain[-1]} {diff}".encode()) if chain else diff)
    return chain
