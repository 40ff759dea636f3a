"""Finds files of layers that have names outside of the store's layers: a hard link through which a layer can be changed.

A file of a layer may have several names. Those in its own layer are known from the tar. BuildKit also links files of one snapshot
into another (`COPY --link` with containerd's store). So only if a file has more names than its layer explains, the folders of all
layers of the store are searched for the others. Folders that containers write to do not count: a container could change the
file of all others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained
from boltseal.host.scrub.differences import DifferenceKind, difference
from boltseal.host.scrub.inodes import SharedInode
from boltseal.host.scrub.layer_check import LayerFiles, LayerResult
from boltseal.host.scrub.plans import StorePlan

_OF_A_LAYER: Final = (b"diff", b"diff1", b"fs")
_LINKS: Final = b"l"
ROUNDS: Final = 2
"""A layer with such a link may be removed or created meanwhile."""


@dataclass(frozen=True, slots=True)
class _Base:
    """The folder of a store's layer folders."""

    root: Path
    path: bytes


def with_outside_links(
    results: Mapping[LayerFiles, LayerResult], plans: Iterable[StorePlan]
) -> dict[LayerFiles, LayerResult]:
    """Return the results with a difference for each file that has a name outside of the store's layers."""
    written = {
        (plan.root, container.upper.rpartition(b"/")[0])
        for plan in plans
        for container in plan.containers
        if container.upper is not None
    }
    suspects: dict[_Base, list[LayerFiles]] = {}
    for layer, result in results.items():
        if result.shared and layer.folder is not None:
            suspects.setdefault(_Base(layer.root, layer.folder.rsplit(b"/", 2)[0]), []).append(layer)
    found = dict(results)
    for base, layers in suspects.items():
        ids = {id_.rpartition(b"/")[2] for root, id_ in written if root == base.root}
        for layer in layers:
            found[layer] = results[layer]
        try:
            outside = _outside({layer: results[layer].shared for layer in layers}, base, ids)
        except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
            for layer in layers:
                found[layer] = replace(found[layer], unknown=(*found[layer].unknown, error.message))
            continue
        for layer, files in outside.items():
            found[layer] = _with(layer, found[layer], files)
    return found


def _with(layer: LayerFiles, result: LayerResult, files: Mapping[SharedInode, int]) -> LayerResult:
    wanted = "no name outside of the store's layers"
    more = [
        difference(
            DifferenceKind.HARDLINK, file.path, wanted, f"{file.links} names, {known} of them there", str(layer.diff_id)
        )
        for file, known in files.items()
    ]
    return replace(result, differences=(*result.differences, *more), count=result.count + len(more))


def _outside(
    suspects: Mapping[LayerFiles, Iterable[SharedInode]], base: _Base, written: set[bytes]
) -> dict[LayerFiles, dict[SharedInode, int]]:
    """Return the files with more names than there are in the layers, each with the number of those."""
    left = {layer: list(files) for layer, files in suspects.items()}
    known: Counter[int] = Counter()
    for _ in range(ROUNDS):
        left = {layer: _looked_up(layer, files) for layer, files in left.items()}
        known = _names_in_layers(base, {file.inode for files in left.values() for file in files}, written)
        left = {
            layer: more for layer, files in left.items() if (more := [f for f in files if f.links > known[f.inode]])
        }
        if not left:
            break
    return {layer: {file: known[file.inode] for file in files} for layer, files in left.items()}


def _looked_up(layer: LayerFiles, files: Iterable[SharedInode]) -> list[SharedInode]:
    """Return the files with their present number of names; those that are gone or replaced are left out."""
    assert layer.folder is not None  # noqa: S101 - only unpacked layers have such files
    found = []
    with SafeFolder(layer.root) as store, store.below(layer.folder) as tree:
        for file in files:
            try:
                at = tree.stat(file.path)
            except StoreMissing:
                continue
            if at.st_ino == file.inode:
                found.append(file._replace(links=at.st_nlink))
    return found


def _names_in_layers(base: _Base, wanted: set[int], written: set[bytes]) -> Counter[int]:
    """Count the names of these inodes in the folders of all layers, without those that containers write to."""
    found: Counter[int] = Counter()
    with SafeFolder(base.root) as store, store.below(base.path) as layers:
        for id_ in layers.names(b""):
            if id_ in written or id_ == _LINKS:
                continue
            for name in _OF_A_LAYER:
                try:
                    with layers.below(id_ + b"/" + name) as tree:
                        _count_names(tree, wanted, found)
                except (StoreMissing, StoreMalformed):
                    continue
    return found


def _count_names(tree: SafeFolder, wanted: set[int], found: Counter[int]) -> None:
    todo = [b""]
    while todo:
        path = todo.pop()
        try:
            with os.scandir(tree.folder(path)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        name = os.fsencode(entry.name)
                        todo.append(path + b"/" + name if path else name)
                    elif entry.inode() in wanted:
                        found[entry.inode()] += 1
        except (StoreMissing, StoreMalformed):
            continue  # removed meanwhile
        except OSError as error:
            raise explained(error, tree.shown(path)) from error
