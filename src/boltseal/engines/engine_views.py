"""How container engines see a folder: through their own mount namespaces, which may differ from that of this process.

A mount that was made in an engine's namespace only decides what its next container gets, and no other process sees it. The
same holds for a mount that was made everywhere but there. Engines are found in two ways:

    /proc/PID/comm    the names of engines; rootless Podman mounts in the namespace of its "podman pause" process, or in that
                      of a container's conmon
    /proc/locks       processes that hold a lock of a file that engines lock; they may have any name

Only processes of root and of the folder's owner count, since others can't be its engine. A process in the same namespace as
this one sees the same mounts. Mount IDs identify namespaces: each namespace has its own copies of mounts, with new IDs.

If an engine sees another folder at the folder's path, that matters only if it uses that one: services that have nothing to do with
the folder may have their own /var or /home. It is in use if one of its databases is locked, if there are mounts at or below
it, or if an engine has an open file in it.

An engine in another root folder (a container, a chroot) is asked by the device of the folder's file system; if its
namespace has no mount of the folder, it does not use it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.engines.engine_locks import EngineProcess, locking_processes
from boltseal.engines.mounts import Mount, below, mount_table, mounts, path_of
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable

ENGINES: Final = frozenset(
    {
        b"dockerd",
        b"containerd",
        b"containerd-shim",
        b"crio",
        b"podman",
        b"podman pause",
        b"catatonit",
        b"conmon",
        b"conmonrs",
        b"buildah",
        b"buildkitd",
    }
)

Identity = tuple[int, int]
"""Device and inode."""
IsRelevant = Callable[[bytes], bool]
"""Returns whether a mount point, relative to the folder, is compared. Engines mount and unmount others at any time."""


@dataclass(frozen=True, slots=True)
class ViewDifference:
    """A path below a folder that an engine sees differently; "" is the folder itself."""

    path: bytes
    engine: EngineProcess


class EngineViews:
    """Compares how the engines of a host see a folder with how this process sees it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def differences(self, folder: Path, store: Path, relevant: IsRelevant) -> tuple[list[ViewDifference], list[str]]:
        """Return what engines see differently, and why it could not be compared for others.

        `store`: the store that the folder is, or belongs to.

        Raises: StoreUnreadable: the own mount table can't be read; StoreMissing, StoreMalformed as `SafeFolder`.
        """
        found: list[ViewDifference] = []
        unknown: list[str] = []
        with SafeFolder(folder) as ours:
            path = path_of(ours.folder(b""))
            own = self._own_table()
            points = _points(own, path, relevant)
            own_ids = {each.id for each in mounts(own)}
            owner = os.fstat(ours.folder(b"")).st_uid
            for table, engines in self._namespaces(owner, store, own_ids):
                try:
                    found += self._compared(engines, table, ours, (path, points), relevant, own)
                except (OSError, StoreMissing, StoreUnreadable) as error:
                    if self._still_exists(engines[0], table):
                        why = error.strerror if isinstance(error, OSError) else error.message
                        unknown.append(
                            f"the mounts that {engines[0]} sees can't be read: {why}; CAP_SYS_PTRACE is needed"
                        )
        return found, unknown

    def _namespaces(self, owner: int, store: Path, own: set[bytes]) -> list[tuple[bytes, list[EngineProcess]]]:
        """Return the mount tables of other namespaces, each with the engines there. `own`: IDs of this process's mounts."""
        found: dict[bytes, tuple[bytes, list[EngineProcess]]] = {}
        for engine in self._engines(owner, store):
            try:
                table = mount_table(self._proc / str(engine.pid))
            except OSError:
                continue  # it has ended
            ids = [each.id for each in mounts(table)]
            if ids and own.isdisjoint(ids):
                found.setdefault(ids[0], (table, []))[1].append(engine)
        return list(found.values())

    def _has_open_file(self, engine: EngineProcess, folder: bytes) -> bool:
        """Return whether a process has an open file below a path in its view; False if that can't be read."""
        try:
            files = [os.fsencode(each.readlink()) for each in (self._proc / str(engine.pid) / "fd").iterdir()]
        except OSError:
            return False
        return any(each.startswith(folder + b"/") for each in files)

    def _own_table(self) -> bytes:
        try:
            return mount_table(self._proc / "self")
        except OSError as error:
            raise explained(error, f"{self._proc}/self/mountinfo") from error

    def _still_exists(self, engine: EngineProcess, table: bytes) -> bool:
        try:
            return mount_table(self._proc / str(engine.pid)) == table
        except OSError:
            return False

    def _engines(self, owner: int, store: Path) -> Iterator[EngineProcess]:
        locking = locking_processes(store, self._proc)
        for pid in sorted(int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit()):
            try:
                name = (self._proc / str(pid) / "comm").read_bytes().rstrip(b"\n")
                user = (self._proc / str(pid)).stat().st_uid
            except OSError:
                continue  # it has ended
            # Root's engines do not use another user's folder, and only root can look at them.
            is_possible = user == owner or (user == 0 and os.geteuid() == 0)
            if is_possible and (name in ENGINES or pid in locking):
                yield EngineProcess(pid, readable(name))

    def _compared(
        self,
        engines: list[EngineProcess],
        table: bytes,
        ours: SafeFolder,
        seen: tuple[bytes, set[bytes]],
        relevant: IsRelevant,
        own: bytes,
    ) -> list[ViewDifference]:
        """Compare the view of the engines in one namespace.

        Raises: OSError, StoreMissing, StoreUnreadable: its root can't be entered, or it has ended.
        """
        engine = engines[0]
        path, points = seen
        root = self._proc / str(engine.pid) / "root"
        identity = _identity(os.fstat(ours.folder(b"")))
        is_same_root = _identity(root.stat()) == _identity(Path("/").stat())
        with SafeFolder(root) as theirs:
            there = _identity_at(theirs, path.strip(b"/")) if is_same_root else None
            if there not in (None, identity):
                is_used = (
                    _has_mount_in(table, path)
                    or locking_processes(root / os.fsdecode(path.strip(b"/")), self._proc)
                    or any(self._has_open_file(each, path) for each in engines)
                )
                return [ViewDifference(b"", engine)] if is_used else []
            candidates = [path] if there == identity else _places(table, own, path)
            for candidate in candidates:
                at = candidate.strip(b"/")
                if _identity_at(theirs, at) == identity:
                    with theirs.below(at) as folder:
                        return [
                            ViewDifference(point, engine)
                            for point in sorted(points | _points(table, candidate, relevant))
                            if _identity_at(ours, point) != _identity_at(folder, point)
                        ]
        return []


