"""Compares the extended attributes of tar entries with those on disk.

Flags of files (`file_flags`) are compared with them: no entry has any.

Attributes that the host or overlayfs sets for its own use are ignored unless the tar has them. Those that change what a
container sees (opaque, redirect, metacopy, whiteout) never are. Opaque marks on folders are collected, since only after the
last entry is it known which of them are expected.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Final, NamedTuple

from boltseal.engines.safe_open import SafeFolder, StoreUnreadable, explained
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.entry_attributes import (
    ACCESS_LIST,
    DEFAULT_LIST,
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    changes_rights,
    list_entries,
)
from boltseal.host.scrub.file_flags import describe_flags, fixed_flags
from boltseal.host.scrub.ownership import IdMap

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
_LISTS: Final = (ACCESS_LIST, DEFAULT_LIST)
_TO_LOOK_AT: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class AttributeDifference(NamedTuple):
    """One attribute that differs."""

    kind: DifferenceKind
    expected: str
    got: str


class Attributes:
    """The extended attributes of the files of one folder.

    `opaque`: folders with an opaque mark that were met so far. `built`: the folder is that of a build container; its tar
    does not have the attributes of its files, capabilities excepted. `unproven`: paths of such a folder that were met with
    an access control list that changes rights. `users`: the map of the store's users, None if it does not matter.
    """

    def __init__(self, tree: SafeFolder, *, built: bool = False, users: IdMap | None = None) -> None:
        self.opaque: set[bytes] = set()
        self.unproven: set[bytes] = set()
        self._tree = tree
        self._built = built
        self._users = users

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
        differing = self.flags(path, found, at)
        if not names and not expected:
            return differing
        wanted = {os.fsdecode(name): value for name, value in expected.items()}
        for name in sorted(wanted.keys() | set(names)):
            if name in IGNORED and name not in wanted:
                continue
            got = self.value(path, at, name) if name in names else None
            if name in OPAQUE_MARKS and stat.S_ISDIR(found.st_mode) and got == b"y":
                self.opaque.add(path)
            elif self._built and name not in wanted and got is not None and self._stays(path, name, got):
                continue
            elif not self._same(name, wanted.get(name), got, found):
                kind = DifferenceKind.CAPABILITY if name == CAPABILITY else DifferenceKind.XATTR
                differing.append(
                    AttributeDifference(
                        kind, f"{name}={describe_value(wanted.get(name))}", f"{name}={describe_value(got)}"
                    )
                )
        return differing

    def flags(self, path: bytes, found: os.stat_result, at: bytes | int) -> list[AttributeDifference]:
        """Return a difference if a file has flags that a container sees. `at`: the open file, or its path."""
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return []
        try:
            if isinstance(at, int):
                flags = fixed_flags(at)
            else:
                above, _, name = path.rpartition(b"/")
                fd = self._tree.open_in(name, _TO_LOOK_AT, self._tree.folder(above))
                try:
                    flags = fixed_flags(fd)
                finally:
                    os.close(fd)
        except OSError as error:
            raise explained(error, f"the flags of {self._tree.shown(path)}") from error
        return [AttributeDifference(DifferenceKind.FLAG, "none", describe_flags(flags))] if flags else []

    def _same(self, name: str, expected: bytes | None, got: bytes | None, found: os.stat_result) -> bool:
        if expected == got:
            return True
        if expected is None:
            return False
        if got is None:  # the kernel allows these on files and folders only; engines ignore the failure
            return name.startswith(("user.", "trusted.")) and not (
                stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
            )
        if name in _LISTS:
            return _without_mode(name, expected) == _without_mode(name, got)
        return name == CAPABILITY and same_capability(expected, got) and self._is_for_this_root(expected, got)

    def _is_for_this_root(self, expected: bytes, got: bytes) -> bool:
        """Return whether a file capability is for the root user that the tar names, mapped by the kernel or not."""
        if self._users is None:
            return True
        root = _root_of(expected)
        return _root_of(got) in (root, self._users.outside(root))

    def _stays(self, path: bytes, name: str, value: bytes) -> bool:
        """Return whether a build can leave an attribute that its tar does not have, and collect the path if it changes rights.

        The kernel ignores `user.` and `trusted.` attributes, those of overlayfs excepted, and Docker's tar has capabilities.
        An access control list that gives and denies nothing beyond the mode, which is compared, changes nothing either.
        """
        if name in _LISTS:
            if changes_rights(value, default=name == DEFAULT_LIST):
                self.unproven.add(path)
            return True
        return name.startswith(("user.", "trusted.")) and not name.startswith(OVERLAYFS_PREFIXES)

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


def _without_mode(name: str, value: bytes) -> tuple[bytes, list[tuple[int, int, int]]]:
    """Return an access control list without the permissions that repeat the file's mode; other values unchanged.

    The kernel keeps them equal: a chmod, which engines do last, writes the mode into the list. The mode is compared itself.
    Only entries of named users and groups have an id.
    """
    entries = list(list_entries(value))
    if not entries:
        return value, []
    of_the_mode = {USER_OBJ, OTHER, MASK if any(tag == MASK for tag, _, _ in entries) else GROUP_OBJ}
    if name == DEFAULT_LIST:
        of_the_mode = set()
    return value[:4], [
        (tag, 0 if tag in of_the_mode else rights, id_ if tag in (USER, GROUP) else 0) for tag, rights, id_ in entries
    ]


def same_capability(expected: bytes, got: bytes) -> bool:
    """Return whether two file capabilities are equal, ignoring the version and the root user of version 3.

    Version 3 is version 2 with the user namespace's root user; the kernel converts one into the other.
    """
    both = min(len(expected), len(got)) >= 20 and {expected[3], got[3]} <= {2, 3}
    return both and (expected[:3], expected[4:20]) == (got[:3], got[4:20])


def _root_of(capability: bytes) -> int:
    """Return the ID of the root user for whose namespace a file capability is valid: 0 before version 3."""
    return int.from_bytes(capability[20:24], "little") if capability[3] == 3 else 0


def describe_value(value: bytes | None) -> str:
    """Return a value as printable text."""
    if value is None:
        return "none"
    return value.decode() if value.isascii() and value.decode().isprintable() else f"0x{value[:64].hex()}"
