"""The extended attributes that entries of a tar leave on files: their own, and access control lists of their folders.

A file that is created in a folder with a default access control list gets that list from the kernel, a folder also as its
own default (acl(5), "Object creation and default ACLs"); then the engine sets what the entry has. So the order of entries
counts. A folder that exists keeps the attributes of earlier entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import FOLDER, SYMLINK, TarMalformed

ACCESS_LIST: Final = "system.posix_acl_access"
DEFAULT_LIST: Final = "system.posix_acl_default"
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
"""The limit for attributes of folders, which are kept in memory until the last entry."""
_ACCESS, _DEFAULT = ACCESS_LIST.encode(), DEFAULT_LIST.encode()
LISTS: Final = (_ACCESS, _DEFAULT)
_ENTRY: Final = struct.Struct("<HHI")
"""Tag, permissions and id (linux/posix_acl_xattr.h), after a version of four bytes."""
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_BY_UMASK: Final = (7, 5, 5)
"""The rights of owner, group and others that a umask of 022 leaves."""
_NOTHING: Final[dict[bytes, bytes]] = {}


class EntryAttributes:
    """The expected attributes of one layer's entries, in the tar's order."""

    def __init__(self) -> None:
        self.folders: dict[bytes, dict[bytes, bytes]] = {}
        """The attributes of folders that have any."""
        self._kept_bytes = 0

    def of(self, path: bytes, kind: bytes, own: Mapping[bytes, bytes], *, exists: bool) -> dict[bytes, bytes]:
        """Return the attributes of the file that an entry creates. `exists`: a folder over an existing folder.

        Raises: TarMalformed: if the folders' attributes exceed MAX_KEPT_BYTES in total.
        """
        if exists:
            found = {**self.folders.get(path, _NOTHING), **own}
        else:
            above = self.folders.get(path.rpartition(b"/")[0], _NOTHING)
            found = {**inherited(above[_DEFAULT], kind), **own} if _DEFAULT in above else dict(own)
        self.forget(path)
        if kind == FOLDER and found:
            self.folders[path] = found
            self._kept_bytes += _size(found)
            if self._kept_bytes > MAX_KEPT_BYTES:
                raise TarMalformed(f"folders with more than {MAX_KEPT_BYTES} bytes of attributes")
        return found

    def folder(self, path: bytes) -> Mapping[bytes, bytes]:
        """Return the attributes of a folder."""
        return self.folders.get(path, _NOTHING)

    def forget(self, path: bytes) -> None:
        """Forget the attributes of a folder that is replaced."""
        self._kept_bytes -= _size(self.folders.pop(path, _NOTHING))


def inherited(default: bytes, kind: bytes) -> dict[bytes, bytes]:
    """Return the attributes that a new file gets from the default access control list of its folder.

    A list that repeats only the mode's three permissions becomes the mode. The others' permissions are not reduced to those
    of the mode here, since comparisons ignore what repeats the mode.
    """
    if kind == SYMLINK:
        return {}
    found = {}
    if any(tag not in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in list_entries(default)):
        found[_ACCESS] = default
    if kind == FOLDER:
        found[_DEFAULT] = default
    return found


def list_entries(value: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield tag, permissions and id of each entry of an access control list; none of a malformed one."""
    return iter(_ENTRY.iter_unpack(value[4:]) if len(value) % _ENTRY.size == 4 else ())


def list_on_disk(value: bytes, ownership: Ownership) -> bytes:
    """Return an access control list with the ids that named users and groups have on disk; unmapped ids stay."""
    parts = [value[:4]]
    for tag, rights, id_ in list_entries(value):
        outside = None
        if tag in (USER, GROUP):
            outside = (ownership.users if tag == USER else ownership.groups).outside(id_)
        parts.append(_ENTRY.pack(tag, rights, id_ if outside is None else outside))
    return b"".join(parts) if len(parts) > 1 else value


def mode_of_list(value: bytes) -> int:
    """Return the permissions of a mode that an access control list sets."""
    by_tag = {tag: rights for tag, rights, _ in list_entries(value)}
    group = by_tag.get(MASK, by_tag.get(GROUP_OBJ, 0))
    return by_tag.get(USER_OBJ, 0) << 6 | group << 3 | by_tag.get(OTHER, 0)


def changes_rights(value: bytes, *, default: bool) -> bool:
    """Return whether an access control list gives or denies anyone what the mode of the file does not.

    `default`: it is the default list of a folder. Instead of the umask it decides the rights of all files that a container
    creates there, so it must be what the umask of containers, 022, gives.
    """
    entries = list(list_entries(value))
    by_tag = {tag: rights for tag, rights, _ in entries}
    allowed, others = by_tag.get(MASK, 7), by_tag.get(OTHER, 0)
    group = by_tag.get(MASK, by_tag.get(GROUP_OBJ, 0))
    if default and (by_tag.get(USER_OBJ), group, others) != _BY_UMASK:
        return True
    users = {rights & allowed for tag, rights, _ in entries if tag == USER}
    groups = {rights & allowed for tag, rights, _ in entries if tag == GROUP}
    are_others = users | groups <= {others} and users <= {group} and all(each & ~group == 0 for each in groups)
    return by_tag.get(GROUP_OBJ, 0) & allowed != group or not are_others


def _size(attributes: Mapping[bytes, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in attributes.items())
