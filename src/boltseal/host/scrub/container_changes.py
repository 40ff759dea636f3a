"""Containers: what lies upon the image.

Three things are looked at, beside the image itself:

1. The stack: its own layer, Docker's -init layer, the layers of its image, and nothing else (the store's plan says).
2. The -init layer holds what Docker puts there, empty files that are mounted over, and nothing else; its folders are as
   they are in the image, and hide nothing of it.
3. Of a running container: what its first process sees (`processview`).

What its own layer adds, changes or hides is the container's right; it is listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMissing, readable
from boltseal.host.scrub.attributes import OF_OVERLAYFS, OPAQUE_MARKS, PASSED_OVER
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.inodes import describe_file, is_whiteout
from boltseal.host.scrub.merged_layers import MergedLayers, is_opaque, marks
from boltseal.host.scrub.plans import ContainerPlan

_INIT_FILES: Final = frozenset({b".dockerenv", b"dev/console", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"})
_INIT_FOLDERS: Final = frozenset({b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"})
_INIT_LINK: Final = b"etc/mtab"
_INIT_MODE: Final = 0o755
"""Of the folders that Docker makes because the image has none."""
MOUNTED_OVER: Final = "mounted over"


@dataclass(frozen=True, slots=True)
class ContainerChange:
    """What became of a path in a container: it added, changed, replaced or hid it, or something is mounted over it."""

    path: str
    how: str


def init_differences(root: Path, init: bytes | None, below: Sequence[bytes]) -> list[Difference]:
    """What in an -init layer is not as Docker makes it. `below`: the image's layers, the topmost first.

    StoreMissing, StoreUnreadable, StoreMalformed.
    """
    if init is None:
        return []
    found: list[Difference] = []
    with ExitStack() as opened:
        store = opened.enter_context(SafeFolder(root))
        tree = opened.enter_context(store.below(init))
        image = MergedLayers([opened.enter_context(store.below(folder)) for folder in below]) if below else None
        found += _marks_of_init(tree, b"", hides=image is not None)
        for path, at in _walk(tree):
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
    """A folder shows as the topmost layer has it: here it must be what it is in the image."""
    meant = image.at(path) if image is not None else None
    is_meant = meant is not None and stat.S_ISDIR(meant.at.st_mode)
    found = _marks_of_init(tree, path, hides=is_meant)
    mode = stat.S_IMODE(meant.at.st_mode) if meant is not None and is_meant else _INIT_MODE
    if stat.S_IMODE(at.st_mode) != mode:
        found.append(difference(DifferenceKind.MODE, path, f"{mode:04o}", f"{stat.S_IMODE(at.st_mode):04o}"))
    owner = meant.at if meant is not None and is_meant else tree.stat(b"")
    if (at.st_uid, at.st_gid) != (owner.st_uid, owner.st_gid):
        expected = f"{owner.st_uid}:{owner.st_gid}"
        found.append(difference(DifferenceKind.OWNER, path, expected, f"{at.st_uid}:{at.st_gid}"))
    return found


def _marks_of_init(tree: SafeFolder, path: bytes, *, hides: bool) -> list[Difference]:
    """`hides`: whether the image has something there that an opaque mark would hide; overlayfs sets it on new folders too."""
    found = []
    for name in marks(tree, path):
        if name in OPAQUE_MARKS and hides:
            found.append(
                difference(DifferenceKind.OPAQUE, path, "no opaque mark", "one that hides all the image has there")
            )
        elif name.startswith(OF_OVERLAYFS) and name not in PASSED_OVER | OPAQUE_MARKS:
            found.append(difference(DifferenceKind.XATTR, path, f"{name}=none", f"{name} in the -init layer"))
    return found


def list_changes(container: ContainerPlan) -> list[ContainerChange]:
    """What the container's own layer adds, changes and hides; at most MAX_PER_LAYER. As `init_differences`.

    It may be at work: what goes away while it is listed is passed over.
    """
    if container.upper is None:
        return []
    found: list[ContainerChange] = []
    with ExitStack() as opened:
        store = opened.enter_context(SafeFolder(container.root))
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


def _change(tree: SafeFolder, path: bytes, at: os.stat_result, image: MergedLayers | None) -> str:
    if not stat.S_ISDIR(at.st_mode):
        return "hidden" if is_whiteout(at) else "added or changed"
    if is_opaque(tree, path) and image is not None and image.at(path) is not None:
        return "replaced"
    return "" if tree.names(path) else "added or changed"


def _walk(tree: SafeFolder) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything below, a folder before what is in it. What goes away meanwhile is left out."""
    todo = [b""]
    while todo:
        folder = todo.pop()
        for path in _in(tree, folder):
            try:
                at = tree.stat(path)
            except StoreMissing:
                continue
            yield path, at
            if stat.S_ISDIR(at.st_mode):
                todo.append(path)


def _in(tree: SafeFolder, folder: bytes) -> list[bytes]:
    try:
        return [folder + b"/" + name if folder else name for name in tree.names(folder)]
    except StoreMissing:
        return []
