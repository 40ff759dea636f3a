"""Layers as overlayfs shows them together: what lies on top hides what is below, folders are merged.

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
"""So many folders of all layers together are kept open; a process may open 1024 files, and Docker allows 128 layers."""


@dataclass(frozen=True, slots=True)
class MergedEntry:
    """What shows at a path: of which layer it is, and for a folder which layers are merged in it, the topmost first."""

    layer: int
    at: os.stat_result
    layers: tuple[int, ...] = ()


class MergedLayers:
    """These layers, 0 the topmost. Every method may raise StoreMissing, StoreUnreadable or StoreMalformed."""

    def __init__(self, trees: Sequence[SafeFolder]) -> None:
        self.trees = trees
        self.all = tuple(range(len(trees)))
        for tree in trees:
            tree.open_folders = max(OPEN_IN_ALL // len(trees), 2)

    def folder(self, path: bytes, layers: Sequence[int]) -> dict[bytes, MergedEntry]:
        """Everything in a folder, which these layers have."""
        merged: dict[bytes, MergedEntry | None] = {}
        open_: dict[bytes, list[int]] = {}
        """The folders that layers further down still add to, and which have so far."""
        for layer in layers:
            tree = self.trees[layer]
            for name in tree.names(path):
                if name in merged and name not in open_:
                    continue
                found = self._one(tree, path + b"/" + name if path else name)
                if found is None:
                    continue
                at, ends = found
                if not stat.S_ISDIR(at.st_mode):
                    if name in open_:
                        self._close(merged, open_, name)
                    else:
                        merged[name] = None if is_whiteout(at) else MergedEntry(layer, at)
                    continue
                merged.setdefault(name, MergedEntry(layer, at))
                open_.setdefault(name, []).append(layer)
                if ends:
                    self._close(merged, open_, name)
        for name in list(open_):
            self._close(merged, open_, name)
        return {name: seen for name, seen in merged.items() if seen is not None}

    @staticmethod
    def _close(merged: dict[bytes, MergedEntry | None], open_: dict[bytes, list[int]], name: bytes) -> None:
        top = merged[name]
        assert top is not None  # noqa: S101 - a folder is in `open_` from when it is in `merged`
        merged[name] = MergedEntry(top.layer, top.at, tuple(open_.pop(name)))

    def _one(self, tree: SafeFolder, path: bytes) -> tuple[os.stat_result, bool] | None:
        """What one layer has at a path, and whether it is a folder that hides all below; None if it has gone meanwhile."""
        try:
            at = tree.stat(path)
            return at, stat.S_ISDIR(at.st_mode) and is_opaque(tree, path)
        except StoreMissing:
            return None

    def at(self, path: bytes) -> MergedEntry | None:
        """What shows at a path, looked up anew from the top folder down."""
        layers: Sequence[int] = self.all
        seen: MergedEntry | None = None
        above = b""
        for name in path.split(b"/"):
            full = above + b"/" + name if above else name
            seen = self._looked_up(full, layers)
            if seen is None:
                return None
            above, layers = full, seen.layers
        return seen

    def _looked_up(self, path: bytes, layers: Sequence[int]) -> MergedEntry | None:
        top: tuple[int, os.stat_result] | None = None
        merged: list[int] = []
        for layer in layers:
            found = self._one(self.trees[layer], path)
            if found is None:
                continue
            at, ends = found
            if not stat.S_ISDIR(at.st_mode):
                if top is None:
                    return None if is_whiteout(at) else MergedEntry(layer, at)
                break
            top = top or (layer, at)
            merged.append(layer)
            if ends:
                break
        return MergedEntry(*top, tuple(merged)) if top is not None else None


def marks(tree: SafeFolder, path: bytes) -> list[str]:
    """The names of a folder's attributes."""
    fd = tree.folder(path)
    try:
        return os.listxattr(fd)
    except OSError as error:
        raise StoreUnreadable(f"the attributes of {tree.shown(path)} can't be read: {error.strerror}") from error


def is_opaque(tree: SafeFolder, path: bytes) -> bool:
    """Whether a folder hides all that lower layers have in it."""
    return not OPAQUE_MARKS.isdisjoint(marks(tree, path))


def same_content(
    path: bytes, tree: SafeFolder, other: SafeFolder, spend: Callable[[int], None], *, from_disk: bool
) -> bool:
    """Whether two folders have a plain file of the same content at a path. StoreMissing and its like."""
    ours, theirs = FileReader(tree, spend, from_disk=from_disk), FileReader(other, spend, from_disk=from_disk)
    first, _ = ours.open(path)
    try:
        second, _ = theirs.open(path)
        try:
            while True:
                piece = os.read(first, 1 << 20)
                spend(len(piece))
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
