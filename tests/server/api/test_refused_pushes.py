"""Refused pushes as the admin API lists them: who tried to overwrite what, from where, and who may see that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.ledger.entry import format_time
from tests.admin_requests import ONE, SECRET, TWO, as_user, filled, get, items_of, settings_with_users
from tests.fakes.issuer import running_issuer
from tests.images import image, put
from tests.logins import with_users
from tests.polling import until_answer
from tests.serving import FIRST_START_US, Clock, Serving, serving_as

OTHER = image("another")


async def refuse(
    client: httpx2.AsyncClient, user: str, repository: str, reference: str, **more: Any
) -> httpx2.Response:
    """Push a manifest as a user, which must be refused."""
    answer = await client.put(
        f"/v2/{repository}/manifests/{reference}",
        content=TWO.raw,
        headers={"Content-Type": TWO.media_type, **more},
        auth=as_user(user),
    )
    assert answer.status_code in (403, 409, 412), answer.text
    return answer


async def recorded(client: httpx2.AsyncClient, number: int, user: str = "boss") -> list[dict[str, Any]]:
    """Return all rows of refused pushes, once so many pushes are counted."""

    async def read() -> list[dict[str, Any]]:
        found = await items_of(client, "refused/all", user)
        return found if sum(row["times"] for row in found) == number else []

    return await until_answer(read, f"{number} refused pushes are recorded")


async def test_a_refused_push_is_listed_with_both_digests_and_the_free_tag(data: Path) -> None:
    """The row says what the refusal states: reason, digests, free tag; and who pushed from where, how often."""
    async with filled(data) as registry:
        client = registry.client
        answers = [await refuse(client, "ci", "shop/app", "1.4.2") for _ in range(3)]
        (row,) = await recorded(client, 3)
        of_tag = await items_of(client, "refused", "lead", repository="shop/app", tag="1.4.2")
        of_other_tag = await items_of(client, "refused", "lead", repository="shop/app", tag="latest")
        detail = answers[0].json()["errors"][0]["detail"]

    assert {answer.status_code for answer in answers} == {409}
    assert (row["repository"], row["tag"], row["reason"]) == ("shop/app", "1.4.2", detail["reason"])
    assert (row["pushed"], row["digest"]) == (detail["pushed"], detail["digest"]) == (TWO.digest, ONE.digest)
    assert (row["by"], row["address"], row["free"]) == ("ci", "127.0.0.1", detail["free"])
    assert row["times"] == 3
    assert row["first"] <= row["last"]
    assert [of_tag, of_other_tag] == [[row], []]


async def test_refusals_for_lack_of_a_right_and_by_a_condition_are_listed(data: Path) -> None:
    """Before its body is read a push has no digest; what the tag resolves to is looked up."""
    async with filled(data) as registry:
        client = registry.client
        await refuse(client, "other", "shop/app", "latest")
        await refuse(client, "other", "shop/app", TWO.digest)
        await refuse(client, "ci", "shop/app", "latest", **{"If-None-Match": "*"})
        rows = {(row["reason"], row["tag"]): row for row in await recorded(client, 3)}

    denied, by_digest = rows["denied", "latest"], rows["denied", None]
    assert (denied["by"], denied["pushed"], denied["digest"]) == ("other", None, TWO.digest)
    assert (by_digest["pushed"], by_digest["digest"]) == (TWO.digest, None)
    assert (rows["precondition", "latest"]["pushed"], rows["precondition", "latest"]["digest"]) == (TWO.digest,) * 2


async def test_what_a_client_did_wrong_and_missing_logins_are_not_listed(data: Path) -> None:
    """A malformed manifest, an unknown blob, a wrong password and an accepted push add no row."""
    async with filled(data) as registry:
        client = registry.client
        client.auth = as_user("ci")
        statuses = [
            (await put(client, "shop/app", "1.4.2", ONE)).status_code,
            (await put(client, "shop/app", "9.9", image("not pushed"))).status_code,
            (await client.put("/v2/shop/app/manifests/1.4.2", content=b"{")).status_code,
            (await client.put("/v2/shop/app/manifests/1.4.2", content=TWO.raw, auth=("ci", "wrong"))).status_code,
            (await client.put("/v2/shop/app/manifests/1.4.2", content=TWO.raw, auth=httpx2.Auth())).status_code,
        ]
        await refuse(client, "ci", "shop/app", "1.4.2")
        rows = await recorded(client, 1)

    assert statuses == [201, 400, 400, 401, 401]
    assert rows[0]["reason"] == "sealed"


async def test_a_caller_sees_only_what_it_may_pull_and_addresses_only_as_administrator(data: Path) -> None:
    """Lists, pages and entity tags have nothing of a hidden repository; clients' addresses are for its administrators."""
    async with filled(data) as registry:
        client = registry.client
        await refuse(client, "ci", "shop/app", "1.4.2")
        before = await get(client, "refused/all", "ci", limit=1)
        await recorded(client, 1)
        shown = await get(client, "refused/all", "ci", limit=1)
        await refuse(client, "other", "other/private", "2.0")
        await recorded(client, 2)
        after = await get(client, "refused/all", "ci", limit=1)
        again = await client.get(
            "/api/v1/refused/all",
            params={"limit": 1},
            auth=as_user("ci"),
            headers={"if-none-match": after.headers["etag"]},
        )
        of_lead = await items_of(client, "refused/all", "lead")
        of_other = await items_of(client, "refused/all", "other")
        without_rights = await items_of(client, "refused/all", "nobody")
        hidden = [
            (await get(client, "refused", user, repository="other/private")).status_code for user in ("ci", "blind")
        ]
        anonymous = (await get(client, "refused/all")).status_code

    assert before.status_code == 200
    assert (shown.content, shown.headers["etag"]) == (after.content, after.headers["etag"])
    assert b"private" not in after.content
    assert again.status_code == 304
    assert [row["address"] for row in shown.json()["items"]] == [None]
    assert [(row["repository"], row["address"]) for row in of_lead] == [("shop/app", "127.0.0.1")]
    assert [(row["repository"], row["digest"]) for row in of_other] == [("other/private", SECRET.digest)]
    assert without_rights == []
    assert (hidden, anonymous) == ([403, 403], 401)


