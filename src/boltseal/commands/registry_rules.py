"""The rules of a registry over its admin API, by the user who is logged in there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from boltseal.client.admin_client import AdminClient, AdminPage
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.rules import PlannedTag, RuleDecision, RuleInfo, RulePlan, RuleTable
from boltseal.oci.reference import Repository, Tag


class _Rules(msgspec.Struct):
    items: list[RuleInfo]


class _PlanPage(AdminPage, kw_only=True):
    looked_at: int
    items: list[PlannedTag]


class RegistryRules:
    """`RuleReads` of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, self._registry)

    def rules(self) -> list[RuleInfo]:
        """Return the rules in force there."""
        return self._api.ask(lambda client: client.read("rules", "the rules in force", _Rules)).items

    def decide(self, repository: Repository, tag: Tag) -> RuleDecision:
        """Return the rule that decides there."""
        query = {"repository": repository, "tag": tag}
        what = f"the rule for {repository}:{tag}"
        return self._api.ask(lambda client: client.read("rules/test", what, RuleDecision, query))

    def plan(self, tables: Sequence[RuleTable], *, every: bool) -> RulePlan:
        """Return what other rules would do to the tags there."""
        fields = {"rules": list(tables), "all": every}

        async def read(client: AdminClient) -> RulePlan:
            plan = RulePlan(0, [])
            async for page in client.pages("rules/plan", "the plan of other rules", _PlanPage, fields=fields):
                plan = RulePlan(plan.looked_at + page.looked_at, [*plan.tags, *page.items])
            return plan

        return self._api.ask(read)
