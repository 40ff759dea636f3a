"""Finds engines that have another file open than the database that is on the disk now.

An engine keeps its database open while it runs. If the file was replaced meanwhile, the engine goes on with the former one, which
no other program can read by its path. So the names and layers that are read from the disk are not those that the engine uses.
Engines themselves never replace these files.

An engine in another root folder (a container, a chroot) is not found, since its paths are others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.engines.engine_locks import LOCKED

_DELETED: Final = " (deleted)"
_CONTAINERD: Final = "containerd"
_METADATA: Final = "io.containerd.metadata.v1.bolt/meta.db"

_Identity = tuple[int, int]


class _OpenFile(NamedTuple):
    path: str
    identity: _Identity


def replaced_databases(store: Path, engines: frozenset[bytes], proc: Path = Path("/proc")) -> list[str]:
    """Return a reason for each engine whose open database of this store is not the file at the database's path.

    `engines`: the names of engines' processes.
    """
    databases = _databases(store)
    if not databases:
        return []
    real = os.path.realpath(store)
    found = []
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        try:
            name = (proc / str(pid) / "comm").read_bytes().rstrip(b"\n")
        except OSError:
            continue  # it has ended
        if name not in engines:
            continue
        opened = list(_open_files(proc / str(pid)))
        replaced = [each.path for each in opened if databases.get(each.path, each.identity) != each.identity]
        main = os.path.join(real, _METADATA)  # noqa: PTH118 - compared as text
        is_containerd = name == _CONTAINERD.encode() and any(each.path.startswith(f"{real}/") for each in opened)
        if is_containerd and main in databases and databases[main] not in {each.identity for each in opened}:
            replaced.append(main)
        found += [_reason(pid, name, path) for path in dict.fromkeys(replaced)]
    return found


def _databases(store: Path) -> dict[str, _Identity]:
    """Return the databases of a store, by the paths that the kernel shows for them."""
    found: dict[str, _Identity] = {}
    for name in LOCKED:
        folder, _, base = name.rpartition("/")
        path = f"{os.path.realpath(store / folder)}/{base}"
        with suppress(OSError):
            at = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - compared as text
            found[path] = (at.st_dev, at.st_ino)
    return found


def _open_files(process: Path) -> Iterator[_OpenFile]:
    """Yield the open files of a process, each with the path by which it was opened or renamed; none without the right."""
    with suppress(OSError):
        for each in (process / "fd").iterdir():
            with suppress(OSError):
                path = os.readlink(each).removesuffix(_DELETED)  # noqa: PTH115 - the text, which may have any bytes
                if path.startswith("/"):
                    at = each.stat()
                    yield _OpenFile(path, (at.st_dev, at.st_ino))


def _reason(pid: int, name: bytes, path: str) -> str:
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return (
        f"process {pid} ({name.decode('ascii', 'backslashreplace')}) has another file open than {shown}, which was replaced while "
        "it runs: its images are those of the former file. Restart the engine and check again"
    )
