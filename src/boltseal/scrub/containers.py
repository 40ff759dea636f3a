"""Containers: what lies upon the image, and what a running one really sees.

Three things are looked at, beside the image itself:

1. The stack: its own layer, Docker's -init layer, the layers of its image, and nothing else (the store's plan says).
2. The -init layer holds what Docker puts there, empty files that are mounted over, and nothing else.
3. Of a running container: every file of the image that the container has not changed, and that nothing is mounted over, as
   its first process sees it through /proc/PID/root. Somebody may have turned a link of the stack, started the container,
   and turned it back: only this sees it.

What its own layer adds, changes or hides is the container's right; it is listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.runtimes.beneath import Beneath, StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.runtimes.running import RunningRoot
from boltseal.scrub.contents import FileReader
from boltseal.scrub.differences import MAX_PER_LAYER, Difference, Kind, difference
from boltseal.scrub.images import ContainerPlan
from boltseal.scrub.inodes import is_whiteout
from boltseal.scrub.layers import Manner, Spend

_INIT_FILES: Final = frozenset({b".dockerenv", b"dev/console", b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"})
_INIT_FOLDERS: Final = frozenset({b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"})
_INIT_LINK: Final = b"etc/mtab"
_OPAQUE: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_REDIRECT: Final = frozenset({"trusted.overlay.redirect", "user.overlay.redirect"})


@dataclass(frozen=True, slots=True)
class Change:
    """What a container did with a path: added or changed it, or hid it."""

    path: str
    how: str


def init_differences(root: Path, init: bytes | None) -> list[Difference]:
    """What lies in an -init layer and is not Docker's. StoreMissing, StoreUnreadable, StoreMalformed."""
    if init is None:
        return []
    found = []
    with Beneath(root) as store, store.below(init) as tree:
        for path, at in _walk(tree):
            wanted = (
                (stat.S_ISREG(at.st_mode) and path in _INIT_FILES and at.st_size == 0)
                or (stat.S_ISDIR(at.st_mode) and path in _INIT_FOLDERS)
                or (stat.S_ISLNK(at.st_mode) and path == _INIT_LINK and tree.link(path) == b"/proc/mounts")
            )
            if not wanted:
                found.append(difference(Kind.EXTRA, path, "nothing of this name in the -init layer", _mode(at)))
    return found


def changes(container: ContainerPlan) -> list[Change]:
    """What the container's own layer adds, changes and hides; at most MAX_PER_LAYER. As `init_differences`."""
    if container.upper is None:
        return []
    found: list[Change] = []
    with Beneath(container.root) as store, store.below(container.upper) as tree:
        for path, at in _walk(tree):
            if stat.S_ISDIR(at.st_mode) and tree.names(path):
                continue
            found.append(Change(readable(path), "hidden" if is_whiteout(at) else "added or changed"))
            if len(found) >= MAX_PER_LAYER:
                break
    return found


