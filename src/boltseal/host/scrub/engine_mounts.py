"""Compares how the engines of a store see it with how this process reads it, before and after the layers are read.

overlayfs finds a layer's folder in the mount namespace of the engine. If the engine has another namespace than this process,
a mount in one of the two makes a container see other files than those that were checked. An engine that is not running mounts
nothing; then only the own table counts (`mount_points`).

An engine that has another database open than the one on the disk uses other images than those that were checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from boltseal.engines.containerd_store import CONTENT, METADATA, SNAPSHOTS
from boltseal.engines.engine_views import ENGINES, EngineViews, ViewDifference
from boltseal.engines.linked_folders import linked_folders
from boltseal.engines.open_databases import replaced_databases
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.errors import MAX_PATH, quote
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.mount_points import OF_THE_ENGINE
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan, StorePlan

PAUSE_S: Final = 0.1
"""Engines mount and unmount while this looks; a difference counts if it is still there after this time."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a kind of store has what is read.

    `base`: the folder of the layers' folders; engines mount on some folders in each of them. `vfs`: that of the storage driver
    vfs, in which a layer's folder has only the layer's files.
    """

    base: bytes
    read: tuple[bytes, ...]
    vfs: bytes | None = None

    def is_relevant(self, point: bytes) -> bool:
        """Return whether a mount point may change what is read or mounted as a layer."""
        if not any(point == each or point.startswith(each + b"/") for each in self.read):
            return False
        if not point.startswith(self.base + b"/"):
            return True
        _, _, inside = point.removeprefix(self.base + b"/").partition(b"/")
        return inside.split(b"/")[0] not in OF_THE_ENGINE

    def is_relevant_in(self, folder: bytes, point: bytes) -> bool:
        """Return the same for a mount point relative to a folder of the store."""
        return self.is_relevant(folder + b"/" + point)

    def layer_of(self, point: bytes) -> bytes:
        """Return the folder BASE/ID that a path is in, "" if it is in none."""
        base = next((each for each in (self.base, self.vfs) if each and point.startswith(each + b"/")), None)
        if base is None:
            return b""
        id_ = point.removeprefix(base + b"/").split(b"/")[0]
        return b"" if id_ == b"l" else base + b"/" + id_


_LAYOUTS: Final = {
    "docker": _Layout(
        b"overlay2",
        (b"image", b"overlay2", b"vfs"),
        b"vfs/dir",
    ),
    "containerd": _Layout(
        SNAPSHOTS + b"/snapshots",
        (CONTENT.split(b"/")[0], METADATA.split(b"/")[0], SNAPSHOTS),
    ),
    "podman": _Layout(
        b"overlay",
        tuple(b"%s%s" % (driver, part) for driver in (b"overlay", b"vfs") for part in (b"", b"-images", b"-layers")),
        b"vfs/dir",
    ),
}


@dataclass(slots=True)
class _Seen:
    """What was found for one store."""

    layout: _Layout
    found: dict[ViewDifference, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)


class EngineMounts:
    """What the engines of these stores see differently; `look` collects it, and is called before and after the check."""

    def __init__(self, plans: Iterable[StorePlan], proc: Path) -> None:
        self._views = EngineViews(proc)
        self._proc = proc
        self._stores = {
            (plan.store, plan.root): _Seen(layout) for plan in plans if (layout := _LAYOUTS.get(plan.store)) is not None
        }

    def look(self) -> None:
        """Compare each store."""
        for (_, root), seen in self._stores.items():
            try:
                found, unknown = self._compare(root, seen.layout)
                replaced = replaced_databases(root, ENGINES, self._proc)
                if found or replaced:
                    time.sleep(PAUSE_S)
                    again, _ = self._compare(root, seen.layout)
                    found = [each for each in found if each in again]
                    still = replaced_databases(root, ENGINES, self._proc)
                    unknown = [*unknown, *(each for each in replaced if each in still)]
            except (StoreMissing, StoreMalformed):
                continue  # the plan reports it
            except StoreUnreadable as error:
                found, unknown = [], [error.message]
            seen.found |= dict.fromkeys(found)
            seen.unknown |= dict.fromkeys(unknown)

    def _compare(self, root: Path, layout: _Layout) -> tuple[list[ViewDifference], list[str]]:
        found, unknown = self._views.differences(root, root, layout.is_relevant)
        for name, target in linked_folders(root):
            more, why = self._views.differences(target, root, partial(layout.is_relevant_in, name))
            found += [replace(each, path=(name + b"/" + each.path).rstrip(b"/")) for each in more]
            unknown += why
        return found, unknown

    def with_image(self, image: ImagePlan) -> ImagePlan:
        """Return an image with what engines see differently of it."""
        folders = [layer.folder for layer in image.layers]
        folders += [init.folder for init in image.inits] + [copy.folder for copy in image.copies]
        found, unknown = self._of(image.store, image.root, folders)
        return replace(image, differences=(*image.differences, *found), unknown=(*image.unknown, *unknown))

    def with_container(self, container: ContainerPlan) -> ContainerPlan:
        """Return a container with what engines see differently of it."""
        found, unknown = self._of(container.store, container.root, [container.upper, *container.lowers])
        return replace(container, differences=(*container.differences, *found), unknown=(*container.unknown, *unknown))

    def _of(self, store: str, root: Path, folders: Sequence[bytes | None]) -> tuple[list[Difference], list[str]]:
        seen = self._stores.get((store, root))
        if seen is None:
            return [], []
        mine = {seen.layout.layer_of(folder) for folder in folders if folder is not None}
        unknown = list(seen.unknown)
        found = []
        for each in seen.found:
            if not each.path:
                unknown.append(_other_folder(root, each))
            elif (layer := seen.layout.layer_of(each.path)) in mine or not layer:
                got = "something else: a mount in one of the two mount namespaces"
                found.append(difference(DifferenceKind.MOUNT, each.path, f"what {each.engine} sees there", got))
        return found[:MAX_PER_LAYER], unknown


def _other_folder(root: Path, seen: ViewDifference) -> str:
    shown = quote(str(root), MAX_PATH)[1:-1]
    return (
        f"{seen.engine} sees another folder at {shown}, by a mount in its namespace or in this one; check what it uses with "
        f"nsenter --target {seen.engine.pid} --mount boltseal scrub --root {shown}"
    )
