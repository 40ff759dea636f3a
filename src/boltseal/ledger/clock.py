"""Whether a clock may give the time of the next entry. Pure: readings in, decisions out.

1. The time of an entry is the clock's, or one microsecond after the last entry if the clock is behind (`next_time_us`).
2. A clock that is more than five minutes behind the last entry gives no times (`is_behind`): it is wrong, or it was when
   that entry was written. Only an entry of kind `recovered` may then let time step back, once.
3. While a server runs, its clock must not step forward by more than an hour against the time since boot, which counts
   suspension and cannot be set (`has_stepped_forward`): entries from the future would end writing as soon as the clock is
   corrected. The allowance for a clock that runs fast or is slewed grows with the time, so one anchor is enough for years.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BEHIND_LIMIT_US: Final = 5 * 60 * 1_000_000
STEP_LIMIT_US: Final = 3600 * 1_000_000
SLEW_PER_MILLION: Final = 1000
"""Twice the rate at which Linux slews a clock at most."""


class ClockReading(NamedTuple):
    """The clock and the time since boot at one moment, in microseconds: since the epoch, and since the machine started."""

    time_us: int
    boot_us: int


def next_time_us(last_us: int, now_us: int) -> int:
    """Return the time of the entry after one of `last_us`."""
    return max(now_us, last_us + 1)


def is_behind(last_us: int, now_us: int) -> bool:
    """Return whether the clock is too far behind the last entry to give times."""
    return last_us - now_us > BEHIND_LIMIT_US


def step_us(anchor: ClockReading, now: ClockReading) -> int:
    """Return by how much the clock moved more than the time since boot did, since an earlier reading."""
    return (now.time_us - anchor.time_us) - (now.boot_us - anchor.boot_us)


def has_stepped_forward(anchor: ClockReading, now: ClockReading) -> bool:
    """Return whether the clock stepped forward too far since an earlier reading of the same boot."""
    passed_us = max(0, now.boot_us - anchor.boot_us)
    return step_us(anchor, now) > STEP_LIMIT_US + passed_us * SLEW_PER_MILLION // 1_000_000
