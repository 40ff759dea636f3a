"""Decide what happens to a mirrored tag after an upstream answered: follow, hold, release, or mark as gone. Pure.

`judge` takes the tag's state, the upstream's answer and the terms. It returns the new state, the entry for the log of
observations (or none), and the event to report. In this order:

1. The upstream has no such tag: remember that, and drop a held digest, since it was withdrawn.
2. A tag that was never seen is served, or held (`first_seen`) until an administrator accepts it.
3. The tag resolves to the served digest: drop a held digest, since it was withdrawn.
4. The tag moved. `follow` and `alert` serve the new digest; `hold` keeps serving the old one and holds the new one.
5. A held digest that the tag still resolves to is served when its cooldown is over. The cooldown counts from when the
   digest was first held. It starts again when the tag moved back or on in between.

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
    """The state of a mirrored tag. `serves` None: nothing is served, since `held` was never accepted.

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


TOLD: Final = "told"
"""The key of an entry's extra that holds the event to report."""


class MoveEvent(StrEnum):
    """The event to report for a change."""

    NOTHING = "nothing"
    MOVED = "moved"
    HELD = "held"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class MoveDecision:
    """`known`: the new state. `change`: the entry to write, None for none. `entry`: its manifest, None: the tag is gone."""

    known: KnownTag
    change: MoveChange | None = None
    entry: UpstreamAnswer | None = None
    told: MoveEvent = MoveEvent.NOTHING
    reason: str = ""


def judge(
    known: KnownTag | None, answer: UpstreamAnswer | None, terms: MoveTerms, now_us: int, on_gone: OnGone = OnGone.ALERT
) -> MoveDecision:
    """Decide about one answer. `known` None: never seen. `answer` None: the upstream has no such tag."""
    if known is None:
        known = KnownTag(None, changes_since_us=now_us)
        if answer is None:
            return MoveDecision(known)
        held = terms.first_seen is FirstSeen.HOLD
        judged = _hold(known, answer, terms, now_us) if held else _follow(known, answer, MoveEvent.NOTHING)
    else:
        judged = _again(known, answer, terms, now_us)
        if judged.told is MoveEvent.GONE and on_gone is OnGone.SERVE:
            judged = replace(judged, told=MoveEvent.NOTHING)
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


def _follow(known: KnownTag, answer: UpstreamAnswer, told: MoveEvent) -> MoveDecision:
    return MoveDecision(
        replace(known, serves=answer, held=None, held_us=None, gone_us=None), MoveChange.OBSERVED, answer, told
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
    """Somebody accepts what is held back; None: nothing is."""
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
    if terms.cooldown_us is None:
        return "held until somebody accepts it"
    return f"held until somebody accepts it, or for {format_duration(terms.cooldown_us)}"


class ServedAnswer(StrEnum):
    """What a client gets of a tag."""

    SERVED = "served"
    WITHDRAWN = "withdrawn"
    HELD_BACK = "held back"
    UNKNOWN = "unknown"


def answer_of(known: KnownTag, on_gone: OnGone) -> ServedAnswer:
    """Whether what stands here is served."""
    if known.gone_us is not None and (known.serves is None or on_gone is OnGone.STOP):
        return ServedAnswer.UNKNOWN if known.serves is None else ServedAnswer.WITHDRAWN
    if known.serves is None:
        return ServedAnswer.UNKNOWN if known.held is None else ServedAnswer.HELD_BACK
    return ServedAnswer.SERVED


def warning_of(known: KnownTag, said: UpstreamAnswer | None) -> str | None:
    """Why what is served is not what upstream says now; None where it is. `said`: its answer just now, None: not asked."""
    if known.serves is None:
        return None
    if known.gone_us is not None:
        return "upstream says that it is not there any more; served as it was"
    if known.held is not None:
        return f"upstream says {known.held.digest.short}, which is held until somebody accepts it; served as it was"
    if said is not None and said.digest != known.serves.digest:
        return f"upstream changed it more than {MAX_CHANGES} times today; served as it was written down last"
    return None
