"""Docker's own store, checked from an image's ID down: config -> diff IDs -> layerdb -> cache-id -> stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.runtimes.beneath import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.runtimes.docker import OVERLAY2, DockerContainer, DockerStore, layer_at
from boltseal.scrub.differences import Difference, Kind, difference
from boltseal.scrub.images import ContainerPlan, ImagePlan, StorePlan, chain_ids, diff_ids
from boltseal.scrub.layers import LayerFiles, Manner, check
from boltseal.scrub.overlaystack import Proven, check_stack
from boltseal.scrub.ownership import IdMap, Ownership, ownership_in

NAME: Final = "docker"
BASE: Final = b"overlay2"
_REMAPPED: Final = re.compile(r"([1-9][0-9]{0,9})\.([1-9][0-9]{0,9})")
_RANGE: Final = 65536


def plan(root: Path) -> StorePlan:
    """What this data root holds. Never raises for what lies there."""
    unknown: list[str] = []
    images: list[ImagePlan] = []
    containers: list[ContainerPlan] = []
    try:
        store = DockerStore(root)
        unknown += [
            f"images of Docker's storage driver {driver}, which is not understood; overlay2 is"
            for driver in store.drivers()
            if driver != OVERLAY2
        ]
        if OVERLAY2 in store.drivers():
            images = _images(store, unknown)
            containers = _containers(store, unknown)
        store.files.close()
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(NAME, root, tuple(images), tuple(containers), tuple(unknown))


def _images(store: DockerStore, unknown: list[str]) -> list[ImagePlan]:
    ids = store.images()
    tags: dict[str, Digest] = {}
    lost: list[ImagePlan] = []
    try:
        tags = store.tags()
    except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
        unknown.append(error.message)
    for name in sorted(tags):
        if tags[name] not in ids:
            gone = difference(Kind.MISSING, b"", f"image {tags[name]}", "no such image in imagedb")
            lost.append(ImagePlan(NAME, store.root, tags[name], tags[name], (name,), differences=(gone,)))
    try:
        hidden = store.parents() - set(tags.values())
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        hidden = set()
    names = {image: tuple(sorted(name for name, meant in tags.items() if meant == image)) for image in ids}
    return [_image(store, image, names[image]) for image in ids if image not in hidden] + lost


def _image(store: DockerStore, image: Digest, names: tuple[str, ...]) -> ImagePlan:
    found: list[Difference] = []
    unknown: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        config = store.config(image)
        actual = Digest.of(config)
        if actual != image:
            found.append(difference(Kind.CONFIG, b"", f"a config whose digest is {image}", actual))
        layers = _layers(store, diff_ids(config, f"the config of {image.short}"), found, unknown)
    except (StoreMissing, StoreMalformed) as error:
        found.append(difference(Kind.CONFIG, b"", "an image's config", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    return ImagePlan(NAME, store.root, image, image, names, layers, tuple(found), tuple(unknown))


def _layers(
    store: DockerStore, diffs: tuple[Digest, ...], found: list[Difference], unknown: list[str]
) -> tuple[LayerFiles, ...]:
    layers: list[LayerFiles] = []
    folders: list[str] = []
    chain = chain_ids(diffs)
    for index, (diff, chain_id) in enumerate(zip(diffs, chain, strict=True)):
        at, above = layer_at(chain_id), chain[index - 1] if index else None
        try:
            said = store.layer(chain_id)
        except (StoreMissing, StoreMalformed) as error:
            found.append(difference(Kind.METADATA, at, "what layerdb keeps of a layer", error.message, str(diff)))
            return tuple(layers)
        except StoreUnreadable as error:
            unknown.append(error.message)
            return tuple(layers)
        if said.diff != diff:
            found.append(difference(Kind.METADATA, at + b"/diff", diff, said.diff, str(diff)))
        if said.parent != above:
            found.append(difference(Kind.METADATA, at + b"/parent", above or "none", said.parent or "none", str(diff)))
        folders.append(said.cache_id)
        folder = BASE + b"/" + said.cache_id.encode() + b"/diff"
        layers.append(
            LayerFiles(
                store.root, diff, folder, at + b"/tar-split.json.gz", ownership=ownership(store.root), hint=said.size
            )
        )  # fmt: skip
    found += check_stack(store.files, BASE, folders, [str(diff) for diff in diffs], unknown, _proven(layers))
    return tuple(layers)


def _proven(layers: Sequence[LayerFiles]) -> Proven:
    """Reads another folder as one of these layers, all of it, once."""

    @cache
    def proven(number: int, folder: str) -> bool:
        if number >= len(layers):
            return False
        other = replace(layers[number], folder=BASE + b"/" + folder.encode() + b"/diff")
        result = check(other, Manner(), lambda _: None)
        return not result.differences and not result.unknown

    return proven


def ownership(root: Path) -> Ownership:
    """With userns-remap the data root is called UID.GID, after what root became outside. OSError."""
    remapped = _REMAPPED.fullmatch(root.name)
    if remapped is None:
        return ownership_in(root)
    return Ownership(IdMap(((0, int(remapped[1]), _RANGE),)), IdMap(((0, int(remapped[2]), _RANGE),)))


def _containers(store: DockerStore, unknown: list[str]) -> list[ContainerPlan]:
    try:
        found = store.containers()
    except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
        unknown.append(error.message)
        return []
    return [_container(store, container) for container in found if container.mount_id is not None]


def _container(store: DockerStore, container: DockerContainer) -> ContainerPlan:
    """The stack of a container: its own layer, the -init layer, and below them the layers of its image and nothing else."""
    found: list[Difference] = []
    unknown: list[str] = []
    folders: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        if container.image is not None:
            config = store.config(container.image)
            diffs = diff_ids(config, f"the config of {container.image.short}")
            layers = _layers(store, diffs, [], [])  # what is wrong with them is said of the image
            chain = chain_ids(diffs)
            top = chain[-1] if chain else None
            if container.parent != top:
                found.append(
                    difference(Kind.STACK, b"", f"on the layers of its image, {top}", f"on {container.parent}")
                )
            folders = [store.layer(each).cache_id for each in chain]
    except StoreMissing as error:
        unknown.append(f"the image of this container, or a layer of it, was removed: {error.message}")
    except StoreMalformed as error:
        found.append(difference(Kind.STACK, b"", "on the layers of its image", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    own = [each for each in (container.init_id, container.mount_id) if each is not None]
    stack = [*folders, *own]
    if folders or container.image is None:
        found += check_stack(store.files, BASE, stack, [""] * len(stack), unknown, _proven(layers))
    at = [BASE + b"/" + folder.encode() + b"/diff" for folder in stack]
    return ContainerPlan(
        NAME,
        store.root,
        container.id,
        container.name,
        container.image,
        at[-1] if own else None,
        tuple(reversed(at[:-1])),
        at[-2] if len(own) == 2 else None,
        tuple(found),
        tuple(unknown),
    )
