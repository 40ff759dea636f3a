"""The short way through a layer with a tar-split, which nearly all entries go: a plain file, in the folder of the entry
before it, that is all that its header says.

It knows nothing that `tarheader`, `comparison` and `inodes` do not: it does the same in one function, without a value for
each entry, in half the time. Where anything is otherwise it has said and read nothing, and leaves the entry to them.
"""

from __future__ import annotations

import os
from typing import Final

from boltseal.runtimes.beneath import explained
from boltseal.scrub.attributes import PASSED_OVER
from boltseal.scrub.comparison import LayerComparison
from boltseal.scrub.contents import Tape
from boltseal.scrub.tarheader import FIELDS, REGULAR, traits_of
from boltseal.scrub.tarsplit import Line, Taken

_NS: Final = 1_000_000_000


def straight(comparison: LayerComparison, tape: Tape) -> Taken:
    """The short way for one layer; raises TarMalformed, and StoreUnreadable where a file can't be read to its end."""
    unpack, open_in, fstat, listxattr = FIELDS.unpack_from, tape.files.open_in, os.fstat, os.listxattr
    close, as_said, passed_over = tape.files.close, comparison.inodes.as_said, PASSED_OVER.issuperset

    def take(raw: bytes, pad: int, line: Line) -> bool:
        field, rights, size_field, mtime_field, rest = unpack(raw, pad)
        traits, named = traits_of(rights, rest), line.name.encode()
        spelled, _, name = named.rpartition(b"/")
        if (
            (spelled != comparison.spelled and not comparison.goes_to(spelled))
            or not comparison.here.get(name)
            or name[:1] == b"."  # whiteouts, among others
            or traits.kind != REGULAR
            or not (traits.prefix + b"/" + field if traits.prefix else field).startswith(named + b"\0")
        ):
            return False
        try:
            mtime_ns = int(mtime_field[:11], 8) * _NS
            if int(size_field[:11], 8) != line.size:
                return False
            fd = open_in(comparison.folder(), name)
        except (ValueError, OSError):
            return False
        try:
            if not as_said(fstat(fd), traits, line.size, mtime_ns, exact=False) or not passed_over(listxattr(fd)):
                return False
            tape.write(raw)
            tape.plain(named, fd, line.size)
        except OSError as error:
            raise explained(error, named.decode("utf-8", "backslashreplace")) from error
        finally:
            close(fd)
        del comparison.here[name]
        comparison.entries += 1
        return True

    return take
