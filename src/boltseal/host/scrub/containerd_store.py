"""Plans the check of containerd's store, from an image's target: target -> manifest -> config -> diff IDs -> snapshots.

Layers are stored twice, as blobs and unpacked. Both are compared with the digests: the blob with the manifest's, its
decompressed tar with the config's, and each file of the snapshot with the tar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from boltseal.engines.containerd_store import (
    SNAPSHOTS,
    ContainerdImage,
    ContainerdMetadata,
    ContainerdStore,
    LayerSnapshot,
    NamedContainer,
    blob_at,
)
from boltseal.engines.docker_store import DockerContainer, DockerStore
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.host.scrub.differences import Difference, DifferenceKind, difference
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.layer_folder import CONTAINERD_NAMES, unexpected_names
from boltseal.host.scrub.manifests import image_plans
from boltseal.host.scrub.ownership import IdMap, is_confirmed, ownership_in
from boltseal.host.scrub.plans import (
    MAX_LAYERS,
    Allowance,
    ContainerPlan,
    ImagePlan,
    Init,
    MappedCopy,
    StorePlan,
    chain_ids,
    folders_in_use,
)
from boltseal.oci.digest import Digest

NAME: Final = "containerd"
DOCKER: Final = "moby"
"""Docker's namespace."""
DOCKERS_STORE: Final = ("containerd", "daemon")
"""The path of a containerd's root that Docker started, in Docker's data root."""
OVERLAYFS: Final = "overlayfs"
MAX_DAMAGED: Final = 100
MAX_CHAINS: Final = 1_000_000
"""The limit of chain IDs that are computed to find the diff IDs of layers without an image."""
_CHAIN: Final = re.compile(r"sha256:[0-9a-f]{64}")
_EXTRACT: Final = "extract-"
_MAPPED: Final = re.compile(r"-([0-9]{1,10})-([0-9]{1,10})")
_DOCKER_ID: Final = re.compile(r"[0-9a-f]{64}")
_ALL_IDS: Final = 1 << 32
_UNPROVEN: Final = "the copy of this image for {}: its owners are compared by the key of its snapshot, which nothing outside the store confirms"


def plan(root: Path) -> StorePlan:
    """Return the plan of a root; unreadable or malformed content is part of the plan, never raised."""
    unknown: list[str] = []
    images: list[ImagePlan] = []
    containers: list[ContainerPlan] = []
    cached: list[ImagePlan] = []
    unreferenced: frozenset[bytes] = frozenset()
    orphaned: frozenset[bytes] = frozenset()
    try:
        store = ContainerdStore(root)
        with store.files:
            metadata = store.metadata()
            unknown += metadata.damaged[:MAX_DAMAGED]
            opened = _OpenedStore(store, metadata, store.snapshots())
            images = opened.images()
            containers = opened.containers(images)
            cached = opened.cached(images, containers)
            orphaned = opened.orphaned()
            unreferenced = opened.unreferenced([*images, *cached], containers) | orphaned
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
    return StorePlan(
        NAME, root, tuple(images), tuple(containers), tuple(unknown), tuple(cached), unreferenced, orphaned
    )


