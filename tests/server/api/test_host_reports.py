"""Reports of hosts over the admin API: what runs where, which hosts stopped, releases, and what a report keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.server.registry.host_reports import DEFAULT_LIMITS
from boltseal.server.settings import Settings
from tests.admin_requests import GRANTS, ONE, TWO, as_user, get, items_of, post, settings_with_users
from tests.host_documents import NO_COUNTS, release, report, running
from tests.images import push
from tests.serving import FIRST_START_US, Clock, serving_as

APP = "registry.example/shop/app:1.4.2"
PRIVATE = "registry.example/other/private:2.0"
REPORTERS = [{"users": ["ci", "lead"], "actions": ["report"]}]


def reporting_settings(data: Path, **tables: object) -> Settings:
    return settings_with_users(data, **{"auth": {"grant": [*GRANTS, *REPORTERS]}, **tables})


async def send(client: httpx2.AsyncClient, document: dict[str, Any], user: str = "ci") -> httpx2.Response:
    answer = await post(client, "reports", user, **document)
    assert answer.status_code == 200, answer.text
    return answer


async def forget(client: httpx2.AsyncClient, host: str, user: str = "boss", **query: Any) -> httpx2.Response:
    return await client.request("DELETE", "/api/v1/host", params={"host": host, **query}, auth=as_user(user))


async def test_hosts_show_what_runs_there_to_those_who_may_pull_it(data: Path) -> None:
    """An operator sees all; a user the images of its repositories, and hosts that have some, also in counts."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client
        both = report("web-1", running(APP, ONE.digest), running(PRIVATE, TWO.digest), counts={**NO_COUNTS, "holds": 2})
        await send(client, both)
        await send(client, report("web-2", running(PRIVATE, TWO.digest)))
        hosts = {user: await items_of(client, "hosts", user, limit=1) for user in ("boss", "ci", "nobody")}
        images = {user: await items_of(client, "hosts/images", user, limit=1) for user in ("boss", "ci", "nobody")}
        hidden = await get(client, "host", "ci", host="web-2")
        unknown = await get(client, "host", "ci", host="web-3")

    assert {user: [each["name"] for each in found] for user, found in hosts.items()} == {
        "boss": ["web-1", "web-2"],
        "ci": ["web-1"],
        "nobody": [],
    }
    assert [each["login"] for each in (hosts["boss"][0], hosts["ci"][0])] == ["ci", None]
    operators, users = hosts["boss"][0]["reports"][0], hosts["ci"][0]["reports"][0]
    assert (operators["images"], operators["counts"]["holds"], operators["outcome"]) == (2, 2, "holds")
    assert (users["images"], users["counts"], users["outcome"]) == (1, None, None)
    assert len(images["boss"]) == 3
    assert [each["repository"] for each in images["ci"]] == ["shop/app"]
    assert images["ci"][0]["image"]["digests"] == [ONE.digest]
    assert images["nobody"] == []
    assert hidden.status_code == unknown.status_code == 404
    assert hidden.text.replace("web-2", "X") == unknown.text.replace("web-3", "X")


async def test_the_hosts_that_run_a_digest_or_a_tag_are_found(data: Path) -> None:
    """By any digest of the image, by repository, and by the tag that a container was started by."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client
        await send(client, report("web-1", running(APP, ONE.digest, TWO.digest)))
        await send(client, report("web-2", running("registry.example/shop/app:2.0", TWO.digest)))
        asked = (
            {"digest": ONE.digest},
            {"digest": TWO.digest},
            {"repository": "shop/app"},
            {"repository": "shop/app", "tag": "2.0"},
            {"host": "web-1"},
            {"host": "web-1", "repository": "shop/app", "tag": "2.0"},
        )
        found = [
            [each["host"] for each in await items_of(client, "hosts/images", "ci", limit=1, **query)] for query in asked
        ]
        (whole,) = await items_of(client, "hosts/images", "ci", digest=ONE.digest)
        without = await get(client, "hosts/images", "ci", tag="2.0")

    assert found == [["web-1"], ["web-1", "web-2"], ["web-1", "web-2"], ["web-2"], ["web-1"], []]
    assert whole["image"]["digests"] == [ONE.digest, TWO.digest]
    assert without.status_code == 400


async def test_a_host_that_stopped_reporting_is_shown_as_such(data: Path) -> None:
    """One overdue report, and then all of them; a report makes it current again. Times are the server's."""
    clock = Clock(FIRST_START_US + 1)
    async with serving_as(reporting_settings(data), clock=clock) as registry:
        client = registry.client
        await send(client, report("web-1", running(APP, ONE.digest)))
        await send(client, report("web-1", kind="scrub", subject="full", every_s=7 * 86400))
        await send(client, report("web-1") | release("shop", 1, running(APP, ONE.digest)))
        states = []
        for days in (1, 1, 7):
            clock.advance(days=days)
            states.append((await get(client, "host", "boss", host="web-1")).json())
        await send(client, report("web-1", running(APP, ONE.digest)))
        states.append((await get(client, "host", "boss", host="web-1")).json())
        (image,) = [each for each in await items_of(client, "hosts/images", "ci") if each["kind"] == "ps"]

    assert [each["state"] for each in states] == ["reporting", "overdue", "stopped", "overdue"]
    assert states[0]["since"] is None
    assert states[2]["since"] < states[3]["since"]
    assert [(each["kind"], each["overdue"]) for each in states[1]["reports"]] == [
        ("deploy", False),
        ("ps", True),
        ("scrub", False),
    ]
    assert image["overdue"] is False


