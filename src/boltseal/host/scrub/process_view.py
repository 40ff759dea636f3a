"""What the first process of a running container sees through /proc/PID/root, against the layers that it must lie on.

Every file of the image is looked at that the container has not changed, and that nothing is mounted over. Somebody may have
turned a link of the stack, started the container, and turned it back: only this sees it.

A container goes on working meanwhile. So whatever differs is looked at again, a few times, in the layers and in what the
process sees: what is true of the layers stays so. And the process must still be there at the end.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import ExitStack
from typing import Final

from boltseal.engines.overlay_processes import ProcessRoot
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.host.scrub.attributes import CAPABILITY, Attributes, same_capability
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.layer_check import CheckMode, Spend
from boltseal.host.scrub.merged_layers import MergedEntry, MergedLayers, marks, same_content
from boltseal.host.scrub.ownership import IdMap
from boltseal.host.scrub.plans import ContainerPlan

ROUNDS: Final = 6
"""How often what differs is looked at; a container would have to change the very same path within each of them."""
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
"""What is mounted in every container."""

_Wrong = tuple[str, str]
"""Expected, got."""
_LOST: Final = (StoreMissing, StoreUnreadable, StoreMalformed)


def compare_process_view(
    container: ContainerPlan, running: ProcessRoot, manner: CheckMode, spend: Spend
) -> tuple[list[Difference], list[str], list[str]]:
    """What the process sees and the layers do not have; what could not be looked at; what mounts hide from it."""
    with ExitStack() as opened:
        try:
            store = opened.enter_context(SafeFolder(container.root))
            folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
            merged = MergedLayers([opened.enter_context(store.below(folder)) for folder in folders])
            view = opened.enter_context(SafeFolder(running.root))
            compared = _View(merged, view, running, manner, spend)
            found = compared.differences()
        except _LOST as error:
            return [], [f"process {running.pid} can't be looked at, or has ended: {error.message}"], []
    if not running.the_same():
        return [], [f"process {running.pid} has ended, or another one has its number, since it was looked at"], []
    return found, compared.unknown, compared.mounted_over


class _View:
    """The layers of one container, and what its process sees."""

    def __init__(
        self, merged: MergedLayers, view: SafeFolder, running: ProcessRoot, manner: CheckMode, spend: Spend
    ) -> None:
        self.unknown: list[str] = []
        self.mounted_over: list[str] = []
        self._merged = merged
        self._view = view
        self._running = running
        self._manner = manner
        self._spend = spend
        self._users, self._groups = IdMap(running.users), IdMap(running.groups)

    def differences(self) -> list[Difference]:
        """All of it, however deep a container has made it."""
        suspects: dict[bytes, _Wrong] = {}
        todo = [(b"", self._merged.all)]
        while todo and len(suspects) < MAX_PER_LAYER:
            todo += self._folder(*todo.pop(), suspects)
        for _ in range(ROUNDS - 1):
            if not suspects:
                break
            time.sleep(PAUSE_S)
            suspects = {path: wrong for path in suspects if (wrong := self._again(path)) is not None}
        return [difference(DifferenceKind.RUNNING, path, expected, got) for path, (expected, got) in suspects.items()]

    def _folder(
        self, path: bytes, layers: tuple[int, ...], suspects: dict[bytes, _Wrong]
    ) -> list[tuple[bytes, tuple[int, ...]]]:
        """One folder, which these layers have. Gives the folders in it."""
        inside: list[tuple[bytes, tuple[int, ...]]] = []
        try:
            merged = self._merged.folder(path, layers)
            there = set(self._view.names(path))
        except StoreMissing:
            return inside  # the folder above has said so, or the container has removed it
        except (StoreUnreadable, StoreMalformed) as error:
            self.unknown.append(error.message)
            return inside
        for name in sorted(there | merged.keys()):
            full = path + b"/" + name if path else name
            seen = merged.get(name)
            if full in self._running.mounts:
                self._mounted(full, seen)
                continue
            wrong = self._wrong(full, seen, there=name in there)
            if wrong is not None:
                suspects[full] = wrong
            if seen is not None and seen.layers and name in there and self._may_enter(full, seen):
                inside.append((full, seen.layers))
        return inside

    def _again(self, path: bytes) -> _Wrong | None:
        """What is still wrong with a path."""
        try:
            return self._wrong(path, self._merged.at(path), there=self._view.exists(path))
        except _LOST as error:
            self.unknown.append(error.message)
            return None

    def _mounted(self, path: bytes, seen: MergedEntry | None) -> None:
        shown = readable(path)
        if seen is not None and not any(shown == each or shown.startswith(f"{each}/") for each in _OF_THE_ENGINE):
            self.mounted_over.append(shown)

    def _wrong(self, path: bytes, seen: MergedEntry | None, *, there: bool) -> _Wrong | None:
        if seen is None:
            return ("nothing", "something that is in no layer") if there else None
        if not there:
            return "what the layers have", "nothing"
        if seen.layer == 0:
            return None  # its own: may be written to at this moment
        try:
            return self._other(path, seen)
        except StoreMissing:
            return "what the layers have", "nothing"
        except (StoreUnreadable, StoreMalformed) as error:
            self.unknown.append(error.message)
        except OSError as error:
            self.unknown.append(explained(error, self._view.shown(path)).message)
        return None

    def _other(self, path: bytes, seen: MergedEntry) -> _Wrong | None:
        """How what the process sees is another thing than what a layer has. StoreMissing and its like."""
        got, want = self._view.stat(path), seen.at
        pairs: list[tuple[str, object, object]] = [("type and mode", f"{want.st_mode:06o}", f"{got.st_mode:06o}")]
        if not self._is_owner(got, want):
            pairs.append(("owner", f"{want.st_uid}:{want.st_gid}", f"{got.st_uid}:{got.st_gid}"))
        if not stat.S_ISDIR(want.st_mode):
            pairs += [
                ("size", want.st_size, got.st_size),
                ("mtime", want.st_mtime_ns, got.st_mtime_ns),
                ("device", want.st_rdev, got.st_rdev),
            ]
        for what, expected, actual in pairs:
            if expected != actual:
                return f"{what} {expected}", f"{what} {actual}"
        tree = self._merged.trees[seen.layer]
        if stat.S_ISLNK(want.st_mode) and tree.link(path) != self._view.link(path):
            return "the link of its layer", "another target"
        if not stat.S_ISREG(want.st_mode):
            return None
        if not self._same_right(path, tree):
            return "the capabilities of its layer", "others"
        if not self._manner.quick and not self._same_content(path, tree):
            return "the content of its layer", "other content"
        return None

    def _is_owner(self, got: os.stat_result, want: os.stat_result) -> bool:
        """Whether a file has its layer's owner: either the layer has the ids of the container already, or the mount maps them."""
        owner, meant = (got.st_uid, got.st_gid), (want.st_uid, want.st_gid)
        return owner in (meant, (self._users.outside(meant[0]), self._groups.outside(meant[1])))

    def _same_right(self, path: bytes, tree: SafeFolder) -> bool:
        ours, theirs = (Attributes(each).value_if_there(path, CAPABILITY) for each in (tree, self._view))
        return ours == theirs or (ours is not None and theirs is not None and same_capability(ours, theirs))

    def _same_content(self, path: bytes, tree: SafeFolder) -> bool:
        return same_content(path, tree, self._view, self._spend, from_disk=self._manner.from_disk)

    def _may_enter(self, path: bytes, seen: MergedEntry) -> bool:
        """A folder that the container has renamed leads elsewhere in the layers below; it is its own affair."""
        try:
            renamed = seen.layer == 0 and _REDIRECT & set(marks(self._merged.trees[0], path))
        except _LOST as error:
            self.unknown.append(error.message)
            return False
        if renamed:
            self.unknown.append(f"{readable(path)} was renamed by the container; what is in it was not compared")
        return not renamed
