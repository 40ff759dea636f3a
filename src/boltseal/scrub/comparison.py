"""A layer as its tar says, against the folder it was unpacked into: one entry after the other, then what is too much.

The rules by which engines make files of tar entries, mirrored here:

1. `/` and `./` in front of a name are cut off; the root's own entry is passed over, its folder is the engine's.
2. A later entry of the same name replaces an earlier one, except a folder a folder, which takes the later attributes.
3. A hard link is the inode of its target, and takes the header of the link: the last one holds.
4. Folders that no entry names are made by the engine: only that they are folders is checked.
5. `.wh.NAME` is a whiteout: a character device 0:0 at NAME. `.wh..wh..opq` is an opaque mark on its folder. Other names
   that begin with `.wh..wh.` leave nothing behind. A whiteout of a name that the same layer holds means lower layers.
6. Times are compared as finely as the header has them: nanoseconds only from PAX. Times before 1970 become 1970.
7. Attributes that the host or overlayfs sets for itself are passed over; those that change what a container sees
   (opaque, redirect, metacopy, whiteout) never are.

Memory: the names of the layer, folder by folder, and what differs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, Protocol

from boltseal.runtimes.beneath import Beneath, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.runtimes.rights import sees_marks
from boltseal.scrub.attributes import OF_OVERLAYFS, OPAQUE_MARKS, PASSED_OVER, Attributes, in_words
from boltseal.scrub.differences import MAX_PER_LAYER, Kind, difference
from boltseal.scrub.findings import Findings
from boltseal.scrub.ownership import Ownership
from boltseal.scrub.tarheader import (
    BLOCK_DEVICE,
    CHARACTER,
    FIFO,
    FOLDER,
    GLOBAL,
    HARDLINK,
    MAX_NAME_BYTES,
    REGULAR,
    SYMLINK,
    Header,
    TarMalformed,
    clean,
)

_WHITEOUT: Final = b".wh."
_META: Final = b".wh..wh."
_OPAQUE: Final = b".wh..wh..opq"
_DOTTED: Final = (b"", b".")
_NS: Final = 1_000_000_000
_MAX_TIME_NS: Final = 2**63 - 1

_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
_FORMATS: Final = {
    REGULAR: stat.S_IFREG,
    FOLDER: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    CHARACTER: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
}


_OF_A_HEADER: Final = frozenset({Kind.MODE, Kind.OWNER, Kind.MTIME, Kind.XATTR, Kind.CAPABILITY})

Content = Callable[[bytes, int, os.stat_result, Header], None]
"""Takes the content of a plain file whose type and size are right: path, open file, what it was before, header. OSError."""


class Opener(Protocol):
    """What opens plain files: `contents.FileReader`."""

    def open(self, path: bytes, before: os.stat_result | None = None) -> tuple[int, os.stat_result]: ...
    def open_in(self, parent: int, name: bytes) -> int: ...
    def close(self, fd: int) -> None: ...


class LayerComparison:
    """The folder of one layer, compared. Call `entry` for each header in the tar's order, then `finish`."""

    def __init__(self, tree: Beneath, layer: str, ownership: Ownership, files: Opener) -> None:
        self.findings = Findings()
        self.entries = 0
        self._tree = tree
        self._layer = layer
        self._ownership = ownership
        self._files = files
        self._attributes = Attributes(tree)
        self.opaque_unexpected = self._attributes.opaque
        self._names: dict[bytes, set[bytes]] = {b"": set()}
        self._implied: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._marks_unseen = False
        self._whiteouts: dict[bytes, set[bytes]] = {}
        self._inodes: dict[int, bytes] = {}
        self._mapped = bool(ownership.users.ranges or ownership.groups.ranges)
        self._spelled: bytes | None = None
        """The folder of the last entry as its header spells it; then where that is, and the names in it."""
        self._above = b""
        self._here: set[bytes] = set()

    # ---- entries

    def entry(self, header: Header, content: Content | None = None) -> None:
        """One entry of the tar. TarMalformed for names that lead out of the layer."""
        if header.kind == GLOBAL:
            return
        self.entries += 1
        path, name = self._place(header.name)
        if not name:
            return
        if name in self._here:
            self._replaced(path, header)
        else:
            self._here.add(name)
        if header.kind == FOLDER:
            self._names.setdefault(path, set())
            self._implied.discard(path)
        try:
            if header.kind != REGULAR or content is None or not self._plain_file(path, name, header, content):
                self._compare(path, header, content)
        except StoreMissing:
            self._add(Kind.MISSING, path, _KINDS.get(_FORMATS.get(header.kind, 0), "hard link"), "nothing")
        except StoreMalformed as error:
            self._add(Kind.TYPE, path, "a path of folders", error.message)
        except StoreUnreadable as error:
            self._unreadable(error.message)

    def _place(self, typed: bytes) -> tuple[bytes, bytes]:
        """Where an entry belongs, and its name there; no name for the root, and for whiteouts, which are noted.

        Most entries lie in the folder of the one before them.
        """
        spelled, _, name = typed.rpartition(b"/")
        if spelled == self._spelled and name[:1] not in _DOTTED and len(typed) <= MAX_NAME_BYTES:
            return (self._above + b"/" + name if self._above else name), name
        path = clean(typed)
        above, _, last = path.rpartition(b"/")
        if last.startswith(_WHITEOUT):
            self._whiteout(above, last)
            return path, b""
        if path:
            self._folder(above)
            self._spelled = spelled if last == name else None
            self._above, self._here = above, self._names[above]
        return path, last

    def _folder(self, path: bytes) -> None:
        """A folder that entries lie in; one that has no entry itself so far is implied."""
        while path not in self._names:
            self._names[path] = set()
            self._implied.add(path)
            above, _, name = path.rpartition(b"/")
            self._names.setdefault(above, set()) if not above else None
            if above in self._names:
                self._names[above].add(name)
                return
            self._folder(above)
            self._names[above].add(name)

    def _replaced(self, path: bytes, header: Header) -> None:
        self.findings.drop(path)
        self._spelled = None
        if header.kind != FOLDER and path in self._names:
            for below in [each for each in self._names if each == path or each.startswith(path + b"/")]:
                for name in self._names.pop(below):
                    self.findings.drop(below + b"/" + name)
                self._implied.discard(below)
                self._opaque.discard(below)
                self._whiteouts.pop(below, None)

    def _whiteout(self, above: bytes, name: bytes) -> None:
        self._folder(above)
        if name == _OPAQUE:
            self._opaque.add(above)
        elif not name.startswith(_META):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise TarMalformed(f"a whiteout of {readable(hidden)!r}")
            self._whiteouts.setdefault(above, set()).add(hidden)

    def differs(self, path: bytes) -> None:
        """A file of the right size has another content: who compares contents says so."""
        self._add(Kind.CONTENT, path, "the content of the layer", "other content")

    # ---- one entry against the disk

    def _plain_file(self, path: bytes, name: bytes, header: Header, content: Content) -> bool:
        """The short way, which nearly all entries go: a plain file, and all of it as its header says.

        False, and nothing said, where anything is otherwise: then `_compare` looks at it anew.
        """
        parent = self._tree.folder(self._above)
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (
                found.st_mode != stat.S_IFREG | header.mode & 0o7777
                or found.st_size != header.size
                or found.st_uid != header.uid
                or found.st_gid != header.gid
                or found.st_nlink != 1
                or found.st_dev != self._tree.device
                or self._mapped
                or (
                    found.st_mtime_ns != header.mtime_ns
                    and (header.exact or found.st_mtime_ns // _NS * _NS != header.mtime_ns)
                )
                or not header.size
            ):
                return False
            fd = self._files.open_in(parent, name)
        except OSError:
            return False
        try:
            if header.xattrs or self._attributes.names(path, fd):
                self._xattrs(path, header, found, fd)
            content(path, fd, found, header)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        finally:
            self._files.close(fd)
        return True

    def _compare(self, path: bytes, header: Header, content: Content | None) -> None:
        if header.kind == HARDLINK:
            self._hardlink(path, header)
            return
        found = self._tree.stat(path)
        whole = self._type_and_size(path, header, found)
        if whole is not None:
            self._owner_mode_time(path, header, found)
            if whole and header.size > 0 and content is not None:
                self._with_content(path, header, found, content)
            else:
                at = self._tree.folder(path) if stat.S_ISDIR(found.st_mode) else self._attributes.at(path)
                self._xattrs(path, header, found, at)
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            other = self._inodes.setdefault(found.st_ino, path)
            if other != path:
                self._add(Kind.HARDLINK, path, "a file of its own", f"the same file as {readable(other)}")

    def _with_content(self, path: bytes, header: Header, found: os.stat_result, content: Content) -> None:
        fd, _ = self._files.open(path, found)
        try:
            self._xattrs(path, header, found, fd)
            content(path, fd, found, header)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        finally:
            self._files.close(fd)

    def _hardlink(self, path: bytes, header: Header) -> None:
        target = clean(header.link)
        found = self._tree.stat(path)
        try:
            meant = self._tree.stat(target)
        except StoreMissing:
            self._add(Kind.HARDLINK, path, f"the same file as {readable(target)}", "a file of its own")
            return
        if (found.st_ino, found.st_dev) != (meant.st_ino, meant.st_dev):
            self._add(Kind.HARDLINK, path, f"the same file as {readable(target)}", "a file of its own")
            return
        self.findings.drop(target, _OF_A_HEADER)
        if stat.S_ISLNK(found.st_mode):
            return
        self._owner_mode_time(target, header, found)
        if header.xattrs:
            self._xattrs(target, header, found, self._attributes.at(target))

    def _type_and_size(self, path: bytes, header: Header, found: os.stat_result) -> bool | None:
        """Whether the size holds too, so that content can be compared; None where it is something else altogether."""
        wanted, got = _FORMATS[header.kind], stat.S_IFMT(found.st_mode)
        if wanted != got:
            self._add(Kind.TYPE, path, _KINDS[wanted], _described(found))
            return None
        if found.st_dev != self._tree.device:
            self._add(Kind.MOUNT, path, "the layer's file system", "something mounted over it")
        if wanted == stat.S_IFREG:
            if found.st_size == header.size:
                return True
            self._add(Kind.SIZE, path, header.size, found.st_size)
        elif wanted == stat.S_IFLNK:
            target = self._tree.link(path)
            if target != header.link:
                self._add(Kind.LINK, path, readable(header.link), readable(target))
        elif wanted in (stat.S_IFCHR, stat.S_IFBLK):
            device = os.major(found.st_rdev), os.minor(found.st_rdev)
            if device != (header.major, header.minor):
                self._add(Kind.DEVICE, path, f"{header.major}:{header.minor}", f"{device[0]}:{device[1]}")
        return False

    def _owner_mode_time(self, path: bytes, header: Header, found: os.stat_result) -> None:
        mode = stat.S_IMODE(found.st_mode)
        if mode != header.mode & 0o7777 and not stat.S_ISLNK(found.st_mode):
            self._add(Kind.MODE, path, f"{header.mode & 0o7777:04o}", f"{mode:04o}")
        owner = self._ownership.users.outside(header.uid), self._ownership.groups.outside(header.gid)
        if (found.st_uid, found.st_gid) != owner:
            self._add(Kind.OWNER, path, f"{owner[0]}:{owner[1]}", f"{found.st_uid}:{found.st_gid}")
        wanted, got = header.mtime_ns, found.st_mtime_ns
        if wanted == got:
            return
        if not header.exact or got % _NS == 0:
            wanted, got = wanted // _NS * _NS, got // _NS * _NS
        if wanted != got and not (got == 0 and not 0 <= wanted <= _MAX_TIME_NS):
            self._add(Kind.MTIME, path, _seconds(wanted), _seconds(got))

    def _xattrs(self, path: bytes, header: Header, found: os.stat_result, at: bytes | int) -> None:
        """`at`: the open file, or where to find it."""
        for kind, expected, got in self._attributes.differences(path, header.xattrs, found, at):
            self._add(kind, path, expected, got)

    # ---- what no entry names

    def finish(self) -> None:
        """Marks, whiteouts, and everything on the disk that the tar does not say."""
        self._root()
        for above, hidden in self._whiteouts.items():
            held = self._names.get(above, set())
            for name in hidden - held:
                self._check_whiteout(above + b"/" + name if above else name)
        expected = self._opaque
        for path in () if self._marks_unseen else sorted(expected - self.opaque_unexpected):
            self._missing_mark(path)
        self.opaque_unexpected -= expected
        for path, names in self._names.items():
            self._extra(path, names | self._whiteouts.get(path, set()))

    def _root(self) -> None:
        """The layer's own folder has no header. But nobody but its owner may write there, and it carries no mark."""
        try:
            found = self._tree.stat(b"")
            at = self._attributes.at(b"")
            names = self._attributes.names(b"", at)
        except StoreUnreadable as error:
            self._unreadable(error.message)
            return
        if not sees_marks(found.st_uid):
            self._unreadable(
                "marks of overlayfs (trusted.overlay.*) are not shown to this process; it takes CAP_SYS_ADMIN"
            )
            self._marks_unseen = True
        owner = self._ownership.users.outside(0)
        if found.st_uid != owner:
            self._add(Kind.OWNER, b"", f"{owner}", f"{found.st_uid}")
        if stat.S_IMODE(found.st_mode) & 0o002 and not found.st_mode & stat.S_ISVTX:
            self._add(
                Kind.MODE, b"", "a root folder that not everybody may write to", f"{stat.S_IMODE(found.st_mode):04o}"
            )
        for name in names:
            if name in OPAQUE_MARKS:
                self.opaque_unexpected.add(b"")
            elif name.startswith(OF_OVERLAYFS) and name not in PASSED_OVER:
                got = in_words(self._attributes.value(b"", at, name))
                self._add(Kind.XATTR, b"", f"{name}=none", f"{name}={got}")

    def _check_whiteout(self, path: bytes) -> None:
        try:
            found = self._tree.stat(path)
        except StoreMissing:
            self._add(Kind.WHITEOUT, path, "a whiteout, which hides the file of a lower layer", "nothing")
            return
        except (StoreMalformed, StoreUnreadable) as error:
            self._unreadable(error.message)
            return
        if not is_whiteout(found):
            self._add(Kind.WHITEOUT, path, "a whiteout, which hides the file of a lower layer", _described(found))

    def _missing_mark(self, path: bytes) -> None:
        if path in self.findings.kept and any(f.kind in (Kind.MISSING, Kind.TYPE) for f in self.findings.kept[path]):
            return
        self._add(Kind.OPAQUE, path, "an opaque mark, which hides all of lower layers", "none")

    def _extra(self, path: bytes, names: set[bytes]) -> None:
        try:
            if path in self._implied:
                found = self._tree.stat(path)
                if not stat.S_ISDIR(found.st_mode):
                    self._add(Kind.TYPE, path, "folder", _described(found))
                    return
                self._xattrs(path, _bare(), found, self._attributes.at(path))
            there = self._tree.names(path)
        except StoreMissing:
            if path in self._implied:
                self._add(Kind.MISSING, path, "folder", "nothing")
            return
        except StoreMalformed:
            return  # its own entry has said so
        except StoreUnreadable as error:
            self._unreadable(error.message)
            return
        for name in there:
            if name not in names:
                self._too_much(path + b"/" + name if path else name)

    def _too_much(self, path: bytes) -> None:
        try:
            found = self._tree.stat(path)
        except (StoreMissing, StoreMalformed, StoreUnreadable) as error:
            self._unreadable(error.message)
            return
        self._add(Kind.WHITEOUT if is_whiteout(found) else Kind.EXTRA, path, "nothing", _described(found))

    def _add(self, kind: Kind, path: bytes, expected: object, got: object) -> None:
        self.findings.add(difference(kind, path, expected, got, self._layer), path)

    def _unreadable(self, message: str) -> None:
        if len(self.findings.unreadable) < MAX_PER_LAYER:
            self.findings.unreadable.append(message)


def is_whiteout(found: os.stat_result) -> bool:
    """A character device 0:0: overlayfs hides what lies below."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _bare() -> Header:
    return Header(b"", FOLDER, 0, 0, 0, 0, 0, False, b"", 0, 0, {}, 0, None)


def _described(found: os.stat_result) -> str:
    if is_whiteout(found):
        return "a whiteout, which hides the file of lower layers"
    mode = f", mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}:{found.st_gid}"
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else") + mode


def _seconds(ns: int) -> str:
    return f"{ns / _NS:.9f}" if ns % _NS else str(ns // _NS)
