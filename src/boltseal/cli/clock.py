"""The clock of the command line; use cases get the time as an argument."""

from __future__ import annotations

import time


def clock_us() -> int:
    """Return the time of day, in microseconds since 1970."""
    return time.time_ns() // 1000
