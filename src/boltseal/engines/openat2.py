"""Open a file without crossing a mount, with openat2(2) (Linux 5.6), for which Python has no function.

RESOLVE_NO_XDEV refuses a name that something is mounted over, also a bind mount of the same file system.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

from boltseal.loading import deferred

if TYPE_CHECKING:
    import ctypes
else:  # other commands do not need it
    ctypes = deferred("ctypes")

Open = Callable[[bytes, int, int], int]
"""Opens a name with flags in an open folder, and returns the descriptor. Raises: OSError."""

_NUMBER: Final = 437
"""The number of the system call on these architectures; others have different ones."""
_MACHINES: Final = frozenset({"x86_64", "aarch64", "riscv64", "ppc64le", "s390x", "loongarch64"})
_NO_XDEV, _NO_SYMLINKS = 0x01, 0x04
_HOW_BYTES: Final = 24


@cache
def open_in_mount() -> Open | None:
    """Return the function, None if the kernel or a system call filter does not permit it."""
    if platform.machine() not in _MACHINES:
        return None
    try:
        opener = _opener()
        os.close(opener(b".", os.O_PATH | os.O_CLOEXEC, _AT_FDCWD))
    except (OSError, ImportError, MemoryError, AttributeError):  # a strict sandbox refuses memory to ctypes
        return None
    return opener


_AT_FDCWD: Final = -100


def _opener() -> Open:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    number, how_bytes = ctypes.c_long(_NUMBER), ctypes.c_size_t(_HOW_BYTES)  # made once: faster than `argtypes`
    hows: dict[int, ctypes.Array[ctypes.c_uint64]] = {}

    def open_(name: bytes, flags: int, parent: int) -> int:
        how = hows.get(flags)
        if how is None:
            hows[flags] = how = (ctypes.c_uint64 * 3)(flags, 0, _NO_XDEV | _NO_SYMLINKS)
        while True:
            fd: int = call(number, parent, name, how, how_bytes)
            if fd >= 0:
                return fd
            failed = ctypes.get_errno()
            if failed != errno.EINTR:
                raise OSError(failed, os.strerror(failed), name)

    return open_
