"""Compares a layer's tar with the folder it was unpacked into: entry by entry, then the files that have no entry.

The rules by which engines create files from tar entries, followed here and in `inodes`:

1. Leading `/` and `./` of a name are removed, and a path through a symbolic link of the tar is that of its target
   (`tar_links`). The root's own entry `./` is ignored, as the engine creates its folder; Docker and Podman apply `/`.
2. A later entry of the same name replaces an earlier one. A folder over a folder only takes the later attributes.
3. A hard link is the inode of its target and takes the values of the link's header; the last header counts. Extended
   attributes are added to those of earlier headers, and none is removed (see `Inodes`).
4. The engine creates folders that have no entry; `implied_folders` checks them.
5. `.wh.NAME` is a whiteout: a character device 0:0 at NAME, also for AUFS's `.wh..wh.aufs`. `.wh..wh..opq` is an opaque
   mark on its folder. A whiteout of a name in the same layer refers to lower layers; one in a folder that the layer hides
   creates nothing.
6. Times are compared with the header's precision: nanoseconds only with PAX. Times before 1970 become 1970.
7. Attributes that the host or overlayfs sets for its own use are ignored; those that change what a container sees (opaque,
   redirect, metacopy, whiteout) never are. New files get access control lists from their folder (`entry_attributes`).
8. Engines differ in some of these rules (`unpacking_rules`).

A folder is listed when its first entry comes. Each entry removes its name from that list; names that remain are unexpected.

Memory: the names of the layer's folders, the names in them without an entry so far, symbolic links, the attributes of
folders and hard-linked files, and the differences.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames, readable
from boltseal.host.scrub.attributes import OPAQUE_MARKS
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.entry_attributes import ACCESS_LIST, LISTS, EntryAttributes, list_on_disk, mode_of_list
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.implied_folders import ImpliedFolderCheck, ImpliedFolders
from boltseal.host.scrub.inodes import Content, Inodes, Opener, describe_kind
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import FOLDER, GLOBAL, HARDLINK, SYMLINK, Header, TarMalformed, clean
from boltseal.host.scrub.tar_links import TarLinks
from boltseal.host.scrub.unexpected_files import UnexpectedFiles
from boltseal.host.scrub.unpacking_rules import DOCKER, UnpackingRules

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_OPAQUE_MARKS: Final = frozenset(map(str.encode, OPAQUE_MARKS))
_ACCESS: Final = ACCESS_LIST.encode()
_DOTTED: Final = (b"", b".")
MAX_ENTRIES: Final = 10_000_000
MAX_WHITEOUTS: Final = 1_000_000
MAX_ABSENT: Final = 100_000
"""A hostile tar-split could list any number of these for free; real layers have fewer."""
_NOTHING: Final[dict[bytes, bool]] = {}


class LayerComparison:
    """Compares the folder of one layer. Call `entry` for each header in the tar's order, then `finish`."""

    def __init__(
        self,
        tree: SafeFolder,
        layer: str,
        ownership: Ownership,
        files: Opener,
        rules: UnpackingRules = DOCKER,
        implied: ImpliedFolderCheck | None = None,
    ) -> None:
        self.findings = Findings(layer)
        self.entries = 0
        self._tree = tree
        self._ownership = ownership
        self._rules = rules if ownership.devices else rules.without_root()
        self._links = TarLinks()
        self._root: Header | None = None
        self.attributes = EntryAttributes()
        self.inodes = Inodes(tree, ownership, self.findings, files, built=rules.built)
        self._implied_check = implied or ImpliedFolderCheck(tree.root, ImpliedFolders(), tree, ownership)
        self.opaque_unexpected = self.inodes.attributes.opaque
        self._without_entry: dict[bytes, dict[bytes, bool] | None] = {b"": None}
        """Every folder of the tar, with the names in it that have no entry so far; None if it is not listed yet."""
        self._implied: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._whiteouts: dict[bytes, set[bytes]] = {}
        self._absent = self._hidden = 0
        self.spelled: bytes | None = None
        """The folder of the last entry as spelled in its header; `above`: its path; `here`: its names without an entry."""
        self.above = b""
        self.here = _NOTHING

    def entry(self, header: Header, content: Content | None = None) -> None:
        """Compare one entry of the tar.

        Raises: TarMalformed: for a name outside of the layer.
        """
        if header.traits.kind == GLOBAL:
            return
        self._count_entry()
        spelled, _, name = header.name.rpartition(b"/")
        if spelled != self.spelled or name[:1] in _DOTTED:  # most entries are in the folder of the previous one
            name = self._locate(header.name)
            if not name:
                self._root_entry(header)
                return
        path = self.above + b"/" + name if self.above else name
        is_plain = self.here.pop(name, None)
        header = self._as_applied(path, header)
        try:
            if is_plain and self.inodes.plain_file(self.above, path, name, header, content):
                return
            if is_plain is None:
                self._replace_entry(path, header)
            if header.traits.kind == FOLDER and self._folder_matches(path, header):
                return
            self.inodes.compare(path, header, content)
        except StoreMissing:
            self.findings.add(DifferenceKind.MISSING, path, describe_kind(header), "nothing")
        except StoreMalformed as error:
            self.findings.add(DifferenceKind.TYPE, path, "a path of folders", error.message)
        except StoreUnreadable as error:
            self.findings.not_read(error.message)

    def _count_entry(self) -> None:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise TarMalformed(f"more than {MAX_ENTRIES} entries")

    def _as_applied(self, path: bytes, header: Header) -> Header:
        """Return a header with what the engine makes of it: all attributes of the file, and the target of a hard link."""
        kind = header.traits.kind
        if not (header.xattrs or self.attributes.folders or self._links.targets or kind == SYMLINK):
            return header
        own = self._own_attributes(header)
        if kind == FOLDER and any(own.get(mark) == b"y" for mark in _OPAQUE_MARKS):
            self._opaque.add(path)
            own = {name: value for name, value in own.items() if name not in _OPAQUE_MARKS}
        if self._rules.acl_last and _ACCESS in own and kind not in (SYMLINK, HARDLINK):
            mode = header.mode & ~0o777 | mode_of_list(own[_ACCESS])
            header = header._replace(traits=header.traits._replace(mode=mode))
        if kind == HARDLINK:
            return header._replace(traits=header.traits._replace(link=self.located(header.link)), xattrs=own)
        self._follow(path, header)
        exists = kind == FOLDER and path in self._without_entry
        return header._replace(xattrs=self.attributes.of(path, kind, own, exists=exists))

    def _own_attributes(self, header: Header) -> dict[bytes, bytes]:
        """Return the attributes of an entry that the engine sets, as they are on disk.

        The kernel maps the ids in access control lists that a user without root sets.
        """
        own = {name: value for name, value in header.xattrs.items() if self._rules.sets(name)}
        if not self._ownership.devices:
            own |= {name: list_on_disk(own[name], self._ownership) for name in LISTS if name in own}
        return own

    def _follow(self, path: bytes, header: Header) -> None:
        """Record the symbolic link that an entry is, or that it replaces."""
        if self._links.targets.pop(path, None) is not None:
            self.spelled = None
        if header.traits.kind == SYMLINK:
            self._links.targets[path] = header.traits.link

    def located(self, spelling: bytes) -> bytes:
        """Return the path of a name in the tar, by the entries so far.

        Raises: TarMalformed.
        """
        above, slash, name = clean(spelling).rpartition(b"/")
        above = self._through_links(above)
        return above + slash + name if above else name

    def _through_links(self, folder: bytes) -> bytes:
        """Return the path of a folder in the tar without symbolic links."""
        if not self._links.targets or folder in self._without_entry:
            return folder
        return self._links.resolved(folder)

    def _root_entry(self, header: Header) -> None:
        """Take the values of the layer's own folder from an entry `/`, if the engine applies it."""
        if self._rules.root_entry and header.kind == FOLDER and header.name.startswith(b"/"):
            own = self._own_attributes(header)
            self._root = header._replace(xattrs=own)
            self.attributes.of(b"", FOLDER, own, exists=True)

    def _folder_matches(self, path: bytes, header: Header) -> bool:
        self._without_entry.setdefault(path, None)
        self._implied.discard(path)
        set_group_ids = self._implied_check.set_group_ids
        if header.traits.mode & stat.S_ISGID or set_group_ids.any:
            set_group_ids.is_now(path, header.traits.mode, self.inodes.owner(header.traits.owner)[1])
        return self.inodes.folder(path, header)

    # ---- folders of entries

    def enter_known(self, folder: bytes) -> bool:
        """Make a folder current if it is known by exactly this spelling, and return whether it is."""
        if folder not in self._without_entry:
            return False
        self._enter(folder)
        self.spelled = folder
        return True

    def folder(self) -> int:
        """Return the descriptor of the current folder, valid until the next call of any method.

        Raises: OSError.
        """
        return self._tree.descriptor(self.above)

    def _locate(self, spelling: bytes) -> bytes:
        """Make the folder of an entry current and return the entry's name; "" for the root and for recorded whiteouts.

        Raises: TarMalformed.
        """
        path = clean(spelling)
        above, _, name = path.rpartition(b"/")
        above = self._real_folder(above)
        if name.startswith(_WHITEOUT):
            self._whiteout(above, name)
            return b""
        if path:
            self._enter(self._through_links(above))
            spelled, _, last = spelling.rpartition(b"/")
            self.spelled = spelled if last == name else None
        return name

    def _real_folder(self, folder: bytes) -> bytes:
        """Return the path at which the engine unpacks the entries of a folder."""
        return folder

    def _enter(self, folder: bytes) -> None:
        """Make a folder the current one."""
        if not self.here and self._without_entry.get(self.above) is not None:
            self._without_entry[self.above] = _NOTHING  # an emptied dict keeps its memory
        self._register_folder(folder)
        self.above, self.here = folder, self._listed(folder)

    def _listed(self, folder: bytes) -> dict[bytes, bool]:
        """Return the names in a folder that have no entry so far; if it can't be listed, entries and `finish` report it."""
        left = self._without_entry[folder]
        if left is not None:
            return left
        try:
            self._without_entry[folder] = left = self._tree.listed(folder)
        except TooManyNames as error:
            self.findings.not_read(f"unexpected files in a folder can't be found: {error.message}")
            self._without_entry[folder] = left = {}
        except StoreMissing as error:
            self._absent += 1
            if self._absent > MAX_ABSENT:
                raise TarMalformed(f"more than {MAX_ABSENT} folders of it do not exist") from error
            return _NOTHING
        except (StoreUnreadable, StoreMalformed):
            return _NOTHING
        return left

    def _register_folder(self, path: bytes) -> None:
        """Register a folder with its parents; those without an entry so far are implied."""
        unknown = []
        while path not in self._without_entry:
            unknown.append(path)
            path = path.rpartition(b"/")[0]
        for each in reversed(unknown):
            self._without_entry[each] = None
            self._implied.add(each)
            copied = self._implied_check.make(each, self._existing(each), self.inodes.attributes)
            if copied or self.attributes.folders:
                self.attributes.of(each, FOLDER, copied, exists=False)
            above, _, name = each.rpartition(b"/")
            self._listed(above).pop(name, None)

    def _existing(self, path: bytes) -> os.stat_result | None:
        """Return the folder that is at a path before the engine makes one there; with overlayfs a layer begins empty."""
        return None

    def _replace_entry(self, path: bytes, header: Header) -> None:
        """Handle an entry whose name is not in the list: it replaces an earlier entry, or no file exists."""
        self.findings.drop(path)
        if header.kind != FOLDER and path in self._without_entry:
            self.findings.drop_below(path)
            for below in [each for each in self._without_entry if each == path or each.startswith(path + b"/")]:
                del self._without_entry[below]
                self._implied.discard(below)
                self._opaque.discard(below)
                self._whiteouts.pop(below, None)
                self.attributes.forget(below)
                self._implied_check.set_group_ids.forget(below)
            self.spelled = None

    def _whiteout(self, above: bytes, name: bytes) -> None:
        above = self._through_links(above)
        if self._is_hidden(above):
            return
        self._register_folder(above)
        if name == _OPAQUE:
            self._opaque.add(above)
        else:
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise TarMalformed(f"a whiteout of {readable(hidden)!r}")
            self._hidden += 1
            if self._hidden > MAX_WHITEOUTS:
                raise TarMalformed(f"more than {MAX_WHITEOUTS} whiteouts")
            self._whiteouts.setdefault(above, set()).add(hidden)

    def _is_hidden(self, folder: bytes) -> bool:
        """Return whether a folder is in one that a whiteout of this layer hides."""
        while folder not in self._without_entry:
            folder, _, name = folder.rpartition(b"/")
            if name in self._whiteouts.get(folder, ()):
                return True
        return False

    def differs(self, path: bytes) -> None:
        """Report that a file of the right size has other content; called by the caller that compares contents."""
        self.findings.add(DifferenceKind.CONTENT, path, "the content of the layer", "other content")

    # ---- files without an entry

    def root(self) -> None:
        """Check the layer's own folder only."""
        with self._implied_check as implied:
            UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings, implied, self._rules).root()

    def finish(self) -> None:
        """Check marks, whiteouts, and everything on disk that has no entry."""
        with self._implied_check as implied:
            self._finish(UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings, implied, self._rules))

    def _finish(self, unexpected: UnexpectedFiles) -> None:
        marks_seen = unexpected.root(self._root)
        for folder, hidden in self._whiteouts.items():
            unexpected.whiteouts(folder, hidden, self._listed(folder), written=self._rules.marks)
        for folder, left in self._without_entry.items():
            inherited = self.attributes.folder(folder) if folder in self._implied else None
            unexpected.report_unexpected(folder, left, inherited)
        if marks_seen and self._rules.marks:
            unexpected.missing_marks(self._opaque - self.opaque_unexpected)
        self.opaque_unexpected -= self._opaque
        if unproven := sorted(self.inodes.attributes.unproven):
            self.findings.not_read(
                f"{len(unproven)} files of layer {self.findings.layer} have access control lists that change rights and that its "
                f"tar does not have, {readable(unproven[0])} among them: Docker keeps those of a build, and nothing outside of "
                "the store confirms them"
            )
