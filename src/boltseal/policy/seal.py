"""Decide what a push to a tag does: the rule of sealing, as a function of the tag's state and the push. Pure.

The rule (guarantee 1); the first step that applies decides:

1. A tag that was ever sealed resolves to that manifest or to nothing. Pushing the same manifest changes nothing, and
   restores a deleted tag. Any other manifest is refused.
2. A tag that does not exist and was never sealed takes any manifest.
3. Pushing the present manifest again changes nothing, unless a rule now seals the tag: then it is sealed.
4. A mutable tag moves. An append-only tag moves to a manifest that contains everything of the present one. A tag that a
   rule now seals moves once more and is sealed at the new manifest.

A rule may let new tags settle, for clients that push the parts of an image under its tag (`image_parts`). Then:

5. A tag that is pushed without an index resolves to that manifest and is *settling*: it is not sealed until its index arrives
   or its time is over. It moves once, to an index that lists the present manifest, from the same user; then it is sealed.
6. An attestation never becomes the tag: it is stored, and the tag stays as it is. This holds for a tag that is unused or
   mutable, and for a settling tag if the same user pushes it. An image for another platform, pushed by that user, is stored
   like this as well. A manifest that the sealed index lists is stored already.

Same manifest: the same bytes and the same media type, whatever digest algorithm the request used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from boltseal.oci.digest import Digest
from boltseal.policy.image_parts import NO_PARTS, Parts
from boltseal.policy.rules import Mode


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a manifest: the sha256 of its bytes, and its media type."""

    canonical: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class TagState:
    """The state of a tag. `resolves_to` None: it does not exist. `bound`: what it was sealed to; None: never sealed.

    `settling_by`: the user who pushed a tag that is settling; None: it is not.
    """

    resolves_to: Identity | None
    bound: Identity | None
    settling_by: str | None = None


UNUSED = TagState(None, None)


class PushDecision(Enum):
    """The result of a push to a tag."""

    CREATE = auto()
    CREATE_SETTLING = auto()
    SAME = auto()
    MOVE = auto()
    SEAL = auto()
    MOVE_AND_SEAL = auto()
    MOVE_SETTLING = auto()
    PART = auto()
    """The manifest is stored, and the tag stays as it is."""
    RETURN = auto()
    REFUSED_BOUND = auto()
    REFUSED_TOMBSTONE = auto()
    REFUSED_NOT_EXTENDED = auto()
    REFUSED_SETTLING = auto()


def judge(state: TagState, pushed: Identity, mode: Mode, *, extends: bool, parts: Parts = NO_PARTS) -> PushDecision:
    """Decide about a push of a manifest to a tag, under the rule's mode.

    `extends`: the pushed manifest contains everything of the present one (used for append-only tags only). `parts`: used for
    tags that are settling, and under a rule that lets tags settle.
    """
    if state.bound is not None:
        return _judge_bound(state, pushed, state.bound, parts)
    if state.settling_by is not None:
        return _judge_settling(state, pushed, state.settling_by, parts)
    if state.resolves_to != pushed and parts.settle and parts.attestation:
        return PushDecision.PART
    settles = parts.settle and not parts.index
    if state.resolves_to is None:
        return PushDecision.CREATE_SETTLING if settles else PushDecision.CREATE
    if state.resolves_to == pushed:
        return PushDecision.SEAL if mode is Mode.SEALED else PushDecision.SAME
    match mode:
        case Mode.SEALED:
            return PushDecision.MOVE_SETTLING if settles else PushDecision.MOVE_AND_SEAL
        case Mode.FLOATING:
            return PushDecision.MOVE
        case Mode.APPEND_ONLY:
            return PushDecision.MOVE if extends else PushDecision.REFUSED_NOT_EXTENDED
        case _:  # pragma: no cover - mypy proves that there is no other mode
            assert_never(mode)


def _judge_bound(state: TagState, pushed: Identity, bound: Identity, parts: Parts) -> PushDecision:
    if pushed == bound:
        return PushDecision.RETURN if state.resolves_to is None else PushDecision.SAME
    if state.resolves_to is None:
        return PushDecision.REFUSED_TOMBSTONE
    return PushDecision.PART if parts.settle and parts.in_current else PushDecision.REFUSED_BOUND


def _judge_settling(state: TagState, pushed: Identity, by: str, parts: Parts) -> PushDecision:
    if pushed == state.resolves_to:
        return PushDecision.SAME
    if parts.actor != by:
        return PushDecision.REFUSED_SETTLING
    if parts.lists_current:
        return PushDecision.MOVE_AND_SEAL
    part = parts.attestation or parts.other_platform
    return PushDecision.PART if part else PushDecision.REFUSED_SETTLING
