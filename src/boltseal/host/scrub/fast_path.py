"""The fast path for layers with a tar-split: a regular file in the folder of the previous entry that matches its header.

Nearly all entries are of this kind. The fast path adds no rule to `tar_header`, `layer_comparison` and `inodes`: it does the
same checks in one function, without a value per entry, in a third of the time. If anything differs, it has reported and
consumed nothing, and leaves the entry to them.
"""

from __future__ import annotations

import os
from fcntl import ioctl
from typing import Final

from boltseal.engines.safe_open import explained
from boltseal.host.scrub.attributes import IGNORED
from boltseal.host.scrub.file_contents import LayerDigester
from boltseal.host.scrub.file_flags import FIXED, FLAGS_BYTES, GET_FLAGS, LOW_BYTE, has_flags
from boltseal.host.scrub.inodes import Inodes, PlainInode
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.tar_header import AFTER_NUMBER, FIELDS, REGULAR, traits_of
from boltseal.host.scrub.tar_split import TakeEntry, TarSplitLine

MAX_CACHED: Final = 64
"""The number of cached pairs of mode and owner. Most layers have three."""


class _InodeCache:
    """A cache of expected inodes of regular files whose headers have the same end, as nearly all in a layer do.

    `prefix`: of their names.
    """

    def __init__(self, inodes: Inodes) -> None:
        self.prefix = b""
        self._inodes = inodes
        self._rest = b""
        self._known: dict[bytes, PlainInode] = {}

    def inode(self, mode_and_owner: bytes, rest: bytes) -> PlainInode | None:
        """Return the expected inode for the fields of a header; None if it is not a regular file's.

        Raises: TarMalformed.
        """
        found = self._known.get(mode_and_owner) if rest == self._rest else None
        if found is not None:
            return found
        traits = traits_of(mode_and_owner, rest)
        if traits.kind != REGULAR:
            return None
        if rest != self._rest or len(self._known) > MAX_CACHED:
            self._rest, self.prefix, self._known = rest, traits.prefix, {}
        self._known[mode_and_owner] = found = self._inodes.plain_inode(traits)
        return found


def _no_flags(_: int, __: int, ___: bytearray) -> int:
    """Stand in for `ioctl` on a file system without flags."""
    return 0


def make_fast_path(comparison: LayerComparison, digester: LayerDigester) -> TakeEntry:
    """Return the fast path for one layer, a function that returns whether it has handled an entry.

    The function raises TarMalformed, and StoreUnreadable if a file can't be read to its end.
    """
    unpack, open_in, fstat, listxattr = FIELDS.unpack_from, digester.files.opener(), os.fstat, os.listxattr
    close, add_small, all_ignored = digester.files.closer(), digester.add_small, IGNORED.issuperset
    cache, folder_attributes = _InodeCache(comparison.inodes), comparison.attributes.folders
    file_flags, read_flags = bytearray(FLAGS_BYTES), ioctl if has_flags(digester.files.tree.folder(b"")) else _no_flags
    last_mode = last_rest = b""
    inode: PlainInode | None = None

    def take(raw: bytes, pad: int, line: TarSplitLine) -> bool:
        nonlocal last_mode, last_rest, inode
        field, mode_and_owner, size_field, mtime_field, rest = unpack(raw, pad)
        if mode_and_owner != last_mode or rest != last_rest:
            inode = cache.inode(mode_and_owner, rest)
            last_mode, last_rest = mode_and_owner, rest
        if inode is None:
            return False
        path = line.name.encode()
        spelled, _, name = path.rpartition(b"/")
        if (
            (spelled != comparison.spelled and not comparison.enter_known(spelled))
            or not comparison.here.get(name)
            or name[:1] == b"."  # whiteouts, among others
            or folder_attributes  # new files may get some of them
            or size_field[11] > AFTER_NUMBER
            or mtime_field[11] > AFTER_NUMBER
            or not (cache.prefix + b"/" + field if cache.prefix else field).startswith(path + b"\0")
        ):
            return False
        size = line.size
        try:
            seconds = int(mtime_field[:11], 8)
            if int(size_field[:11], 8) != size:
                return False
            fd = open_in(comparison.folder(), name)
        except (ValueError, OSError):
            return False
        try:
            mode, _, device, links, user, group, length, _, changed = fstat(fd)[:9]
            if (
                length != size
                or (mode, device, links, user, group) != inode
                or changed != seconds
                or ((attributes := listxattr(fd)) and not all_ignored(attributes))
                or read_flags(fd, GET_FLAGS, file_flags)
                or file_flags[LOW_BYTE] & FIXED
            ):
                return False
            if not add_small(raw, fd, size):
                digester.write(raw)
                digester.add_regular(path, fd, size)
        except OSError as error:
            raise explained(error, path.decode("utf-8", "backslashreplace")) from error
        finally:
            close(fd)
        del comparison.here[name]
        comparison.entries += 1
        return True

    return take
