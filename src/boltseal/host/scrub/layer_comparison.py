"""A layer as its tar says, against the folder it was unpacked into: one entry after the other, then what is too much.

The rules by which engines make files of tar entries, mirrored here and in `inodes`:

1. `/` and `./` in front of a name are cut off; the root's own entry is passed over, its folder is the engine's.
2. A later entry of the same name replaces an earlier one, except a folder a folder, which takes the later attributes.
3. A hard link is the inode of its target, and takes the header of the link: the last one holds. Attributes are added
   to those of earlier headers, and none is removed (see `Inodes`).
4. Folders that no entry names are made by the engine: only that they are folders is checked.
5. `.wh.NAME` is a whiteout: a character device 0:0 at NAME. `.wh..wh..opq` is an opaque mark on its folder. Other names
   that begin with `.wh..wh.` leave nothing behind. A whiteout of a name that the same layer holds means lower layers.
6. Times are compared as finely as the header has them: nanoseconds only from PAX. Times before 1970 become 1970.
7. Attributes that the host or overlayfs sets for itself are passed over; those that change what a container sees
   (opaque, redirect, metacopy, whiteout) never are.

A folder is listed when its first entry comes; each entry takes its name off that list, and what stays is too much.

Memory: the names of the layer's folders, those in them that no entry has named yet, the attributes of hard-linked files, and
what differs.
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
"""What costs whoever writes a hostile list nothing must have an end; no layer has as many."""
_NOTHING: Final[dict[bytes, bool]] = {}


class LayerComparison:
    """The folder of one layer, compared. Call `entry` for each header in the tar's order, then `finish`."""

    def __init__(self, tree: SafeFolder, layer: str, ownership: Ownership, files: Opener) -> None:
        self.findings = Findings(layer)
        self.entries = 0
        self._tree = tree
        self._ownership = ownership
        self.inodes = Inodes(tree, ownership, self.findings, files)
        self.opaque_unexpected = self.inodes.attributes.opaque
        self._left: dict[bytes, dict[bytes, bool] | None] = {b"": None}
        """Every folder that entries name or lie in, and what is in it that none has named; None: not listed yet."""
        self._implied: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._whiteouts: dict[bytes, set[bytes]] = {}
        self._absent = self._hidden = 0
        self.spelled: bytes | None = None
        """The folder of the last entry as its header spells it; then where that is, and what is left in it."""
        self.above = b""
        self.here = _NOTHING

    def entry(self, header: Header, content: Content | None = None) -> None:
        """One entry of the tar. TarMalformed for names that lead out of the layer."""
        if header.traits.kind == GLOBAL:
            return
        self._counted()
        spelled, _, name = header.name.rpartition(b"/")
        if spelled != self.spelled or name[:1] in _DOTTED:  # most entries lie in the folder of the one before them
            name = self._place(header.name)
            if not name:
                return
        path = self.above + b"/" + name if self.above else name
        is_plain = self.here.pop(name, None)
        try:
            if is_plain and self.inodes.plain_file(self.above, path, name, header, content):
                return
            if is_plain is None:
                self._named_before(path, header)
            if header.traits.kind == FOLDER and self._folder_as_said(path, header):
                return
            self.inodes.compare(path, header, content)
        except StoreMissing:
            self.findings.add(DifferenceKind.MISSING, path, describe_kind(header), "nothing")
        except StoreMalformed as error:
            self.findings.add(DifferenceKind.TYPE, path, "a path of folders", error.message)
        except StoreUnreadable as error:
            self.findings.not_read(error.message)

    def _counted(self) -> None:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise TarMalformed(f"more than {MAX_ENTRIES} entries")

    def _folder_as_said(self, path: bytes, header: Header) -> bool:
        self._left.setdefault(path, None)
        self._implied.discard(path)
        return self.inodes.folder(path, header)

    # ---- where entries belong

    def goes_to(self, folder: bytes) -> bool:
        """Whether this is a folder that is known by just this spelling; then entries of it come now."""
        if folder not in self._left:
            return False
        self._enter(folder)
        self.spelled = folder
        return True

    def folder(self) -> int:
        """The descriptor of the folder that entries come for, good until the next call of anything. OSError."""
        return self._tree.descriptor(self.above)

    def _place(self, typed: bytes) -> bytes:
        """An entry's name in `_above`; none for the root, and for whiteouts, which are noted. TarMalformed."""
        path = clean(typed)
        above, _, name = path.rpartition(b"/")
        if name.startswith(_WHITEOUT):
            self._whiteout(above, name)
            return b""
        if path:
            self._enter(above)
            spelled, _, last = typed.rpartition(b"/")
            self.spelled = spelled if last == name else None
        return name

    def _enter(self, folder: bytes) -> None:
        """Entries of this folder come now."""
        if not self.here and self._left.get(self.above) is not None:
            self._left[self.above] = _NOTHING  # an empty dict keeps the memory of all that was in it
        self._folder(folder)
        self.above, self.here = folder, self._listed(folder)

    def _listed(self, folder: bytes) -> dict[bytes, bool]:
        """What is left in a folder. Where it can't be listed, its entries and `finish` say why."""
        left = self._left[folder]
        if left is not None:
            return left
        try:
            self._left[folder] = left = self._tree.listed(folder)
        except TooManyNames as error:
            self.findings.not_read(f"what is too much in a folder: {error.message}")
            self._left[folder] = left = {}
        except StoreMissing as error:
            self._absent += 1
            if self._absent > MAX_ABSENT:
                raise TarMalformed(f"more than {MAX_ABSENT} folders that it names are not there") from error
            return _NOTHING
        except (StoreUnreadable, StoreMalformed):
            return _NOTHING
        return left

    def _folder(self, path: bytes) -> None:
        """A folder that entries lie in; one that has no entry itself so far is implied."""
        unknown = []
        while path not in self._left:
            unknown.append(path)
            path = path.rpartition(b"/")[0]
        for each in reversed(unknown):
            self._left[each] = None
            self._implied.add(each)
            above, _, name = each.rpartition(b"/")
            self._listed(above).pop(name, None)

    def _named_before(self, path: bytes, header: Header) -> None:
        """An entry whose name is off the list: another one had it, and is replaced; or nothing lies there."""
        self.findings.drop(path)
        if header.kind != FOLDER and path in self._left:
            self.findings.drop_below(path)
            for below in [each for each in self._left if each == path or each.startswith(path + b"/")]:
                del self._left[below]
                self._implied.discard(below)
                self._opaque.discard(below)
                self._whiteouts.pop(below, None)
            self.spelled = None

    def _whiteout(self, above: bytes, name: bytes) -> None:
        self._folder(above)
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
        """A file of the right size has another content: who compares contents says so."""
        self.findings.add(DifferenceKind.CONTENT, path, "the content of the layer", "other content")

    # ---- what no entry names

    def finish(self) -> None:
        """Marks, whiteouts, and everything on the disk that the tar does not say."""
        rest = UnexpectedFiles(self._tree, self.inodes, self._ownership, self.findings)
        marks_seen = rest.root()
        for folder, hidden in self._whiteouts.items():
            rest.whiteouts(folder, hidden, self._listed(folder))
        if marks_seen:
            rest.missing_marks(self._opaque - self.opaque_unexpected)
        self.opaque_unexpected -= self._opaque
        for folder, left in self._left.items():
            rest.too_much(folder, left, implied=folder in self._implied)
