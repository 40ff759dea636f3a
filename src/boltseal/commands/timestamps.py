"""Times that people type: RFC 3339, or a leading part of it; UTC unless a zone is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def parse_timestamp(text: str) -> int | None:
    """Return microseconds since 1970; None if the text is not a time, or one before 1970."""
    try:
        moment = datetime.fromisoformat(text.strip())
        time_us = ((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None
    return time_us if time_us >= 0 else None
