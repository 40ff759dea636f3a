"""Merges layers as overlayfs shows them: upper files hide lower ones, and folders are merged.

Memory: the names of one folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMissing, StoreUnreadable, explained
from boltseal.host.scrub.attributes import OPAQUE_MARKS
from boltseal.host.scrub.file_contents import FileReader
from boltseal.host.scrub.inodes import is_whiteout

OPEN_IN_ALL: Final = 512
"""The limit of open folders of all layers together; a process may open 1024 files, and Docker allows 128 layers."""


@dataclass(frozen=True, slots=True)
class MergedEntry:
    """The visible file at a path. `layer`: where it is from; `layers`: for a folder those merged in it, topmost first."""

    layer: int
    at: os.stat_result
    layers: tuple[int, ...] = ()


class MergedLayers:
    """A merged view of layers, 0 the topmost. Methods raise StoreMissing, StoreUnreadable and StoreMalformed."""

    def __init__(self, trees: Sequence[SafeFolder]) -> None:
        self.trees = trees
        self.all = tuple(range(len(trees)))
        for tree in trees:
            tree.open_folders = max(OPEN_IN_ALL // len(trees), 2)

    def folder(self, path: bytes, layers: Sequence[int]) -> dict[bytes, MergedEntry]:
        """Return everything visible in a folder that these layers have."""
        merged: dict[bytes, MergedEntry | None] = {}
        open_: dict[bytes, list[int]] = {}
        """Folders that lower layers can still add to, with the layers that have them so far."""
        for layer in layers:
            tree = self.trees[layer]
            for name in tree.names(path):
                if name in merged and name not in open_:
                    continue
                found = self._entry_of(tree, path + b"/" + name if path else name)
                if found is None:
                    continue
                at, is_opaque_folder = found
                if not stat.S_ISDIR(at.st_mode):
                    if name in open_:
                        self._close(merged, open_, name)
                    else:
                        merged[name] = None if is_whiteout(at) else MergedEntry(layer, at)
                    continue
                merged.setdefault(name, MergedEntry(layer, at))
                open_.setdefault(name, []).append(layer)
                if is_opaque_folder:
                    self._close(merged, open_, name)
        for name in list(open_):
            self._close(merged, open_, name)
        return {name: seen for name, seen in merged.items() if seen is not None}

    @staticmethod
    def _close(merged: dict[bytes, MergedEntry | None], open_: dict[bytes, list[int]], name: bytes) -> None:
        top = merged[name]
        assert top is not None  # noqa: S101 - a folder in `open_` is in `merged` too
        merged[name] = MergedEntry(top.layer, top.at, tuple(open_.pop(name)))

    def _entry_of(self, tree: SafeFolder, path: bytes) -> tuple[os.stat_result, bool] | None:
        """Return what one layer has at a path, and whether it is an opaque folder; None if it does not exist (any more)."""
        try:
            at = tree.stat(path)
            return at, stat.S_ISDIR(at.st_mode) and is_opaque(tree, path)
        except StoreMissing:
            return None

    def at(self, path: bytes) -> MergedEntry | None:
        """Return what is visible at a path, looked up from the root folder down; None for nothing."""
        layers: Sequence[int] = self.all
        seen: MergedEntry | None = None
        above = b""
        for name in path.split(b"/"):
            full = above + b"/" + name if above else name
            seen = self._look_up(full, layers)
            if seen is None:
                return None
            above, layers = full, seen.layers
        return seen

    def _look_up(self, path: bytes, layers: Sequence[int]) -> MergedEntry | None:
        top: tuple[int, os.stat_result] | None = None
        merged: list[int] = []
        for layer in layers:
            found = self._entry_of(self.trees[layer], path)
            if found is None:
                continue
            at, is_opaque_folder = found
            if not stat.S_ISDIR(at.st_mode):
                if top is None:
                    return None if is_whiteout(at) else MergedEntry(layer, at)
                break
            top = top or (layer, at)
            merged.append(layer)
            if is_opaque_folder:
                break
        return MergedEntry(*top, tuple(merged)) if top is not None else None


def marks(tree: SafeFolder, path: bytes) -> list[str]:
    """Return the names of a folder's extended attributes."""
    fd = tree.folder(path)
    try:
        return os.listxattr(fd)
    except OSError as error:
        raise StoreUnreadable(f"could not read the attributes of {tree.shown(path)}: {error.strerror}") from error


def is_opaque(tree: SafeFolder, path: bytes) -> bool:
    """Return whether a folder is opaque: it hides what lower layers have in it."""
    return not OPAQUE_MARKS.isdisjoint(marks(tree, path))


def same_content(
    path: bytes, tree: SafeFolder, other: SafeFolder, count_read: Callable[[int], None], *, from_disk: bool
) -> bool:
    """Return whether two folders have a regular file of equal content at a path.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    ours, theirs = FileReader(tree, count_read, from_disk=from_disk), FileReader(other, count_read, from_disk=from_disk)
    first, _ = ours.open(path)
    try:
        second, _ = theirs.open(path)
        try:
            while True:
                piece = os.read(first, 1 << 20)
                count_read(len(piece))
                if os.read(second, 1 << 20) != piece:
                    return False
                if not piece:
                    return True
        except OSError as error:
            raise explained(error, other.shown(path)) from error
        finally:
            theirs.close(second)
    finally:
        ours.close(first)
