"""The `Cache-Control` values of responses.

Content addressed by digest never changes and is cacheable for a year. A sealed tag always resolves to the same digest,
but an administrator may unseal it, so it is cacheable for a day. A floating tag and a 404 are never cached. `public` is
used only if anonymous pull is allowed: a shared cache does not check rights.
"""

from __future__ import annotations

from typing import Final

NO_STORE: Final = "no-store"

_IMMUTABLE: Final = "max-age=31536000, immutable"
_ONE_DAY: Final = "max-age=86400"


def by_digest(*, anonymous_pull: bool) -> str:
    """Return the value for a manifest or blob requested by digest."""
    return f"{_audience(anonymous_pull)}, {_IMMUTABLE}"


def by_tag(*, sealed: bool, anonymous_pull: bool) -> str:
    """Return the value for a manifest requested by tag."""
    return f"{_audience(anonymous_pull)}, {_ONE_DAY}" if sealed else NO_STORE


def _audience(anonymous_pull: bool) -> str:
    return "public" if anonymous_pull else "private"
