"""Compares copies of an image for containers with their own ID maps (`--uidmap`), where mounts can't map IDs.

Podman and containerd mount the image's layers and change the owner of every file. This copies each file up into a new
layer, which becomes the top image layer of such containers. The copy has no digest, but it must equal the merged layers
except for owners, and the digests of those layers are verified. Changing the owner removes setuid, setgid and capabilities
from a file: Podman restores them, containerd does not.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.attributes import (
    CAPABILITY,
    IGNORED,
    OVERLAYFS_PREFIXES,
    Attributes,
    describe_value,
    same_capability,
)
from boltseal.host.scrub.differences import MAX_PER_LAYER, Difference, DifferenceKind, difference
from boltseal.host.scrub.file_contents import CountRead
from boltseal.host.scrub.inodes import describe_file, shown_time
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.merged_layers import MergedEntry, MergedLayers, same_content
from boltseal.host.scrub.ownership import IdMap
from boltseal.host.scrub.plans import MappedCopy

METACOPY: Final = "trusted.overlay.metacopy"
"""The attribute of a file whose content is still in the layer below."""


def copy_differences(root: Path, copy: MappedCopy, check_mode: CheckMode, count_read: CountRead) -> list[Difference]:
    """Return how a copy differs from the layers.

    Raises: StoreMissing, StoreUnreadable, StoreMalformed.
    """
    with ExitStack() as opened:
        store = opened.enter_context(open_store(root))
        tree = opened.enter_context(store.below(copy.folder))
        merged = MergedLayers([opened.enter_context(store.below(folder)) for folder in copy.layers])
        return _Comparison(copy, tree, merged, check_mode, count_read).differences()


class _Comparison:
    """Compares one copy."""

    def __init__(
        self, copy: MappedCopy, tree: SafeFolder, merged: MergedLayers, check_mode: CheckMode, count_read: CountRead
    ) -> None:
        self._copy = copy
        self._tree = tree
        self._merged = merged
        self._check_mode = check_mode
        self._count_read = count_read
        self._found: list[Difference] = []

    def differences(self) -> list[Difference]:
        todo = [(b"", self._merged.all)]
        while todo and len(self._found) < MAX_PER_LAYER:
            path, layers = todo.pop()
            merged = self._merged.folder(path, layers)
            names = set(self._tree.names(path))
            for name in sorted(names | merged.keys()):
                full = path + b"/" + name if path else name
                seen = merged.get(name)
                if seen is None:
                    self._add(DifferenceKind.EXTRA, full, "nothing", describe_file(self._tree.stat(full)))
                elif name not in names:
                    self._add(DifferenceKind.MISSING, full, describe_file(seen.at), "nothing")
                elif self._same_kind(full, seen) and seen.layers:
                    todo.append((full, seen.layers))
        return self._found

    def _same_kind(self, path: bytes, seen: MergedEntry) -> bool:
        """Compare the file at a path with that of the layers, and return whether it has the same type."""
        want, got = seen.at, self._tree.stat(path)
        if stat.S_IFMT(want.st_mode) != stat.S_IFMT(got.st_mode):
            self._add(DifferenceKind.TYPE, path, describe_file(want), describe_file(got))
            return False
        if not self._same_mode(want, got):
            self._add(
                DifferenceKind.MODE, path, f"{stat.S_IMODE(want.st_mode):04o}", f"{stat.S_IMODE(got.st_mode):04o}"
            )
        owner = self._owner(want)
        if owner is not None and (got.st_uid, got.st_gid) != owner:
            self._add(DifferenceKind.OWNER, path, f"{owner[0]}:{owner[1]}", f"{got.st_uid}:{got.st_gid}")
        borrowed = self._attributes(path, seen)
        tree = self._merged.trees[seen.layer]
        if stat.S_ISREG(want.st_mode):
            self._file(path, tree, (want, got), borrowed=borrowed)
        elif stat.S_ISLNK(want.st_mode) and tree.link(path) != self._tree.link(path):
            self._add(DifferenceKind.LINK, path, "the link of its layer", "another target")
        elif want.st_rdev != got.st_rdev:
            self._add(DifferenceKind.DEVICE, path, "the device of its layer", "another one")
        return True

    def _owner(self, want: os.stat_result) -> tuple[int | None, int | None] | None:
        """Return the owner and group that a file must have in the copy, None if the ID map of the store's user is unknown."""
        copy, ids = self._copy, self._copy.store_ids
        if not ids.whole:
            return None
        return _mapped(ids.users, copy.users, want.st_uid), _mapped(ids.groups, copy.groups, want.st_gid)

    def _same_mode(self, want: os.stat_result, got: os.stat_result) -> bool:
        expected_mode, mode = stat.S_IMODE(want.st_mode), stat.S_IMODE(got.st_mode)
        lost = expected_mode & ~mode if self._copy.loses_privileges and stat.S_ISREG(want.st_mode) else 0
        return expected_mode == mode | lost & (stat.S_ISUID | stat.S_ISGID)

    def _attributes(self, path: bytes, seen: MergedEntry) -> bool:
        """Compare extended attributes, and return whether the content is still in the layer below."""
        ours, theirs = Attributes(self._merged.trees[seen.layer]), Attributes(self._tree)
        for kind, none, flags in theirs.flags(path, self._tree.stat(path), theirs.at(path)):
            self._add(kind, path, none, flags)
        names = set(theirs.names(path, theirs.at(path)))
        own = (
            OVERLAYFS_PREFIXES if self._copy.store_ids.users.ranges else OVERLAYFS_PREFIXES[:1]
        )  # in a rootless store overlayfs uses user.overlay. as well
        wanted = {each for each in ours.names(path, ours.at(path)) if not each.startswith(own)}
        for name in sorted((names | wanted) - IGNORED - {METACOPY}):
            want = ours.value_if_there(path, name) if name in wanted else None
            got = theirs.value_if_there(path, name)
            if want == got or (name == CAPABILITY and self._same_capability(want, got)):
                continue
            kind = DifferenceKind.CAPABILITY if name == CAPABILITY else DifferenceKind.XATTR
            self._add(kind, path, f"{name}={describe_value(want)}", f"{name}={describe_value(got)}")
        return METACOPY in names

    def _same_capability(self, want: bytes | None, got: bytes | None) -> bool:
        if got is None:
            return self._copy.loses_privileges
        return want is not None and same_capability(want, got)

    def _file(
        self, path: bytes, tree: SafeFolder, found: tuple[os.stat_result, os.stat_result], *, borrowed: bool
    ) -> None:
        want, got = found
        if want.st_size != got.st_size:
            self._add(DifferenceKind.SIZE, path, want.st_size, got.st_size)
        elif want.st_mtime_ns != got.st_mtime_ns:
            self._add(DifferenceKind.MTIME, path, shown_time(want.st_mtime_ns), shown_time(got.st_mtime_ns))
        elif not borrowed and not self._check_mode.quick and not self._same_content(path, tree):
            self._add(DifferenceKind.CONTENT, path, "the content of its layer", "other content")

    def _same_content(self, path: bytes, tree: SafeFolder) -> bool:
        return same_content(path, tree, self._tree, self._count_read, from_disk=self._check_mode.from_disk)

    def _add(self, kind: DifferenceKind, path: bytes, expected: object, got: object) -> None:
        self._found.append(difference(kind, self._copy.folder + b"/" + path, expected, got))


def _mapped(of_store: IdMap, of_copy: IdMap, number: int) -> int | None:
    """Return the ID on disk in the copy for an ID on disk in the layers, None if a map lacks it."""
    inside = of_store.inside(number)
    mapped = of_copy.outside(inside) if inside is not None else None
    return of_store.outside(mapped) if mapped is not None else None
