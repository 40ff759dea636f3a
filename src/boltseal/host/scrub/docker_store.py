"""Plans the check of Docker's classic store, from the image ID down: config -> diff IDs -> layerdb -> cache-id -> stack."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from boltseal.engines.docker_store import OVERLAY2, VFS, DockerContainer, DockerStore, is_container_id
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference, shown
from boltseal.host.scrub.implied_folders import MODE, ImpliedFolders
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, check
from boltseal.host.scrub.layer_folder import DOCKER_NAMES
from boltseal.host.scrub.overlay_stack import CheckAsLayer, check_stack
from boltseal.host.scrub.ownership import IdMap, Ownership, ownership_in
from boltseal.host.scrub.plans import (
    MAX_LAYERS,
    Allowance,
    ContainerPlan,
    ImagePlan,
    StorePlan,
    chain_ids,
    diff_ids,
    folders_in_use,
    plan_of_drivers,
)
from boltseal.host.scrub.unpacking_rules import DOCKER, DOCKER_BUILT
from boltseal.host.scrub.vfs_layer import DOCKER_COPIES, VfsLayer
from boltseal.oci.digest import Digest
from boltseal.oci.fresh_layers import originals_of

NAME: Final = "docker"
BASE: Final = b"overlay2"
_REMAPPED: Final = re.compile(r"([1-9][0-9]{0,9})\.([1-9][0-9]{0,9})")
_RANGE: Final = 65536
_BY_BUILDKIT: Final = re.compile(r"[0-9a-z]{25}")
"""The name of a folder that BuildKit created; those of unpacked layers have 64 hexadecimal digits."""


def plan(root: Path) -> StorePlan:
    """Return the plan of a data root; unreadable or malformed content is part of the plan, never raised."""

    def drivers() -> Sequence[str]:
        store = DockerStore(root)
        with store.files:
            return store.drivers()

    return plan_of_drivers(StorePlan(NAME, root), drivers, lambda driver: _plan_of(root, driver))


def _plan_of(root: Path, driver: str) -> StorePlan:
    """Return the plan of the images and containers of one storage driver."""
    if driver not in (OVERLAY2, VFS):
        why = f"images of Docker's storage driver {driver} can't be checked (expected overlay2 or vfs)"
        return StorePlan(NAME, root, unknown=(why,))
    store = DockerStore(root, driver)
    unknown: list[str] = []
    images: list[ImagePlan] = []
    containers: list[ContainerPlan] = []
    cached: list[ImagePlan] = []
    unreferenced: frozenset[bytes] = frozenset()
    orphaned: frozenset[bytes] = frozenset()
    try:
        allowance = Allowance()
        with store.files:
            images = _images(store, allowance, unknown)
            containers = _containers(store, allowance, unknown)
            cached = _cached(store, images, allowance)
            in_use = folders_in_use([*images, *cached], containers)
            folders = {store.folder_of(name): name for name in map(os.fsdecode, store.folders())}
            unreferenced = frozenset(folders) - in_use
            orphaned = frozenset(each for each in unreferenced if not _BY_BUILDKIT.fullmatch(folders[each]))
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(
        NAME,
        root,
        images=tuple(images),
        containers=tuple(containers),
        unknown=tuple(unknown),
        cached=tuple(cached),
        unreferenced=unreferenced,
        orphaned=orphaned,
    )


def _cached(store: DockerStore, images: list[ImagePlan], allowance: Allowance) -> list[ImagePlan]:
    """Return the layers in layerdb that belong to no image, each with those below it: BuildKit pulls base images so.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    of_images = {chain for image in images for chain in chain_ids([layer.diff_id for layer in image.layers])}
    parents: dict[Digest, Digest | None] = {}
    broken: dict[Digest, str] = {}
    for chain in store.layers():
        if chain not in of_images:
            try:
                parents[chain] = store.layer(chain).parent
            except (StoreMissing, StoreMalformed) as error:
                broken[chain] = error.message
    found = [_cached_layers(store, top, allowance) for top in parents.keys() - set(parents.values())]
    return found + [
        ImagePlan(NAME, store.root, chain, chain, unknown=(f"a layer in layerdb can't be read: {why}",))
        for chain, why in broken.items()
    ]


