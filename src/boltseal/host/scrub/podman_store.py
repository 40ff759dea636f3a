"""Plans the check of Podman's containers/storage: image -> manifest -> config -> diff IDs -> layers.json -> stack."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Final

from boltseal.engines.json_documents import read_manifest
from boltseal.engines.podman_database import other_store
from boltseal.engines.podman_store import OVERLAY, VFS, IdRange, PodmanStore, StoredContainer, StoredImage, StoredLayer
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference, shown
from boltseal.host.scrub.implied_folders import ImpliedFolders
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.layer_folder import COPY, PODMAN_COPY, PODMAN_NAMES, composefs_reason, unexpected_names
from boltseal.host.scrub.overlay_stack import check_stack
from boltseal.host.scrub.ownership import IdMap, Ownership, is_confirmed, ownership_in
from boltseal.host.scrub.plans import (
    MAX_LAYERS,
    Allowance,
    ContainerPlan,
    ImagePlan,
    MappedCopy,
    StorePlan,
    diff_ids,
    plan_of_drivers,
)
from boltseal.host.scrub.unpacking_rules import PODMAN
from boltseal.host.scrub.vfs_layer import PODMAN_COPIES, VfsLayer
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.fresh_layers import originals_of
from boltseal.oci.manifest import ManifestInvalid

NAME: Final = "podman"
BASE: Final = b"overlay"
MAX_DAMAGED: Final = 100
ELSEWHERE: Final = "it is in another store (imagestore, additionalimagestores in storage.conf) or was removed"
_IMPLIED: Final = ImpliedFolders(by_umask=True, root_modes=frozenset({0o555, 0o755}))  # 0755 before 2021
_IMPLIED_BY_VFS: Final = replace(_IMPLIED, keeps_group=True)
FORCE_MASK: Final = "user.containers.override_stat"


def plan(root: Path) -> StorePlan:
    """Return the plan of a root; unreadable or malformed content is part of the plan, never raised."""

    def drivers() -> Sequence[str]:
        store = PodmanStore(root)
        with store.files:
            return store.drivers()

    return plan_of_drivers(StorePlan(NAME, root), drivers, lambda driver: _plan_of(root, driver))


def _plan_of(root: Path, driver: str) -> StorePlan:
    """Return the plan of the images and containers of one storage driver."""
    if driver not in (OVERLAY, VFS):
        why = f"images of the storage driver {driver} can't be checked (expected overlay or vfs)"
        return StorePlan(NAME, root, unknown=(why,))
    store = PodmanStore(root, driver)
    unknown: list[str] = []
    images: list[ImagePlan] = []
    containers: list[ContainerPlan] = []
    unreferenced: frozenset[bytes] = frozenset()
    try:
        with store.files:
            layers = store.layers()
            allowance = Allowance()
            listed = store.images()
            images = _each_listed_once([_image(store, image, layers, allowance) for image in listed])
            stored = store.containers()
            copies = {id_ for each in listed for id_ in each.mapped_layers or ()}
            full_copies = copies if store.driver == VFS else set()
            containers = [_container(store, container, layers, images, full_copies) for container in stored]
            tops = {*(each.layer for each in listed), *(each.layer for each in stored), *copies} - full_copies
            unreferenced = frozenset(store.folder_of(id_) for id_ in layers.keys() - _in_use(tops, layers))
            unknown += store.damaged[:MAX_DAMAGED]
            if reason := _in_another_store(store):
                images = [replace(image, unknown=(*image.unknown, reason)) for image in images]
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(
        NAME,
        root,
        images=tuple(images),
        containers=tuple(containers),
        unknown=tuple(unknown),
        unreferenced=unreferenced,
    )


def _in_another_store(store: PodmanStore) -> str:
    """Return why this store is not the one that Podman uses, "" if it is."""
    try:
        other = other_store(store.files)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        return f"the store that Podman uses is unknown: {error.message}"
    if not other:
        return ""
    at = shown(other)
    return f"Podman uses another store by its database in this one: {at}; check that with boltseal scrub --root {at}"


def _each_listed_once(images: list[ImagePlan]) -> list[ImagePlan]:
    """Return the images, with a difference in those that are listed twice: Podman finds the name in one, the layers in another."""
    count = Counter(image.id for image in images)
    return [
        image
        if count[image.id] == 1
        else replace(
            image,
            differences=(
                *image.differences,
                difference(DifferenceKind.METADATA, b"", "one entry in images.json", f"{count[image.id]} entries"),
            ),
        )
        for image in images
    ]


def _in_use(tops: Iterable[str], layers: Mapping[str, StoredLayer]) -> set[str]:
    """Return the IDs of these layers and of all layers below them."""
    found: set[str] = set()
    for top in tops:
        at = top
        while at in layers and at not in found:
            found.add(at)
            at = layers[at].parent
    return found


def _image(
    store: PodmanStore, image: StoredImage, layers: Mapping[str, StoredLayer], allowance: Allowance
) -> ImagePlan:
    found: list[Difference] = []
    unknown: list[str] = []
    files: tuple[LayerFiles, ...] = ()
    documents: dict[Digest, bytes] = {}
    originals: tuple[Digest, ...] = ()
    config = id_ = _id(image)
    try:
        config = _documents(store, image, documents, found, allowance) or id_
        raw = store.config(image, config)
        originals = originals_of(raw)
        if Digest.of(raw) != config:
            found.append(difference(DifferenceKind.CONFIG, b"", f"a config whose digest is {config}", Digest.of(raw)))
        diffs = diff_ids(raw, f"the config of {id_.short}", allowance)
        files = _layers(store, image.layer, diffs, layers, allowance, found, unknown)
    except (StoreMissing, StoreMalformed, ManifestInvalid) as error:
        found.append(difference(DifferenceKind.CONFIG, b"", "an image's config", error.message))
    except StoreUnreadable as error:
        unknown.append(error.message)
    names = tuple(sorted(image.names or ()))
    copies = _copies(store, image, layers, files, found, unknown) if not unknown and store.driver == OVERLAY else ()
    return ImagePlan(
        store=NAME,
        root=store.root,
        id=id_,
        config=config,
        names=names,
        layers=files,
        differences=tuple(found),
        unknown=tuple(unknown),
        documents=documents,
        copies=copies,
        copy_of=originals,
    )


def _id(image: StoredImage) -> Digest:
    try:
        return Digest("sha256", image.id)
    except DigestInvalid as error:
        raise StoreMalformed(f"images.json: {error.message}") from error


def _documents(
    store: PodmanStore,
    image: StoredImage,
    documents: dict[Digest, bytes],
    found: list[Difference],
    allowance: Allowance,
) -> Digest | None:
    """Collect manifests and indexes by their digests, and return the digest of the config in the manifest.

    An image that is pulled or committed again with other manifest bytes, such as layers that are compressed now, keeps
    the digest of its first manifest in images.json. Podman then replaces `manifest`, records its new digest under
    that key, and stores both manifests by their digests: that is no difference if both have the same config. An image that
    was pulled by the digest of an index keeps that digest, with the index and the manifest of its platform.
    """
    config = primary = None
    keys = set()
    for key, raw in store.documents(image):
        actual = Digest.of(raw)
        keys.add(key)
        if key == "manifest":
            primary = actual
            documents[actual] = allowance.keep(raw)
            config = _config(raw)
        elif key.startswith("manifest-"):
            if key != f"manifest-{actual}":
                found.append(difference(DifferenceKind.MANIFEST, b"", key.removeprefix("manifest-"), actual))
            documents[actual] = allowance.keep(raw)
    if primary is not None and image.digest and str(primary) != image.digest:
        first = next((raw for digest, raw in documents.items() if str(digest) == image.digest), None)
        recorded = (image.big_data_digests or {}).get("manifest") == str(primary) and f"manifest-{primary}" in keys
        if not recorded or first is None or not (_lists(first, primary) or (config and _config(first) == config)):
            found.append(
                difference(DifferenceKind.MANIFEST, b"", f"a manifest whose digest is {image.digest}", primary)
            )
    return config


def _lists(raw: bytes, manifest: Digest) -> bool:
    """Return whether an index refers to a manifest."""
    return any(each.digest == manifest for each in read_manifest(raw).manifests)


def _config(raw: bytes) -> Digest | None:
    """Return the digest of the config in a manifest, None for an index."""
    manifest = read_manifest(raw)
    return manifest.config.digest if manifest.config is not None else None


def _layers(
    store: PodmanStore,
    top: str,
    diffs: tuple[Digest, ...],
    layers: Mapping[str, StoredLayer],
    allowance: Allowance,
    found: list[Difference],
    unknown: list[str],
) -> tuple[LayerFiles, ...]:
    chain = _chain(top, layers, found, unknown)
    if unknown:
        return ()
    if len(chain) != len(diffs):
        found.append(
            difference(
                DifferenceKind.STACK, b"", f"{len(diffs)} layers, as the config says", f"{len(chain)} in layers.json"
            )
        )
        return ()
    if store.driver == OVERLAY and store.has_mount_program():
        unknown.append(
            "its layers are mounted by fuse-overlayfs, whose marks can't be checked (expected the kernel's overlayfs)"
        )
        return ()
    files = []
    store_ids = ownership_in(store.root)
    for layer, diff in zip(chain, diffs, strict=True):
        if layer.diff_digest and layer.diff_digest != str(diff):
            found.append(
                difference(
                    DifferenceKind.METADATA, f"overlay-layers {layer.id}".encode(), diff, layer.diff_digest, str(diff)
                )
            )
        folder = store.folder_of(layer.id)
        if reason := _not_understood(store, layer, diff, store_ids):
            unknown.append(reason)
            continue
        owners = store_ids
        if layer.uidmap or layer.gidmap:
            owners = Ownership(_map(layer.uidmap), _map(layer.gidmap), unproven=_unproven_owners(f"layer {diff.short}"))
        hint = max(layer.diff_size, 0)
        below = store.folder_of(layer.parent) if layer.parent else None
        vfs = VfsLayer(below, PODMAN_COPIES) if store.driver == VFS else None
        files.append(
            allowance.once(LayerFiles(
                store.root,
                diff,
                folder,
                store.split_at(layer.id),
                ownership=owners,
                hint=hint,
                implied=replace(_IMPLIED if vfs is None else _IMPLIED_BY_VFS, root_from=below),
                rules=PODMAN,
                vfs=vfs,
            ))
        )  # fmt: skip
    if store.driver == VFS:
        return tuple(files)
    named = [str(diff) for diff in diffs]
    found += check_stack(store.files, BASE, [layer.id for layer in chain], named, unknown, PODMAN_NAMES)
    return tuple(files)


def _not_understood(store: PodmanStore, layer: StoredLayer, diff: Digest, owners: Ownership) -> str:
    """Return why the files of a layer can't be compared, "" if they can. `owners`: those of the store."""
    if (layer.uidmap or layer.gidmap) and owners.users.ranges:
        return f"layer {diff.short} has owners that were mapped twice, by Podman and by its user's namespace"
    if store.driver == OVERLAY and (reason := composefs_reason(store.files, BASE + b"/" + layer.id.encode())):
        return reason
    if layer.toc_digest and not store.files.exists(store.split_at(layer.id)):
        return f"the digest of layer {diff.short} can't be computed: it was pulled in pieces (zstd:chunked), without a tar-split"
    if _masked(store, store.folder_of(layer.id)):
        return f"layer {diff.short} was unpacked with force_mask: its modes and owners are only in attributes"
    return ""


