"""Extended attributes of an entry against those on the disk: which count, and when two values mean the same.

Passed over, unless the tar itself has them, is what the host or overlayfs sets for itself. Those that change what a container
sees (opaque, redirect, metacopy, whiteout) never are; opaque marks on folders are gathered, since which of them belong there
is known only after the last entry.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Mapping
from typing import Final

from boltseal.engines.safe_open import SafeFolder, StoreUnreadable, explained
from boltseal.host.scrub.differences import DifferenceKind

OPAQUE_MARKS: Final = frozenset({"trusted.overlay.opaque", "user.overlay.opaque"})
OF_OVERLAYFS: Final = ("trusted.overlay.", "user.overlay.")
_OF_THE_HOST: Final = frozenset({"security.selinux", "security.ima", "security.evm"})
_NOTES_OF_OVERLAYFS: Final = frozenset(
    f"{space}{name}" for space in OF_OVERLAYFS for name in ("origin", "impure", "nlink", "uuid", "upper", "protattr")
)
PASSED_OVER: Final = _OF_THE_HOST | _NOTES_OF_OVERLAYFS
CAPABILITY: Final = "security.capability"
_ACL: Final = "system.posix_acl_access"
_ACL_ENTRY: Final = struct.Struct("<HHI")
"""Tag, permissions and id, as linux/posix_acl_xattr.h has them, after four bytes of the version."""
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20

Found = tuple[DifferenceKind, str, str]
"""Kind, expected, got."""


class Attributes:
    """Those of the files of one folder. `opaque`: folders with an opaque mark, as they are met."""

    def __init__(self, tree: SafeFolder) -> None:
        self.opaque: set[bytes] = set()
        self._tree = tree

    def at(self, path: bytes) -> bytes:
        """Where the calls for attributes find a path, links not followed. They take no folder's descriptor: /proc has it."""
        above, _, name = path.rpartition(b"/")
        return b"/proc/self/fd/%d/%s" % (self._tree.folder(above), name or b".")

    def differences(
        self, path: bytes, expected: Mapping[bytes, bytes], found: os.stat_result, at: bytes | int
    ) -> list[Found]:
        """What differs. `at`: the open file, or where to find it. StoreUnreadable."""
        names = self.names(path, at)
        if not names and not expected:
            return []
        differing: list[Found] = []
        wanted = {os.fsdecode(name): value for name, value in expected.items()}
        for name in sorted(wanted.keys() | set(names)):
            if name in PASSED_OVER and name not in wanted:
                continue
            got = self.value(path, at, name) if name in names else None
            if name in OPAQUE_MARKS and stat.S_ISDIR(found.st_mode) and got == b"y":
                self.opaque.add(path)
            elif not _same(name, wanted.get(name), got, found):
                kind = DifferenceKind.CAPABILITY if name == CAPABILITY else DifferenceKind.XATTR
                differing.append((kind, f"{name}={describe_value(wanted.get(name))}", f"{name}={describe_value(got)}"))
        return differing

    def names(self, path: bytes, at: bytes | int) -> list[str]:
        """The names of all attributes. StoreUnreadable."""
        try:
            return os.listxattr(at, follow_symlinks=isinstance(at, int))
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS):  # a file system without them has none
                return []
            shown = self._tree.shown(path)
            raise StoreUnreadable(f"the attributes of {shown} can't be read: {error.strerror}") from error

    def value(self, path: bytes, at: bytes | int, name: str) -> bytes:
        """The value of one. StoreUnreadable."""
        try:
            return os.getxattr(at, name, follow_symlinks=isinstance(at, int))
        except OSError as error:
            shown = self._tree.shown(path)
            raise StoreUnreadable(
                f"attribute {name} of {shown} can't be read: {error.strerror}; it takes CAP_SYS_ADMIN"
            ) from error

    def value_if_there(self, path: bytes, name: str) -> bytes | None:
        """The value of one at a path, a link not followed; None if it has none of this name. StoreUnreadable."""
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
    if got is None:  # the kernel takes these for files and folders only, and engines go on without
        return name.startswith("user.") and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
    if name == _ACL:
        return _without_mode(expected) == _without_mode(got)
    return name == CAPABILITY and same_capability(expected, got)


def _without_mode(acl: bytes) -> tuple[bytes, tuple[tuple[int, int, int], ...]]:
    """An access control list without the permissions that are the file's mode; what is no list stays as it is.

    The kernel keeps both alike: a chmod, which engines do last, writes the mode into the list. The mode is compared as such.
    """
    if len(acl) % _ACL_ENTRY.size != 4:
        return acl, ()
    entries = list(_ACL_ENTRY.iter_unpack(acl[4:]))
    of_the_mode = {_USER_OBJ, _OTHER, _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ}
    return acl[:4], tuple((tag, 0 if tag in of_the_mode else rights, id_) for tag, rights, id_ in entries)


def same_capability(expected: bytes, got: bytes) -> bool:
    """Whether two capabilities are the same. Version 3 of a file capability is version 2 with the user that it was set for; the kernel turns one into the other."""
    both = min(len(expected), len(got)) >= 20 and {expected[3], got[3]} <= {2, 3}
    return both and (expected[:3], expected[4:20]) == (got[:3], got[4:20])


def describe_value(value: bytes | None) -> str:
    """A value as a person may read it."""
    if value is None:
        return "none"
    return value.decode() if value.isascii() and value.decode().isprintable() else f"0x{value[:64].hex()}"
