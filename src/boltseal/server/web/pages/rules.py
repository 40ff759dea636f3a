"""The rules in force, the rule that decides about a tag that a person types, and what other rules would do to every tag."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from boltseal.commands.rules import parse_rule_tables
from boltseal.errors import Invalid, quote
from boltseal.server.api.admin.documents import Decision
from boltseal.server.api.admin.routes import RequestInvalid, Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.api_changes import RouteName
from boltseal.server.web.pages.context import ROWS, NotDone, PageContext, Viewer
from boltseal.server.web.pages.words import EFFECTS

MAX_RULES_TEXT: Final = 6000
"""Characters of the rules in a form. The command plans with a file of any size."""
PLAN: Final = RouteName("POST", "rules/plan")
RULES: Final = "rules"
TYPED: Final = "ref"


class RulesForm:
    """The page of rules, and the form that plans a change of them. Nothing is changed."""

    path: Final = "/ui/rules"

    async def page(self, pages: PageContext, request: Request, viewer: Viewer) -> Response:
        """Show the rules, and the one that decides about a typed tag."""
        return await self.form(pages, request, viewer, {TYPED: request.query.value(TYPED) or ""})

    async def form(
        self,
        pages: PageContext,
        request: Request,
        viewer: Viewer,
        given: Mapping[str, str],
        not_done: NotDone | None = None,
    ) -> Response:
        """Show the page with these fields. `not_done`: why there is no plan, if one was asked for."""
        pages.api.check(request, Right.CATALOG)
        typed = given.get(TYPED, "").strip()
        decision, message = None, ""
        try:
            decision = await _decision(pages, request, typed) if typed else None
        except Invalid as error:
            message = error.message
        rules = await pages.api.read_allowed(request, "rules")
        return pages.page(
            "rules",
            viewer,
            not_done=not_done,
            typed=typed,
            decision=decision,
            message=message,
            rules=rules,
            rules_text=given.get(RULES) or ("" if rules is None else _configured(pages)),
            max_rules=MAX_RULES_TEXT,
        )

    async def submit(self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str]) -> Response:
        """Show what the rules of the form would do to the next tags. Raises: Invalid: they are no valid rules."""
        pages.api.check(request, Right.OPERATOR)
        text, cursor = given.get(RULES, ""), given.get("cursor", "")
        if len(text) > MAX_RULES_TEXT:
            raise RequestInvalid(
                f"the rules have {len(text)} characters, a form at most {MAX_RULES_TEXT}; use the command"
            )
        tables = await asyncio.to_thread(parse_rule_tables, text.encode(), "the text")
        plan = await pages.changes.call(request, PLAN, {"rules": tables, "limit": ROWS, "cursor": cursor})
        return pages.page("rules_plan", viewer, plan=plan, effects=EFFECTS, rules_text=text, first=not cursor)


def _configured(pages: PageContext) -> str:
    """Return the `[[rule]]` tables of the configuration, without `require`."""
    return "\n\n".join(rule.as_toml() for rule in pages.registry.rules.user)


async def _decision(pages: PageContext, request: Request, typed: str) -> Decision:
    """Return the rule that decides about a tag. Raises: Invalid: it is not of the form REPOSITORY:TAG; as the route does."""
    name, colon, tag = typed.removeprefix(f"{pages.host}/" if pages.host else "").rpartition(":")
    if not colon or "/" in tag:
        raise RequestInvalid(f"{quote(typed)} has no tag; expected REPOSITORY:TAG, such as shop/app:1.4.2")
    found: Decision = await pages.api.read(request, "rules/test", repository=name, tag=tag)
    return found


FORM: Final = RulesForm()
