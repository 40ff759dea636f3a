"""Checks a container's layers above its image, and lists the container's own changes.

Three things are checked besides the image:

1. The stack: the container's own layer, Docker's -init layer, the layers of its image, and nothing else (in the store's plan).
2. The -init layer has only what Docker creates there: empty files that are mounted over. Its folders equal those of the
   image and hide nothing of it. None of them is immutable or append-only.
3. For a running container, what its first process sees (`process_view`).

The container may add, change or hide files in its own layer; these changes are listed, not reported as differences.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import SafeFolder, StoreMissing, readable
from boltseal.host.scrub.attributes import IGNORED, OPAQUE_MARKS, OVERLAYFS_PREFIXES, Attributes
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.inodes import describe_file, is_whiteout
from boltseal.host.scrub.merged_layers import MergedLayers, is_opaque, marks
from boltseal.host.scrub.plans import ContainerPlan

_INIT_FILES: Final = frozenset({b".dockerenv", b"dev/console", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"})
_INIT_FOLDERS: Final = frozenset({b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"})
_INIT_LINK: Final = b"etc/mtab"
_INIT_MODE: Final = 0o755
"""The mode of folders that Docker creates because the image does not have them."""
MOUNTED_OVER: Final = "mounted over"
REMOVED: Final = "removed"


@dataclass(frozen=True, slots=True)
class ContainerChange:
    """A changed path of a container. `how`: added or changed, replaced, hidden, removed, or mounted over."""

    path: str
    how: str


def init_differences(root: Path, init: bytes | None, below: Sequence[bytes]) -> list[Difference]:
    """Return how an -init layer differs from what Docker creates. `below`: the image's layers, topmost first.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    if init is None:
        return []
    found: list[Difference] = []
    with ExitStack() as opened:
        store = opened.enter_context(open_store(root))
        tree = opened.enter_context(store.below(init))
        image = MergedLayers([opened.enter_context(store.below(folder)) for folder in below]) if below else None
        found += _init_marks(tree, b"", hides=image is not None)
        attributes = Attributes(tree)
        found += _flags(attributes, b"", tree.stat(b""), tree.folder(b""))
        for path, at in _walk(tree):
            found += _flags(
                attributes, path, at, tree.folder(path) if stat.S_ISDIR(at.st_mode) else attributes.at(path)
            )
            if stat.S_ISDIR(at.st_mode) and path in _INIT_FOLDERS:
                found += _init_folder(tree, path, at, image)
                continue
            wanted = (stat.S_ISREG(at.st_mode) and path in _INIT_FILES and at.st_size == 0) or (
                stat.S_ISLNK(at.st_mode) and path == _INIT_LINK and tree.link(path) == b"/proc/mounts"
            )
            if not wanted:
                found.append(
                    difference(DifferenceKind.EXTRA, path, "nothing of this name in the -init layer", describe_file(at))
                )
    return found


def _init_folder(tree: SafeFolder, path: bytes, at: os.stat_result, image: MergedLayers | None) -> list[Difference]:
    """Compare a folder of the -init layer with the image's: overlayfs shows the attributes of the topmost layer."""
    in_image = image.at(path) if image is not None else None
    is_folder_in_image = in_image is not None and stat.S_ISDIR(in_image.at.st_mode)
    found = _init_marks(tree, path, hides=is_folder_in_image)
    mode = stat.S_IMODE(in_image.at.st_mode) if in_image is not None and is_folder_in_image else _INIT_MODE
    if stat.S_IMODE(at.st_mode) != mode:
        found.append(difference(DifferenceKind.MODE, path, f"{mode:04o}", f"{stat.S_IMODE(at.st_mode):04o}"))
    owner = in_image.at if in_image is not None and is_folder_in_image else tree.stat(b"")
    if (at.st_uid, at.st_gid) != (owner.st_uid, owner.st_gid):
        expected = f"{owner.st_uid}:{owner.st_gid}"
        found.append(difference(DifferenceKind.OWNER, path, expected, f"{at.st_uid}:{at.st_gid}"))
    return found


def _flags(attributes: Attributes, path: bytes, at: os.stat_result, where: bytes | int) -> list[Difference]:
    """Return the flags of a file or folder that a container sees."""
    return [difference(kind, path, none, flags) for kind, none, flags in attributes.flags(path, at, where)]


