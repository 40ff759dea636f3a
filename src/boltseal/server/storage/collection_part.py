"""A part of garbage collection: another request, perhaps to another process, continues after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from boltseal.server.storage.metadata.blob_reviews import Review

PART_S: Final = 5.0
"""How long a part lasts at most: a client waits for its answer, and other processes for the lease."""


class ReviewPosition(NamedTuple):
    """The review after which a part begins; `after` None: at the first one. `failed`: among the reviews that failed the last time."""

    failed: bool = False
    after: Review | None = None


FROM_THE_FIRST: Final = ReviewPosition()


class Part:
    """The limits of one part, in items and seconds. Between two transactions the work calls `ends`, and returns if that is true.

    Attributes:
        count: how many items the work has yielded; the caller counts them.
        ended: whether the work returned before everything was done.
        reviewed: the position among the reviews, if the work returned between two of them.
    """

    def __init__(
        self, limit: int, *, seconds: float = PART_S, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._monotonic_s = monotonic_s
        self._until_s = monotonic_s() + seconds
        self.count = 0
        self.ended = False
        self.reviewed = FROM_THE_FIRST

    def ends(self) -> bool:
        """Return whether the work has to return now, and remember that in `ended`."""
        self.ended = self.count >= self._limit or self._monotonic_s() >= self._until_s
        return self.ended
