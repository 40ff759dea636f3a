"""`POST /api/v1/expire` deletes the sealed tags whose time to be kept is over, and records who did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.admin_requests import ONE, TWO, as_user, get, items_of, post, settings_with_users, until_signed
from tests.host_documents import report, running
from tests.images import push
from tests.serving import FIRST_START_US, Clock, serving_as

GOING = [("shop/app", f"1-day-{number}") for number in range(3)]


@asynccontextmanager
async def overdue(data: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Run a registry with three overdue tags in shop/app, another tag there, and an overdue tag that a host runs in other/private."""
    clock = Clock(FIRST_START_US + 1)
    settings = settings_with_users(data, rule=[{"tag": "1-day-*", "keep": "1d"}])
    async with serving_as(settings, clock=clock) as registry:
        client = registry.client
        client.auth = as_user("boss")
        for number in range(3):
            await push(client, "shop/app", f"1-day-{number}", ONE)
        await push(client, "shop/app", "1.4.2", ONE)
        await push(client, "other/private", "1-day-runs", TWO)
        await post(
            client, "reports", "boss", **report("web-1", running("registry.example/other/private:1", TWO.digest))
        )
        clock.advance(days=2)
        client.auth = httpx2.Auth()
        yield client


async def run(client: httpx2.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """Send requests until the last page, and return all items."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = await post(client, "expire", "boss", cursor=cursor, **fields)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found, cursor = found + page["items"], page["next"]
    return found


def named(items: list[dict[str, Any]], status: str) -> list[tuple[str, str]]:
    """Return the tags with this status."""
    return [(each["repository"], each["tag"]) for each in items if each["status"] == status]


async def test_overdue_tags_are_deleted_page_by_page(data: Path) -> None:
    """Each page deletes at most its limit; all others, and the tag that a host runs, stay, and the ledger names the operator."""
    async with overdue(data) as client:
        first = await post(client, "expire", "boss", limit=2)
        between = await items_of(client, "expire", "boss")
        done = await run(client, limit=2)
        tags = await items_of(client, "tags", "boss", repository="shop/app")
        await until_signed(client)
        history = await items_of(client, "history", "boss", repository="shop/app", kinds="tag.expired")
        again = await run(client)

    assert (len(first.json()["items"]), first.json()["next"] is None, len(between)) == (2, False, 2)
    assert named([*first.json()["items"], *done], "expired") == GOING
    assert named(done, "kept") == [("other/private", "1-day-runs")]
    assert [each["name"] for each in tags] == ["1.4.2"]
    assert {(each["actor"], each["tag"]) for each in history} == {("boss", tag) for _, tag in GOING}
    assert (named(again, "expired"), named(again, "kept")) == ([], [("other/private", "1-day-runs")])
    assert "host web-1 runs it" in again[0]["reason"]


async def test_a_dry_run_deletes_no_tag(data: Path) -> None:
    """A dry run returns what the run would, and the list of overdue tags is the same after it."""
    async with overdue(data) as client:
        before = await items_of(client, "expire", "boss")
        planned = await run(client, dry_run=True, limit=1)
        after = await items_of(client, "expire", "boss")
        done = await run(client)

    assert before == after
    assert planned == done


async def test_only_operators_delete_overdue_tags(data: Path) -> None:
    """Administrators of some repositories are refused, also for those, and learn nothing of tags."""
    async with overdue(data) as client:
        refused = [
            await post(client, "expire", user, dry_run=dry_run)
            for user in ("lead", "ci", "other", "nobody", None)
            for dry_run in (True, False)
        ]
        left = await items_of(client, "expire", "boss")
        state = await get(client, "tag", "boss", repository="shop/app", tag="1-day-0")

    assert [answer.status_code for answer in refused] == [403] * 8 + [401] * 2
    assert not any("1-day" in answer.text or "private" in answer.text for answer in refused)
    assert (len(left), state.json()["tag"]["mode"]) == (4, "sealed")
