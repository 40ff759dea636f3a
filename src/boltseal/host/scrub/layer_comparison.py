"""Compares a layer's tar with the folder it was unpacked into: entry by entry, then the files that have no entry.

The rules by which engines create files from tar entries, followed here and in `inodes`:

1. Leading `/` and `./` of a name are removed. The root's own entry is ignored; the engine creates its folder.
2. A later entry of the same name replaces an earlier one. A folder over a folder only takes the later attributes.
3. A hard link is the inode of its target and takes the values of the link's header; the last header counts. Extended
   attributes are added to those of earlier headers, and none is removed (see `Inodes`).
4. The engine creates folders that have no entry; they are only checked to be folders.
5. `.wh.NAME` is a whiteout: a character device 0:0 at NAME. `.wh..wh..opq` is an opaque mark on its folder. Other names
   that begin with `.wh..wh.` create nothing. A whiteout of a name in the same layer refers to lower layers.
6. Times are compared with the header's precision: nanoseconds only with PAX. Times before 1970 become 1970.
7. Attributes that the host or overlayfs sets for its own use are ignored; those that change what a container sees (opaque,
   redirect, metacopy, whiteout) never are.

A folder is listed when its first entry comes. Each entry removes its name from that list; names that remain are unexpected.

Memory: the names of the layer's folders, the names in them without an entry so far, the attributes of hard-linked files, and
the differences.
"""

from __future__ import annotations

from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, TooManyNames, readable
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.inodes import Content, Inodes, Opener, describe_kind
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import FOLDER, GLOBAL, Header, TarMalformed, clean
from boltseal.host.scrub.unexpected_files import UnexpectedFiles

_WHITEOUT: Final = b".wh."
_META: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_DOTTED: Final = (b"", b".")
MAX_ENTRIES: Final = 10_000_000
MAX_WHITEOUTS: Final = 1_000_000
MAX_ABSENT: Final = 100_000
"""A hostile tar-split could list any number of these for free; real layers have fewer."""
_NOTHING: Final[dict[bytes, bool]] = {}


class LayerComparison:
    """Compares the folder of one layer. Call `entry` for each header in the tar's order, then `finish`."""

    def __init__(self, tree: SafeFolder, layer: str, ownership: Ownership, files: Opener) -> None:
        self.findings = Findings(layer)
        self.entries = 0
        self._tree = tree
        self._ownership = ownership
        self.inodes = Inodes(tree, ownership, self.findings, files)
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
                return
        path = self.above + b"/" + name if self.above else name
        is_plain = self.here.pop(name, None)
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

    def _folder_matches(self, path: bytes, header: Header) -> bool:
        self._without_entry.setdefault(path, None)
        self._implied.discard(path)
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
            self._enter(above)
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
            above, _, name = each.rpartition(b"/")
            self._listed(above).pop(name, None)

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
            self.spelled = None

    def _whiteout(self, above: bytes, name: bytes) -> None:
        self._register_folder(above)
        if name == _OPAQUE:
            self._opaque.add(above)
        elif not name.startswith(_META):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise TarMalformed(f"a whiteout of {readable(hidden)!r}")
            self._hidden += 1
            if self._hidden > MAX_WHITEOUTS:
                raise TarMalformed(f"more than {MAX_WHITEOUTS} whiteouts")
            self._whiteouts.setdefault(above, set()).add(hidden)

    def differs(self, path: bytes) -> None:
        """Report that a file of the right size has other content; called by the caller that compares contents."""
        self.findings.add(DifferenceKind.CONTENT, path, "the content of the layer", "other content")

    # ---- files without an entry

    def root(self) -> None:
        """Check the layer's own folder only."""
        UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings).root()

    def finish(self) -> None:
        """Check marks, whiteouts, and everything on disk that has no entry."""
        unexpected = UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings)
        marks_seen = unexpected.root()
        for folder, hidden in self._whiteouts.items():
            unexpected.whiteouts(folder, hidden, self._listed(folder))
        if marks_seen:
            unexpected.missing_marks(self._opaque - self.opaque_unexpected)
        self.opaque_unexpected -= self._opaque
        for folder, left in self._without_entry.items():
            unexpected.report_unexpected(folder, left, implied=folder in self._implied)
