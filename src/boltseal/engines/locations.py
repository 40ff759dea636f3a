"""Where the engines of a host keep their images: where their packages put them, and where their configurations say.

    /etc/docker/daemon.json          data-root
    /etc/containerd/config.toml      root
    /etc/containers/storage.conf     [storage] graphroot

The host may be another one, whose disk is mounted here. Then its paths begin at that disk, and so do its links: they mean
there what they meant to the host, and never lead out of it.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

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
"""Where the packages of Debian and others, and distributions of Kubernetes, put them."""
IN_A_HOME: Final = (".local/share/containers/storage", ".local/share/docker", ".local/share/containerd")
"""Where they lie without root."""
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


def places(disk: Path) -> tuple[list[str], list[str]]:
    """Paths from the disk's root on where stores may lie; and which configurations can't be read, and why."""
    found = list(USUAL)
    unknown: list[str] = []
    for name, root_in in _CONFIGURED:
        at = inside(disk, name)
        if at is None:
            continue
        try:
            with SafeFolder(at.parent) as folder:
                told = root_in(folder.read(os.fsencode(at.name), MAX_CONFIG_BYTES))
        except StoreMissing:
            continue
        except (StoreMalformed, StoreUnreadable) as error:
            unknown.append(
                f"where the engine of {quote(str(at), 200)[1:-1]} keeps images is not known: {error.message}"
            )
            continue
        if told.startswith("/"):
            found.append(told.strip("/"))
    return list(dict.fromkeys(found)), unknown


def inside(disk: Path, path: str) -> Path | None:
    """Where a path of the host whose disk this is leads to, without links; None if nothing is there.

    Where we have no right to look, as far as we can see: whoever opens that is told so.
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
        raise StoreMalformed(f"a configuration is no TOML: {quote(str(error), 200)[1:-1]}") from error


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
