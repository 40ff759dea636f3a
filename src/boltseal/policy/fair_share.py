"""Divides a number of places among users, so that no group of users can take those of another one."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate


def fair_share(wanted: Collection[int], places: int) -> int:
    """Return how many places each user may have at most, so that all together have at most `places`.

    `wanted`: how many each user wants. Who wants less than a share keeps all of it, and what is left of that share is divided among
    the others. 0: there are more users than places.
    """
    if sum(wanted) <= places:
        return places
    each = sorted(wanted)
    taken = accumulate(each, initial=0)  # by those who want less
    shares = ((places - less) // others for less, others in zip(taken, range(len(each), 0, -1), strict=False))
    return next(share for share, want in zip(shares, each, strict=True) if want > share)
