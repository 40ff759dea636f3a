"""A part of garbage collection, after which another request, perhaps of another process, continues."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from boltseal.server.storage.metadata.blob_reviews import Review

PART_S: Final = 5.0
"""After so many seconds a part ends. A client waits for the answer, and another process for the lease."""


class ReviewPosition(NamedTuple):
    """The review after which a part begins; `after` None: at the first. `failed`: among those that failed the last time."""

    failed: bool = False
    after: Review | None = None


FROM_THE_FIRST: Final = ReviewPosition()


class Part:
    """How much is done at once. Between two transactions the work asks `ends`, and returns if so.

    Attributes:
        count: how many items there are; the caller counts them.
        ended: whether the work returned before all was done.
        reviewed: up to where the reviews were done, if it returned there.
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
        """Return whether the work has to return now."""
        self.ended = self.count >= self._limit or self._monotonic_s() >= self._until_s
        return self.ended