async def test_releases_are_listed_with_how_they_ended(data: Path) -> None:
    """The newest first, of some hosts or all. Of images and reasons a user sees what it may."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client
        await send(client, report("web-1") | release("shop", 1, running(APP, ONE.digest, service="app")))
        mixed = (running(APP, TWO.digest, service="app"), running(PRIVATE, TWO.digest, service="db"))
        await send(client, report("web-1") | release("shop", 2, *mixed, end="put-back", reason="db is unhealthy"))
        await send(client, report("web-2") | release("vault", 1, running(PRIVATE, TWO.digest)))
        every = await items_of(client, "releases", "boss", limit=1)
        mine = await items_of(client, "releases", "ci", limit=1)
        one = await items_of(client, "releases", "boss", host="web-2")

    assert [(each["host"], each["project"], each["release"]["number"]) for each in every] == [
        ("web-2", "vault", 1),
        ("web-1", "shop", 2),
        ("web-1", "shop", 1),
    ]
    assert [each["release"]["end"] for each in mine] == ["put-back", "healthy"]
    assert [len(each["images"]) for each in mine] == [1, 1]
    assert (every[1]["release"]["reason"], mine[0]["release"]["reason"]) == ("db is unhealthy", "")
    assert [each["project"] for each in one] == ["vault"]


async def test_the_list_of_overdue_tags_names_the_host_that_keeps_one(data: Path) -> None:
    """An old report counts as a new one does; a finding of a scrub does not run."""
    clock = Clock(FIRST_START_US + 1)
    settings = reporting_settings(data, rule=[{"tag": "*", "mode": "sealed", "keep": "1d"}])
    async with serving_as(settings, clock=clock) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "shop/app", "1.4.2", ONE)
        await push(client, "shop/app", "1.4.3", TWO)
        await send(client, report("web-1", running("elsewhere.example/copy:1", ONE.digest)))
        await send(client, report("web-1", running(APP, TWO.digest), kind="scrub", subject="full"))
        clock.advance(days=1000)
        listed = {each["tag"]: each["running"] for each in await items_of(client, "expire", "boss")}
        await forget(client, "web-1")
        after = [each["running"] for each in await items_of(client, "expire", "boss")]

    assert listed["1.4.3"] is None
    assert "host web-1 runs it, as reported at 20" in listed["1.4.2"]
    assert after == [None, None]


async def test_an_incomplete_report_keeps_what_was_reported_before(data: Path) -> None:
    """A report of a host that could not be read whole adds; a complete one replaces."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client

        async def digests() -> list[str]:
            return sorted(each["image"]["digests"][0] for each in await items_of(client, "hosts/images", "boss"))

        await send(client, report("web-1", running(APP, ONE.digest)))
        await send(client, report("web-1", running(APP, TWO.digest), running(APP, ONE.digest), complete=False))
        added = await digests()
        await send(client, report("web-1", complete=False))
        still = await digests()
        await send(client, report("web-1", running(APP, TWO.digest)))
        replaced = await digests()

    assert added == still == sorted([ONE.digest, TWO.digest])
    assert replaced == [TWO.digest]


async def test_a_failed_deploy_keeps_the_images_of_the_release_before(data: Path) -> None:
    """The release that runs again after a failed one stays in use."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client
        await send(client, report("web-1") | release("shop", 1, running(APP, ONE.digest)))
        await send(client, report("web-1") | release("shop", 2, running(APP, TWO.digest), end="put-back"))
        found = {each["image"]["digests"][0] for each in await items_of(client, "hosts/images", "boss")}

    assert found == {ONE.digest, TWO.digest}


async def test_only_an_operator_forgets_a_host_and_the_audit_log_has_it(data: Path) -> None:
    """A dry run changes nothing, and other users are refused."""
    async with serving_as(reporting_settings(data)) as registry:
        client = registry.client
        await send(client, report("web-1", running(APP, ONE.digest)))
        refused = await forget(client, "web-1", "ci")
        planned = await forget(client, "web-1", dry_run="true")
        before = await items_of(client, "hosts", "boss")
        done = await forget(client, "web-1")
        again = await forget(client, "web-1")
        left = [await items_of(client, name, "boss") for name in ("hosts", "hosts/images", "releases")]
        audit = await items_of(client, "audit", "boss", limit=1)

    assert refused.status_code == 403
    assert planned.json()["host"] == done.json()["host"]
    assert [each["name"] for each in before] == ["web-1"]
    assert (done.json()["dry_run"], again.status_code, left) == (False, 404, [[], [], []])
    assert [
        (each["action"], each["actor"], each["subject"]) for each in audit if each["action"].startswith("host")
    ] == [("host.forgotten", "boss", "web-1")]


@pytest.mark.parametrize("change", [{"v": 2}, {"host": "Web 1"}, {"environment": {}}, {"subject": "a\nb"}])
async def test_a_malformed_report_is_refused_and_nothing_is_stored(data: Path, change: dict[str, Any]) -> None:
    """Another version, an invalid name, an unknown key, or text that cannot be printed."""
    async with serving_as(reporting_settings(data)) as registry:
        answer = await post(registry.client, "reports", "ci", **(report("web-1") | change))
        hosts = await items_of(registry.client, "hosts", "boss")

    assert (answer.status_code, hosts) == (400, [])


async def test_a_host_reports_about_a_limited_number_of_subjects(data: Path) -> None:
    """The next new one is refused; those that are there go on."""
    async with serving_as(reporting_settings(data)) as registry:
        for number in range(DEFAULT_LIMITS.subjects):
            await send(registry.client, report("web-1", subject=f"engine-{number}"))
        answer = await post(registry.client, "reports", "ci", **report("web-1", subject="engine-more"))
        await send(registry.client, report("web-1", subject="engine-0"))

    assert (answer.status_code, "admin host forget web-1" in answer.text) == (429, True)
