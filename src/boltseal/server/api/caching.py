"""How long what may be kept by whom: the `Cache-Control` values of every answer.

What is addressed by its digest never changes, what a sealed tag means cannot either but its protection may be
lifted by an admin, so a day; a floating tag and a miss are asked for again each time. `public` only where
everybody may pull: a shared cache asks for no rights.
"""

from __future__ import annotations

from typing import Final

NO_STORE: Final = "no-store"

_IMMUTABLE: Final = "max-age=31536000, immutable"
_ONE_DAY: Final = "max-age=86400"


def by_digest(*, anonymous_pull: bool) -> str:
    """For a manifest or blob asked for by its digest."""
    return f"{_audience(anonymous_pull)}, {_IMMUTABLE}"


def by_tag(*, sealed: bool, anonymous_pull: bool) -> str:
    """For a manifest asked for by tag."""
    return f"{_audience(anonymous_pull)}, {_ONE_DAY}" if sealed else NO_STORE


def _audience(anonymous_pull: bool) -> str:
    return "public" if anonymous_pull else "private"