def _init_marks(tree: SafeFolder, path: bytes, *, hides: bool) -> list[Difference]:
    """Return unexpected marks on a folder of the -init layer.

    `hides`: whether the image has the folder, so that an opaque mark hides something. overlayfs also marks new folders.
    """
    found = []
    for name in marks(tree, path):
        if name in OPAQUE_MARKS and hides:
            found.append(
                difference(DifferenceKind.OPAQUE, path, "no opaque mark", "one that hides all the image has there")
            )
        elif name.startswith(OVERLAYFS_PREFIXES) and name not in IGNORED | OPAQUE_MARKS:
            found.append(difference(DifferenceKind.XATTR, path, f"{name}=none", f"{name} in the -init layer"))
    return found


def list_changes(container: ContainerPlan) -> list[ContainerChange]:
    """Return what the container's own layer adds, changes and hides; at most MAX_PER_LAYER.

    The container may be running: paths that disappear meanwhile are skipped.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    if container.upper is None:
        return []
    if container.copy_of is not None:
        return _changes_of_copy(container.root, container.upper, container.copy_of)
    found: list[ContainerChange] = []
    with ExitStack() as opened:
        store = opened.enter_context(open_store(container.root))
        tree = opened.enter_context(store.below(container.upper))
        lowers = [opened.enter_context(store.below(folder)) for folder in container.lowers]
        image = MergedLayers(lowers) if lowers else None
        for path, at in _walk(tree):
            try:
                how = _change(tree, path, at, image)
            except StoreMissing:
                continue
            if how:
                found.append(ContainerChange(readable(path), how))
            if len(found) >= MAX_PER_LAYER:
                break
    return found


def _changes_of_copy(root: Path, upper: bytes, copy_of: bytes) -> list[ContainerChange]:
    """Return in what a container's own layer, a copy of its image, differs from it, by the status of each file.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    found: list[ContainerChange] = []
    with open_store(root) as store, store.below(upper) as tree, store.below(copy_of) as image:
        todo = [b""]
        while todo and len(found) < MAX_PER_LAYER:
            folder = todo.pop()
            ours, theirs = set(_paths_in(image, folder)), set(_paths_in(tree, folder))
            found += [ContainerChange(readable(path), REMOVED) for path in sorted(ours - theirs)]
            for path in sorted(theirs):
                try:
                    at = tree.stat(path)
                    before = image.stat(path) if path in ours else None
                except StoreMissing:
                    continue
                if stat.S_ISDIR(at.st_mode) and before is not None and stat.S_ISDIR(before.st_mode):
                    todo.append(path)
                if not _is_of_docker(path, at) and (before is None or _status(at) != _status(before)):
                    found.append(ContainerChange(readable(path), "added or changed"))
    return found[:MAX_PER_LAYER]


def _status(at: os.stat_result) -> tuple[int, ...]:
    content = (0, 0) if stat.S_ISDIR(at.st_mode) else (at.st_size, at.st_mtime_ns)
    return at.st_mode, at.st_uid, at.st_gid, at.st_rdev, *content


def _is_of_docker(path: bytes, at: os.stat_result) -> bool:
    """Return whether a path is a mount target that Docker creates in the copy for each container."""
    if stat.S_ISDIR(at.st_mode):
        return path in _INIT_FOLDERS
    return (path in _INIT_FILES and at.st_size == 0) or path == _INIT_LINK


def _change(tree: SafeFolder, path: bytes, at: os.stat_result, image: MergedLayers | None) -> str:
    if not stat.S_ISDIR(at.st_mode):
        return "hidden" if is_whiteout(at) else "added or changed"
    if is_opaque(tree, path) and image is not None and image.at(path) is not None:
        return "replaced"
    return "" if tree.names(path) else "added or changed"


def _walk(tree: SafeFolder) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield every path with its status, a folder before its contents; paths that disappear meanwhile are skipped."""
    todo = [b""]
    while todo:
        folder = todo.pop()
        for path in _paths_in(tree, folder):
            try:
                at = tree.stat(path)
            except StoreMissing:
                continue
            yield path, at
            if stat.S_ISDIR(at.st_mode):
                todo.append(path)


def _paths_in(tree: SafeFolder, folder: bytes) -> list[bytes]:
    try:
        return [folder + b"/" + name if folder else name for name in tree.names(folder)]
    except StoreMissing:
        return []
