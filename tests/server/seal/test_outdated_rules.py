"""A process whose rules are not those that the ledger recorded last gives no tag by them: several share one ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from tests.admin_requests import as_user, items_of, post, settings_with_users, until_signed
from tests.images import error_of, image, index, meaning, push
from tests.serving import Rule, serving, serving_as

OLD, NEW = image("before"), image("after")
FLOATING: list[Rule] = [{"tag": "v*", "mode": "floating"}]
APP = "shop/app"


@asynccontextmanager
async def two_servers(data: Path) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Run two registries on one store: the first lets `v*` move, the second, which starts later, seals all of it."""
    async with serving(data, FLOATING) as former:
        await push(former.client, APP, "v1", OLD)
        async with serving(data) as latter:
            yield former.client, latter.client


async def test_former_rules_give_no_tag(data: Path) -> None:
    """A new tag is refused with 503 where the rules are outdated, and nothing of the push is written."""
    async with two_servers(data) as (former, latter):
        answer = await push(former, APP, "v2", NEW)
        code, message = error_of(answer)

        assert (answer.status_code, code) == (503, "UNAVAILABLE")
        assert "does not have the rules that the ledger recorded last" in message
        assert "--config" in message
        assert await meaning(latter, APP, "v2") is None
        assert await meaning(latter, APP, NEW.digest) is None


async def test_former_rules_move_no_tag(data: Path) -> None:
    """A tag that only the former rules let move stays, at both servers."""
    async with two_servers(data) as (former, latter):
        moved = await push(former, APP, "v1", NEW)

        assert moved.status_code == 503
        assert [await meaning(each, APP, "v1") for each in (former, latter)] == [OLD.digest, OLD.digest]


async def test_outdated_rules_stop_nothing_else(data: Path) -> None:
    """Pulls, repeated pushes, pushes by digest and refusals go on where the rules are outdated."""
    async with two_servers(data) as (former, latter):
        sealed = await push(latter, APP, "1.0.0", OLD)
        again = await push(former, APP, "1.0.0", OLD)
        refused = await push(former, APP, "1.0.0", NEW)
        by_digest = await push(former, APP, NEW.digest, NEW)
        seen = await meaning(former, APP, "1.0.0")

    assert sealed.status_code == 201
    assert again.status_code == 201
    assert (refused.status_code, by_digest.status_code, seen) == (409, 201, OLD.digest)


async def test_the_rules_of_the_last_start_are_in_force(data: Path) -> None:
    """A server that starts again records its rules, and the other one, whose rules differ, gives no tag from then on."""
    async with two_servers(data) as (_, latter), serving(data, FLOATING) as restarted:
        by_restarted = await push(restarted.client, APP, "v2", NEW)
        by_latter = await push(latter, APP, "v3", NEW)

    assert (by_restarted.status_code, by_latter.status_code) == (201, 503)


@pytest.mark.parametrize("tags", [["v2"], ["1.0.0", "v2"]])
async def test_no_tag_of_a_push_is_given(data: Path, tags: list[str]) -> None:
    """A push that names several tags gives none of them where the rules are outdated."""
    async with two_servers(data) as (former, latter):
        answer = await push(former, APP, NEW.digest, NEW, tags=tags)

        assert answer.status_code == 503
        assert [await meaning(latter, APP, tag) for tag in tags] == [None] * len(tags)


async def test_a_settling_tag_is_not_replaced(data: Path) -> None:
    """A settling tag stays as it is where the rules are outdated, also for the index that would seal it."""
    settling: list[Rule] = [{"tag": "v*", "settle": "1h"}]
    async with serving(data, settling) as former:
        await push(former.client, APP, "v1", OLD)
        async with serving(data) as latter:
            answer = await push(former.client, APP, "v1", index(OLD, NEW))
            seen = await meaning(latter.client, APP, "v1")

    assert (answer.status_code, seen) == (503, OLD.digest)


async def test_nothing_is_restored_by_former_rules(data: Path) -> None:
    """A restore gives a tag, so that it is refused as well where the rules are outdated; an administrator may still seal."""
    floating = settings_with_users(data, rule=FLOATING)
    async with serving_as(floating) as former:
        former.client.auth = as_user("boss")
        for each in (OLD, NEW):
            await push(former.client, APP, "v1", each)
        async with serving_as(settings_with_users(data)) as latter:
            latter.client.auth = as_user("boss")
            restored = await post(
                former.client, "restore", "boss", repository=APP, tag="v1", to=OLD.digest, reason="it broke"
            )
            sealed = await post(former.client, "seal", "boss", repository=APP, tag="v1", reason="it is good")
            await until_signed(latter.client)
            kinds = [
                each["kind"] for each in await items_of(latter.client, "history", "boss", repository=APP, tag="v1")
            ]

    assert restored.status_code == 503
    assert sealed.status_code == 200
    assert kinds[0] == "tag.sealed"
