"""Divides a number of places among users, so that no group of users can take the places of another one. Pure."""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate


def fair_share(wanted: Collection[int], places: int) -> int:
    """Return how many places each user may have at most, so that all together have at most `places`.

    `wanted`: how many places each user wants. A user who wants less than a share gets all of them, and the rest of that share is
    divided among the others. Returns 0 if there are more users than places.
    """
    if sum(wanted) <= places:
        return places
    each = sorted(wanted)
    taken = accumulate(each, initial=0)  # by the users who want less
    shares = ((places - less) // others for less, others in zip(taken, range(len(each), 0, -1), strict=False))
    return next(share for share, want in zip(shares, each, strict=True) if want > share)
