"""`POST /api/v1/rules/plan` shows what other rules would do to every tag, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from boltseal.server.settings import Settings
from tests.admin_requests import GRANTS, ONE, as_user, filled, items_of, post
from tests.images import push
from tests.serving import serving_as


async def plan_of(client: httpx2.AsyncClient, rules: list[dict[str, str]], **more: Any) -> list[dict[str, Any]]:
    """Return all items of a plan, and check that each tag was looked at once."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    looked_at = 0
    while cursor is not None:
        answer = await post(client, "rules/plan", "boss", rules=rules, cursor=cursor, **more)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found, cursor, looked_at = found + page["items"], page["next"], looked_at + page["looked_at"]
    assert looked_at == 4
    return found


async def test_a_plan_says_what_becomes_of_each_tag(data: Path) -> None:
    """Tags that would be sealed at their next push, and sealed tags that the rules would let move, are listed."""
    async with filled(data) as registry:
        client = registry.client
        sealing = await plan_of(client, [{"tag": "latest", "mode": "sealed", "keep": "30d"}])
        loosened = await plan_of(client, [{"repository": "shop/**", "mode": "floating"}])
        none = await plan_of(client, [])
        every = await plan_of(client, [], all=True, limit=1)
        history = await items_of(client, "history", "boss", repository="shop/app")

    assert [(each["repository"], each["tag"], each["mode"], each["effect"]) for each in sealing] == [
        ("shop/app", "latest", "mutable", "seals")
    ]
    assert (sealing[0]["before"]["mode"], sealing[0]["after"]["keep"]) == ("floating", "30d")
    assert [(each["tag"], each["effect"]) for each in loosened] == [("1.4.2", "stays-sealed")]
    assert none == []
    assert {each["effect"] for each in every} == {"none"}
    assert len(history) == 3


async def test_a_plan_is_what_the_next_push_does(data: Path) -> None:
    """With the planned rules in force, the push to the planned tag seals it."""
    rules = [{"tag": "latest", "mode": "sealed"}]
    async with filled(data) as registry:
        planned = await plan_of(registry.client, rules)
    async with serving_as(
        Settings.model_validate({"server": {"data": data}, "auth": {"grant": GRANTS}, "rule": rules})
    ) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "shop/app", "latest", ONE)
        after = (await items_of(client, "tags", "boss", repository="shop/app"))[-1]

    assert [each["effect"] for each in planned] == ["seals"]
    assert (after["name"], after["mode"]) == ("latest", "sealed")


async def test_a_plan_refuses_rules_that_the_server_would_refuse(data: Path) -> None:
    """An invalid or unreachable rule is refused with its number, as at the server's start."""
    async with filled(data) as registry:
        wrong = await post(registry.client, "rules/plan", "boss", rules=[{"mode": "frozen"}])
        unreachable = await post(registry.client, "rules/plan", "boss", rules=[{}, {"tag": "1.*"}])
        refused = await post(registry.client, "rules/plan", "lead", rules=[])

    assert (wrong.status_code, "rule 1: mode" in wrong.text) == (400, True)
    assert (unreachable.status_code, "rule 2" in unreachable.text) == (400, True)
    assert refused.status_code == 403
