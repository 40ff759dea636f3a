"""Finds the image stores of this host's engines, and the stores at a given path."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from boltseal.engines.locations import IN_A_HOME, inside, store_locations
from boltseal.errors import Invalid, quote
from boltseal.host.scrub import archives, containerd_store, docker_store, podman_store
from boltseal.host.scrub.plans import StorePlan

Plan = Callable[[Path], StorePlan]

MAX_HOMES: Final = 1000
PODMANS: Final = tuple(f"{driver}-images" for driver in ("overlay", "vfs", "btrfs", "zfs", "aufs"))
_REMAPPED: Final = re.compile(r"[1-9][0-9]*\.[1-9][0-9]*")


class NoStoreFound(Invalid):
    """A path without an image store."""


@dataclass(frozen=True, slots=True)
class FoundStore:
    """A store's root and the function that plans its check."""

    root: Path
    plan: Plan


def usual_stores(
    homes: Iterable[Path] = (),
    disk: Path = Path("/"),
    *,
    running: Iterable[Path] = (),
    max_homes: int = MAX_HOMES,
) -> list[FoundStore]:
    """Return the stores of this host.

    `homes`: of users whose rootless stores are included, of at most `max_homes`; `running`: those of running engines.
    """
    named, unknown = store_locations(disk)
    places = [*(disk / each for each in named), *running]
    existing = {os.path.realpath(path): path for path in reversed(places) if _is_dir(path)}
    here = [store for path in reversed(existing.values()) for store in _stores_in(path)]
    in_homes = _in_homes(homes, lambda path: path if _is_dir(path) else None, max_homes)
    return here + in_homes + _unknown_locations(disk, unknown)


def usual_places(disk: Path = Path("/")) -> str:
    """Return where `usual_stores` looks, in words."""
    named = store_locations(disk).folders
    places = ", ".join(str(disk / each) for each in named)
    return f"{places}, the data folders of running engines, and in users' homes {', '.join(IN_A_HOME)}"


def _in_homes(homes: Iterable[Path], where: Callable[[Path], Path | None], max_homes: int) -> list[FoundStore]:
    """Return the stores in home folders. `where`: resolves a path, None if it does not exist."""
    looked = list(islice(homes, max_homes + 1))
    candidates = [where(home / store) for home in looked[:max_homes] for store in IN_A_HOME]
    found = [store for path in candidates if path is not None for store in _stores_in(path)]
    return found + [FoundStore(home, partial(_left_out, max_homes)) for home in looked[max_homes:]]


def _unknown_locations(disk: Path, unknown: list[str]) -> list[FoundStore]:
    return [FoundStore(disk, partial(_unknown, (why,))) for why in unknown]


def store_at(root: Path, *, max_homes: int = MAX_HOMES) -> list[FoundStore]:
    """Return the stores at a path: an engine's root, a whole host's disk, a layout's folder or an archive.

    `max_homes`: how many home folders of a disk are searched.

    Raises: NoStoreFound.
    """
    if not _is_dir(root):
        if _is_unreadable(root):
            return [FoundStore(root, _unreadable)]
        if os.path.lexists(root):
            return [FoundStore(root, archives.plan)]
        raise NoStoreFound(
            f"{quote(str(root), 200)[1:-1]} does not exist; expected a store, a mounted disk or an archive"
        )
    found = _stores_in(root) or _on_disk(root, max_homes)
    if not found:
        raise NoStoreFound(
            f"{quote(str(root), 200)[1:-1]} is not an image store; expected the root of Docker (image/, overlay2/), containerd "
            "(io.containerd.*), Podman (overlay-images/), an OCI layout, an archive, or a disk with one of them in var/lib"
        )
    return found


def _on_disk(root: Path, max_homes: int) -> list[FoundStore]:
    """Return the stores of a mounted disk, at the paths of its own host; an unreadable home folder may have one."""
    named, unknown = store_locations(root)
    home = inside(root, "home")
    unlisted = {home} if home is not None and _is_unreadable(home) else set()
    users = sorted(islice(home.iterdir(), max_homes)) if home is not None and _is_dir(home) and not unlisted else []
    homes = [
        at for each in ("root", *(f"home/{user.name}" for user in users)) if (at := inside(root, each)) is not None
    ]
    closed = unlisted | {each for each in homes if _is_unreadable(each, os.X_OK)}
    existing = dict.fromkeys(at for each in named if (at := inside(root, each)) is not None)
    return [
        *(store for path in existing for store in _stores_in(path)),
        *(FoundStore(each, _unreadable) for each in sorted(closed)),
        *_in_homes(
            (each for each in homes if each not in closed),
            lambda path: inside(root, str(path.relative_to(root))),
            max_homes,
        ),
        *_unknown_locations(root, unknown),
    ]


def _stores_in(root: Path) -> list[FoundStore]:
    if _is_unreadable(root):
        return [FoundStore(root, _unreadable)]
    if not _is_dir(root):
        return []
    found = []
    if _is_dir(root / "image"):
        found.append(FoundStore(root, docker_store.plan))
    if any(_is_dir(root / images) for images in PODMANS):
        found.append(FoundStore(root, podman_store.plan))
    found += [
        FoundStore(inner, containerd_store.plan)
        for inner in (root, root / "containerd" / "daemon")
        if _is_dir(inner / "io.containerd.metadata.v1.bolt") and inside(root, str(inner.relative_to(root))) == inner
    ]
    if os.path.lexists(root / "oci-layout") or os.path.lexists(root / "index.json"):
        found.append(FoundStore(root, archives.plan))
    with os.scandir(root) as entries:  # with userns-remap Docker's root may have nothing else
        remapped = sorted(each.name for each in entries if _REMAPPED.fullmatch(each.name))
    return found + [
        FoundStore(root / name, docker_store.plan)
        for name in remapped
        if not (root / name).is_symlink() and _is_dir(root / name / "image")
    ]


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_unreadable(path: Path, rights: int = os.R_OK | os.X_OK) -> bool:
    """Return whether this process lacks these rights on a folder, or the right to see whether it exists."""
    try:
        found = path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and not os.access(path, rights)


def _left_out(max_homes: int, root: Path) -> StorePlan:
    why = f"not checked: there are more than {max_homes} home folders; name this one with --root"
    return StorePlan("store", root, unknown=(why,))


def _unreadable(root: Path) -> StorePlan:
    """Return the plan of a folder that can't be read, so that even its kind of store is unknown."""
    why = f"no right to read {quote(str(root), 200)[1:-1]}; run it as root (CAP_DAC_READ_SEARCH)"
    return _unknown((why,), root)


def _unknown(why: tuple[str, ...], root: Path) -> StorePlan:
    return StorePlan("store", root, unknown=why)
