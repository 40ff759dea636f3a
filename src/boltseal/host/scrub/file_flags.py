"""Reads the flags of files (`chattr`) that containers see: immutable and append-only.

overlayfs copies both from the file of a layer to the file that a container sees. So a container can't change, rename or
remove an immutable file, or create files in an immutable folder. No tar has these flags, and engines set none of them.
Only regular files and folders are looked at: the kernel has no request for the flags of links, devices and pipes.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from fcntl import ioctl
from typing import Final

_LONG: Final = struct.calcsize("l")
_OTHER_DIRECTION: Final = ("alpha", "mips", "parisc", "ppc", "sparc")
"""Machines whose kernels number the direction of a request differently."""
_READ: Final = 0x40000000 if os.uname().machine.startswith(_OTHER_DIRECTION) else 0x80000000
GET_FLAGS: Final = _READ | _LONG << 16 | 0x6601
"""FS_IOC_GETFLAGS: `_IOR('f', 1, long)`; the kernel writes 32 bits."""
LOW_BYTE: Final = 0 if sys.byteorder == "little" else 3
"""Where the answer has the flags below."""
FLAGS_BYTES: Final = 8
IMMUTABLE: Final = 0x10
APPEND_ONLY: Final = 0x20
FIXED: Final = IMMUTABLE | APPEND_ONLY
_NONE_HERE: Final = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def fixed_flags(fd: int) -> int:
    """Return which of the flags FIXED an open file has; none on file systems without flags.

    Raises: OSError.
    """
    answer = bytearray(FLAGS_BYTES)
    try:
        ioctl(fd, GET_FLAGS, answer)
    except OSError as error:
        if error.errno in _NONE_HERE:
            return 0
        raise
    return answer[LOW_BYTE] & FIXED


def has_flags(fd: int) -> bool:
    """Return whether the file system of an open file has flags at all."""
    try:
        ioctl(fd, GET_FLAGS, bytearray(FLAGS_BYTES))
    except OSError:
        return False
    return True


def describe_flags(flags: int) -> str:
    """Return flags in words."""
    names = [name for flag, name in ((IMMUTABLE, "immutable"), (APPEND_ONLY, "append-only")) if flags & flag]
    return ", ".join(names) or "none"
