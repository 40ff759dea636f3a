"""Plans a change of the rules: what other rules would do to every tag, page by page. Changes nothing."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.policy.rule_plan import RuleEffect
from boltseal.policy.rules import MAX_RULES, RuleSet, parse_rules
from boltseal.server.api.admin.documents import RuleInForce, rule_document
from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, tag_position
from boltseal.server.api.admin.routes import Right, Route
from boltseal.server.api.request import Request
from boltseal.server.commands.rule_plans import LOOKED_AT, TagPlan, plans_of
from boltseal.server.registry.tag_states import TagMode, TagStates

PLAN: Final = "rules/plan"


class PlanRequest(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules that would be in force instead of the configured ones."""

    rules: Annotated[
        list[dict[str, str]],
        Meta(max_length=MAX_RULES, description="The `[[rule]]` tables in order; the built-in rules follow them."),
    ]
    all: Annotated[bool, Meta(description="Also list tags on which the change has no effect.")] = False


class PlannedTag(msgspec.Struct, frozen=True, kw_only=True):
    """What the change does to a tag. `before`, `after`: the rules that decide about it."""

    repository: str
    tag: str
    mode: TagMode
    effect: Annotated[
        RuleEffect,
        Meta(
            description="`seals`: the next push seals it. `may-move`: the next push no longer seals it. `append-only`: it may only "
            "gain content. `stays-sealed`: it is sealed, so it cannot move though the rule lets it. `other-keep`: the next push "
            "seals it with another `keep` or `settle`. `none`."
        ),
    ]
    before: RuleInForce
    after: RuleInForce


class RulePlan(Page, frozen=True, kw_only=True):
    """A page of a plan, in no order that clients can rely on. `looked_at`: the tags that were compared for this page."""

    looked_at: int
    items: list[PlannedTag]


class RulePlans:
    """The handler of plans."""

    def __init__(self, states: TagStates, rules: RuleSet) -> None:
        self._states = states
        self._rules = rules

    def routes(self) -> list[Route]:
        """Return the routes."""
        summary = "Show what other rules would do to every tag."
        return [Route("POST", PLAN, summary, Right.OPERATOR, PlanRequest, RulePlan, self.plan)]

    async def plan(self, _: Request, asked: PlanRequest) -> RulePlan:
        """Return what the rules would do to the next tags."""
        after = await asyncio.to_thread(parse_rules, asked.rules)
        page = await self._states.of_all(tag_position(PLAN, asked.cursor), LOOKED_AT)
        compared = await asyncio.to_thread(plans_of, page.tags, self._rules, after)
        shown = [
            index for index, each in enumerate(compared) if asked.all or each.planned.effect is not RuleEffect.NONE
        ]
        looked_at, more = len(compared), page.more
        if len(shown) > asked.limit:
            shown = shown[: asked.limit]
            looked_at, more = shown[-1] + 1, True
        last = page.tags[looked_at - 1] if more else None
        return RulePlan(
            looked_at=looked_at,
            items=[_document(compared[index]) for index in shown],
            next=None if last is None else cursor_of(PLAN, last.repository_id, last.name),
        )


def _document(found: TagPlan) -> PlannedTag:
    return PlannedTag(
        repository=found.tag.repository,
        tag=found.tag.name,
        mode=found.mode,
        effect=found.planned.effect,
        before=rule_document(found.planned.before),
        after=rule_document(found.planned.after),
    )
