"""The short way through a layer with a tar-split, which nearly all entries go: a plain file, in the folder of the entry
before it, that is all that its header says.

It knows nothing that `tarheader`, `comparison` and `inodes` do not: it does the same in one function, without a value for
each entry, in a third of the time; what two files beside each other have alike is worked out once. Where anything is
otherwise it has said and read nothing, and leaves the entry to them.
"""

from __future__ import annotations

import os
from typing import Final

from boltseal.engines.safe_open import explained
from boltseal.host.scrub.attributes import PASSED_OVER
from boltseal.host.scrub.file_contents import LayerDigester
from boltseal.host.scrub.inodes import Inodes, PlainInode
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.tar_header import FIELDS, REGULAR, traits_of
from boltseal.host.scrub.tar_split import TakeEntry, TarSplitLine

MAX_RIGHTS: Final = 64
"""So many modes and owners are remembered. Most layers have three."""


class _Remembered:
    """What the inodes of plain files have whose headers end alike, as nearly all in a layer do. `prefix`: of their names."""

    def __init__(self, inodes: Inodes) -> None:
        self.prefix = b""
        self._inodes = inodes
        self._rest = b""
        self._known: dict[bytes, PlainInode] = {}

    def inode(self, rights: bytes, rest: bytes) -> PlainInode | None:
        """By the fields of a header; None where it is no plain file's. TarMalformed."""
        found = self._known.get(rights) if rest == self._rest else None
        if found is not None:
            return found
        traits = traits_of(rights, rest)
        if traits.kind != REGULAR:
            return None
        if rest != self._rest or len(self._known) > MAX_RIGHTS:
            self._rest, self.prefix, self._known = rest, traits.prefix, {}
        self._known[rights] = found = self._inodes.plain_inode(traits)
        return found


def make_fast_path(comparison: LayerComparison, tape: LayerDigester) -> TakeEntry:
    """The short way for one layer; raises TarMalformed, and StoreUnreadable where a file can't be read to its end."""
    unpack, open_in, fstat, listxattr = FIELDS.unpack_from, tape.files.open_in, os.fstat, os.listxattr
    close, small, passed_over = tape.files.close, tape.small, PASSED_OVER.issuperset
    remembered = _Remembered(comparison.inodes)

    def take(raw: bytes, pad: int, line: TarSplitLine) -> bool:
        field, rights, size_field, mtime_field, rest = unpack(raw, pad)
        inode = remembered.inode(rights, rest)
        if inode is None:
            return False
        named = line.name.encode()
        spelled, _, name = named.rpartition(b"/")
        if (
            (spelled != comparison.spelled and not comparison.goes_to(spelled))
            or not comparison.here.get(name)
            or name[:1] == b"."  # whiteouts, among others
            or not (remembered.prefix + b"/" + field if remembered.prefix else field).startswith(named + b"\0")
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
                or not passed_over(listxattr(fd))
            ):
                return False
            if not small(raw, fd, size):
                tape.write(raw)
                tape.plain(named, fd, size)
        except OSError as error:
            raise explained(error, named.decode("utf-8", "backslashreplace")) from error
        finally:
            close(fd)
        del comparison.here[name]
        comparison.entries += 1
        return True

    return take
