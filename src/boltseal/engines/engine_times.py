"""Parse times in the answers of engines. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = 1
_FAR: Final = 3000
_YEAR_3000_S: Final = 32_503_680_000


def time_us(text: str) -> int | None:
    """Parse a time of Docker's JSON; None if it is missing, malformed, the year 1 (Go's zero time) or implausibly far."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or not _NEVER < moment.year < _FAR:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def seconds_us(number: int) -> int | None:
    """Return a time in seconds as microseconds; None if it is missing (0) or implausibly far."""
    return number * 1_000_000 if 0 < number < _YEAR_3000_S else None
