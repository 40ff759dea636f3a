"""Attacks with reports of hosts: foreign hosts, rights beyond reports, hidden images, huge reports, cleanup that is prevented."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from boltseal.policy.host_report import MAX_IMAGES, MAX_REPORT_BYTES
from tests.admin_requests import GRANTS, ONE, SECRET, as_user, get, items_of, post
from tests.api_tokens import ROBOT, made, settings_with_tokens, with_token
from tests.host_documents import report, running
from tests.images import push
from tests.serving import serving_as

WITH_REPORT: list[dict[str, object]] = [
    *GRANTS,
    {"users": [ROBOT, "ci", "lead"], "actions": ["report"]},
    {"users": [ROBOT], "actions": ["pull", "push", "delete", "ledger", "admin"]},
]
APP = "registry.example/shop/app:1.4.2"


async def test_a_token_that_may_report_may_do_nothing_else(data: Path) -> None:
    """The owner may do everything; the token pulls, pushes, deletes, administrates, lists and reads nothing."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "shop/app", "1.4.2", ONE)
        client.auth = httpx2.Auth()
        login = with_token(await made(client, repositories=("**",), actions=("report",)))
        reported = await client.post("/api/v1/reports", json=report("web-1", running(APP, ONE.digest)), auth=login)
        refused = {
            "pull": await client.get("/v2/shop/app/manifests/1.4.2", auth=login),
            "push": await client.post("/v2/shop/app/blobs/uploads/", auth=login),
            "delete": await client.delete("/v2/shop/app/manifests/1.4.2", auth=login),
            "tags": await client.get("/api/v1/tags?repository=shop/app", auth=login),
            "seal": await client.post(
                "/api/v1/seal", json={"repository": "shop/app", "tag": "1.4.2", "reason": "x"}, auth=login
            ),
            "users": await client.get("/api/v1/users", auth=login),
            "tokens": await client.get("/api/v1/tokens", auth=login),
            "forget": await client.delete("/api/v1/host?host=web-1", auth=login),
            "entries": await client.get("/ledger/tile/entries/000", auth=login),
        }
        empty = [
            (await client.get(path, auth=login)).json()
            for path in (
                "/v2/_catalog",
                "/api/v1/repositories",
                "/api/v1/hosts",
                "/api/v1/hosts/images",
                "/api/v1/releases",
            )
        ]
        scopes = {"scope": "repository:shop/app:pull,push"}
        bearer = (await client.get("/token", params=scopes, auth=login)).json()["token"]
        pulled = await client.get("/v2/shop/app/manifests/1.4.2", headers={"authorization": f"Bearer {bearer}"})

    assert reported.status_code == 200
    assert {name: answer.status_code for name, answer in refused.items() if answer.status_code not in (403, 404)} == {}
    assert refused["entries"].status_code in (403, 404)
    assert [each.get("items", each.get("repositories")) for each in empty] == [[]] * 5
    assert pulled.status_code in (401, 403)


@pytest.mark.parametrize("user", ["other", "nobody", None])
async def test_a_report_without_the_right_is_refused(data: Path, user: str | None) -> None:
    """Neither administrators of repositories nor anonymous clients; and no token of a reporter whose scope lacks it."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        client = registry.client
        answer = await post(client, "reports", user, **report("web-1"))
        login = with_token(await made(client, repositories=("**",), actions=("pull", "admin")))
        beyond = await client.post("/api/v1/reports", json=report("web-1"), auth=login)
        hosts = await items_of(client, "hosts", "boss")

    assert answer.status_code == (401 if user is None else 403)
    assert (beyond.status_code, hosts) == (403, [])


async def test_a_bearer_token_does_not_report(data: Path) -> None:
    """The tokens of the token service are for repositories; none has the scope to report."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        client = registry.client
        answer = await client.get("/token", params={"scope": "repository:**:report"}, auth=as_user("ci"))
        token = answer.json().get("token", "")
        reported = await client.post(
            "/api/v1/reports", json=report("web-1"), headers={"authorization": f"Bearer {token}"}
        )

    assert reported.status_code in (400, 401)