class _OpenedStore:
    """A store with its metadata and snapshots; plans its images and containers."""

    def __init__(
        self, store: ContainerdStore, metadata: ContainerdMetadata, snapshots: Mapping[str, LayerSnapshot]
    ) -> None:
        self.root = store.root
        self.allowance = Allowance()
        self._store = store
        self._metadata = metadata
        self._snapshots = snapshots
        self._ownership = ownership_in(store.root)
        self._chains_left = MAX_CHAINS
        self._children: dict[tuple[str, str], list[str]] = {}
        """The keys of each snapshot's children in the metadata."""
        self._extracted: set[tuple[str, str]] = set()
        """The layers that are being unpacked, by namespace and chain ID."""
        for (namespace, key), (_, parent) in metadata.snapshots.items():
            self._children.setdefault((namespace, parent), []).append(key)
            if key.startswith(_EXTRACT):
                self._extracted.add((namespace, key.rpartition(" ")[2]))

    def has(self, blob: Digest) -> bool:
        return self._store.has(blob)

    def document(self, blob: Digest) -> bytes:
        return self._store.document(blob)

    def files(self, blob: Digest, diff_id: Digest, folder: bytes | None, *, artifact: bool) -> LayerFiles:
        return LayerFiles(
            root=self.root,
            diff_id=diff_id,
            folder=folder,
            blob=blob_at(blob),
            blob_digest=blob,
            artifact=artifact,
            ownership=self._ownership,
        )

    def images(self) -> list[ImagePlan]:
        """Return all images; names of one namespace with the same target are one image."""
        named: dict[tuple[str, Digest], list[ContainerdImage]] = {}
        for image in self._metadata.images:
            named.setdefault((image.namespace, image.target), []).append(image)
        found: list[ImagePlan] = []
        for (namespace, target), same in named.items():
            names = tuple(sorted({each.name for each in same}))
            folders = partial(self._folders, namespace)
            plans = image_plans(self, NAME, target, same[0].media_type, names, folders)
            wrong = _names_of_others(names, target, {each.config for each in plans})
            found += [
                replace(
                    each,
                    copies=self._copies(namespace, each),
                    notes=_unpacked_note(each),
                    differences=(*each.differences, *wrong),
                )
                for each in plans
            ]
        return found

    def _copies(self, namespace: str, image: ImagePlan) -> tuple[MappedCopy, ...]:
        """Return containerd's copies of an image with other owners: snapshots with the key TOP-UID-GID."""
        layers = [layer for layer in image.layers if layer.folder is not None]
        if not layers or image.unknown or image.differences:
            return ()
        below = tuple(layer.folder for layer in reversed(layers) if layer.folder is not None)
        top = str(chain_ids([layer.diff_id for layer in layers])[-1])
        name, _ = self._metadata.snapshots.get((namespace, top), ("", ""))
        copies = []
        for key in self._children.get((namespace, top), ()):
            ids = _MAPPED.fullmatch(key.removeprefix(top))
            snapshot = self._snapshots.get(self._metadata.snapshots[namespace, key][0])
            if ids is not None and snapshot is not None and snapshot.parent == name:
                users, groups = (IdMap(((0, int(first), _ALL_IDS),)) for first in ids.groups())
                unproven = "" if self._are_of_a_user(*ids.groups()) else _UNPROVEN.format(":".join(ids.groups()))
                copies.append(
                    MappedCopy(folder_of(snapshot), below, users, groups, unproven=unproven, loses_privileges=True)
                )
        return tuple(copies)

    def _are_of_a_user(self, first_user: str, first_group: str) -> bool:
        """Return whether these IDs, which root has in the copy, are the first of the ranges of a user of the store's disk."""
        return is_confirmed(self.root, *(IdMap(((0, int(first), 1),)) for first in (first_user, first_group)))

    def _folders(
        self, namespace: str, chain: list[Digest], found: list[Difference], inits: list[Init], unknown: list[str]
    ) -> list[bytes | None]:
        """Return the folder of each layer; metadata and snapshotter must agree on the parent of each."""
        others = {self._metadata.elsewhere.get((namespace, str(each)), "") for each in chain} - {""}
        unknown += [
            f"it was unpacked by the snapshotter {each}, which can't be checked (expected overlayfs)"
            for each in sorted(others)
        ]
        unpacked = [(namespace, str(each)) in self._metadata.snapshots for each in chain]
        count = len(chain) if True in unpacked[unpacked.count(True) :] else unpacked.count(True)
        if count < len(chain) and self._is_being_unpacked(namespace, chain):
            unknown.append("it is being unpacked, or unpacking it was interrupted; check it again")
        folders: list[bytes | None] = []
        below = below_key = ""
        for each in chain[
            :count
        ]:  # from the lowest one up; those above are not unpacked, unless one is missing between
            key = str(each)
            name, parent = self._metadata.snapshots.get((namespace, key), ("", ""))
            snapshot = self._snapshots.get(name)
            if snapshot is None:
                found.append(difference(DifferenceKind.STACK, b"", f"snapshot {key}", "none of this name"))
                folders.append(None)
            else:
                init = self._init(namespace, parent, snapshot.parent, below)
                if init is not None:
                    inits.append(Init(init, len(folders)))
                elif (parent, snapshot.parent) != (below_key, below):
                    got = f"on {snapshot.parent or parent or 'nothing'}"
                    found.append(difference(DifferenceKind.STACK, b"", f"snapshot {key} on {below or 'nothing'}", got))
                folder = folder_of(snapshot)
                found += self._unexpected_names(folder, unknown)
                if folder in folders:
                    found.append(
                        difference(DifferenceKind.STACK, folder, "a folder of its own", "the folder of another layer")
                    )
                folders.append(folder)
            below, below_key = name, key
        return folders + [None] * (len(chain) - count)

    def _is_being_unpacked(self, namespace: str, chain: list[Digest]) -> bool:
        """Return whether one of the layers is being unpacked: then it has a snapshot with the key `extract-ID CHAIN`."""
        return not self._extracted.isdisjoint((namespace, str(each)) for each in chain)

    def _unexpected_names(self, folder: bytes, unknown: list[str]) -> list[Difference]:
        """Return the names in the folder of a snapshot that containerd did not create."""
        try:
            return unexpected_names(self._store.files, folder.rpartition(b"/")[0], "", CONTAINERD_NAMES)
        except (StoreMissing, StoreMalformed):
            return []  # the check of its files reports it
        except StoreUnreadable as error:
            unknown.append(error.message)
            return []

    def _init(self, namespace: str, key: str, name: str, below: str) -> bytes | None:
        """Return the -init layer under a layer that was committed from one of Docker's containers, else None."""
        between = self._snapshots.get(name)
        if namespace != DOCKER or between is None or between.parent != below or name == below:
            return None
        return folder_of(between) if self._metadata.snapshots.get((namespace, key), ("", ""))[0] == name else None

    def cached(self, images: list[ImagePlan], containers: list[ContainerPlan]) -> list[ImagePlan]:
        """Return the layers that belong to no image or container, each with those below it: BuildKit pulls base images so.

        Their snapshots have their chain IDs as keys, which follow from the diff IDs that containerd records for blobs.
        """
        in_use = folders_in_use(images, containers)
        loose = {
            (namespace, key)
            for (namespace, key), (name, _) in self._metadata.snapshots.items()
            if _CHAIN.fullmatch(key) and name in self._snapshots and folder_of(self._snapshots[name]) not in in_use
        }
        below = {(namespace, self._metadata.snapshots[namespace, key][1]) for namespace, key in loose}
        return [plan for each in sorted(loose - below) if (plan := self._cached_layers(*each)) is not None]

    def _cached_layers(self, namespace: str, top: str) -> ImagePlan | None:
        """Return the plan of a layer and those below it, None if a diff ID is not known."""
        diffs: list[Digest] = []
        at = top
        while at:
            if len(diffs) == MAX_LAYERS:  # a cycle
                return None
            _, parent = self._metadata.snapshots.get((namespace, at), ("", ""))
            diff = self._diff_id(namespace, parent, at)
            if diff is None or not self.has(self._metadata.layer_blobs[namespace, diff]):
                return None
            diffs.append(diff)
            at = parent
        diffs.reverse()
        self.allowance.take_layers(len(diffs))
        found: list[Difference] = []
        unknown: list[str] = []
        folders = self._folders(namespace, chain_ids(diffs), found, [], unknown)
        layers = tuple(
            self.allowance.once(self.files(self._metadata.layer_blobs[namespace, diff], diff, folder, artifact=False))
            for diff, folder in zip(diffs, folders, strict=True)
        )
        chain = chain_ids(diffs)[-1]
        return ImagePlan(NAME, self.root, chain, chain, (), layers, tuple(found), tuple(unknown))

    def _diff_id(self, namespace: str, parent: str, chain: str) -> Digest | None:
        """Return the diff ID of a layer with this chain ID on this parent, if a blob in the store has it."""
        for of_namespace, diff in self._metadata.layer_blobs:
            self._chains_left -= 1
            if self._chains_left < 0:
                return None
            if (
                of_namespace == namespace
                and (str(Digest.of(f"{parent} {diff}".encode())) if parent else str(diff)) == chain
            ):
                return diff
        return None

    def unreferenced(self, images: list[ImagePlan], containers: list[ContainerPlan]) -> frozenset[bytes]:
        """Return the folders of snapshots that belong to no image and no container, and are not being unpacked."""
        being_unpacked = {name for (_, key), (name, _) in self._metadata.snapshots.items() if key.startswith(_EXTRACT)}
        folders = (
            folder_of(snapshot)
            for name, snapshot in self._snapshots.items()
            if not (snapshot.is_view or name in being_unpacked)
        )
        return frozenset(folders) - folders_in_use(images, containers)

    def orphaned(self) -> frozenset[bytes]:
        """Return the folders of the snapshotter that it does not record.

        Raises: StoreMissing, StoreUnreadable, StoreMalformed.
        """
        known = {b"%d" % snapshot.id for snapshot in self._snapshots.values()}
        at = SNAPSHOTS + b"/snapshots"
        names = self._store.files.names(at) if self._store.files.exists(at) else []
        return frozenset(at + b"/" + name + b"/fs" for name in names if name.isdigit() and name not in known)

    def containers(self, images: list[ImagePlan]) -> list[ContainerPlan]:
        """Return the containers with snapshots. Docker's classic store has containers here too, without snapshots."""
        mine = [each for each in self._metadata.containers if each.snapshotter in ("", OVERLAYFS)]
        others = [each for each in self._metadata.containers if each.snapshotter not in ("", OVERLAYFS)]
        known = {each.id for each in mine}
        mine += [  # for stopped containers Docker creates only the snapshot in containerd
            NamedContainer(namespace, key, "", "overlayfs", key)
            for namespace, key in self._metadata.snapshots
            if namespace == DOCKER and (namespace, f"{key}-init") in self._metadata.snapshots and key not in known
        ]
        plans = [plan for each in mine if (plan := self._container(each, images)).upper is not None]
        return plans + [self._elsewhere(each, images) for each in others]

    def _elsewhere(self, container: NamedContainer, images: list[ImagePlan]) -> ContainerPlan:
        image = next((each.id for each in images if container.image in each.names), None)
        why = f"its snapshotter {container.snapshotter} can't be checked (expected overlayfs)"
        return ContainerPlan(NAME, self.root, container.id, container.id[:12], image, None, unknown=(why,))

    def _container(self, container: NamedContainer, images: list[ImagePlan]) -> ContainerPlan:
        """Return the plan of a container: its snapshot, the layers of its image, and for Docker the -init layer between."""
        found: list[Difference] = []
        unknown: list[str] = []
        known = self._docker_container(container)
        key = container.snapshot or container.id  # Docker does not record it; the snapshot has the container's name
        name, _ = self._metadata.snapshots.get((container.namespace, key), ("", ""))
        stack: list[bytes] = []
        at = self._snapshots.get(name)
        while at is not None and len(stack) <= MAX_LAYERS:
            stack.append(folder_of(at))
            at = self._snapshots.get(at.parent)
        on = self._snapshots[name].parent if stack else ""
        init = stack[1] if len(stack) > 1 and container.namespace == DOCKER and on.endswith("-init") else None
        below = [*reversed(stack[2 if init else 1 :])]
        of_image = {each.id: [layer.folder for layer in each.layers if layer.folder is not None] for each in images}
        between = {init for each in images for init, _ in each.inits}
        below = [folder for folder in below if folder not in between]
        if below and any(
            copy.folder == below[-1] and copy.layers == tuple(below[-2::-1]) for each in images for copy in each.copies
        ):
            below.pop()
        image = next((each.id for each in images if container.image and container.image in each.names), None)
        if image is None:  # Docker does not record it here either
            image = next((id_ for id_, folders in of_image.items() if folders == below), None)
        if image is None:
            unknown.append("no image of this store has its layers; its image may have been removed")
        elif of_image[image] != below:
            found.append(difference(DifferenceKind.STACK, b"", "on the layers of its image", f"on {len(below)} others"))
        own = [stack[0]] if stack else []
        for folder in (*own, *([init] if init is not None else [])):
            found += self._unexpected_names(folder, unknown)
        return ContainerPlan(
            store=NAME,
            root=self.root,
            id=container.id,
            name=container.id[:12] if known is None else known.name,
            image=image,
            upper=stack[0] if stack else None,
            lowers=tuple(stack[1:]),
            init=init,
            differences=tuple(found),
            unknown=tuple(unknown),
            pid=0 if known is None else known.pid,
        )

    def _docker_container(self, container: NamedContainer) -> DockerContainer | None:
        """Return what Docker itself records about a container in its data root, which has this store below it."""
        is_dockers = container.namespace == DOCKER and self.root.parts[-2:] == DOCKERS_STORE
        if not is_dockers or not _DOCKER_ID.fullmatch(container.id):
            return None
        try:
            docker = DockerStore(self.root.parents[1])
            with docker.files:
                found = docker.container(container.id)
        except (StoreMissing, StoreUnreadable, StoreMalformed):
            return None
        return found if found.name else None


def _names_of_others(names: Sequence[str], target: Digest, configs: Set[Digest]) -> list[Difference]:
    """Return the names that have the digest of another image, which clients start by such a name.

    A name ends with the digest of its target (`app@sha256:...`), or is the image ID, the digest of a config, by which Kubernetes
    starts images.
    """
    found = []
    for name in names:
        is_id = _CHAIN.fullmatch(name) is not None
        _, at, digest = name.rpartition("@")
        if digest != str(target) and (at or (is_id and digest not in map(str, configs))):
            found.append(difference(DifferenceKind.TAG, b"", f"name {name} for {digest}", target))
    return found


def _unpacked_note(image: ImagePlan) -> tuple[str, ...]:
    """State how many layers of an image are not unpacked; their blobs are checked."""
    layers = [layer for layer in image.layers if not layer.artifact]
    missing = sum(layer.folder is None for layer in layers)
    if not missing:
        return ()
    return ("not unpacked" if missing == len(layers) else f"{missing} of {len(layers)} layers not unpacked",)


def folder_of(snapshot: LayerSnapshot) -> bytes:
    """Return the folder of a snapshot's files."""
    return SNAPSHOTS + b"/snapshots/%d/fs" % snapshot.id
