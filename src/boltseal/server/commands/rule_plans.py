"""What other rules would do to the tags of a registry, for the admin API and for `boltseal admin rules plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.policy.rule_plan import PlannedEffect, plan
from boltseal.policy.rules import RuleSet
from boltseal.server.registry.tag_states import StoredTag, TagMode, TagStates, mode_of

LOOKED_AT: Final = 1000
"""Tags that are read and compared at a time."""


@dataclass(frozen=True, slots=True)
class TagPlan:
    """What other rules would do to a tag. `mode`: what it may do now."""

    tag: StoredTag
    mode: TagMode
    planned: PlannedEffect


def plans_of(tags: Sequence[StoredTag], before: RuleSet, after: RuleSet) -> list[TagPlan]:
    """Return what a change of the rules would do to these tags. A thousand rules for a thousand tags take a second."""
    found = []
    for each in tags:
        mode = mode_of(each.row)
        sealed = mode not in (TagMode.MUTABLE, TagMode.DELETED)
        found.append(TagPlan(each, mode, plan(before, after, each.repository, each.name, sealed=sealed)))
    return found


async def plan_all(states: TagStates, before: RuleSet, after: RuleSet) -> list[TagPlan]:
    """Return what a change of the rules would do to every tag, in an order of its own."""
    found: list[TagPlan] = []
    position = (0, "")
    while True:
        page = await states.of_all(position, LOOKED_AT)
        found += plans_of(page.tags, before, after)
        if not page.more:
            return found
        position = (page.tags[-1].repository_id, page.tags[-1].name)
