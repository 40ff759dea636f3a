"""Where the engines of this host keep their images, or what kind of store a given folder is."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.scrub import archives, containerdstore, dockerstore, podmanstore
from boltseal.scrub.images import StorePlan

Plan = Callable[[Path], StorePlan]

USUAL: Final = (
    Path("/var/lib/docker"),
    Path("/var/lib/containerd"),
    Path("/var/lib/containers/storage"),
)
"""Where Debian's packages put them."""
IN_A_HOME: Final = (".local/share/containers/storage", ".local/share/docker", ".local/share/containerd")
"""Where they lie without root."""
MAX_HOMES: Final = 1000
PODMANS: Final = tuple(f"{driver}-images" for driver in ("overlay", "vfs", "btrfs", "zfs", "aufs"))
_REMAPPED: Final = re.compile(r"[1-9][0-9]*\.[1-9][0-9]*")
_INSIDE: Final = ("var/lib/docker", "var/lib/containerd", "var/lib/containers/storage")


class NoStore(Invalid):
    """A folder or file that is no store of images."""


@dataclass(frozen=True, slots=True)
class FoundStore:
    """A store, and how it is read."""

    root: Path
    plan: Plan


def usual_stores(homes: Iterable[Path] = ()) -> list[FoundStore]:
    """The stores of this host that are there. `homes`: of the users whose own stores are looked for too."""
    here = [store for path in USUAL if _is_dir(path) for store in _kinds(path)]
    return here + _in_homes(homes, _is_dir)


def _in_homes(homes: Iterable[Path], wanted: Callable[[Path], bool]) -> list[FoundStore]:
    looked = list(islice(homes, MAX_HOMES + 1))
    candidates = [home / inside for home in looked[:MAX_HOMES] for inside in IN_A_HOME]
    found = [store for path in candidates if wanted(path) for store in _kinds(path)]
    return found + [FoundStore(home, _left_out) for home in looked[MAX_HOMES:]]


def store_at(root: Path) -> list[FoundStore]:
    """The stores at a path: an engine's root, a whole host's disk, a layout's folder, an archive. NoStore."""
    if not _is_dir(root):
        if _closed(root):
            return [FoundStore(root, _unreadable)]
        if os.path.lexists(root):
            return [FoundStore(root, archives.plan)]
        raise NoStore(f"{quote(str(root), 200)[1:-1]} is not there; expected a store, a mounted disk or an archive")
    found = _kinds(root) or _on_disk(root)
    if not found:
        raise NoStore(
            f"{quote(str(root), 200)[1:-1]} is no store of images; expected the root of Docker (image/, overlay2/), containerd "
            "(io.containerd.*), Podman (overlay-images/), an OCI layout, an archive, or a disk with one of them in var/lib"
        )
    return found


def _on_disk(root: Path) -> list[FoundStore]:
    """The stores of a mounted disk. A home that we may not look into may hold one."""
    home = root / "home"
    unlisted = {home} if _closed(home) else set()
    users = sorted(islice(home.iterdir(), MAX_HOMES)) if _is_dir(home) and not unlisted else []
    homes = [root / "root", *users]
    closed = unlisted | {each for each in homes if _closed(each, os.X_OK)}
    return [
        *(store for inside in _INSIDE for store in _kinds(root / inside)),
        *(FoundStore(each, _unreadable) for each in sorted(closed)),
        *_in_homes((each for each in homes if each not in closed), lambda _: True),
    ]


def _kinds(root: Path) -> list[FoundStore]:
    if _closed(root):
        return [FoundStore(root, _unreadable)]
    if not _is_dir(root):
        return []
    found = []
    if _is_dir(root / "image"):
        found.append(FoundStore(root, dockerstore.plan))
    if any(_is_dir(root / images) for images in PODMANS):
        found.append(FoundStore(root, podmanstore.plan))
    found += [
        FoundStore(inner, containerdstore.plan)
        for inner in (root, root / "containerd" / "daemon")
        if _is_dir(inner / "io.containerd.metadata.v1.bolt")
    ]
    if os.path.lexists(root / "oci-layout") or os.path.lexists(root / "index.json"):
        found.append(FoundStore(root, archives.plan))
    with os.scandir(root) as entries:  # with userns-remap there may be nothing else in Docker's root
        remapped = sorted(each.name for each in entries if _REMAPPED.fullmatch(each.name))
    return found + [FoundStore(root / name, dockerstore.plan) for name in remapped if _is_dir(root / name / "image")]


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _closed(path: Path, rights: int = os.R_OK | os.X_OK) -> bool:
    """Whether it is a folder that we lack these rights to, or we may not even see whether it is there."""
    try:
        found = path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and not os.access(path, rights)


def _left_out(root: Path) -> StorePlan:
    why = f"there are more than {MAX_HOMES} homes; what the others keep is checked where --root names it"
    return StorePlan("store", root, unknown=(why,))


def _unreadable(root: Path) -> StorePlan:
    """A store that is there, and that we may not look into: which kind it is can't even be said."""
    why = f"no right to read {quote(str(root), 200)[1:-1]}; run it as root (CAP_DAC_READ_SEARCH)"
    return StorePlan("store", root, unknown=(why,))
