"""Reads of the admin API: repositories, tags, history, rules and the state of the registry, in pages."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from boltseal.server.storage.metadata import rebuild_table
from boltseal.server.storage.metadata.rebuild_table import RebuildRow
from boltseal.server.store_factory import open_metadata
from tests.admin_requests import GRANTS, ONE, TWO, USERS, as_user, filled, get, items_of, post, settings_with_users
from tests.images import push
from tests.serving import FIRST_START_US, Clock, serving_as


async def test_repositories_are_those_that_the_caller_may_pull(data: Path) -> None:
    """Each user sees the repositories of their grants, with what they may do there."""
    async with filled(data) as registry:
        boss = await items_of(registry.client, "repositories", "boss", limit=1)
        ci = await items_of(registry.client, "repositories", "ci")
        none = await items_of(registry.client, "repositories", "nobody")

    assert [each["name"] for each in boss] == ["other/private", "shop/app"]
    assert ci == [{"name": "shop/app", "actions": ["pull", "push"], "upstream": None}]
    assert none == []


async def test_the_tags_of_a_repository_have_their_states(data: Path) -> None:
    """A sealed tag, a mutable one, a tombstone and a deleted mutable tag are distinguished."""
    async with filled(data) as registry:
        client = registry.client
        client.auth = as_user("lead")
        await push(client, "shop/app", "edge", TWO)
        await client.delete("/v2/shop/app/manifests/edge")
        await post(client, "unseal", "lead", repository="shop/app", tag="1.4.2", reason="never released")
        await client.delete("/v2/shop/app/manifests/1.4.2")
        shown = await items_of(client, "tags", "ci", repository="shop/app")
        all_tags = await items_of(client, "tags", "ci", repository="shop/app", deleted="true", limit=1)
        tombstone = await get(client, "tag", "ci", repository="shop/app", tag="1.4.2")

    assert [(each["name"], each["mode"], each["digest"]) for each in shown] == [("latest", "mutable", TWO.digest)]
    assert [(each["name"], each["mode"]) for each in all_tags] == [
        ("1.4.2", "tombstone"),
        ("edge", "deleted"),
        ("latest", "mutable"),
    ]
    assert tombstone.json()["tag"]["digest"] is None
    assert tombstone.json()["tag"]["seal"]["digest"] == ONE.digest
    assert tombstone.json()["tag"]["seal"]["by"] == "boss"
    assert tombstone.json()["rule"]["mode"] == "sealed"


async def test_the_history_is_read_from_the_newest_entry_on(data: Path) -> None:
    """Pages of entries have each entry once, the newest first, of a repository, a tag or some kinds."""
    async with filled(data) as registry:
        every = await items_of(registry.client, "history", "ci", repository="shop/app", limit=1)
        of_tag = await items_of(registry.client, "history", "ci", repository="shop/app", tag="latest")
        of_kind = await items_of(registry.client, "history", "ci", repository="shop/app", kinds="tag.moved")
        of_none = await items_of(registry.client, "history", "ci", repository="shop/app", kinds="released")

    assert [(each["kind"], each["tag"]) for each in every] == [
        ("tag.moved", "latest"),
        ("tag.created", "latest"),
        ("tag.created", "1.4.2"),
    ]
    assert [each["index"] for each in of_tag] == sorted((each["index"] for each in of_tag), reverse=True)
    assert [(each["digest"], each["was"]) for each in of_kind] == [(TWO.digest, ONE.digest)]
    assert of_none == []


async def test_operators_read_users_grants_and_rules(data: Path) -> None:
    """The operator sees the configuration in force; an administrator of some repositories does not."""
    rules = [{"repository": "shop/**", "tag": "rc-*", "mode": "floating"}]
    async with filled(data, rule=rules) as registry:
        users = await items_of(registry.client, "users", "boss", limit=2)
        grants = await items_of(registry.client, "grants", "boss")
        in_force = await items_of(registry.client, "rules", "boss")
        refused = [
            (await get(registry.client, name, "lead")).status_code
            for name in ("users", "grants", "rules", "upstreams", "held", "expire", "rebuilds", "gc", "ledger")
        ]
        me = [(await get(registry.client, "me", user)).json() for user in ("boss", "lead")]

    assert [each["name"] for each in users] == sorted(USERS)
    assert [each["users"] for each in grants] == [each["users"] for each in GRANTS]
    assert (in_force[0]["number"], in_force[0]["tag"], in_force[0]["mode"]) == (1, "rc-*", "floating")
    assert in_force[-1]["number"] == 0
    assert refused == [403] * 9
    assert me == [{"user": "boss", "operator": True, "token": None}, {"user": "lead", "operator": False, "token": None}]


async def test_the_deciding_rule_is_shown_for_any_tag(data: Path) -> None:
    """`rules/test` names the rule that a push to a tag follows, whether or not the tag exists."""
    rules = [{"repository": "shop/**", "tag": "rc-*", "mode": "floating"}]
    async with filled(data, rule=rules) as registry:
        mine = await get(registry.client, "rules/test", "ci", repository="shop/app", tag="rc-9")
        built_in = await get(registry.client, "rules/test", "ci", repository="shop/app", tag="1.0")

    assert (mine.json()["rule"]["number"], mine.json()["rule"]["mode"]) == (1, "floating")
    assert (built_in.json()["rule"]["mode"], "by default" in built_in.json()["reason"]) == ("sealed", True)


async def test_tags_whose_time_is_over_are_listed_until_they_are_expired(data: Path) -> None:
    """A tag that is kept for a day is in the list the day after, on whichever page it is."""
    clock = Clock(FIRST_START_US + 1)
    settings = settings_with_users(data, rule=[{"tag": "1-day-*", "keep": "1d"}])
    async with serving_as(settings, clock=clock) as registry:
        client = registry.client
        client.auth = as_user("boss")
        for number in range(3):
            await push(client, "shop/app", f"1-day-{number}", ONE)
        await push(client, "shop/app", "1.4.2", ONE)
        before = await items_of(client, "expire", "boss")
        clock.advance(days=2)
        after = await items_of(client, "expire", "boss", limit=1)

    assert before == []
    assert [(each["tag"], each["keep"]) for each in after] == [(f"1-day-{number}", "1d") for number in range(3)]


async def test_what_the_logs_and_the_collection_are_up_to(data: Path) -> None:
    """The operator sees the size of each log, what is signed and whether something is in doubt."""
    async with filled(data) as registry:
        ledger = await items_of(registry.client, "ledger", "boss")
        collection = await get(registry.client, "gc", "boss")

    assert (ledger[0]["name"], ledger[0]["doubt"]) == ("ledger", None)
    assert ledger[0]["size"] == ledger[0]["signed"] > 5
    assert collection.json() == {"undeleted_blobs": 0, "full_since": None, "full_stage": None}


async def test_pages_of_many_repositories_and_tags_are_complete(data: Path) -> None:
    """Each repository and each tag is on exactly one page, whatever the limit is."""
    async with filled(data) as registry:
        client = registry.client
        client.auth = as_user("boss")
        for number in range(7):
            await push(client, f"shop/n{number}", "1.0", ONE)
            await push(client, "shop/many", f"1.{number}", ONE)
        repositories = [await items_of(client, "repositories", "ci", limit=limit) for limit in (1, 3, 1000)]
        tags = [await items_of(client, "tags", "ci", repository="shop/many", limit=limit) for limit in (1, 7, 8)]

    assert repositories[0] == repositories[1] == repositories[2]
    assert [each["name"] for each in repositories[0]] == ["shop/app", "shop/many", *(f"shop/n{n}" for n in range(7))]
    assert tags[0] == tags[1] == tags[2]
    assert [each["name"] for each in tags[0]] == [f"1.{number}" for number in range(7)]


async def test_requested_rebuilds_of_all_repositories_are_listed(data: Path) -> None:
    """Each image and base has its last request, on whichever page it is."""
    settings = settings_with_users(data)
    rows = [
        RebuildRow(f"registry.example/{name}:1", base, TWO.digest, FIRST_START_US, "failed", 2, "exit code 1")
        for name in ("other/private", "shop/app")
        for base in ("docker.io/library/node:16", "docker.io/library/node:18")
    ]
    async with serving_as(settings) as registry:
        with open_metadata(settings) as database:
            for row in rows:
                database.write_and_wait(partial(rebuild_table.put, row=row))
        listed = await items_of(registry.client, "rebuilds", "boss", limit=1)

    assert [(each["image"], each["base"]) for each in listed] == [(row.image, row.base) for row in rows]
    assert {(each["outcome"], each["tries"], each["summary"]) for each in listed} == {("failed", 2, "exit code 1")}
