"""Finds mounts in the folders of layers, which would hide from a check what overlayfs shows to containers.

overlayfs uses a layer's folder without the mounts in it. A clean copy that is mounted over a tampered file is therefore read
by every other program, but by no container. Engines only mount on certain folders beside the layer's files; any other mount
is a difference. The table of mounts is read before and after the files. In between no file is opened that something is mounted
over (`openat2`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from boltseal.engines.mounts import mount_points_below
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference

OF_THE_ENGINE: Final = frozenset({b"merged", b"mapped", b"composefs-layers"})
"""The folders beside a layer's files that Docker and Podman mount on."""
_LINKS: Final = b"l"


def mounts_in(root: Path, folders: Iterable[bytes]) -> list[Difference]:
    """Return the mounts in the folders of these layers (`BASE/ID/diff` or `BASE/ID/fs`), at most MAX_PER_LAYER.

    Raises: StoreUnreadable, StoreMissing, StoreMalformed, as the other functions here.
    """
    ids: dict[bytes, set[bytes]] = {}
    for folder in folders:
        base, id_, _ = folder.rsplit(b"/", 2)
        ids.setdefault(base, set()).add(id_)
    return [_mounted(path) for base, of_layers in ids.items() for path in _points(root, base, of_layers)]


def mounts_on_links(root: Path, base: bytes) -> list[Difference]:
    """Return the mounts in `BASE/l`, whose links Docker and Podman use to find layers."""
    return [_mounted(path) for path in _points(root, base, {_LINKS})]


def mounts_in_layer(root: Path, folder: bytes, layer: str) -> list[Difference]:
    """Return the mounts in the folder of one layer; those over its files with their paths in the layer."""
    base, id_, _ = folder.rsplit(b"/", 2)
    return [_mounted(path.removeprefix(folder + b"/"), layer) for path in _points(root, base, {id_})]


def _points(root: Path, base: bytes, ids: set[bytes]) -> list[bytes]:
    found = []
    for point in mount_points_below(root, base):
        id_, *inside = point.split(b"/", 2)
        if id_ in ids and not (inside and inside[0] in OF_THE_ENGINE):
            found.append(base + b"/" + point)
    return found[:MAX_PER_LAYER]


def _mounted(path: bytes, layer: str = "") -> Difference:
    return difference(DifferenceKind.MOUNT, path, "the layer's file system", "something mounted over it", layer)