def _walk(tree: Beneath) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything below, a folder before what is in it."""
    todo = [b""]
    while todo:
        folder = todo.pop()
        for name in tree.names(folder):
            path = folder + b"/" + name if folder else name
            at = tree.stat(path)
            yield path, at
            if stat.S_ISDIR(at.st_mode):
                todo.append(path)


def _mode(at: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(at.st_mode):04o}, owner {at.st_uid}:{at.st_gid}, {at.st_size} bytes"


# ---- what a running container sees


@dataclass(slots=True)
class _Seen:
    """What lies at a path in one layer of the stack."""

    layer: int
    at: os.stat_result


def running_differences(
    container: ContainerPlan, running: RunningRoot, manner: Manner, spend: Spend
) -> tuple[list[Difference], list[str]]:
    """What the process sees and the layers do not have, and what could not be looked at."""
    found: list[Difference] = []
    unknown: list[str] = []
    with ExitStack() as opened:
        try:
            store = opened.enter_context(Beneath(container.root))
            folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
            trees = [opened.enter_context(store.below(folder)) for folder in folders]
            view = opened.enter_context(Beneath(running.root))
            _View(trees, view, running, manner, spend, found, unknown).compare()
        except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
            unknown.append(f"process {running.pid} can't be looked at, or has ended: {error.message}")
    return found, unknown


class _View:
    """The stack of layers merged as overlayfs merges them, folder by folder, against what the process sees."""

    def __init__(
        self,
        trees: list[Beneath],
        view: Beneath,
        running: RunningRoot,
        manner: Manner,
        spend: Spend,
        found: list[Difference],
        unknown: list[str],
    ) -> None:
        self._trees = trees
        self._view = view
        self._running = running
        self._manner = manner
        self._spend = spend
        self._found = found
        self._unknown = unknown

    def compare(self) -> None:
        """All of it, however deep a container has made it."""
        todo = [(b"", list(range(len(self._trees))))]
        while todo and len(self._found) < MAX_PER_LAYER:
            todo += self._folder(*todo.pop())

    def _folder(self, path: bytes, layers: list[int]) -> list[tuple[bytes, list[int]]]:
        """One folder, which these layers (0: the container's own) have; the first of them is the topmost. Those in it."""
        inside: list[tuple[bytes, list[int]]] = []
        merged, below = self._merged(path, layers)
        try:
            there = set(self._view.names(path))
        except StoreMissing:
            return inside  # the folder above has said so
        except (StoreUnreadable, StoreMalformed) as error:
            self._unknown.append(error.message)
            return inside
        for name in sorted(there | merged.keys()):
            full = path + b"/" + name if path else name
            if self._mounted(full):
                continue
            seen = merged.get(name)
            if seen is None:
                self._add(full, "nothing", "something that is in no layer")
            elif name not in there:
                self._add(full, "what the layers have", "nothing")
            else:
                self._same(full, seen)
                if stat.S_ISDIR(seen.at.st_mode) and self._may_enter(full, seen):
                    inside.append((full, below[name]))
        return inside

    def _merged(self, path: bytes, layers: list[int]) -> tuple[dict[bytes, _Seen], dict[bytes, list[int]]]:
        merged: dict[bytes, _Seen] = {}
        below: dict[bytes, list[int]] = {}
        hidden: set[bytes] = set()
        for layer in layers:
            tree = self._trees[layer]
            for name in tree.names(path):
                full = path + b"/" + name if path else name
                at = tree.stat(full)
                if name in hidden:
                    continue
                if is_whiteout(at):
                    hidden.add(name)
                    continue
                first = merged.setdefault(name, _Seen(layer, at))
                if not stat.S_ISDIR(at.st_mode) or not stat.S_ISDIR(first.at.st_mode):
                    hidden.add(name)
                    continue
                below.setdefault(name, []).append(layer)
                if _is_opaque(tree, full):
                    hidden.add(name)
        return merged, below

    def _same(self, path: bytes, seen: _Seen) -> None:
        if seen.layer == 0:
            return  # its own: may be written to at this moment
        try:
            got = self._view.stat(path)
        except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
            self._unknown.append(error.message)
            return
        want = seen.at
        pairs = [
            ("type and mode", f"{want.st_mode:06o}", f"{got.st_mode:06o}"),
            ("owner", f"{want.st_uid}:{want.st_gid}", f"{got.st_uid}:{got.st_gid}"),
        ]
        if not stat.S_ISDIR(want.st_mode):
            pairs += [
                ("size", str(want.st_size), str(got.st_size)),
                ("mtime", str(want.st_mtime_ns), str(got.st_mtime_ns)),
            ]
            pairs.append(("device", str(want.st_rdev), str(got.st_rdev)))
        for what, expected, actual in pairs:
            if expected != actual:
                self._add(path, f"{what} {expected}", f"{what} {actual}")
                return
        if stat.S_ISLNK(want.st_mode) and self._trees[seen.layer].link(path) != self._view.link(path):
            self._add(path, "the link of its layer", "another target")
        if stat.S_ISREG(want.st_mode) and not self._manner.quick and not self._same_content(path, seen):
            self._add(path, "the content of its layer", "other content")

    def _same_content(self, path: bytes, seen: _Seen) -> bool:
        ours, theirs = FileReader(self._trees[seen.layer], self._spend), FileReader(self._view, self._spend)
        try:
            first, _ = ours.open(path)
            try:
                second, _ = theirs.open(path)
            except (StoreMissing, StoreMalformed):
                ours.close(first)
                return False
        except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
            self._unknown.append(error.message)
            return True
        try:
            while True:
                piece = os.read(first, 1 << 20)
                self._spend(len(piece))
                if os.read(second, 1 << 20) != piece:
                    return False
                if not piece:
                    return True
        finally:
            ours.close(first)
            theirs.close(second)

    def _may_enter(self, path: bytes, seen: _Seen) -> bool:
        """A folder that the container has renamed leads elsewhere in the layers below; it is its own affair."""
        if seen.layer or not _REDIRECT & set(_marks(self._trees[0], path)):
            return True
        self._unknown.append(f"{readable(path)} was renamed by the container; what is in it was not compared")
        return False

    def _mounted(self, path: bytes) -> bool:
        return path in self._running.mounts

    def _add(self, path: bytes, expected: str, got: str) -> None:
        if len(self._found) < MAX_PER_LAYER:
            self._found.append(difference(Kind.RUNNING, path, expected, got))


def _is_opaque(tree: Beneath, path: bytes) -> bool:
    return any(name in _OPAQUE for name in _marks(tree, path))


def _marks(tree: Beneath, path: bytes) -> list[str]:
    fd = tree.folder(path)
    try:
        return os.listxattr(fd)
    except OSError as error:
        raise StoreUnreadable(f"the attributes of {tree.shown(path)} can't be read: {error.strerror}") from error
