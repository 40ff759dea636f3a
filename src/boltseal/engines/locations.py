"""Find the image stores of a host: the packages' default folders, and those in the engines' configurations.

    /etc/docker/daemon.json          data-root
    /etc/containerd/config.toml      root
    /etc/containers/storage.conf     [storage] graphroot

The host may be another one whose disk is mounted here. Then paths and symbolic links are resolved within that disk and
never lead out of it.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from boltseal.engines.json_documents import decoded
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.errors import quote

USUAL: Final = (
    "var/lib/docker",
    "var/lib/containerd",
    "var/lib/containers/storage",
    "var/lib/rancher/k3s/agent/containerd",
    "var/lib/rancher/rke2/agent/containerd",
    "var/lib/k0s/containerd",
    "var/snap/docker/common/var-lib-docker",
    "var/snap/microk8s/common/var/lib/containerd",
)
"""Default folders of packages of Debian and others, and of Kubernetes distributions."""
IN_A_HOME: Final = (".local/share/containers/storage", ".local/share/docker", ".local/share/containerd")
"""Default folders of rootless engines."""
MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_LINKS: Final = 40


class _Daemon(msgspec.Struct, rename="kebab"):
    data_root: str = ""
    graph: str = ""


def _of_docker(raw: bytes) -> str:
    read = decoded(raw, _Daemon, "daemon.json") if raw.strip() else _Daemon()
    return read.data_root or read.graph


def _of_containerd(raw: bytes) -> str:
    return _word(_toml(raw).get("root"))


def _of_storage(raw: bytes) -> str:
    table = _toml(raw).get("storage")
    return _word(table.get("graphroot")) if isinstance(table, dict) else ""


_CONFIGURED: Final[tuple[tuple[str, Callable[[bytes], str]], ...]] = (
    ("etc/docker/daemon.json", _of_docker),
    ("etc/containerd/config.toml", _of_containerd),
    ("etc/containers/storage.conf", _of_storage),
)


class StoreLocations(NamedTuple):
    """Candidate folders of image stores, relative to a disk's root. `unknown`: configurations that can't be parsed, and why."""

    folders: list[str]
    unknown: list[str]


def store_locations(disk: Path) -> StoreLocations:
    """Return where image stores may be: in the usual folders, and where engines are configured to keep them."""
    found = list(USUAL)
    unknown: list[str] = []
    for name, root_in in _CONFIGURED:
        at = inside(disk, name)
        if at is None:
            continue
        try:
            with SafeFolder(at.parent) as folder:
                configured = root_in(folder.read(os.fsencode(at.name), MAX_CONFIG_BYTES))
        except StoreMissing:
            continue
        except (StoreMalformed, StoreUnreadable) as error:
            unknown.append(
                f"the image folder of the engine with {quote(str(at), 200)[1:-1]} is unknown: {error.message}"
            )
            continue
        if configured.startswith("/"):
            found.append(configured.strip("/"))
    return StoreLocations(list(dict.fromkeys(found)), unknown)


def inside(disk: Path, path: str) -> Path | None:
    """Resolve a path within a disk, without links in the result; None if it does not exist.

    Where a folder can't be searched, return the path so far: opening it reports the missing right.
    """
    left = deque(path.split("/"))
    at: list[str] = []
    links = 0
    while left:
        name = left.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            del at[-1:]
            continue
        here = disk.joinpath(*at, name)
        try:
            if stat.S_ISLNK(here.lstat().st_mode):
                links += 1
                target = str(here.readlink())
                left.extendleft(reversed(target.split("/")))
                if target.startswith("/"):
                    at.clear()
            else:
                at.append(name)
        except PermissionError:
            return here
        except (OSError, ValueError):
            return None
        if links > MAX_LINKS:
            return None
    return disk.joinpath(*at)


def _toml(raw: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise StoreMalformed(f"invalid TOML: {quote(str(error), 200)[1:-1]}") from error


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
