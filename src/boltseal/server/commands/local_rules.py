"""The rules of a configuration, and what others would do to the tags of its data folder, beside a running server or without one."""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.commands.rules import PlannedTag, RuleDecision, RuleInfo, RulePlan, RuleTable
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.durations import format_duration
from boltseal.policy.rule_decision import decide
from boltseal.policy.rule_plan import RuleEffect
from boltseal.policy.rules import Rule, parse_rules
from boltseal.server.commands.data_folder import on_store
from boltseal.server.commands.rule_plans import TagPlan, plan_all
from boltseal.server.settings import Settings


class LocalRules:
    """`RuleReads` of one configuration. Only a plan needs the data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def rules(self) -> list[RuleInfo]:
        """Return the rules of the configuration."""
        return [_info(rule) for rule in self._settings.rules.rules]

    def decide(self, repository: Repository, tag: Tag) -> RuleDecision:
        """Return the rule that decides."""
        rule = decide(self._settings.rules, repository, tag)
        return RuleDecision(_info(rule), rule.why)

    def plan(self, tables: Sequence[RuleTable], *, every: bool) -> RulePlan:
        """Return what other rules would do to the tags of the data folder."""
        before, after = self._settings.rules, parse_rules(tables)
        found = on_store(self._settings, lambda store: plan_all(store.registry.tag_states, before, after))
        shown = [_planned(each) for each in found if every or each.planned.effect is not RuleEffect.NONE]
        return RulePlan(len(found), shown)


def _planned(found: TagPlan) -> PlannedTag:
    return PlannedTag(
        repository=str(found.tag.repository),
        tag=str(found.tag.name),
        mode=str(found.mode),
        effect=found.planned.effect,
        before=_info(found.planned.before),
        after=_info(found.planned.after),
    )


def _info(rule: Rule) -> RuleInfo:
    return RuleInfo(
        number=rule.number,
        repository=str(rule.repository),
        tag=str(rule.tag),
        mode=rule.mode,
        keep=str(rule.keep),
        settle=format_duration(rule.settle_us) if rule.settle_us else None,
        require=[str(each) for each in rule.require],
    )
