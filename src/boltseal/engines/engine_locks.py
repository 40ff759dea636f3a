"""Find the processes that use a store by the locks that they hold on its databases (proc_locks(5))."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOCKED: Final = (
    "volumes/metadata.db",
    "network/files/local-kv.db",
    "buildkit/snapshots.db",
    "buildkit/history.db",
    "io.containerd.metadata.v1.bolt/meta.db",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)
"""The databases that Docker and containerd keep locked while they run. Podman, which has no daemon, keeps none."""
MAX_LOCKS_BYTES: Final = 16 * 1024 * 1024
_LOCK: Final = re.compile(rb"^\d+: +\S+ +\S+ +\S+ +(\d+) +([0-9a-f]+):([0-9a-f]+):(\d+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A process of an engine."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


def locking_processes(store: Path, proc: Path = Path("/proc")) -> set[int]:
    """Return the processes that hold a lock of a database of this store; none if the kernel does not list locks."""
    wanted = set()
    for name in LOCKED:
        with suppress(OSError):
            found = (store / name).stat(follow_symlinks=False)
            wanted.add((os.major(found.st_dev), os.minor(found.st_dev), found.st_ino))
    if not wanted:
        return set()
    try:
        with (proc / "locks").open("rb") as file:
            raw = file.read(MAX_LOCKS_BYTES)
    except OSError:
        return set()
    return {
        int(pid)
        for pid, major, minor, inode in _LOCK.findall(raw)
        if (int(major, 16), int(minor, 16), int(inode)) in wanted
    }
