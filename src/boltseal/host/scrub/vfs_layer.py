"""Compares a layer of the storage driver vfs: its folder has all files of the image up to this layer, without overlayfs.

The engine copies the folder of the layer below, then unpacks the layer's tar into the copy. So a file of the folder is one of:

1. A file with an entry in the layer's tar: it is compared with its header, and its content belongs to the layer's digest, as
   with any other driver.
2. A file of the layer below that no entry, whiteout or opaque mark of this layer removes or replaces: it must equal that file.
3. Anything else is unexpected. There are no whiteouts on disk: what they name does not exist.

The engine follows symbolic links of the layers below when it unpacks: the entry `lib/x` is at `usr/lib/x` if `lib` is a link.

The folder of the layer below is compared in the same way, down to the lowest layer, which has only entries. Engines do not copy
all extended attributes: Docker copies capabilities, Podman user.* as well. Others may be missing. An entry for a folder of the
layer below adds attributes to those that were copied, and removes none. The time of a folder that has no
entry changes with the files in it, and is not compared.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames, readable
from boltseal.host.scrub.attributes import CAPABILITY, IGNORED, Attributes, describe_value
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.file_contents import FileReader
from boltseal.host.scrub.implied_folders import ImpliedFolderCheck
from boltseal.host.scrub.inodes import describe_file, shown_time
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.merged_layers import same_content
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import FOLDER, Header
from boltseal.host.scrub.unexpected_files import UnexpectedFiles
from boltseal.host.scrub.unpacking_rules import UnpackingRules

MAX_LINKS: Final = 40
"""The kernel follows as many symbolic links in a path."""
MAX_LINKED: Final = 1_000_000
"""The limit for hard-linked files, which are kept in memory."""


@dataclass(frozen=True, slots=True)
class VfsLayer:
    """How the engine made a layer's folder. `below`: the copied folder, None for the lowest layer.

    `copied`: prefixes of the names of the extended attributes that the engine copies.
    """

    below: bytes | None
    copied: tuple[str, ...]


DOCKER_COPIES: Final = (CAPABILITY,)
PODMAN_COPIES: Final = (CAPABILITY, "user.")


class VfsComparison(LayerComparison):
    """Compares the folder of one layer. `below`: the folder of the layer below. `quick`: without contents."""

    def __init__(
        self,
        tree: SafeFolder,
        layer: str,
        ownership: Ownership,
        files: FileReader,
        rules: UnpackingRules,
        implied: ImpliedFolderCheck,
        below: SafeFolder | None,
        vfs: VfsLayer,
        *,
        quick: bool,
    ) -> None:
        super().__init__(tree, layer, ownership, files, rules, implied)
        self._files = files
        self._below = below
        self._vfs = vfs
        self._quick = quick
        self._copies: dict[int, int] = {}
        self._originals: dict[int, int] = {}
        """The hard-linked files of the folder and the files of the layer below that they are copies of, by inode."""

    def _real_folder(self, folder: bytes) -> bytes:
        """Follow the symbolic links of the folder, as the engine does: it unpacks where the layers below have links.

        Each of these links is compared itself, as an entry or with the layer below.
        """
        if folder in self._without_entry:
            return folder
        real: list[bytes] = []
        todo, links = folder.split(b"/")[::-1], 0
        while todo:
            name = todo.pop()
            if name in (b"", b".", b".."):
                real = real[:-1] if name == b".." else real
                continue
            try:
                target = self._tree.link(b"/".join((*real, name)))
            except (StoreMissing, StoreMalformed, StoreUnreadable):  # no link
                real.append(name)
                continue
            links += 1
            if links > MAX_LINKS:
                return folder
            real = [] if target.startswith(b"/") else real
            todo += target.split(b"/")[::-1]
        return b"/".join(real)

    def _as_applied(self, path: bytes, header: Header) -> Header:
        if header.traits.kind == FOLDER and path not in self._without_entry and (kept := self._kept(path)):
            header = header._replace(xattrs=kept | header.xattrs)
        return super()._as_applied(path, header)

    def _kept(self, path: bytes) -> dict[bytes, bytes]:
        """Return the copied attributes of a folder of the layer below, to which an entry for the folder adds its own."""
        if self._below is None or self._is_removed(path):
            return {}
        try:
            if not stat.S_ISDIR(self._below.stat(path).st_mode):
                return {}
            theirs, at = Attributes(self._below), self._below.folder(path)
            names = [name for name in theirs.names(path, at) if name.startswith(self._vfs.copied)]
            return {os.fsencode(name): theirs.value(path, at, name) for name in names}
        except (StoreMissing, StoreMalformed):
            return {}
        except StoreUnreadable as error:
            self.findings.not_read(error.message)
            return {}

    def _existing(self, path: bytes) -> os.stat_result | None:
        """Return the copy of a folder of the layer below."""
        if self._below is None or self._is_removed(path):
            return None
        try:
            found = self._below.stat(path)
        except (StoreMissing, StoreMalformed, StoreUnreadable):  # the comparison of the folder reports it
            return None
        return found if stat.S_ISDIR(found.st_mode) else None

    def _is_removed(self, path: bytes) -> bool:
        """Return whether a whiteout or an opaque mark so far removed what the layer below has at a path."""
        parts = path.split(b"/")
        above = [b"/".join(parts[:depth]) for depth in range(len(parts))]
        return any(
            folder in self._opaque or name in self._whiteouts.get(folder, ())
            for folder, name in zip(above, parts, strict=True)
        )

    def finish(self) -> None:
        """Compare everything in the folder that has no entry with the layer below."""
        with self._implied_check as implied:
            UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings, implied, self._rules).root(
                self._root
            )
            self._finish_folders()

    def _finish_folders(self) -> None:
        for folder, left in self._without_entry.items():
            try:
                self._finish_folder(folder, left)
            except StoreMissing:
                if folder in self._implied:
                    self.findings.add(DifferenceKind.MISSING, folder, "folder", "nothing")
            except StoreMalformed as error:
                if folder in self._implied:
                    self.findings.add(DifferenceKind.TYPE, folder, "folder", error.message)
            except (TooManyNames, StoreUnreadable) as error:
                self.findings.not_read(error.message)

    def _finish_folder(self, folder: bytes, left: Mapping[bytes, bool] | None) -> None:
        inherited = self._inherited(folder)
        if folder in self._implied:
            self._implied_folder(folder, is_inherited=inherited is not None)
        existing = self._tree.listed(folder)
        without_entry = existing if left is None else left
        hidden = self._whiteouts.get(folder, set())
        shown = (inherited or {}).keys() - hidden
        for name in sorted(without_entry):
            path = folder + b"/" + name if folder else name
            if name in shown:
                self._compare_tree(path)
            else:
                self._extra(path)
        self._missing(folder, shown - existing.keys())

    def _inherited(self, folder: bytes) -> dict[bytes, bool] | None:
        """Return the names that a folder has in the layer below; None if it is no folder there, or this layer hides it."""
        if self._below is None or b"" in self._opaque:
            return None
        parts = folder.split(b"/") if folder else []
        for depth in range(len(parts)):
            above, path = b"/".join(parts[:depth]), b"/".join(parts[: depth + 1])
            if parts[depth] in self._whiteouts.get(above, ()) or path in self._opaque:
                return None
        try:
            return self._below.listed(folder)
        except (StoreMissing, StoreMalformed):
            return None

    def _implied_folder(self, folder: bytes, *, is_inherited: bool) -> None:
        found = self._tree.stat(folder)
        if not stat.S_ISDIR(found.st_mode):
            self.findings.add(DifferenceKind.TYPE, folder, "folder", describe_file(found))
        elif is_inherited:
            self._compare(folder)
        else:
            self._implied_check.check(folder, self.attributes.folder(folder), self.findings, self.inodes.attributes)

    def _extra(self, path: bytes) -> None:
        self.findings.add(DifferenceKind.EXTRA, path, "nothing", describe_file(self._tree.stat(path)))

    def _missing(self, folder: bytes, names: Iterable[bytes]) -> None:
        for name in sorted(names):
            path = folder + b"/" + name if folder else name
            if not self.findings.has(path, DifferenceKind.MISSING):
                self.findings.add(DifferenceKind.MISSING, path, "the file of the layer below", "nothing")

    # ---- files of the layer below

    def _compare_tree(self, path: bytes) -> None:
        """Compare a file, or a folder with all files in it, with that of the layer below; iterative, as folders nest deeply."""
        assert self._below is not None  # noqa: S101 - the path is in its folder
        todo = [path]
        while todo:
            at = todo.pop()
            try:
                if not self._compare(at):
                    continue
                inherited, existing = self._below.listed(at), self._tree.listed(at)
                for name in sorted(existing.keys() - inherited.keys()):
                    self._extra(at + b"/" + name)
                self._missing(at, inherited.keys() - existing.keys())
                todo += [at + b"/" + name for name in sorted(inherited.keys() & existing.keys(), reverse=True)]
            except StoreMissing:
                self.findings.add(DifferenceKind.MISSING, at, "the file of the layer below", "nothing")
            except (StoreMalformed, StoreUnreadable) as error:
                self.findings.not_read(error.message)

    def _compare(self, path: bytes) -> bool:
        """Compare one path with that of the layer below, and return whether it is a folder in both."""
        assert self._below is not None  # noqa: S101 - the path is in its folder
        add = self.findings.add
        want, got = self._below.stat(path), self._tree.stat(path)
        if stat.S_IFMT(want.st_mode) != stat.S_IFMT(got.st_mode):
            add(DifferenceKind.TYPE, path, describe_file(want), describe_file(got))
            return False
        if got.st_dev != self._tree.device:
            add(DifferenceKind.MOUNT, path, "the layer's file system", "something mounted over it")
        is_folder = stat.S_ISDIR(want.st_mode)
        if not self.inodes.is_linked(got.st_ino):  # otherwise an entry that links to the file has set these
            self._compare_status(path, want, got)
            self._compare_attributes(path)
            for kind, none, flags in self.inodes.attributes.flags(path, got, self.inodes.attributes.at(path)):
                add(kind, path, none, flags)
        if stat.S_ISREG(want.st_mode):
            self._compare_content(path, want.st_size, got.st_size)
        elif stat.S_ISLNK(want.st_mode) and self._below.link(path) != self._tree.link(path):
            add(DifferenceKind.LINK, path, readable(self._below.link(path)), readable(self._tree.link(path)))
        elif want.st_rdev != got.st_rdev:
            add(DifferenceKind.DEVICE, path, "the device of the layer below", "another one")
        if not is_folder and (want.st_nlink > 1 or got.st_nlink > 1):
            self._compare_links(path, want.st_ino, got.st_ino)
        return is_folder

    def _compare_status(self, path: bytes, want: os.stat_result, got: os.stat_result) -> None:
        add = self.findings.add
        if want.st_mode != got.st_mode:
            add(DifferenceKind.MODE, path, *(f"{stat.S_IMODE(each.st_mode):04o}" for each in (want, got)))
        if (want.st_uid, want.st_gid) != (got.st_uid, got.st_gid):
            add(DifferenceKind.OWNER, path, *(f"{each.st_uid}:{each.st_gid}" for each in (want, got)))
        if not stat.S_ISDIR(want.st_mode) and want.st_mtime_ns != got.st_mtime_ns:
            add(DifferenceKind.MTIME, path, shown_time(want.st_mtime_ns), shown_time(got.st_mtime_ns))

    def _compare_content(self, path: bytes, want: int, got: int) -> None:
        assert self._below is not None  # noqa: S101 - the path is in its folder
        if want != got:
            self.findings.add(DifferenceKind.SIZE, path, want, got)
        elif want and not self._quick:
            files = self._files
            if not same_content(path, self._below, self._tree, files.count_read, from_disk=files.from_disk):
                self.findings.add(DifferenceKind.CONTENT, path, "the content of the layer below", "other content")

    def _compare_attributes(self, path: bytes) -> None:
        assert self._below is not None  # noqa: S101 - the path is in its folder
        ours, theirs = Attributes(self._below), Attributes(self._tree)
        names = {*ours.names(path, ours.at(path)), *theirs.names(path, theirs.at(path))} - IGNORED
        for name in sorted(names):
            want, got = ours.value_if_there(path, name), theirs.value_if_there(path, name)
            if want == got or (got is None and not name.startswith(self._vfs.copied)):
                continue
            kind = DifferenceKind.CAPABILITY if name == CAPABILITY else DifferenceKind.XATTR
            self.findings.add(kind, path, f"{name}={describe_value(want)}", f"{name}={describe_value(got)}")

    def _compare_links(self, path: bytes, want: int, got: int) -> None:
        """Compare which names are one file: each file of the folder must be a copy of one file, and each of those one copy."""
        if len(self._copies) >= MAX_LINKED:
            self.findings.not_read(
                f"which names are one file can't be compared: more than {MAX_LINKED} hard-linked files"
            )
            return
        if self._copies.setdefault(got, want) != want or self._originals.setdefault(want, got) != got:
            self.findings.add(DifferenceKind.HARDLINK, path, "the links of the layer below", "other ones")
