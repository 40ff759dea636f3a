"""Divides a number of places among users, so that no group of users can take those of another one."""

from __future__ import annotations

from collections.abc import Collection


def fair_share(wanted: Collection[int], places: int) -> int:
    """Return how many places each user may have at most, so that all together have at most `places`.

    `wanted`: how many each user wants. Who wants less than a share keeps all of it, and what is left of that share is divided among
    the others. 0: there are more users than places.
    """
    if sum(wanted) <= places:
        return places
    left, share = places, 0
    for others, want in zip(range(len(wanted), 0, -1), sorted(wanted), strict=True):
        share = left // others
        if want > share:
            break
        left -= want
    return share
