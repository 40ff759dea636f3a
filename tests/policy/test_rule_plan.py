"""What a change of the rules would do to a tag."""

from __future__ import annotations

import pytest

from boltseal.policy.rule_plan import RuleEffect, plan
from boltseal.policy.rules import RuleSet, parse_rules

NOTHING = RuleSet()


def rules(**table: str) -> RuleSet:
    return parse_rules([table])


@pytest.mark.parametrize(
    ("before", "after", "sealed", "effect"),
    [
        (NOTHING, NOTHING, False, RuleEffect.NONE),
        (NOTHING, rules(tag="rc-*", mode="floating"), False, RuleEffect.MAY_MOVE),
        (NOTHING, rules(tag="rc-*", mode="floating"), True, RuleEffect.STAYS_SEALED),
        (NOTHING, rules(tag="rc-*", mode="append-only"), True, RuleEffect.STAYS_SEALED),
        (NOTHING, rules(tag="rc-*", mode="append-only"), False, RuleEffect.APPEND_ONLY),
        (NOTHING, rules(tag="rc-*", keep="30d"), False, RuleEffect.OTHER_KEEP),
        (NOTHING, rules(tag="rc-*", settle="60s"), False, RuleEffect.OTHER_KEEP),
        (NOTHING, rules(tag="rc-*", keep="30d"), True, RuleEffect.NONE),
        (rules(tag="rc-*", mode="floating"), NOTHING, False, RuleEffect.SEALS),
        (rules(tag="rc-*", mode="floating"), NOTHING, True, RuleEffect.NONE),
        (rules(tag="rc-*", mode="floating"), rules(tag="rc-*", mode="append-only"), True, RuleEffect.NONE),
        (NOTHING, rules(tag="latest"), False, RuleEffect.NONE),
    ],
)
def test_the_effect_of_a_change_on_a_tag(before: RuleSet, after: RuleSet, sealed: bool, effect: RuleEffect) -> None:
    """The effect follows from the modes of the two deciding rules and from whether the tag is sealed."""
    found = plan(before, after, "shop/app", "rc-1", sealed=sealed)

    assert found.effect is effect


def test_the_plan_names_the_deciding_rules() -> None:
    """The rules of a plan are those that `admin rules test` would name before and after the change."""
    found = plan(NOTHING, rules(tag="latest", mode="sealed"), "shop/app", "latest", sealed=False)

    assert (found.before.number, found.after.number, found.effect) == (0, 1, RuleEffect.SEALS)
