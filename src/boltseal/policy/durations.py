"""Parse and format durations of configurations and command lines: `30s`, `10m`, `6h`, `7d`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Invalid, quote

UNITS_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
MAX_DAYS: Final = 36_500
EXPECTED: Final = 'a whole number and a unit (s, m, h or d), such as "10m" or "7d"'

_is_duration = re.compile(r"(0|[1-9][0-9]{0,9})([smhd])", re.ASCII).fullmatch


class DurationInvalid(Invalid):
    """A text that is not a duration. The message has no position; the caller adds it."""


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A duration. `us`: in microseconds."""

    us: int

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Parse a whole number and one unit, such as `90s`. Raises: DurationInvalid."""
        return cls(parse_duration(text))

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.us / UNITS_US["s"]

    def __str__(self) -> str:
        return format_duration(self.us)


def parse_duration(text: str) -> int:
    """Parse a whole number and one unit to microseconds. Raises: DurationInvalid, also above a hundred years."""
    match = _is_duration(text)
    span_us = int(match[1]) * UNITS_US[match[2]] if match else -1
    if not 0 <= span_us <= MAX_DAYS * UNITS_US["d"]:
        raise DurationInvalid(f"{quote(text)}; expected {EXPECTED}")
    return span_us


def format_duration(span_us: int) -> str:
    """Return the shortest text for a duration. Fractions of a second are dropped."""
    for unit in "dhm":
        if span_us and span_us % UNITS_US[unit] == 0:
            return f"{span_us // UNITS_US[unit]}{unit}"
    return f"{span_us // UNITS_US['s']}s"


def rough_duration(span_us: int) -> str:
    """Return a duration for readers in its two largest units, such as `2d 23h`. The rest counts as a whole smaller unit."""
    for larger, smaller in ("dh", "hm", "ms"):
        units = -(-span_us // UNITS_US[smaller])
        of_larger, rest = divmod(units, UNITS_US[larger] // UNITS_US[smaller])
        if of_larger:
            return f"{of_larger}{larger} {rest}{smaller}" if rest else f"{of_larger}{larger}"
    return f"{units}s"