def _has_mount_in(table: bytes, path: bytes) -> bool:
    """Return whether something is mounted at a path or below it."""
    return any(each.point == path or each.point.startswith(path + b"/") for each in mounts(table))


def _points(table: bytes, path: bytes, relevant: IsRelevant) -> set[bytes]:
    """Return the relevant mount points below a path, relative to it."""
    start = len(path.rstrip(b"/")) + 1
    return {point for each in below(table, path) if relevant(point := each.point[start:])}


def _places(table: bytes, own: bytes, path: bytes) -> list[bytes]:
    """Return the paths in another namespace under which the same folder may be mounted."""
    mount = _mount_of(own, path)
    if mount is None:
        return []
    inside = _joined(mount.root, path[len(mount.point.rstrip(b"/")) :])
    found = []
    for each in mounts(table):
        start = each.root.rstrip(b"/") + b"/"
        if each.device == mount.device and (inside + b"/").startswith(start):
            found.append(_joined(each.point, b"/" + inside[len(start) :]))
    return list(dict.fromkeys(found))


def _mount_of(table: bytes, path: bytes) -> Mount | None:
    """Return the mount of a path: the last of those with the longest mount point."""
    found: Mount | None = None
    for each in mounts(table):
        is_above = (path + b"/").startswith(each.point.rstrip(b"/") + b"/")
        if is_above and (found is None or len(each.point) >= len(found.point)):
            found = each
    return found


def _joined(above: bytes, path: bytes) -> bytes:
    return above.rstrip(b"/") + b"/" + path.strip(b"/") if path.strip(b"/") else above


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _identity_at(files: SafeFolder, path: bytes) -> Identity | None:
    """Return what is at a path, None for nothing.

    Raises: StoreUnreadable.
    """
    try:
        return _identity(files.stat(path))
    except (StoreMissing, StoreMalformed):
        return None
