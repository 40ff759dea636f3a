"""Decide what happens to a mirrored tag after an upstream answered: follow, hold, release, or mark as gone. Pure.

`judge` takes the tag's state, the upstream's answer and the terms. It returns the new state, the entry for the log of
observations (or none), and the event to report. In this order:

1. The upstream has no such tag: remember that, and drop a held digest, since it was withdrawn.
2. A tag that was never seen is served, or held (`first_seen`) until an administrator accepts it.
3. The tag resolves to the served digest: drop a held digest, since it was withdrawn.
4. The tag moved. `follow` and `alert` serve the new digest; `hold` keeps serving the old one and holds the new one.
5. A held digest that the tag still resolves to is served when its cooldown is over. The cooldown counts from when the
   digest was first held. It starts again when the tag moved back or on in between.

A digest that lacks evidence which the terms require is held in steps 2 and 4, whatever else they say, and no cooldown ends
that: it is served when it has the evidence, or when an administrator accepts it. A digest that is served stays so.

Only recorded digests are served. A tag that changes more than `MAX_CHANGES` times a day therefore keeps its last recorded
state for the rest of that day: an upstream that flips a tag can't grow the log without limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.policy.durations import format_duration
from boltseal.policy.upstreams import FirstSeen, MoveTerms, OnGone, OnMove

DAY_US: Final = 86_400_000_000
MAX_CHANGES: Final = 144
"""Recorded changes of a tag per day: one in ten minutes."""


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """The manifest that a tag resolves to at the upstream. `size` in bytes, -1 when not reported."""

    digest: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class KnownTag:
    """The state of a mirrored tag. `serves`: the manifest that is served; None: none, since `held` was never accepted.

    `held`: the upstream's present manifest, not accepted, since `held_us`. `gone_us`: since when the upstream reports that
    the tag does not exist. `changes`: recorded changes since `changes_since_us`.
    """

    serves: UpstreamAnswer | None
    held: UpstreamAnswer | None = None
    held_us: int | None = None
    gone_us: int | None = None
    changes: int = 0
    changes_since_us: int = 0


class MoveChange(StrEnum):
    """The kinds of entries in the log of observations."""

    OBSERVED = "observed"
    HELD = "held"
    ACCEPTED = "accepted"


EVENT_KEY: Final = "told"
"""The key of an entry's extra for the event to report."""


class MoveEvent(StrEnum):
    """The event to report for a change."""

    NOTHING = "nothing"
    MOVED = "moved"
    HELD = "held"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class MoveDecision:
    """The result of `judge`. `known`: the new state. `change`: the kind of entry to write, None for no entry.

    `entry`: the manifest in the entry, None when the tag is gone. `event`: the event to report. `reason`: of the entry.
    """

    known: KnownTag
    change: MoveChange | None = None
    entry: UpstreamAnswer | None = None
    event: MoveEvent = MoveEvent.NOTHING
    reason: str = ""


def judge(
    known: KnownTag | None, answer: UpstreamAnswer | None, terms: MoveTerms, now_us: int, on_gone: OnGone = OnGone.ALERT
) -> MoveDecision:
    """Decide about one answer of the upstream. `known` None: never seen. `answer` None: the upstream has no such tag.

    `terms.lacks` is about this answer.
    """
    terms = terms.effective
    if known is None:
        known = KnownTag(None, changes_since_us=now_us)
        if answer is None:
            return MoveDecision(known)
        held = terms.first_seen is FirstSeen.HOLD
        judged = _hold(known, answer, terms, now_us) if held else _follow(known, answer, MoveEvent.NOTHING)
    else:
        judged = _again(known, answer, terms, now_us)
        if judged.event is MoveEvent.GONE and on_gone is OnGone.SERVE:
            judged = replace(judged, event=MoveEvent.NOTHING)
    return judged if judged.change is None else _counted(known, judged, now_us)