def _copies(
    store: PodmanStore,
    image: StoredImage,
    layers: Mapping[str, StoredLayer],
    files: tuple[LayerFiles, ...],
    found: list[Difference],
    unknown: list[str],
) -> tuple[MappedCopy, ...]:
    """Return the copies that Podman makes of an image's top layer if it can't map the owners of a mount.

    Such a layer has an empty `diff` and all files of the image in `diff1`. A layer of another form that has an ID map is a
    difference: Podman bases a container with that map on it. Without a map it is used for no container.
    """
    copies = []
    store_ids = ownership_in(store.root)
    for id_ in image.mapped_layers or ():
        layer = layers.get(id_)
        folder = BASE + b"/" + id_.encode()
        try:
            if layer is None:
                continue
            if not store.files.exists(folder + b"/" + COPY):
                if layer.uidmap or layer.gidmap:
                    found.append(difference(DifferenceKind.STACK, folder, "a copy of the image, in diff1", "none"))
                continue
            found += unexpected_names(store.files, folder, "", PODMAN_COPY)
            if store.files.names(folder + b"/diff"):
                found.append(
                    difference(DifferenceKind.STACK, folder, "one copy of the image, in diff1", "more beside it")
                )
        except (StoreMissing, StoreMalformed) as error:
            found.append(difference(DifferenceKind.STACK, folder, "a copy of the image", error.message))
            continue
        except StoreUnreadable as error:
            unknown.append(error.message)
            continue
        below = tuple(each.folder for each in reversed(files) if each.folder is not None)
        users, groups = _map(layer.uidmap), _map(layer.gidmap)
        confirmed = store_ids.whole and is_confirmed(store.root, users, groups)
        unproven = "" if confirmed else _unproven_owners(f"the copy {shown(id_)[:12]} of this image")
        copies.append(MappedCopy(folder + b"/" + COPY, below, users, groups, store_ids, unproven))
    return tuple(copies)


