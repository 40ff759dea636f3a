"""Tells the C library's allocator to keep a little of what was just freed, for the next piece of a blob.

Blobs pass through memory in pieces of 128 KiB to 1 MiB, each freed at once. glibc gives such memory back to the kernel
each time and gets it anew, zeroed, page by page: a third of what a streamed answer costs, a tenth of a push
(docs/adr/0009-how-bytes-leave.md). Sixteen MiB are kept instead. Other C libraries have no such switch and are left alone.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Free memory at the end of an arena that is not given back."""

MAPPED_FROM_BYTES: Final = 4 * 1024 * 1024
"""Blocks of this size and more have a mapping of their own, and are given back when they are freed."""

_M_TRIM_THRESHOLD: Final = -1  # <malloc.h>
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Sets both, for this process. False where the C library can't."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES))