async def test_the_list_begins_at_a_time_and_goes_on_in_pages(data: Path) -> None:
    """`since` leaves out what was refused last before it; an invalid one is refused."""
    clock = Clock(FIRST_START_US + 1)
    settings = settings_with_users(data)
    async with serving_as(settings, clock=clock) as registry:
        client = registry.client
        for number in range(3):
            clock.advance(hours=1)
            await refuse(client, "other", "shop/app", f"t{number}")
        since = format_time(clock.now_us - 3_600_000_000)
        await recorded(client, 3)
        paged = await items_of(client, "refused", "boss", repository="shop/app", limit=1)
        newer = await items_of(client, "refused/all", "boss", since=since, limit=1)
        invalid = await get(client, "refused/all", "boss", since="yesterday")
        foreign = await get(client, "refused", "boss", repository="shop/app", cursor="WyJ0YWdzIiwiMSJd")

    assert [row["tag"] for row in paged] == ["t2", "t1", "t0"]
    assert [row["tag"] for row in newer] == ["t2", "t1"]
    assert (invalid.status_code, foreign.status_code) == (400, 400)


async def test_a_refused_pipeline_is_listed_with_its_claims(data: Path) -> None:
    """A pipeline that pushes another tag than its git tag is named with repository, commit and run."""
    with running_issuer() as issuer:
        async with serving_as(with_users(data, issuer=[issuer.table()])) as registry:
            client: httpx2.AsyncClient = registry.client
            client.auth = httpx2.BasicAuth("oidc", issuer.token())
            answer = await put(client, "acme/shop", "6.6.6", ONE)
            client.auth = httpx2.Auth()
            (row,) = await listed_by_pipeline(registry, issuer.token())

    assert (answer.status_code, answer.json()["errors"][0]["detail"]) == (403, {"reason": "denied", "tag": "6.6.6"})
    assert (row["tag"], row["reason"], row["address"]) == ("6.6.6", "denied", None)
    assert row["by"] == "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2"
    assert (row["extra"]["ci.repository"], row["extra"]["ci.run"]) == ("acme/shop", "8213")


async def listed_by_pipeline(registry: Serving, token: str) -> list[dict[str, Any]]:
    """Return what a pipeline sees of refused pushes, once there is something."""

    async def read() -> list[dict[str, Any]]:
        answer = await registry.client.get("/api/v1/refused/all", auth=httpx2.BasicAuth("oidc", token))
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    return await until_answer(read, "a refused push is recorded")


@pytest.mark.parametrize("user", ["ci", "boss"])
async def test_a_push_to_a_mirrored_name_is_listed_with_its_user(data: Path, user: str) -> None:
    """The name is refused before the login is looked at, and the row has the user all the same."""
    upstream = [{"name": "docker.io", "url": "http://127.0.0.1:9"}]
    async with serving_as(settings_with_users(data, upstream=upstream)) as registry:
        answer = await refuse(registry.client, user, "docker.io/library/node", "16")
        (row,) = await recorded(registry.client, 1)

    assert answer.json()["errors"][0]["detail"]["reason"] == row["reason"] == "mirror"
    assert (row["repository"], row["tag"], row["by"]) == ("docker.io/library/node", "16", user)


async def test_what_was_refused_last_is_recorded_when_the_server_stops(data: Path) -> None:
    """A server that is stopped writes what still waits, and a later one lists it."""
    async with filled(data) as registry:
        await refuse(registry.client, "ci", "shop/app", "1.4.2")
    async with serving_as(settings_with_users(data)) as registry:
        rows = await items_of(registry.client, "refused/all", "boss")

    assert [row["tag"] for row in rows] == ["1.4.2"]