def _chain(
    top: str, layers: Mapping[str, StoredLayer], found: list[Difference], unknown: list[str]
) -> list[StoredLayer]:
    """Return the layers from the lowest to `top`, by layers.json; a cycle is a difference."""
    chain: list[StoredLayer] = []
    at = top
    while at and len(chain) <= MAX_LAYERS:
        layer = layers.get(at)
        if layer is None:
            unknown.append(f"layer {shown(at)[:12]} is not in layers.json: {ELSEWHERE}")
            break
        chain.append(layer)
        at = layer.parent
    if len(chain) > MAX_LAYERS:
        found.append(difference(DifferenceKind.METADATA, b"", f"at most {MAX_LAYERS} layers", "a cycle or more layers"))
        return []
    return chain[::-1]


def _unproven_owners(what: str) -> str:
    """Return the reason why an ID map in layers.json proves nothing."""
    return f"{what}: its owners are compared by layers.json (uidmap, gidmap), which nothing outside the store confirms"


def _map(ranges: list[IdRange] | None) -> IdMap:
    return IdMap(tuple((each.container_id, each.host_id, each.size) for each in ranges or ()))


def _masked(store: PodmanStore, folder: bytes) -> bool:
    try:
        return FORCE_MASK in os.listxattr(store.files.folder(folder))
    except (OSError, StoreMissing, StoreMalformed):
        return False