def _again(known: KnownTag, answer: UpstreamAnswer | None, terms: MoveTerms, now_us: int) -> MoveDecision:
    # 1
    if answer is None:
        if known.gone_us is not None:
            return MoveDecision(known)
        gone = replace(known, held=None, held_us=None, gone_us=now_us)
        return MoveDecision(
            gone, MoveChange.OBSERVED, None, MoveEvent.NOTHING if known.serves is None else MoveEvent.GONE
        )
    # 2
    if known.serves is None:
        held = terms.first_seen is FirstSeen.HOLD
        return _hold(known, answer, terms, now_us) if held else _follow(known, answer, MoveEvent.NOTHING)
    # 3
    if answer.digest == known.serves.digest:
        if known.held is None and known.gone_us is None:
            return MoveDecision(known)
        return _follow(known, answer, MoveEvent.NOTHING)
    # 4
    if terms.on_move is OnMove.HOLD:
        return _hold(known, answer, terms, now_us)
    return _follow(known, answer, MoveEvent.MOVED if terms.on_move is OnMove.ALERT else MoveEvent.NOTHING)


def _follow(known: KnownTag, answer: UpstreamAnswer, event: MoveEvent) -> MoveDecision:
    return MoveDecision(
        replace(known, serves=answer, held=None, held_us=None, gone_us=None), MoveChange.OBSERVED, answer, event
    )


def _hold(known: KnownTag, answer: UpstreamAnswer, terms: MoveTerms, now_us: int) -> MoveDecision:
    if known.held is None or known.held_us is None or known.held.digest != answer.digest:
        held = replace(known, held=answer, held_us=now_us, gone_us=None)
        return MoveDecision(held, MoveChange.HELD, answer, MoveEvent.HELD, _until(terms))
    # 5
    if terms.cooldown_us is None or now_us - known.held_us < terms.cooldown_us:
        return MoveDecision(known)
    reason = f"its cooldown of {format_duration(terms.cooldown_us)} is over"
    return MoveDecision(
        replace(known, serves=answer, held=None, held_us=None), MoveChange.ACCEPTED, answer, MoveEvent.MOVED, reason
    )


def accept(known: KnownTag, now_us: int) -> MoveDecision | None:
    """Return the decision when an administrator accepts the held digest; None when no digest is held."""
    if known.held is None:
        return None
    judged = MoveDecision(replace(known, serves=known.held, held=None, held_us=None), MoveChange.ACCEPTED, known.held)
    return replace(judged, known=_count(judged.known, now_us))


def _counted(before: KnownTag, judged: MoveDecision, now_us: int) -> MoveDecision:
    after = _count(judged.known, now_us)
    return MoveDecision(before) if after.changes > MAX_CHANGES else replace(judged, known=after)


def _count(known: KnownTag, now_us: int) -> KnownTag:
    if not 0 <= now_us - known.changes_since_us < DAY_US:
        return replace(known, changes=1, changes_since_us=now_us)
    return replace(known, changes=known.changes + 1)


def _until(terms: MoveTerms) -> str:
    if terms.lacks:
        return f"it lacks {terms.lacks}; held until it has that, or until an administrator accepts it"
    if terms.cooldown_us is None:
        return "held until an administrator accepts it"
    return f"held until an administrator accepts it, or for {format_duration(terms.cooldown_us)}"


class ServedAnswer(StrEnum):
    """Whether a client gets a mirrored tag, and why not."""

    SERVED = "served"
    WITHDRAWN = "withdrawn"
    HELD_BACK = "held back"
    UNKNOWN = "unknown"


def answer_of(known: KnownTag, on_gone: OnGone) -> ServedAnswer:
    """Return whether a tag is served to clients."""
    if known.gone_us is not None and (known.serves is None or on_gone is OnGone.STOP):
        return ServedAnswer.UNKNOWN if known.serves is None else ServedAnswer.WITHDRAWN
    if known.serves is None:
        return ServedAnswer.UNKNOWN if known.held is None else ServedAnswer.HELD_BACK
    return ServedAnswer.SERVED


def warning_of(known: KnownTag, answer: UpstreamAnswer | None) -> str | None:
    """Return why the served digest differs from the upstream's; None when it does not.

    `answer`: the upstream's present answer, None when it was not asked.
    """
    if known.serves is None:
        return None
    if known.gone_us is not None:
        return "the upstream reports that the tag no longer exists; serving the last digest"
    if known.held is not None:
        return f"upstream has {known.held.digest.short}, which is held until an administrator accepts it; serving the old digest"
    if answer is not None and answer.digest != known.serves.digest:
        return f"upstream changed the tag more than {MAX_CHANGES} times today; serving the last recorded digest"
    return None
