"""What a change of the rules would do to a tag. Pure.

Rules decide about pushes, so a change of them does nothing to a tag by itself: it shows at the tag's next push. A tag that is
sealed, or was, stays sealed under any rules, and its bytes are kept as long as its seal says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Mode, Rule, RuleSet


class RuleEffect(StrEnum):
    """The effect of a change of the rules on one tag."""

    NONE = "none"
    """Pushes are decided as before."""
    SEALS = "seals"
    """The next push seals a tag that could move."""
    MAY_MOVE = "may-move"
    """The next push no longer seals the tag, which may move to any manifest."""
    APPEND_ONLY = "append-only"
    """The tag may move only to a manifest that contains all that it has."""
    STAYS_SEALED = "stays-sealed"
    """The rules would let it move, but it is sealed, so it never does."""
    OTHER_KEEP = "other-keep"
    """The next push seals the tag as before, but its bytes are kept, or it settles, for another time."""


@dataclass(frozen=True, slots=True)
class PlannedEffect:
    """The rules that decide about a tag before and after a change, and its effect."""

    before: Rule
    after: Rule
    effect: RuleEffect


def plan(before: RuleSet, after: RuleSet, repository: str, tag: str, *, sealed: bool) -> PlannedEffect:
    """Return what a change of the rules does to a tag. `sealed`: it is sealed, or was, or is settling."""
    old, new = decide(before, repository, tag), decide(after, repository, tag)
    return PlannedEffect(old, new, _effect(old, new, sealed=sealed))


def _effect(old: Rule, new: Rule, *, sealed: bool) -> RuleEffect:
    if sealed:
        return RuleEffect.STAYS_SEALED if old.mode is Mode.SEALED and new.mode is not Mode.SEALED else RuleEffect.NONE
    if old.mode is new.mode:
        same = (old.keep, old.settle_us) == (new.keep, new.settle_us)
        return RuleEffect.NONE if same else RuleEffect.OTHER_KEEP
    return _OF_NEW_MODE[new.mode]


_OF_NEW_MODE: Final = {
    Mode.SEALED: RuleEffect.SEALS,
    Mode.FLOATING: RuleEffect.MAY_MOVE,
    Mode.APPEND_ONLY: RuleEffect.APPEND_ONLY,
}
