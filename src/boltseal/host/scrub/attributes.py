"""Compares the extended attributes of tar entries with those on disk.

Attributes that the host or overlayfs sets for its own use are ignored unless the tar has them. Those that change what a
container sees (opaque, redirect, metacopy, whiteout) never are. Opaque marks on folders are collected, since only after the
last entry is it known which of them are expected.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from boltseal.engines.safe_open import SafeFolder, StoreUnreadable, explained
from boltseal.host.scrub.differences import DifferenceKind

OPAQUE_MARKS: Final = frozenset({"trusted.overlay.opaque", "user.overlay.opaque"})
OVERLAYFS_PREFIXES: Final = ("trusted.overlay.", "user.overlay.")
_HOST_ATTRIBUTES: Final = frozenset({"security.selinux", "security.ima", "security.evm"})
_OVERLAYFS_RECORDS: Final = frozenset(
    f"{space}{name}"
    for space in OVERLAYFS_PREFIXES
    for name in ("origin", "impure", "nlink", "uuid", "upper", "protattr")
)
IGNORED: Final = _HOST_ATTRIBUTES | _OVERLAYFS_RECORDS
CAPABILITY: Final = "security.capability"
_ACL: Final = "system.posix_acl_access"
_ACL_ENTRY: Final = struct.Struct("<HHI")
"""Tag, permissions and id (linux/posix_acl_xattr.h), after a version of four bytes."""
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


class AttributeDifference(NamedTuple):
    """One attribute that differs."""

    kind: DifferenceKind
    expected: str
    got: str


class Attributes:
    """The extended attributes of the files of one folder. `opaque`: folders with an opaque mark that were met so far."""

    def __init__(self, tree: SafeFolder) -> None:
        self.opaque: set[bytes] = set()
        self._tree = tree

    def at(self, path: bytes) -> bytes:
        """Return a path for the xattr system calls, which take no folder descriptor: through /proc, following no link."""
        above, _, name = path.rpartition(b"/")
        return b"/proc/self/fd/%d/%s" % (self._tree.folder(above), name or b".")

    def differences(
        self, path: bytes, expected: Mapping[bytes, bytes], found: os.stat_result, at: bytes | int
    ) -> list[AttributeDifference]:
        """Return what differs. `at`: the open file, or its path.

        Raises: StoreUnreadable, as all methods.
        """
        names = self.names(path, at)
        if not names and not expected:
            return []
        differing: list[AttributeDifference] = []
        wanted = {os.fsdecode(name): value for name, value in expected.items()}
        for name in sorted(wanted.keys() | set(names)):
            if name in IGNORED and name not in wanted:
                continue
            got = self.value(path, at, name) if name in names else None
            if name in OPAQUE_MARKS and stat.S_ISDIR(found.st_mode) and got == b"y":
                self.opaque.add(path)
            elif not _same(name, wanted.get(name), got, found):
                kind = DifferenceKind.CAPABILITY if name == CAPABILITY else DifferenceKind.XATTR
                differing.append(
                    AttributeDifference(
                        kind, f"{name}={describe_value(wanted.get(name))}", f"{name}={describe_value(got)}"
                    )
                )
        return differing

    def names(self, path: bytes, at: bytes | int) -> list[str]:
        """Return the names of all attributes."""
        try:
            return os.listxattr(at, follow_symlinks=isinstance(at, int))
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS):  # the file system does not support them
                return []
            shown = self._tree.shown(path)
            raise StoreUnreadable(f"could not read the attributes of {shown}: {error.strerror}") from error

    def value(self, path: bytes, at: bytes | int, name: str) -> bytes:
        """Return the value of an attribute."""
        try:
            return os.getxattr(at, name, follow_symlinks=isinstance(at, int))
        except OSError as error:
            shown = self._tree.shown(path)
            raise StoreUnreadable(
                f"could not read attribute {name} of {shown}: {error.strerror}; CAP_SYS_ADMIN is needed"
            ) from error

    def value_if_there(self, path: bytes, name: str) -> bytes | None:
        """Return the value of an attribute at a path, without following a link; None if it is not set."""
        try:
            return os.getxattr(self.at(path), name, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS):
                return None
            raise explained(error, f"attribute {name} of {self._tree.shown(path)}") from error


def _same(name: str, expected: bytes | None, got: bytes | None, found: os.stat_result) -> bool:
    if expected == got:
        return True
    if expected is None:
        return False
    if got is None:  # the kernel allows these on files and folders only; engines ignore the failure
        return name.startswith("user.") and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
    if name == _ACL:
        return _without_mode(expected) == _without_mode(got)
    return name == CAPABILITY and same_capability(expected, got)


def _without_mode(acl: bytes) -> tuple[bytes, tuple[tuple[int, int, int], ...]]:
    """Return an access control list without the permissions that repeat the file's mode; other values unchanged.

    The kernel keeps them equal: a chmod, which engines do last, writes the mode into the list. The mode is compared itself.
    """
    if len(acl) % _ACL_ENTRY.size != 4:
        return acl, ()
    entries = list(_ACL_ENTRY.iter_unpack(acl[4:]))
    of_the_mode = {_USER_OBJ, _OTHER, _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ}
    return acl[:4], tuple((tag, 0 if tag in of_the_mode else rights, id_) for tag, rights, id_ in entries)


def same_capability(expected: bytes, got: bytes) -> bool:
    """Return whether two file capabilities are equal, ignoring the version.

    Version 3 is version 2 with the user namespace's root user; the kernel converts one into the other.
    """
    both = min(len(expected), len(got)) >= 20 and {expected[3], got[3]} <= {2, 3}
    return both and (expected[:3], expected[4:20]) == (got[:3], got[4:20])


def describe_value(value: bytes | None) -> str:
    """Return a value as printable text."""
    if value is None:
        return "none"
    return value.decode() if value.isascii() and value.decode().isprintable() else f"0x{value[:64].hex()}"