def _cached_layers(store: DockerStore, top: Digest, allowance: Allowance) -> ImagePlan:
    """Return the plan of a layer and those below it. Its chain ID, the only evidence there is, follows from their diff IDs."""
    found: list[Difference] = []
    unknown: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        diffs: list[Digest] = []
        at: Digest | None = top
        while at is not None and len(diffs) <= MAX_LAYERS:
            recorded = store.layer(at)
            diffs.append(recorded.diff)
            at = recorded.parent
        diffs.reverse()
        allowance.take_layers(len(diffs))
        if len(diffs) > MAX_LAYERS or chain_ids(diffs)[-1] != top:
            got = f"layers whose chain ID is {chain_ids(diffs)[-1]}"
            found.append(
                difference(DifferenceKind.METADATA, store.layer_at(top), f"a layer with the chain ID {top}", got)
            )
        else:
            layers = _layers(store, tuple(diffs), allowance, found, unknown)
    except (StoreMissing, StoreMalformed) as error:
        found.append(difference(DifferenceKind.METADATA, store.layer_at(top), "a layer in layerdb", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    return ImagePlan(NAME, store.root, top, top, (), layers, tuple(found), tuple(unknown))


def _images(store: DockerStore, allowance: Allowance, unknown: list[str]) -> list[ImagePlan]:
    ids = store.images()
    names: dict[Digest, list[str]] = {}
    try:
        for name, target in store.tags().items():
            names.setdefault(target, []).append(name)
    except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
        unknown.append(error.message)
    found = {image: _image(store, image, tuple(sorted(names.get(image, ()))), allowance) for image in ids}
    hidden = {
        parent for child in found.values() if (parent := _parent(store, child)) and _is_covered_by(parent, child, found)
    }
    shown = [image for id_, image in found.items() if id_ not in hidden]
    return shown + [_missing_image(store, image, named) for image, named in names.items() if image not in found]


def _missing_image(store: DockerStore, image: Digest, names: list[str]) -> ImagePlan:
    gone = difference(DifferenceKind.MISSING, b"", f"image {image}", "no such image in imagedb")
    return ImagePlan(NAME, store.root, image, image, tuple(sorted(names)), differences=(gone,))


def _parent(store: DockerStore, child: ImagePlan) -> Digest | None:
    try:
        return store.parent(child.id)
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        return None


def _is_covered_by(parent: Digest, child: ImagePlan, found: Mapping[Digest, ImagePlan]) -> bool:
    """Return whether an unnamed intermediate image has only layers of its child, so that checking the child covers it."""
    image = found.get(parent)
    if image is None or image.names or image.differences or image.unknown:
        return False
    return image.layers == child.layers[: len(image.layers)]


def _image(store: DockerStore, image: Digest, names: tuple[str, ...], allowance: Allowance) -> ImagePlan:
    found: list[Difference] = []
    unknown: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    originals: tuple[Digest, ...] = ()
    try:
        config = store.config(image)
        originals = originals_of(config)
        actual = Digest.of(config)
        if actual != image:
            found.append(difference(DifferenceKind.CONFIG, b"", f"a config whose digest is {image}", actual))
        diffs = diff_ids(config, f"the config of {image.short}", allowance)
        layers = _layers(store, diffs, allowance, found, unknown)
    except (StoreMissing, StoreMalformed) as error:
        found.append(difference(DifferenceKind.CONFIG, b"", "an image's config", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    return ImagePlan(NAME, store.root, image, image, names, layers, tuple(found), tuple(unknown), copy_of=originals)


def _layers(
    store: DockerStore, diffs: tuple[Digest, ...], allowance: Allowance, found: list[Difference], unknown: list[str]
) -> tuple[LayerFiles, ...]:
    layers: list[LayerFiles] = []
    folders: list[str] = []
    chain, owners = chain_ids(diffs), ownership(store.root)
    for index, (diff, chain_id) in enumerate(zip(diffs, chain, strict=True)):
        at, above = store.layer_at(chain_id), chain[index - 1] if index else None
        try:
            recorded = store.layer(chain_id)
        except (StoreMissing, StoreMalformed) as error:
            found.append(difference(DifferenceKind.METADATA, at, "a layer in layerdb", error.message, str(diff)))
            return tuple(layers)
        except StoreUnreadable as error:
            unknown.append(error.message)
            return tuple(layers)
        if recorded.diff != diff:
            found.append(difference(DifferenceKind.METADATA, at + b"/diff", diff, recorded.diff, str(diff)))
        if recorded.parent != above:
            found.append(
                difference(
                    DifferenceKind.METADATA, at + b"/parent", above or "none", recorded.parent or "none", str(diff)
                )
            )
        folders.append(recorded.cache_id)
        folder = store.folder_of(recorded.cache_id)
        rules = DOCKER_BUILT if _BY_BUILDKIT.fullmatch(recorded.cache_id) else DOCKER
        below = layers[-1].folder if layers else None
        vfs = VfsLayer(below, DOCKER_COPIES) if store.driver == VFS else None
        implied = ImpliedFolders() if vfs is None else ImpliedFolders(root_modes=frozenset({MODE}), root_from=below)
        layers.append(
            allowance.once(LayerFiles(
                store.root,
                diff,
                folder,
                at + b"/tar-split.json.gz",
                ownership=owners,
                hint=recorded.size,
                rules=rules,
                vfs=vfs,
                implied=implied,
            ))
        )  # fmt: skip
    named = [str(diff) for diff in diffs]
    if store.driver == VFS:
        return tuple(layers)
    found += check_stack(store.files, BASE, folders, named, unknown, DOCKER_NAMES, check_as_layer=_as_layer(layers))
    return tuple(layers)


def _as_layer(layers: Sequence[LayerFiles]) -> CheckAsLayer:
    """Return a function that checks a folder completely as one of these layers, with cached results."""

    @cache
    def check_as_layer(number: int, folder: str) -> Sequence[str] | None:
        if number >= len(layers):
            return None
        other = replace(layers[number], folder=BASE + b"/" + folder.encode() + b"/diff")
        result = check(other, CheckMode(), lambda _: None)
        return None if result.differences else result.unknown

    return check_as_layer


def ownership(root: Path) -> Ownership:
    """Return the ownership in a data root; with userns-remap it is named UID.GID after the ids that root is mapped to.

    Raises: OSError.
    """
    remapped = _REMAPPED.fullmatch(root.name)
    if remapped is None:
        return ownership_in(root)
    return Ownership(IdMap(((0, int(remapped[1]), _RANGE),)), IdMap(((0, int(remapped[2]), _RANGE),)))


def _containers(store: DockerStore, allowance: Allowance, unknown: list[str]) -> list[ContainerPlan]:
    plans: list[ContainerPlan] = []
    try:
        ids = store.containers()
    except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
        unknown.append(error.message)
        return []
    for id_ in ids:
        try:
            container = store.container(id_)
        except StoreMissing:
            continue  # Docker creates the folder before the config, and removes it after
        except (StoreMalformed, StoreUnreadable) as error:
            plans.append(ContainerPlan(NAME, store.root, id_, id_[:12], None, None, unknown=(error.message,)))
            continue
        if container.going:
            why = "Docker is removing it, or its removal failed"
            plans.append(ContainerPlan(NAME, store.root, id_, container.name, container.image, None, unknown=(why,)))
        elif container.mount_id is not None:
            plans.append(_container(store, container, allowance))
        elif container.driver == store.driver:
            why = "its layers are unknown: in layerdb, mounts/ID/mount-id is gone"
            plans.append(ContainerPlan(NAME, store.root, id_, container.name, container.image, None, unknown=(why,)))
    return plans


def _container(store: DockerStore, container: DockerContainer, allowance: Allowance) -> ContainerPlan:
    """Return the plan of a container, whose stack must be its own layer, the -init layer and its image's layers."""
    found: list[Difference] = []
    unknown: list[str] = []
    folders: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        if container.image is not None:
            config = store.config(container.image)
            diffs = diff_ids(config, f"the config of {container.image.short}", allowance)
            layers = _layers(store, diffs, allowance, [], [])  # the image's report has their differences
            chain = chain_ids(diffs)
            top = chain[-1] if chain else None
            if container.parent != top:
                found.append(
                    difference(
                        DifferenceKind.STACK, b"", f"on the layers of its image, {top}", f"on {container.parent}"
                    )
                )
            folders = [store.layer(each).cache_id for each in chain]
    except StoreMissing as error:
        unknown.append(f"the image of this container, or a layer of it, was removed: {error.message}")
    except StoreMalformed as error:
        found.append(difference(DifferenceKind.STACK, b"", "on the layers of its image", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    if not is_container_id(container.id):
        found.append(difference(DifferenceKind.EXTRA, b"", "an ID of 64 hexadecimal digits", shown(container.id)))
    own = [each for each in (container.init_id, container.mount_id) if each is not None]
    stack = [*folders, *own]
    is_copy = store.driver == VFS
    if (folders or container.image is None) and not is_copy:
        found += check_stack(
            store.files, BASE, stack, [""] * len(stack), unknown, DOCKER_NAMES, check_as_layer=_as_layer(layers)
        )
    at = [store.folder_of(folder) for folder in stack]
    return ContainerPlan(
        store=NAME,
        root=store.root,
        id=shown(container.id),
        name=container.name,
        image=container.image,
        upper=at[-1] if own else None,
        lowers=tuple(reversed(at[:-1])),
        init=at[-2] if len(own) == 2 and not is_copy else None,
        copy_of=store.folder_of(folders[-1]) if folders and is_copy else None,
        differences=tuple(found),
        unknown=tuple(unknown),
        pid=container.pid,
    )
