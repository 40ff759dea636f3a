"""Compares what the first process of a running container sees through /proc/PID/root with its layers.

Every file of the image is compared that the container has not changed and that nothing is mounted over. This detects an
attacker who redirected a link of the stack, started the container, and restored the link.

The container keeps running meanwhile. So each difference is compared again a few times, in the layers and in the process's
view; differences of the layers persist. The process must still exist at the end.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from boltseal.engines.linked_folders import open_store
from boltseal.engines.overlay_processes import ProcessRoot
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.host.scrub.attributes import CAPABILITY, Attributes, same_capability
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.file_contents import CountRead
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.merged_layers import MergedEntry, MergedLayers, marks, same_content
from boltseal.host.scrub.ownership import IdMap
from boltseal.host.scrub.plans import ContainerPlan

ROUNDS: Final = 6
"""How often a difference is compared; a running container would have to change the same path in each round."""
PAUSE_S: Final = 0.05
_REDIRECT: Final = frozenset({"trusted.overlay.redirect", "user.overlay.redirect"})
_OF_THE_ENGINE: Final = (
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "run/.containerenv",
    "run/secrets",
)
"""The paths that engines mount in every container."""


class _Mismatch(NamedTuple):
    expected: str
    got: str


_STORE_ERRORS: Final = (StoreMissing, StoreUnreadable, StoreMalformed)


@dataclass(frozen=True, slots=True)
class ProcessComparison:
    """The differences between a process's view and its layers.

    `unknown`: what could not be compared. `mounted_over`: paths of the image that mounts hide from the process.
    """

    differences: list[Difference] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    mounted_over: list[str] = field(default_factory=list)


def compare_process_view(
    container: ContainerPlan, running: ProcessRoot, check_mode: CheckMode, count_read: CountRead
) -> ProcessComparison:
    """Compare what a container's first process sees with the container's layers."""
    with ExitStack() as opened:
        try:
            store = opened.enter_context(open_store(container.root))
            folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
            merged = MergedLayers([opened.enter_context(store.below(folder)) for folder in folders])
            view = opened.enter_context(SafeFolder(running.root))
            compared = _View(merged, view, running, check_mode, count_read)
            found = compared.differences()
        except _STORE_ERRORS as error:
            return ProcessComparison(
                unknown=[f"process {running.pid} has ended or can't be inspected: {error.message}"]
            )
    if not running.still_running():
        return ProcessComparison(unknown=[f"process {running.pid} ended during the check, or its number was reused"])
    return ProcessComparison(found, compared.unknown, compared.mounted_over)


class _View:
    """Compares the layers of one container with what its process sees."""

    def __init__(
        self, merged: MergedLayers, view: SafeFolder, running: ProcessRoot, check_mode: CheckMode, count_read: CountRead
    ) -> None:
        self.unknown: list[str] = []
        self.mounted_over: list[str] = []
        self._merged = merged
        self._view = view
        self._running = running
        self._check_mode = check_mode
        self._count_read = count_read
        self._users, self._groups = IdMap(running.users), IdMap(running.groups)

    def differences(self) -> list[Difference]:
        """Return all differences; iterative, since a container can nest folders deeply."""
        suspects: dict[bytes, _Mismatch] = {}
        todo = [(b"", self._merged.all)]
        while todo and len(suspects) < MAX_PER_LAYER:
            todo += self._compare_folder(*todo.pop(), suspects)
        for _ in range(ROUNDS - 1):
            if not suspects:
                break
            time.sleep(PAUSE_S)
            suspects = {path: mismatch for path in suspects if (mismatch := self._still_mismatch(path)) is not None}
        return [difference(DifferenceKind.RUNNING, path, expected, got) for path, (expected, got) in suspects.items()]

    def _compare_folder(
        self, path: bytes, layers: tuple[int, ...], suspects: dict[bytes, _Mismatch]
    ) -> list[tuple[bytes, tuple[int, ...]]]:
        """Compare one folder that these layers have, and return its subfolders."""
        inside: list[tuple[bytes, tuple[int, ...]]] = []
        try:
            merged = self._merged.folder(path, layers)
            exists = set(self._view.names(path))
        except StoreMissing:
            return inside  # reported for the parent folder, or the container has removed it
        except (StoreUnreadable, StoreMalformed) as error:
            self.unknown.append(error.message)
            return inside
        for name in sorted(exists | merged.keys()):
            full = path + b"/" + name if path else name
            seen = merged.get(name)
            if full in self._running.mounts:
                self._record_mount(full, seen)
                continue
            mismatch = self._mismatch(full, seen, exists=name in exists)
            if mismatch is not None:
                suspects[full] = mismatch
            if seen is not None and seen.layers and name in exists and self._is_comparable(full, seen):
                inside.append((full, seen.layers))
        return inside

    def _still_mismatch(self, path: bytes) -> _Mismatch | None:
        """Return the mismatch that a path still has."""
        try:
            return self._mismatch(path, self._merged.at(path), exists=self._view.exists(path))
        except _STORE_ERRORS as error:
            self.unknown.append(error.message)
            return None

    def _record_mount(self, path: bytes, seen: MergedEntry | None) -> None:
        shown = readable(path)
        if seen is not None and not any(shown == each or shown.startswith(f"{each}/") for each in _OF_THE_ENGINE):
            self.mounted_over.append(shown)

    def _mismatch(self, path: bytes, seen: MergedEntry | None, *, exists: bool) -> _Mismatch | None:
        if seen is None:
            return _Mismatch("nothing", "something that is in no layer") if exists else None
        if not exists:
            return _Mismatch("what the layers have", "nothing")
        if seen.layer == 0:
            return None  # the container's own layer: it may be writing to it
        try:
            return self._file_mismatch(path, seen)
        except StoreMissing:
            return _Mismatch("what the layers have", "nothing")
        except (StoreUnreadable, StoreMalformed) as error:
            self.unknown.append(error.message)
        except OSError as error:
            self.unknown.append(explained(error, self._view.shown(path)).message)
        return None

    def _file_mismatch(self, path: bytes, seen: MergedEntry) -> _Mismatch | None:
        """Return how a file that the process sees differs from its layer's.

        Raises: StoreMissing, StoreUnreadable, StoreMalformed, OSError.
        """
        got, want = self._view.stat(path), seen.at
        pairs: list[tuple[str, object, object]] = [("type and mode", f"{want.st_mode:06o}", f"{got.st_mode:06o}")]
        if not self._is_owner(got, want):
            pairs.append(
                (
                    "owner",
                    f"{want.st_uid}:{want.st_gid}",
                    f"{got.st_uid}:{got.st_gid}",
                )
            )
        if not stat.S_ISDIR(want.st_mode):
            pairs += [
                ("size", want.st_size, got.st_size),
                ("mtime", want.st_mtime_ns, got.st_mtime_ns),
                ("device", want.st_rdev, got.st_rdev),
            ]
        for what, expected, actual in pairs:
            if expected != actual:
                return _Mismatch(f"{what} {expected}", f"{what} {actual}")
        tree = self._merged.trees[seen.layer]
        if stat.S_ISLNK(want.st_mode) and tree.link(path) != self._view.link(path):
            return _Mismatch("the link of its layer", "another target")
        if not stat.S_ISREG(want.st_mode):
            return None
        if not self._same_right(path, tree):
            return _Mismatch("the capabilities of its layer", "others")
        if not self._check_mode.quick and not self._same_content(path, tree):
            return _Mismatch("the content of its layer", "other content")
        return None

    def _is_owner(self, got: os.stat_result, want: os.stat_result) -> bool:
        """Return whether a file has its layer's owner: unmapped, or mapped by the container's mount."""
        owner, owner_in_layer = (
            (got.st_uid, got.st_gid),
            (want.st_uid, want.st_gid),
        )
        return owner in (
            owner_in_layer,
            (self._users.outside(owner_in_layer[0]), self._groups.outside(owner_in_layer[1])),
        )

    def _same_right(self, path: bytes, tree: SafeFolder) -> bool:
        ours, theirs = (Attributes(each).value_if_there(path, CAPABILITY) for each in (tree, self._view))
        return ours == theirs or (ours is not None and theirs is not None and same_capability(ours, theirs))

    def _same_content(self, path: bytes, tree: SafeFolder) -> bool:
        return same_content(path, tree, self._view, self._count_read, from_disk=self._check_mode.from_disk)

    def _is_comparable(self, path: bytes, seen: MergedEntry) -> bool:
        """Return whether to compare a folder's contents; one that the container renamed refers to another path below."""
        try:
            renamed = seen.layer == 0 and _REDIRECT & set(marks(self._merged.trees[0], path))
        except _STORE_ERRORS as error:
            self.unknown.append(error.message)
            return False
        if renamed:
            self.unknown.append(f"{readable(path)} was renamed by the container; its contents were not compared")
        return not renamed
