"""Docker's own store, checked from an image's ID down: config -> diff IDs -> layerdb -> cache-id -> stack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from boltseal.engines.docker_store import OVERLAY2, DockerContainer, DockerStore, layer_at
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.layer_check import CheckMode, LayerFiles, check
from boltseal.host.scrub.layer_folder import DOCKER_NAMES
from boltseal.host.scrub.overlay_stack import IsSameLayer, check_stack
from boltseal.host.scrub.ownership import IdMap, Ownership, ownership_in
from boltseal.host.scrub.plans import Allowance, ContainerPlan, ImagePlan, StorePlan, chain_ids, diff_ids
from boltseal.oci.digest import Digest

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
            allowance = Allowance()
            images = _images(store, allowance, unknown)
            containers = _containers(store, allowance, unknown)
        store.files.close()
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(NAME, root, tuple(images), tuple(containers), tuple(unknown))


def _images(store: DockerStore, allowance: Allowance, unknown: list[str]) -> list[ImagePlan]:
    ids = store.images()
    names: dict[Digest, list[str]] = {}
    try:
        for name, meant in store.tags().items():
            names.setdefault(meant, []).append(name)
    except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
        unknown.append(error.message)
    found = {image: _image(store, image, tuple(sorted(names.get(image, ()))), allowance) for image in ids}
    hidden = {
        parent for child in found.values() if (parent := _hidden_by(store, child)) and _is_below(parent, child, found)
    }
    shown = [image for id_, image in found.items() if id_ not in hidden]
    return shown + [_lost(store, image, named) for image, named in names.items() if image not in found]


def _lost(store: DockerStore, image: Digest, names: list[str]) -> ImagePlan:
    gone = difference(DifferenceKind.MISSING, b"", f"image {image}", "no such image in imagedb")
    return ImagePlan(NAME, store.root, image, image, tuple(sorted(names)), differences=(gone,))


def _hidden_by(store: DockerStore, child: ImagePlan) -> Digest | None:
    try:
        return store.parent(child.id)
    except (StoreMissing, StoreMalformed, StoreUnreadable):
        return None


def _is_below(parent: Digest, child: ImagePlan, found: Mapping[Digest, ImagePlan]) -> bool:
    """Whether an image without a name, which is said to be a step to another one, is proven with it: layers and all."""
    image = found.get(parent)
    if image is None or image.names or image.differences or image.unknown:
        return False
    return image.layers == child.layers[: len(image.layers)]


def _image(store: DockerStore, image: Digest, names: tuple[str, ...], allowance: Allowance) -> ImagePlan:
    found: list[Difference] = []
    unknown: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        config = store.config(image)
        actual = Digest.of(config)
        if actual != image:
            found.append(difference(DifferenceKind.CONFIG, b"", f"a config whose digest is {image}", actual))
        diffs = diff_ids(config, f"the config of {image.short}", allowance)
        layers = _layers(store, diffs, allowance, found, unknown)
    except (StoreMissing, StoreMalformed) as error:
        found.append(difference(DifferenceKind.CONFIG, b"", "an image's config", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    return ImagePlan(NAME, store.root, image, image, names, layers, tuple(found), tuple(unknown))


def _layers(
    store: DockerStore, diffs: tuple[Digest, ...], allowance: Allowance, found: list[Difference], unknown: list[str]
) -> tuple[LayerFiles, ...]:
    layers: list[LayerFiles] = []
    folders: list[str] = []
    chain, owners = chain_ids(diffs), ownership(store.root)
    for index, (diff, chain_id) in enumerate(zip(diffs, chain, strict=True)):
        at, above = layer_at(chain_id), chain[index - 1] if index else None
        try:
            said = store.layer(chain_id)
        except (StoreMissing, StoreMalformed) as error:
            found.append(
                difference(DifferenceKind.METADATA, at, "what layerdb keeps of a layer", error.message, str(diff))
            )
            return tuple(layers)
        except StoreUnreadable as error:
            unknown.append(error.message)
            return tuple(layers)
        if said.diff != diff:
            found.append(difference(DifferenceKind.METADATA, at + b"/diff", diff, said.diff, str(diff)))
        if said.parent != above:
            found.append(
                difference(DifferenceKind.METADATA, at + b"/parent", above or "none", said.parent or "none", str(diff))
            )
        folders.append(said.cache_id)
        folder = BASE + b"/" + said.cache_id.encode() + b"/diff"
        layers.append(
            allowance.once(LayerFiles(
                store.root, diff, folder, at + b"/tar-split.json.gz", ownership=owners, hint=said.size
            ))
        )  # fmt: skip
    named = [str(diff) for diff in diffs]
    found += check_stack(store.files, BASE, folders, named, unknown, DOCKER_NAMES, proven=_proven(layers))
    return tuple(layers)


def _proven(layers: Sequence[LayerFiles]) -> IsSameLayer:
    """Reads another folder as one of these layers, all of it, once."""

    @cache
    def proven(number: int, folder: str) -> bool:
        if number >= len(layers):
            return False
        other = replace(layers[number], folder=BASE + b"/" + folder.encode() + b"/diff")
        result = check(other, CheckMode(), lambda _: None)
        return not result.differences and not result.unknown

    return proven


def ownership(root: Path) -> Ownership:
    """With userns-remap the data root is called UID.GID, after what root became outside. OSError."""
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
            continue  # its folder is there before its config, and after it
        except (StoreMalformed, StoreUnreadable) as error:
            plans.append(ContainerPlan(NAME, store.root, id_, id_[:12], None, None, unknown=(error.message,)))
            continue
        if container.going:
            why = "Docker is removing it, or has failed to"
            plans.append(ContainerPlan(NAME, store.root, id_, container.name, container.image, None, unknown=(why,)))
        elif container.mount_id is not None:
            plans.append(_container(store, container, allowance))
        elif container.driver == OVERLAY2:
            why = "layerdb does not say on which layers it lies (mounts/ID/mount-id is gone)"
            plans.append(ContainerPlan(NAME, store.root, id_, container.name, container.image, None, unknown=(why,)))
    return plans


def _container(store: DockerStore, container: DockerContainer, allowance: Allowance) -> ContainerPlan:
    """The stack of a container: its own layer, the -init layer, and below them the layers of its image and nothing else."""
    found: list[Difference] = []
    unknown: list[str] = []
    folders: list[str] = []
    layers: tuple[LayerFiles, ...] = ()
    try:
        if container.image is not None:
            config = store.config(container.image)
            diffs = diff_ids(config, f"the config of {container.image.short}", allowance)
            layers = _layers(store, diffs, allowance, [], [])  # what is wrong with them is said of the image
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
    own = [each for each in (container.init_id, container.mount_id) if each is not None]
    stack = [*folders, *own]
    if folders or container.image is None:
        found += check_stack(store.files, BASE, stack, [""] * len(stack), unknown, DOCKER_NAMES, proven=_proven(layers))
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
        container.pid,
    )
