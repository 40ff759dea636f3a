"""Decide what a push to a tag does: the rule of sealing, as a function of the tag's state and the push. Pure.

The rule (guarantee 1); the first step that applies decides:

1. A tag that was ever sealed resolves to that manifest or to nothing. Pushing the same manifest changes nothing, and
   restores a deleted tag. Any other manifest is refused.
2. A tag that does not exist and was never sealed takes any manifest.
3. Pushing the present manifest again changes nothing, unless a rule now seals the tag: then it is sealed.
4. A mutable tag moves. An append-only tag moves to a manifest that contains everything of the present one. A tag that a
   rule now seals moves once more and is sealed at the new manifest.

Same manifest: the same bytes and the same media type, whatever digest algorithm the request used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from boltseal.oci.digest import Digest
from boltseal.policy.rules import Mode


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a manifest: the sha256 of its bytes, and its media type."""

    canonical: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class TagState:
    """The state of a tag. `resolves_to` None: it does not exist. `bound`: what it was sealed to; None: never sealed."""

    resolves_to: Identity | None
    bound: Identity | None


UNUSED = TagState(None, None)


class PushDecision(Enum):
    """The result of a push to a tag."""

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
    """Decide about a push of a manifest to a tag, under the rule's mode.

    `extends`: the pushed manifest contains everything of the present one (used for append-only tags only).
    """
    if state.bound is not None:
        return _judge_bound(state, pushed, state.bound)
    if state.resolves_to is None:
        return PushDecision.CREATE
    if state.resolves_to == pushed:
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
        return PushDecision.RETURN if state.resolves_to is None else PushDecision.SAME
    return PushDecision.REFUSED_TOMBSTONE if state.resolves_to is None else PushDecision.REFUSED_BOUND
