"""How pages write addresses, sizes, times and digests. Pure; escaping is left to the templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote as percent_encode

_STEPS: Final = ((60, 1, "second"), (3600, 60, "minute"), (86_400, 3600, "hour"), (62 * 86_400, 86_400, "day"))
_MONTH_S: Final = 30 * 86_400
_YEAR_S: Final = 365 * 86_400
SHORT_HEX: Final = 12
"""Digits of a shortened digest."""


def address(path: str, **parameters: str | None) -> str:
    """Return the address of a page. A parameter without a value is left out."""
    given = ((name, value) for name, value in parameters.items() if value)
    query = "&".join(f"{name}={percent_encode(value, safe='')}" for name, value in given)
    return f"{path}?{query}" if query else path


def size_text(size_bytes: int | None) -> str:
    """Return a size in decimal units, such as `1.5 MB`; `not known` for None."""
    if size_bytes is None:
        return "not known"
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{value / 1000:.1f} TB"


def second_of(time: str) -> str:
    """Return a time such as 2026-11-24T08:29:01.123456Z without its fraction: `2026-11-24 08:29:01 UTC`."""
    return f"{time[:19].replace('T', ' ')} UTC"


def relative(time: str, now_us: int) -> str:
    """Return a time relative to now, such as `3 hours ago` or `in 2 days`. Hosts report times, and may have reported others."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return "not a time"
    seconds = now_us // 1_000_000 - int(moment.astimezone(UTC).timestamp())
    away = abs(seconds)
    if away < 5:
        return "now"
    text = next((_many(away // unit, word) for below, unit, word in _STEPS if away < below), None)
    if text is None:
        text = _many(away // _MONTH_S, "month") if away < _YEAR_S else _many(away // _YEAR_S, "year")
    return f"{text} ago" if seconds > 0 else f"in {text}"


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def short_digest(digest: str) -> str:
    """Return a digest shortened to `SHORT_HEX` digits, which the search accepts."""
    algorithm, _, digits = digest.partition(":")
    return f"{algorithm}:{digits[:SHORT_HEX]}"
