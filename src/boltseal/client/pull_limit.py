"""Parse a registry's rate-limit headers, as Docker Hub sends them with every manifest. Pure.

`ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`: 100 pulls in a window of 21,600 seconds, 76 left.
No such header: no limit is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

_VALUE = re.compile(r"\s*([0-9]{1,9})\s*(?:;\s*w\s*=\s*([0-9]{1,9})\s*)?")


@dataclass(frozen=True, slots=True)
class PullLimit:
    """Pulls left of the limit in a window. `source`: the address or account that is counted, "" if not sent."""

    limit: int
    remaining: int
    window_s: int
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class PullsLeft:
    """Pulls left, as one manifest answer reported them. `remaining` None: the answer reported no limit.

    Two answers never compare equal. A registry may count pulls of some repositories and not of others.
    """

    remaining: int | None


def parse_pull_limit(headers: Mapping[str, str]) -> PullLimit | None:
    """Return the pull limit in an answer's headers (names in lower case), or None."""
    limit = _VALUE.fullmatch(headers.get("ratelimit-limit", ""))
    remaining = _VALUE.fullmatch(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None:
        return None
    window_s = int(remaining[2] or limit[2] or 0)
    return PullLimit(int(limit[1]), int(remaining[1]), window_s, headers.get("docker-ratelimit-source", "")[:100])


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Return the seconds of a `Retry-After` (seconds or HTTP date), or None if it is missing or malformed."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,7}\s*", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
