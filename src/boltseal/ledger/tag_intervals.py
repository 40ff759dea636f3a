"""When tags resolved to an image, and how many times a tag has moved since. Pure.

Input are the steps of each tag, the oldest first, each with the digest that the tag resolved to from then on. They come
from a ledger's entries or from an unsigned history.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.ledger.history import EntryAt

_ANONYMOUS: Final = "anonymous"
_BY: Final = re.compile(r"release \d{1,9} of \S{1,255} by (\S{1,200})")
"""The reason of an entry that `boltseal deploy` wrote."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TagStep(NamedTuple):
    """The digest that a tag resolved to from a time on, "" for none. `entry`: its index in the ledger, -1 without one."""

    time_us: int
    digest: str
    by: str = ""
    entry: int = -1


class TagInterval(NamedTuple):
    """The time during which a tag resolved to an image; `until_us` None: it still does. `by`: the publisher, "" if unknown."""

    tag: str
    since_us: int
    until_us: int | None = None
    by: str = ""
    entry: int = -1


class Behind(NamedTuple):
    """How many times a tag moved since it last resolved to an image; 0, with `since_us` None, when it still does."""

    moves: int
    since_us: int | None = None


class ReleaseRecord(NamedTuple):
    """A release of an image in the ledger: the actor (see `_released_by`), the time, and the index of the entry."""

    by: str
    time_us: int
    entry: int


class BuiltOn(NamedTuple):
    """What a `built` entry records of an image: its base, and for a revision which change of the base it carries.

    `revision_of`: the tag that it is a rebuild of, "" for none. `was`: the base's digest for the build before, "" if the base
    did not change. `entry`: its index.
    """

    base: str
    digest: str
    revision_of: str
    was: str
    entry: int


def steps_of(entries: Iterable[EntryAt]) -> dict[str, tuple[TagStep, ...]]:
    """Return the steps of each tag from the entries of a repository."""
    found: dict[str, list[TagStep]] = {}
    for one in entries:
        if one.entry.tag and one.entry.kind.startswith("tag."):
            digest = "" if one.gone else one.entry.digest
            found.setdefault(one.entry.tag, []).append(TagStep(one.entry.time_us, digest, one.entry.actor, one.index))
    return {tag: tuple(steps) for tag, steps in found.items()}


def released(entries: Iterable[EntryAt], digests: Collection[str]) -> ReleaseRecord | None:
    """Return the newest release of one of these digests; None without one."""
    found = [one for one in entries if one.entry.kind is EntryKind.RELEASED and one.entry.digest in digests]
    return ReleaseRecord(_released_by(found[-1].entry), found[-1].entry.time_us, found[-1].index) if found else None


def built_on(entries: Iterable[EntryAt], digests: Collection[str]) -> BuiltOn | None:
    """Return what the newest `built` entry of one of these digests records; None without one, or without a base."""
    found = [one for one in entries if one.entry.kind is EntryKind.BUILT and one.entry.digest in digests]
    return recorded_base(found[-1]) if found else None


def recorded_base(built: EntryAt) -> BuiltOn | None:
    """Return what one `built` entry records; None without a base."""
    extra = built.entry.extra
    if built.entry.kind is not EntryKind.BUILT or "base.digest" not in extra:
        return None
    return BuiltOn(
        extra.get("base.name", ""),
        extra["base.digest"],
        extra.get("revision.of", ""),
        extra.get("base.was", ""),
        built.index,
    )


def _released_by(entry: Entry) -> str:
    """Return the user that the registry authenticated; without a login, the one that the entry's reason names."""
    stated = _BY.fullmatch(entry.reason)
    return f"{stated[1]}, without a login" if entry.actor == _ANONYMOUS and stated is not None else entry.actor


def intervals_of(steps: Mapping[str, Sequence[TagStep]], digests: Collection[str]) -> tuple[TagInterval, ...]:
    """Return, per tag, the last interval in which it resolved to one of these digests: current ones first, then the latest."""
    found = [last for tag, of_tag in steps.items() if (last := _last(tag, of_tag, digests)) is not None]
    return tuple(sorted(found, key=lambda last: (last.until_us is not None, -(last.until_us or 0), last.tag)))


def _last(tag: str, steps: Sequence[TagStep], digests: Collection[str]) -> TagInterval | None:
    """Return the last interval of one tag. It may span several steps, since sealing a tag does not change its digest."""
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
    """Return how many times a tag moved since it resolved to one of these digests; None when it never did."""
    at = max((place for place, step in enumerate(steps) if step.digest in digests), default=None)
    if at is None:
        return None
    later = steps[at + 1 :]
    moves = sum(1 for step, before in zip(later, steps[at:], strict=False) if step.digest not in ("", before.digest))
    return Behind(moves, later[0].time_us) if later else Behind(0)


def in_words(tags: Sequence[TagInterval]) -> str:
    """Format intervals for people: ``1.4.2; was `latest` until 2026-11-23T14:02:00Z``; "" for no tags."""
    now = [one.tag for one in tags if one.until_us is None]
    then = [f"was `{one.tag}` until {moment(one.until_us)}" for one in tags if one.until_us is not None]
    return "; ".join(([", ".join(now)] if now else []) + then)


def moment(time_us: int) -> str:
    """Format a time in UTC, in whole seconds: `2026-11-20T14:02:00Z`."""
    return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%dT%H:%M:%S}Z"
