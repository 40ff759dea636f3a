"""Mounts in the folders of layers, which hide from a check what overlayfs shows.

overlayfs takes a layer's folder without what is mounted in it. So a clean copy that is mounted over a tampered file or folder
of a layer is read by every other program, and by no container. No engine mounts anything there, except on folders beside the
layer's files that it keeps for it; each other mount is a difference. The table of mounts is read before and after the files:
a mount that comes and goes while they are read is not seen, as a file that is changed and changed back is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from boltseal.engines.mounts import mount_points_below
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference

_OF_THE_ENGINE: Final = frozenset({b"merged", b"mapped", b"composefs-layers"})
"""Folders beside a layer's files that Docker and Podman mount on."""
_LINKS: Final = b"l"


def mounts_in(root: Path, folders: Iterable[bytes]) -> list[Difference]:
    """What is mounted in the folders of these layers, `BASE/ID/diff` or `BASE/ID/fs` each; at most MAX_PER_LAYER.

    StoreUnreadable, StoreMissing, StoreMalformed.
    """
    ids: dict[bytes, set[bytes]] = {}
    for folder in folders:
        base, id_, _ = folder.rsplit(b"/", 2)
        ids.setdefault(base, set()).add(id_)
    return [_mounted(path) for base, of_layers in ids.items() for path in _points(root, base, of_layers)]


def mounts_on_links(root: Path, base: bytes) -> list[Difference]:
    """What is mounted over `BASE/l`, through which Docker and Podman find the layers. As `mounts_in`."""
    return [_mounted(path) for path in _points(root, base, {_LINKS})]


def mounts_in_layer(root: Path, folder: bytes, layer: str) -> list[Difference]:
    """What is mounted in the folder of one layer; over its files: by their paths in the layer. As `mounts_in`."""
    base, id_, _ = folder.rsplit(b"/", 2)
    return [_mounted(path.removeprefix(folder + b"/"), layer) for path in _points(root, base, {id_})]


def _points(root: Path, base: bytes, ids: set[bytes]) -> list[bytes]:
    found = []
    for point in mount_points_below(root, base):
        id_, *inside = point.split(b"/", 2)
        if id_ in ids and not (inside and inside[0] in _OF_THE_ENGINE):
            found.append(base + b"/" + point)
    return found[:MAX_PER_LAYER]


def _mounted(path: bytes, layer: str = "") -> Difference:
    return difference(DifferenceKind.MOUNT, path, "the layer's file system", "something mounted over it", layer)