def _container(
    store: PodmanStore,
    container: StoredContainer,
    layers: Mapping[str, StoredLayer],
    images: list[ImagePlan],
    full_copies: Set[str],
) -> ContainerPlan:
    """Return the plan of a container. `full_copies`: layers that are copies of images with other owners, for vfs."""
    found: list[Difference] = []
    unknown: list[str] = []
    image = next((each for each in images if each.id.hex == container.image), None)
    chain = [layer.id for layer in _chain(container.layer, layers, found, unknown)]
    complete = not unknown
    if image is None and container.image:
        unknown.append(f"image {shown(container.image)[:12]} is not in this store: {ELSEWHERE}")
        complete = False
    copy = _copy_below(chain, image)
    if copy is not None and image is not None:  # the copy is on the image's top layer, whatever its recorded parent is
        chain = [*(_id_in(layer.folder) for layer in image.layers if layer.folder is not None), *chain[-2:]]
    if not full_copies.isdisjoint(chain):
        unknown.append(
            "it is based on a copy of its image with other owners, which can't be checked with the driver vfs"
        )
    elif image is not None and image.unknown:
        unknown.append("its stack can't be checked, as not all layers of its image could be")
    elif image is not None:
        expected = [layer.folder for layer in image.layers] + ([store.folder_of(chain[-2])] if copy is not None else [])
        got = [store.folder_of(id_) for id_ in chain[: len(expected)]]
        if got != expected or len(chain) != len(expected) + 1:
            found.append(difference(DifferenceKind.STACK, b"", "on the layers of its image", f"{len(chain)} layers"))
    is_copy = store.driver == VFS
    if complete and not is_copy:
        copied = {} if copy is None else {chain[-2]: PODMAN_COPY}
        found += check_stack(store.files, BASE, chain, [""] * len(chain), unknown, PODMAN_NAMES, other_names=copied)
    at = [store.folder_of(id_) for id_ in chain]
    if copy is not None:
        at.insert(-2, copy.folder)
    return ContainerPlan(
        store=NAME,
        root=store.root,
        id=container.id,
        name=(container.names or [container.id[:12]])[0],
        image=image.id if image is not None else None,
        upper=at[-1] if at else None,
        lowers=tuple(reversed(at[:-1])),
        copy_of=at[-2] if is_copy and len(at) > 1 else None,
        differences=tuple(found),
        unknown=tuple(unknown),
    )


def _copy_below(chain: list[str], image: ImagePlan | None) -> MappedCopy | None:
    """Return the copy of its image that a container is based on, if there is one."""
    if image is None or len(chain) < 2:
        return None
    return next((copy for copy in image.copies if copy.folder == BASE + b"/" + chain[-2].encode() + b"/" + COPY), None)


def _id_in(folder: bytes) -> str:
    return folder.split(b"/")[1].decode()
