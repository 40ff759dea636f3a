"""Periods in which a tag of a scan resolved, or may have resolved, to an image whose layers are unknown. Pure.

An image begins with the layers of its base, and with those of its base's base. So if a closer base may be an image
whose layers are unknown, the longest known match proves nothing. There are two kinds of such periods:

1. A digest is known, but not its layers. It may be the base of any image that was created after the match was
   published and before that image was published itself: a build may use an image that it pulled long ago.
2. A registry without a ledger: the tag moved between two observations, or was not observed before. It may have
   resolved to any image then. An image that has steps of that time or later, which are not its known base's, may have them
   from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from boltseal.project.bases.freshness import TagInterval

_NEVER_US = -(2**63)
_ALWAYS_US = 2**63 - 1


class Window(NamedTuple):
    """Times between which something happened, in microseconds since the epoch. None: no limit."""

    start_us: int | None
    end_us: int | None

    def overlaps(self, other: Window) -> bool:
        """Return whether both have a time in common, which is more than the end of one of them."""
        return _start(self) < _end(other) and _start(other) < _end(self)


class UnknownPeriod(NamedTuple):
    """An unknown image, or the unreadable history of a repository. `name`: registry and repository.

    `observed`: whether a digest is known (kind 1), rather than missing between observations (kind 2).
    """

    name: str
    reason: str
    when: Window = Window(None, None)
    observed: bool = True


class UnknownPeriods:
    """The unknown periods of a scan's tags."""

    def __init__(self, periods: Iterable[UnknownPeriod] = ()) -> None:
        latest_first = sorted(periods, key=lambda period: _end(period.when), reverse=True)
        self._digests = [period for period in latest_first if period.observed]
        self._gaps = [period for period in latest_first if not period.observed]

    def reason(self, own: str, since_match: Window, since_step: Window) -> str:
        """Return why an image may be based on an unknown image; "" if it is not. `own`: the image's repository.

        Tags of its own repository that were not observed all the time are no doubt: they would always be one, since the image
        itself was pushed before it was observed.

        `since_match`: from the publication of the match to that of the image, for periods of kind 1. `since_step`:
        from the first step that is not the match's to the image's publication, for kind 2.
        """
        return _reason(self._digests, "", since_match) or _reason(self._gaps, own, since_step)


def _reason(latest_first: Iterable[UnknownPeriod], own: str, when: Window) -> str:
    for period in latest_first:
        if _end(period.when) <= _start(when):
            break
        if period.name != own and period.when.overlaps(when):
            return period.reason
    return ""


def possible(intervals: Sequence[TagInterval], listings: Sequence[int] = ()) -> tuple[TagInterval, ...]:
    """Extend observed intervals to the times at which the tag may have resolved to each digest already, or still."""
    if not intervals:
        return ()
    starts = [_absent_us(intervals[0], listings), *(interval.last_us for interval in intervals[:-1])]
    ends = [*(interval.first_us for interval in intervals[1:]), None]
    return tuple(
        interval._replace(first_us=start_us, last_us=end_us)
        for interval, start_us, end_us in zip(intervals, starts, ends, strict=True)
    )


def gaps(intervals: Sequence[TagInterval], listings: Sequence[int] = ()) -> Iterator[Window]:
    """Yield the times at which it is unknown what a tag resolved to. `intervals`: the oldest first.

    `listings`: when all tags of the registry were listed, in order: a tag that was not observed then did not exist. A
    tag that had the same digest at two observations is taken to have had it in between.
    """
    if not intervals:
        yield Window(None, None)
        return
    yield Window(_absent_us(intervals[0], listings), intervals[0].first_us)
    for before, after in pairwise(intervals):
        if before.last_us is None or after.first_us is None or before.last_us < after.first_us:
            yield Window(before.last_us, after.first_us)


def _absent_us(first: TagInterval, listings: Sequence[int]) -> int | None:
    """Return when the registry was last listed without a tag, before it was observed for the first time."""
    before = 0 if first.first_us is None else bisect_left(listings, first.first_us)
    return listings[before - 1] if before else None


def _start(window: Window) -> int:
    return _NEVER_US if window.start_us is None else window.start_us


def _end(window: Window) -> int:
    return _ALWAYS_US if window.end_us is None else window.end_us
