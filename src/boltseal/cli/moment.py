"""Times as people type them: RFC 3339, or as much of it as they care for; without a zone it is UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_moment(text: str) -> int | None:
    """Microseconds since the epoch; None for what is no time, or one before 1970."""
    try:
        moment = datetime.fromisoformat(text.strip())
        time_us = ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None
    return time_us if time_us >= 0 else None
