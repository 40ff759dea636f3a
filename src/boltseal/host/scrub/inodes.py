"""Compares an entry of a layer's tar with the file at its path: type, size, owner, mode, time, link, device, attributes.

`plain_file` is fast, handles nearly all entries, and only returns whether everything matches. `compare` reports what differs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, StoreUnreadable, explained, readable
from boltseal.host.scrub.attributes import CAPABILITY, IGNORED, Attributes
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.file_flags import fixed_flags
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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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
"""The limit for extended attributes of hard-linked files, which are kept in memory until the last entry."""
MAX_SHARED_NAMES_BYTES: Final = 64 * 1024 * 1024
"""The limit for the paths of hard-linked files, which are kept in memory until the last entry."""
MAX_SHARED: Final = 100_000
_OF_A_HEADER: Final = frozenset(
    {
        DifferenceKind.MODE,
        DifferenceKind.OWNER,
        DifferenceKind.MTIME,
        DifferenceKind.XATTR,
        DifferenceKind.CAPABILITY,
        DifferenceKind.FLAG,
    }
)

PlainInode = tuple[int, int, int, int | None, int | None]
"""The mode with its type, device, number of links, user and group, as on disk."""
Content = Callable[[bytes, int, os.stat_result, Header], None]
"""Consumes the content of a regular file of the right size: path, open file, status before, header. Raises OSError."""


class SharedInode(NamedTuple):
    """A file with more names than its layer explains. `path`: one of them; `links`: their number."""

    path: bytes
    inode: int
    links: int


class Opener(Protocol):
    """Opens regular files: `file_contents.FileReader`."""

    def open_in(self, parent: int, name: bytes) -> int:
        """Open a name in an open folder for reading, without following a link.

        Raises: OSError.
        """
        ...

    def close(self, fd: int) -> None:
        """Close a file."""
        ...


class Inodes:
    """Compares the inodes of one folder. `attributes` collects the opaque marks that are met."""

    def __init__(
        self, tree: SafeFolder, ownership: Ownership, findings: Findings, files: Opener, *, built: bool = False
    ) -> None:
        self.attributes = Attributes(tree, built=built, users=ownership.users)
        self._tree = tree
        self._ownership = ownership
        self._findings = findings
        self._files = files
        self._owners: dict[tuple[int, int], tuple[int | None, int | None]] = {}
        self._first_paths: dict[int, bytes] = {}
        """The first path of each hard-linked inode; its differences are reported there."""
        self._expected_attributes: dict[int, dict[bytes, bytes]] = {}
        """The extended attributes that the entries so far gave each hard-linked inode."""
        self._expected_bytes = 0
        self._names: dict[int, set[bytes]] = {}
        """The paths of each hard-linked inode."""
        self._names_bytes = 0
        self._linked: set[int] = set()
        """The inodes whose attributes an entry for a hard link has set."""

    def plain_file(self, above: bytes, path: bytes, name: bytes, header: Header, content: Content | None) -> bool:
        """Return whether the file `name` in the folder `above`, listed as a regular file, matches its header.

        If not, nothing is reported or consumed, and `compare` must be called.

        Raises: StoreUnreadable, StoreMissing, StoreMalformed.
        """
        if header.traits.kind != REGULAR:
            return False
        try:
            fd = self._files.open_in(self._tree.folder(above), name)
        except OSError:
            return False
        try:
            found = os.fstat(fd)
            if not self.matches_header(found, header):
                return False
            if header.xattrs or self.attributes.names(path, fd) or fixed_flags(fd):
                self._xattrs(path, header.xattrs, found, fd)
            if content is not None and header.size:
                content(path, fd, found, header)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        finally:
            self._files.close(fd)
        return True

    def folder(self, path: bytes, header: Header) -> bool:
        """Return whether a folder matches its header; if not, nothing is reported, and `compare` must be called."""
        try:
            fd = self._tree.descriptor(path)
            found, traits = os.fstat(fd), header.traits
            return (
                found.st_mode == traits.mode & 0o7777 | stat.S_IFDIR
                and found.st_dev == self._tree.device
                and (found.st_uid, found.st_gid) == self.owner(traits.owner)
                and (found.st_mtime_ns if header.exact else found.st_mtime_ns // _NS * _NS) == header.mtime_ns
                and not header.xattrs
                and IGNORED.issuperset(os.listxattr(fd))
                and not fixed_flags(fd)
            )
        except (OSError, StoreMalformed):
            return False

    def matches_header(self, found: os.stat_result, header: Header) -> bool:
        """Return whether a regular file matches its header, except for attributes and content."""
        return (
            found.st_size == header.size
            and (found.st_mode, found.st_dev, found.st_nlink, found.st_uid, found.st_gid)
            == self.plain_inode(header.traits)
            and (found.st_mtime_ns if header.exact else found.st_mtime_ns // _NS * _NS) == header.mtime_ns
        )

    def plain_inode(self, traits: UnusualTraits) -> PlainInode:
        """Return the expected inode of a regular file with these traits, without its size and time."""
        return traits.mode & 0o7777 | stat.S_IFREG, self._tree.device, 1, *self.owner(traits.owner)

    def compare(self, path: bytes, header: Header, content: Content | None) -> None:
        """Report what differs.

        Raises: StoreMissing, StoreMalformed, StoreUnreadable, TarMalformed.
        """
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
            self._record_name(found.st_ino, path)
            self._record_attributes(found.st_ino, header.xattrs)
            other = self._first_paths.setdefault(found.st_ino, path)
            if other != path:
                self._findings.add(
                    DifferenceKind.HARDLINK, path, "a file of its own", f"the same file as {readable(other)}"
                )

    def is_linked(self, inode: int) -> bool:
        """Return whether an entry for a hard link has set the attributes of an inode."""
        return inode in self._linked

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
            linked = self._tree.stat(target)
        except StoreMissing:
            linked = None
        if linked is None or (found.st_ino, found.st_dev) != (linked.st_ino, linked.st_dev):
            self._findings.add(
                DifferenceKind.HARDLINK, path, f"the same file as {readable(target)}", "a file of its own"
            )
            return
        self._record_name(found.st_ino, path)
        self._record_name(found.st_ino, target)
        self._linked.add(found.st_ino)
        first, at = self._first_paths.get(found.st_ino, target), self.attributes.at(target)
        attributes = self._attributes_after_link(header, found, self.attributes.names(target, at))
        if stat.S_ISLNK(found.st_mode):  # containerd sets the time of the link's header, Docker and Podman do not
            of_the_link = _same_time(*_times(header, found))
            self._findings.drop(first, _OF_A_HEADER if of_the_link else _OF_A_HEADER - {DifferenceKind.MTIME})
            self._owner_and_mode(first, header, found)
        else:
            self._findings.drop(first, _OF_A_HEADER)
            self._owner_mode_time(first, header, found)
        self._xattrs(first, attributes, found, at)

    def _record_name(self, inode: int, path: bytes) -> None:
        """Record a path of a hard-linked inode, up to MAX_SHARED_NAMES_BYTES in total."""
        names = self._names.setdefault(inode, set())
        if path in names:
            return
        self._names_bytes += len(path)
        if self._names_bytes > MAX_SHARED_NAMES_BYTES:
            self._findings.not_read(f"hard-linked files have names of more than {MAX_SHARED_NAMES_BYTES} bytes")
        else:
            names.add(path)

    def shared(self) -> list[SharedInode]:
        """Return the files that have more names than this layer has entries for them. Call it after the last entry."""
        found = []
        for inode, paths in self._names.items():
            there = [(path, at.st_nlink) for path in sorted(paths) if (at := self._at(path)) and at.st_ino == inode]
            if there and there[0][1] > len(there):
                found.append(SharedInode(there[0][0], inode, there[0][1]))
        if len(found) > MAX_SHARED:
            self._findings.not_read(f"more than {MAX_SHARED} files have names outside of this layer")
        return found[:MAX_SHARED]

    def _at(self, path: bytes) -> os.stat_result | None:
        try:
            return self._tree.stat(path)
        except (StoreMissing, StoreMalformed, StoreUnreadable):
            return None  # reported for its entry

    def _attributes_after_link(self, header: Header, found: os.stat_result, there: list[str]) -> dict[bytes, bytes]:
        """Return the expected extended attributes of an inode after a hard link to it. `there`: the names of those on disk.

        Engines set the attributes of the link's header on the shared inode and remove none, so it has those of all its
        headers, with the last value of each. In two cases an attribute may be missing:

        1. A capability that the link's header does not repeat. Docker and containerd change the owner for each header, and
           the kernel then removes the capability; Podman does so only if the owner differs.
        2. Any attribute of a symbolic link: containerd sets none.

        Raises: TarMalformed.
        """
        expected = self._expected_attributes.get(found.st_ino, {}) | header.xattrs
        optional = expected.keys() if stat.S_ISLNK(found.st_mode) else {_CAPABILITY} - header.xattrs.keys()
        names = {os.fsencode(name) for name in there}
        expected = {name: value for name, value in expected.items() if name in names or name not in optional}
        self._record_attributes(found.st_ino, expected)
        return expected

    def _record_attributes(self, inode: int, attributes: dict[bytes, bytes]) -> None:
        """Record the expected attributes of a hard-linked inode so far.

        Raises: TarMalformed: if they exceed MAX_SHARED_ATTRIBUTES_BYTES in total.
        """
        self._expected_bytes += _size(attributes) - _size(self._expected_attributes.pop(inode, {}))
        if attributes:
            self._expected_attributes[inode] = attributes
        if self._expected_bytes > MAX_SHARED_ATTRIBUTES_BYTES:
            raise TarMalformed(f"hard-linked files with more than {MAX_SHARED_ATTRIBUTES_BYTES} bytes of attributes")

    def _type_and_size(self, path: bytes, header: Header, found: os.stat_result) -> bool | None:
        """Report differences of type and size.

        Returns True for a regular file of the right size, whose content can be compared; None for another type.
        """
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

    def owner(self, inside: tuple[int, int]) -> tuple[int | None, int | None]:
        """Return the ids on disk of the user and group in a header, None for an unmapped id."""
        owner = self._owners.get(inside)
        if owner is None:
            user, group = map(_as_chown, inside)
            owner = self._ownership.users.outside(user), self._ownership.groups.outside(group)
            if len(self._owners) < _MAX_OWNERS:
                self._owners[inside] = owner
        return owner

    def _owner_mode_time(self, path: bytes, header: Header, found: os.stat_result) -> None:
        self._owner_and_mode(path, header, found)
        wanted, got = _times(header, found)
        same = _same_time(wanted, got)
        if not same and stat.S_ISLNK(found.st_mode):  # Docker and Podman compute these nanoseconds in 64 bits
            wrapped = (header.mtime_ns + 2**63) % 2**64 - 2**63
            same = _same_time(*_times(header._replace(mtime_ns=wrapped), found))
        if not same:
            self._findings.add(DifferenceKind.MTIME, path, shown_time(wanted), shown_time(got))

    def _owner_and_mode(self, path: bytes, header: Header, found: os.stat_result) -> None:
        add = self._findings.add
        mode = stat.S_IMODE(found.st_mode)
        if mode != header.mode & 0o7777 and not stat.S_ISLNK(found.st_mode):
            add(DifferenceKind.MODE, path, f"{header.mode & 0o7777:04o}", f"{mode:04o}")
        owner = self.owner(header.traits.owner)
        if None in owner:
            self._unmapped_owner(path, header, found)
        elif (found.st_uid, found.st_gid) != owner:
            add(DifferenceKind.OWNER, path, f"{owner[0]}:{owner[1]}", f"{found.st_uid}:{found.st_gid}")

    def _unmapped_owner(self, path: bytes, header: Header, found: os.stat_result) -> None:
        """Compare an owner without an id on this disk; with `ignore_chown_errors` the file keeps the unpacking user."""
        if not self._ownership.whole:
            self._findings.not_read(OWNERS_UNKNOWN)
        elif self._ownership.devices or (found.st_uid, found.st_gid) != self.owner((0, 0)):
            wanted = f"the store's user, as {header.uid}:{header.gid} is not mapped to an id"
            self._findings.add(DifferenceKind.OWNER, path, wanted, f"{found.st_uid}:{found.st_gid}")

    def _xattrs(self, path: bytes, wanted: Mapping[bytes, bytes], found: os.stat_result, at: bytes | int) -> None:
        """Report differing attributes. `wanted`: the expected ones. `at`: the open file, or its path."""
        for kind, expected, got in self.attributes.differences(path, wanted, found, at):
            self._findings.add(kind, path, expected, got)


def _as_chown(number: int) -> int:
    """Return the id that the chown system call sets: the lowest 32 bits; all ones leave the unpacking user, who is root."""
    number &= _NO_CHANGE
    return 0 if number == _NO_CHANGE else number


_NO_CHANGE: Final = 0xFFFFFFFF
_MAX_OWNERS: Final = 10_000
OWNERS_UNKNOWN: Final = (
    "owners other than root can't be checked: the subordinate ids of this store's owner are not in etc/subuid and "
    "etc/subgid"
)


def describe_kind(header: Header) -> str:
    """Return the kind of file that an entry creates, in words."""
    return _KINDS.get(_FORMATS.get(header.kind, 0), "hard link")


def is_whiteout(found: os.stat_result) -> bool:
    """Return whether a file is a whiteout of overlayfs: a character device 0:0, which hides lower layers."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def describe_file(found: os.stat_result) -> str:
    """Return type, mode and owner of a file, in words."""
    if is_whiteout(found):
        return "a whiteout, which hides the file of lower layers"
    mode = f", mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}:{found.st_gid}"
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else") + mode


def _size(attributes: Mapping[bytes, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in attributes.items())


def _times(header: Header, found: os.stat_result) -> tuple[int, int]:
    """Return the times of the header and on disk in nanoseconds, at the precision that both have."""
    wanted, got = header.mtime_ns, found.st_mtime_ns
    if not header.exact or got % _NS == 0:
        return wanted // _NS * _NS, got // _NS * _NS
    return wanted, got


def _same_time(wanted: int, got: int) -> bool:
    """Return whether an engine writes `got` for `wanted`: times before 1970 or out of range become 1970."""
    return wanted == got or (got == 0 and not 0 <= wanted <= _MAX_TIME_NS)


def _numbers(device: tuple[int, int]) -> str:
    return f"{device[0]}:{device[1]}"


def shown_time(ns: int) -> str:
    """Return a time of 64 bits in UTC with all its digits, such as 2023-11-14T22:13:20.000000001Z: no two times look equal."""
    whole, part = divmod(ns, _NS)
    fraction = f".{part:09d}" if part else ""
    return f"{_EPOCH + timedelta(seconds=whole):%Y-%m-%dT%H:%M:%S}{fraction}Z"
