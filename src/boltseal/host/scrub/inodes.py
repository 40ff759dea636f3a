"""One entry of a layer's tar, against what lies at its path: type, size, owner, mode, time, link, device, attributes.

`plain_file` is the short way, which nearly all entries go; it says nothing of what differs. `compare` is the long one, and
does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, explained, readable
from boltseal.host.scrub.attributes import CAPABILITY, PASSED_OVER, Attributes
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.findings import Findings
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import (
    BLOCK_DEVICE,
    CHARACTER,
    FIFO,
    FOLDER,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Header,
    TarMalformed,
    UnusualTraits,
    clean,
)

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
_CAPABILITY: Final = os.fsencode(CAPABILITY)
MAX_SHARED_ATTRIBUTES_BYTES: Final = 64 * 1024 * 1024
"""What entries may give files of several names in extended attributes, since those are kept until the last entry."""
_OF_A_HEADER: Final = frozenset(
    {DifferenceKind.MODE, DifferenceKind.OWNER, DifferenceKind.MTIME, DifferenceKind.XATTR, DifferenceKind.CAPABILITY}
)

PlainInode = tuple[int, int, int, int | None, int | None]
"""Mode with type, device, links, user and group as the disk has them."""
Content = Callable[[bytes, int, os.stat_result, Header], None]
"""Takes the content of a plain file whose type and size are right: path, open file, what it was before, header. OSError."""


class Opener(Protocol):
    """What opens plain files: `contents.FileReader`."""

    def open_in(self, parent: int, name: bytes) -> int:
        """A name in an open folder, open to be read and not followed anywhere. OSError."""
        ...

    def close(self, fd: int) -> None:
        """Done with it."""
        ...


class Inodes:
    """The inodes of one folder. `attributes` gathers the opaque marks that are met."""

    def __init__(self, tree: SafeFolder, ownership: Ownership, findings: Findings, files: Opener) -> None:
        self.attributes = Attributes(tree)
        self._tree = tree
        self._ownership = ownership
        self._findings = findings
        self._files = files
        self._owners: dict[tuple[int, int], tuple[int | None, int | None]] = {}
        self._shared: dict[int, bytes] = {}
        """Which path an inode of several names was first met at: what differs of it is reported there."""
        self._given: dict[int, dict[bytes, bytes]] = {}
        """The extended attributes that the entries of an inode of several names gave it so far."""
        self._given_bytes = 0

    def plain_file(self, above: bytes, path: bytes, name: bytes, header: Header, content: Content | None) -> bool:
        """Whether the file `name` in the folder `above`, a plain one by its folder, is all that its header says.

        False, and nothing said nor read, where anything is otherwise: then `compare` looks at it anew.
        StoreUnreadable and its like.
        """
        if header.traits.kind != REGULAR:
            return False
        try:
            fd = self._files.open_in(self._tree.folder(above), name)
        except OSError:
            return False
        try:
            found = os.fstat(fd)
            if not self.as_said(found, header):
                return False
            if header.xattrs or self.attributes.names(path, fd):
                self._xattrs(path, header.xattrs, found, fd)
            if content is not None and header.size:
                content(path, fd, found, header)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        finally:
            self._files.close(fd)
        return True

    def folder(self, path: bytes, header: Header) -> bool:
        """The same for a folder."""
        try:
            fd = self._tree.descriptor(path)
            found, traits = os.fstat(fd), header.traits
            return (
                found.st_mode == traits.mode & 0o7777 | stat.S_IFDIR
                and found.st_dev == self._tree.device
                and (found.st_uid, found.st_gid) == self._owner(traits.owner)
                and (found.st_mtime_ns if header.exact else found.st_mtime_ns // _NS * _NS) == header.mtime_ns
                and not header.xattrs
                and PASSED_OVER.issuperset(os.listxattr(fd))
            )
        except (OSError, StoreMalformed):
            return False

    def as_said(self, found: os.stat_result, header: Header) -> bool:
        """Whether a plain file is what its header says, attributes and content aside."""
        return (
            found.st_size == header.size
            and (found.st_mode, found.st_dev, found.st_nlink, found.st_uid, found.st_gid)
            == self.plain_inode(header.traits)
            and (found.st_mtime_ns if header.exact else found.st_mtime_ns // _NS * _NS) == header.mtime_ns
        )

    def plain_inode(self, traits: UnusualTraits) -> PlainInode:
        """What a plain file with these traits has, apart from what each has for itself: size and time."""
        return traits.mode & 0o7777 | stat.S_IFREG, self._tree.device, 1, *self._owner(traits.owner)

    def compare(self, path: bytes, header: Header, content: Content | None) -> None:
        """Say what differs. StoreMissing, StoreMalformed, StoreUnreadable, TarMalformed."""
        if header.kind == HARDLINK:
            self._hardlink(path, header)
            return
        if header.kind in (CHARACTER, BLOCK_DEVICE) and not self._ownership.devices and not self._tree.exists(path):
            return
        found = self._tree.stat(path)
        whole = self._type_and_size(path, header, found)
        if whole is not None:
            self._owner_mode_time(path, header, found)
            if whole and header.size > 0 and content is not None:
                self._with_content(path, header, found, content)
            else:
                at = self._tree.folder(path) if stat.S_ISDIR(found.st_mode) else self.attributes.at(path)
                self._xattrs(path, header.xattrs, found, at)
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            self._give(found.st_ino, header.xattrs)
            other = self._shared.setdefault(found.st_ino, path)
            if other != path:
                self._findings.add(
                    DifferenceKind.HARDLINK, path, "a file of its own", f"the same file as {readable(other)}"
                )

    def of_a_folder_without_an_entry(self, path: bytes, header: Header, found: os.stat_result) -> None:
        """Which attributes it has, since it must have none. StoreUnreadable."""
        self._xattrs(path, header.xattrs, found, self._tree.folder(path))

    def _with_content(self, path: bytes, header: Header, found: os.stat_result, content: Content) -> None:
        above, _, name = path.rpartition(b"/")
        try:
            fd = self._files.open_in(self._tree.folder(above), name)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        try:
            self._xattrs(path, header.xattrs, found, fd)
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
            meant = None
        if meant is None or (found.st_ino, found.st_dev) != (meant.st_ino, meant.st_dev):
            self._findings.add(
                DifferenceKind.HARDLINK, path, f"the same file as {readable(target)}", "a file of its own"
            )
            return
        first, at = self._shared.get(found.st_ino, target), self.attributes.at(target)
        attributes = self._with_those_of_a_link(header, found, self.attributes.names(target, at))
        if stat.S_ISLNK(found.st_mode):  # containerd gives it the time of the link, Docker and Podman leave it
            of_the_link = _same_time(*_times(header, found))
            self._findings.drop(first, _OF_A_HEADER if of_the_link else _OF_A_HEADER - {DifferenceKind.MTIME})
            self._owner_and_mode(first, header, found)
        else:
            self._findings.drop(first, _OF_A_HEADER)
            self._owner_mode_time(first, header, found)
        self._xattrs(first, attributes, found, at)

    def _with_those_of_a_link(self, header: Header, found: os.stat_result, there: list[str]) -> dict[bytes, bytes]:
        """The extended attributes of an inode after a link to it. `there`: the names of those on the disk. TarMalformed.

        Engines set the attributes of the link's header on the shared inode, and remove none: it has those of all its
        headers, the last value of each. In two cases an attribute may be missing:

        1. A capability that the link's header does not repeat. Docker and containerd change the owner for each header,
           upon which the kernel removes the capability; Podman does so only where the owner is another one.
        2. Any attribute of a symbolic link: containerd sets none.
        """
        given = self._given.get(found.st_ino, {}) | header.xattrs
        may_miss = given.keys() if stat.S_ISLNK(found.st_mode) else {_CAPABILITY} - header.xattrs.keys()
        names = {os.fsencode(name) for name in there}
        given = {name: value for name, value in given.items() if name in names or name not in may_miss}
        self._give(found.st_ino, given)
        return given

    def _give(self, inode: int, attributes: dict[bytes, bytes]) -> None:
        """Remember what an inode of several names must have so far. TarMalformed."""
        self._given_bytes += _size(attributes) - _size(self._given.pop(inode, {}))
        if attributes:
            self._given[inode] = attributes
        if self._given_bytes > MAX_SHARED_ATTRIBUTES_BYTES:
            raise TarMalformed(f"hard-linked files with more than {MAX_SHARED_ATTRIBUTES_BYTES} bytes of attributes")

    def _type_and_size(self, path: bytes, header: Header, found: os.stat_result) -> bool | None:
        """Whether the size holds too, so that content can be compared; None where it is something else altogether."""
        add = self._findings.add
        wanted, got = _FORMATS[header.kind], stat.S_IFMT(found.st_mode)
        if wanted != got:
            add(DifferenceKind.TYPE, path, _KINDS[wanted], describe_file(found))
            return None
        if found.st_dev != self._tree.device:
            add(DifferenceKind.MOUNT, path, "the layer's file system", "something mounted over it")
        if wanted == stat.S_IFREG:
            if found.st_size == header.size:
                return True
            add(DifferenceKind.SIZE, path, header.size, found.st_size)
        elif wanted == stat.S_IFLNK:
            target = self._tree.link(path)
            if target != header.link:
                add(DifferenceKind.LINK, path, readable(header.link), readable(target))
        elif wanted in (stat.S_IFCHR, stat.S_IFBLK):
            device = os.major(found.st_rdev), os.minor(found.st_rdev)
            if device != header.traits.device:
                add(DifferenceKind.DEVICE, path, _numbers(header.traits.device), _numbers(device))
        return False

    def _owner(self, inside: tuple[int, int]) -> tuple[int | None, int | None]:
        """Who the user and group of a header are on this disk."""
        owner = self._owners.get(inside)
        if owner is None:
            owner = self._ownership.users.outside(inside[0]), self._ownership.groups.outside(inside[1])
            if len(self._owners) < _MAX_OWNERS:
                self._owners[inside] = owner
        return owner

    def _owner_mode_time(self, path: bytes, header: Header, found: os.stat_result) -> None:
        self._owner_and_mode(path, header, found)
        wanted, got = _times(header, found)
        if not _same_time(wanted, got):
            self._findings.add(DifferenceKind.MTIME, path, _seconds(wanted), _seconds(got))

    def _owner_and_mode(self, path: bytes, header: Header, found: os.stat_result) -> None:
        add = self._findings.add
        mode = stat.S_IMODE(found.st_mode)
        if mode != header.mode & 0o7777 and not stat.S_ISLNK(found.st_mode):
            add(DifferenceKind.MODE, path, f"{header.mode & 0o7777:04o}", f"{mode:04o}")
        owner = self._owner(header.traits.owner)
        if None in owner:
            self._of_nobody(path, header, found)
        elif (found.st_uid, found.st_gid) != owner:
            add(DifferenceKind.OWNER, path, f"{owner[0]}:{owner[1]}", f"{found.st_uid}:{found.st_gid}")

    def _of_nobody(self, path: bytes, header: Header, found: os.stat_result) -> None:
        """An owner that has no id on this disk. With `ignore_chown_errors` engines leave such a file to who unpacks it."""
        if not self._ownership.whole:
            self._findings.not_read(OWNERS_UNKNOWN)
        elif self._ownership.devices or (found.st_uid, found.st_gid) != self._owner((0, 0)):
            wanted = f"its user, as no id of theirs stands for {header.uid}:{header.gid}"
            self._findings.add(DifferenceKind.OWNER, path, wanted, f"{found.st_uid}:{found.st_gid}")

    def _xattrs(self, path: bytes, wanted: Mapping[bytes, bytes], found: os.stat_result, at: bytes | int) -> None:
        """`wanted`: what it must have. `at`: the open file, or where to find it."""
        for kind, expected, got in self.attributes.differences(path, wanted, found, at):
            self._findings.add(kind, path, expected, got)


_MAX_OWNERS: Final = 10_000
OWNERS_UNKNOWN: Final = (
    "files of users other than root can't be compared with their owners: which ids the owner of this store may give "
    "them does not stand in etc/subuid and etc/subgid"
)


def describe_kind(header: Header) -> str:
    """What an entry makes."""
    return _KINDS.get(_FORMATS.get(header.kind, 0), "hard link")


def is_whiteout(found: os.stat_result) -> bool:
    """A character device 0:0: overlayfs hides what lies below."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def describe_file(found: os.stat_result) -> str:
    """What lies somewhere, for who reads a difference."""
    if is_whiteout(found):
        return "a whiteout, which hides the file of lower layers"
    mode = f", mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}:{found.st_gid}"
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else") + mode


def _size(attributes: Mapping[bytes, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in attributes.items())


def _times(header: Header, found: os.stat_result) -> tuple[int, int]:
    """The times in nanoseconds of the header and on the disk, both as exact as they can be compared."""
    wanted, got = header.mtime_ns, found.st_mtime_ns
    if not header.exact or got % _NS == 0:
        return wanted // _NS * _NS, got // _NS * _NS
    return wanted, got


def _same_time(wanted: int, got: int) -> bool:
    """Whether an engine makes the one of the other: times before 1970 or too far off become 1970."""
    return wanted == got or (got == 0 and not 0 <= wanted <= _MAX_TIME_NS)


def _numbers(device: tuple[int, int]) -> str:
    return f"{device[0]}:{device[1]}"


def _seconds(ns: int) -> str:
    return f"{ns / _NS:.9f}" if ns % _NS else str(ns // _NS)