async def test_a_reporter_does_not_write_a_host_of_another_login(data: Path) -> None:
    """A reporter can't make a host look healthy, or end what its report keeps; the refusal shows nothing of the report."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        client = registry.client
        await post(client, "reports", "ci", **report("web-1", running(APP, ONE.digest)))
        forged = await post(client, "reports", "lead", **report("web-1"))
        (image,) = await items_of(client, "hosts/images", "boss")
        await client.delete("/api/v1/host?host=web-1", auth=as_user("boss"))
        new = await post(client, "reports", "lead", **report("web-1"))

    assert forged.status_code == 403
    assert not any(word in forged.text for word in (ONE.digest, "shop/app", '"ci"'))
    assert image["image"]["digests"] == [ONE.digest]
    assert new.status_code == 200


async def test_what_a_host_runs_does_not_show_in_answers_to_others(data: Path) -> None:
    """Pages, counts, times, cursors and entity tags are the same with and without images that the caller may not pull."""
    shown = []
    for name, hidden in (("alone", False), ("beside", True)):
        async with serving_as(settings_with_tokens(data.with_name(name), grants=WITH_REPORT)) as registry:
            client = registry.client
            more = [running("registry.example/other/private:2.0", SECRET.digest, project="vault")] * hidden
            await post(client, "reports", "lead", **report("web-1", running(APP, ONE.digest), *more))
            if hidden:
                await post(client, "reports", "lead", **report("aaa", *more))
                await post(client, "reports", "lead", **report("web-1", *more, subject="unix:///hidden"))
            found = [await items_of(client, path, "ci") for path in ("hosts", "hosts/images", "releases")]
            by_digest = await items_of(client, "hosts/images", "ci", digest=SECRET.digest)
            shown.append(json.dumps([found, by_digest]))

    without_times = [json.loads(each) for each in shown]
    for found, _ in without_times:
        for each in found[0]:
            each["last"] = each["reports"][0]["received"] = each["reports"][0]["due"] = ""
        for each in found[1]:
            each["received"] = ""
    assert without_times[0] == without_times[1]
    assert not any(word in shown[1] for word in ("private", "vault", "hidden", "aaa", SECRET.digest))


async def test_a_huge_report_is_refused_before_it_is_parsed(data: Path) -> None:
    """More bytes than a report may have are 413, more images 400; the largest report that is allowed is stored."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        client = registry.client
        large = await client.post(
            "/api/v1/reports",
            content=b"[" * (MAX_REPORT_BYTES + 1),
            headers={"content-type": "application/json"},
            auth=as_user("ci"),
        )
        images = [running(f"registry.example/shop/app:{n}", f"sha256:{n:064}") for n in range(MAX_IMAGES + 1)]
        many = await post(client, "reports", "ci", **report("web-1", *images))
        most = await post(client, "reports", "ci", **report("web-1", *images[:-1]))
        (host,) = await items_of(client, "hosts", "boss")

    assert [large.status_code, many.status_code, most.status_code] == [413, 400, 200]
    assert (host["login"], host["reports"][0]["images"]) == ("ci", MAX_IMAGES)


async def test_a_report_is_not_taken_from_a_web_page(data: Path) -> None:
    """A page of another site can send text, but no JSON, without asking first."""
    async with serving_as(settings_with_tokens(data, grants=WITH_REPORT)) as registry:
        answer = await registry.client.post(
            "/api/v1/reports",
            content=json.dumps(report("web-1")).encode(),
            headers={"content-type": "text/plain"},
            auth=as_user("ci"),
        )
        me = await get(registry.client, "hosts", "boss")

    assert (answer.status_code, me.json()["items"]) == (400, [])
