"""Which tags mean or meant an image, from when until when, and how far a tag has gone on since. Pure.

From the steps of each tag, the oldest first: what it means after each of them. They come from a ledger's entries, or from
a history that nobody has signed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from boltseal.ledger.entry import EntryKind
from boltseal.ledger.history import EntryAt

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TagStep(NamedTuple):
    """What a tag means from then on: a digest, or "" for nothing. `entry`: its index in the ledger, -1 without one."""

    time_us: int
    digest: str
    by: str = ""
    entry: int = -1


class TagInterval(NamedTuple):
    """A tag that means an image, or meant it until `until_us`. `by`: who published it there, "" where nobody says."""

    tag: str
    since_us: int
    until_us: int | None = None
    by: str = ""
    entry: int = -1


class Behind(NamedTuple):
    """How far a tag has gone on since it last meant an image: `moves` 0 when it still does, and `since_us` is None."""

    moves: int
    since_us: int | None = None


class ReleaseRecord(NamedTuple):
    """Who released an image, and when, as the ledger says."""

    by: str
    time_us: int
    entry: int


def steps_of(said: Iterable[EntryAt]) -> dict[str, tuple[TagStep, ...]]:
    """The steps of each tag, out of the entries of a repository."""
    found: dict[str, list[TagStep]] = {}
    for one in said:
        if one.entry.tag and one.entry.kind.startswith("tag."):
            digest = "" if one.gone else one.entry.digest
            found.setdefault(one.entry.tag, []).append(TagStep(one.entry.time_us, digest, one.entry.actor, one.index))
    return {tag: tuple(steps) for tag, steps in found.items()}


def released(said: Iterable[EntryAt], digests: Collection[str]) -> ReleaseRecord | None:
    """The newest release of one of these digests."""
    found = [one for one in said if one.entry.kind is EntryKind.RELEASED and one.entry.digest in digests]
    return ReleaseRecord(found[-1].entry.actor, found[-1].entry.time_us, found[-1].index) if found else None


def meant(steps: Mapping[str, Sequence[TagStep]], digests: Collection[str]) -> tuple[TagInterval, ...]:
    """For each tag that ever meant one of these digests, the last time that it did: those that still do, then the latest."""
    found = [one for tag, of_tag in steps.items() if (one := _last(tag, of_tag, digests)) is not None]
    return tuple(sorted(found, key=lambda one: (one.until_us is not None, -(one.until_us or 0), one.tag)))


def _last(tag: str, steps: Sequence[TagStep], digests: Collection[str]) -> TagInterval | None:
    """A time may have several steps: a tag that is sealed means the same before and after."""
    begun: TagStep | None = None
    found: TagInterval | None = None
    for step in steps:
        if step.digest in digests:
            begun = begun or step
            found = TagInterval(tag, begun.time_us, None, begun.by, begun.entry)
        elif begun is not None and found is not None:
            found, begun = found._replace(until_us=step.time_us), None
    return found


def behind(steps: Sequence[TagStep], digests: Collection[str]) -> Behind | None:
    """How far a tag has gone on since it meant one of these digests; None when it never did."""
    at = max((place for place, step in enumerate(steps) if step.digest in digests), default=None)
    if at is None:
        return None
    later = steps[at + 1 :]
    moves = sum(1 for step, before in zip(later, steps[at:], strict=False) if step.digest not in ("", before.digest))
    return Behind(moves, later[0].time_us) if later else Behind(0)


def in_words(tags: Sequence[TagInterval], now_us: int) -> str:
    """What a person reads: ``1.4.2; was `latest` until yesterday 14:02``. Times are UTC; "" for no tags."""
    now = [one.tag for one in tags if one.until_us is None]
    then = [f"was `{one.tag}` until {moment(one.until_us, now_us)}" for one in tags if one.until_us is not None]
    return "; ".join(([", ".join(now)] if now else []) + then)


def moment(time_us: int, now_us: int) -> str:
    """A time of UTC as a person says it: `today 09:30`, `yesterday 14:02`, `2026-11-20 14:02`."""
    then, now = (_EPOCH + timedelta(microseconds=each) for each in (time_us, now_us))
    days = (now.date() - then.date()).days
    day = {0: "today", 1: "yesterday"}.get(days) or f"{then:%Y-%m-%d}"
    return f"{day} {then:%H:%M}"
