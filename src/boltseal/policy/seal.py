"""What may happen to a name: the seal's rule, as a function of the name's state and what is asked.

The rule (promise 1), in the order in which it is judged:

1. A name that was ever sealed is bound: it means that manifest or nothing. The same manifest changes nothing while the
   name is there, and brings the name back when it was deleted. Any other is refused.
2. A name that is not bound and is not there (never used, or a floating tag that was deleted) may mean anything.
3. A name that is not bound takes the same manifest again without a trace, unless a rule now seals it: then it is sealed
   where it stands.
4. A floating name moves. An append-only name moves to what contains all of what it means now. A name that a rule now
   seals moves once more and is sealed at the new manifest.

The same manifest means: the same bytes and the same media type, by whatever algorithm the bytes are addressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from boltseal.oci.digest import Digest
from boltseal.policy.rules import Mode


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a manifest itself: the sha256 of its bytes, and its media type."""

    canonical: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class TagState:
    """A name as it stands. `means` None: it is not there. `bound` None: it was never sealed."""

    means: Identity | None
    bound: Identity | None


UNUSED = TagState(None, None)


class PushDecision(Enum):
    """What a push to a name comes to."""

    CREATE = auto()
    SAME = auto()
    MOVE = auto()
    SEAL = auto()
    MOVE_AND_SEAL = auto()
    RETURN = auto()
    REFUSED_BOUND = auto()
    REFUSED_TOMBSTONE = auto()
    REFUSED_NOT_EXTENDED = auto()


def judge(state: TagState, pushed: Identity, mode: Mode, *, extends: bool) -> PushDecision:
    """What pushing a manifest to a name comes to, under the rule's mode.

    `extends`: the pushed manifest contains all of what the name means now (asked for append-only names only).
    """
    if state.bound is not None:
        return _judge_bound(state, pushed, state.bound)
    if state.means is None:
        return PushDecision.CREATE
    if state.means == pushed:
        return PushDecision.SEAL if mode is Mode.SEALED else PushDecision.SAME
    match mode:
        case Mode.SEALED:
            return PushDecision.MOVE_AND_SEAL
        case Mode.FLOATING:
            return PushDecision.MOVE
        case Mode.APPEND_ONLY:
            return PushDecision.MOVE if extends else PushDecision.REFUSED_NOT_EXTENDED
        case _:  # pragma: no cover - mypy proves that there is no other mode
            assert_never(mode)


def _judge_bound(state: TagState, pushed: Identity, bound: Identity) -> PushDecision:
    if pushed == bound:
        return PushDecision.RETURN if state.means is None else PushDecision.SAME
    return PushDecision.REFUSED_TOMBSTONE if state.means is None else PushDecision.REFUSED_BOUND
