"""`/api/v1/users`: an operator adds, changes and removes users, and the audit log names who did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from boltseal.server.storage.users import UserFile
from tests.admin_requests import as_user, filled, get, items_of, post, settings_with_users
from tests.serving import serving_as

FIRST, SECOND, NONE = "correct horse", "battery staple", ""


async def remove(client: httpx2.AsyncClient, user: str | None, name: str, **query: str) -> httpx2.Response:
    """Send the removal of a user."""
    auth = httpx2.Auth() if user is None else as_user(user)
    return await client.delete("/api/v1/users", params={"name": name, **query}, auth=auth)


async def audited(client: httpx2.AsyncClient) -> list[tuple[str, str, str]]:
    """Return the changes of users over the API that the audit log has, the newest first."""
    records = await items_of(client, "audit", "boss")
    return [(each["actor"], each["action"], each["subject"]) for each in records if each["actor"] == "boss"]


async def test_a_user_who_was_added_logs_in_at_once_and_a_removed_one_does_not(data: Path) -> None:
    """The next request with the new, changed or removed login is decided by the change."""
    async with filled(data) as registry:
        client = registry.client
        login = httpx2.BasicAuth("new", FIRST)
        before = await client.get("/api/v1/me", auth=login)
        added = await post(client, "users", "boss", name="new", password=FIRST)
        during = await client.get("/api/v1/me", auth=login)
        changed = await post(client, "users", "boss", name="new", password=SECOND)
        former = await client.get("/api/v1/me", auth=login)
        present = await client.get("/api/v1/me", auth=httpx2.BasicAuth("new", SECOND))
        removed = await remove(client, "boss", "new")
        after = await client.get("/api/v1/me", auth=httpx2.BasicAuth("new", SECOND))
        records = await audited(client)

    assert (before.status_code, during.status_code, former.status_code) == (401, 200, 401)
    assert (present.status_code, after.status_code) == (200, 401)
    assert added.json() == {"name": "new", "change": "added", "dry_run": False}
    assert (changed.json()["change"], removed.json()["change"]) == ("changed", "removed")
    assert records == [
        ("boss", "user.removed", "new"),
        ("boss", "user.changed", "new"),
        ("boss", "user.added", "new"),
    ]


async def test_users_are_listed_with_their_kinds(data: Path) -> None:
    """A service account is listed as such; adding it again changes nothing."""
    async with filled(data) as registry:
        client = registry.client
        answers = [await post(client, "users", "boss", name="robot", service=True) for _ in range(2)]
        users = await items_of(client, "users", "boss", limit=2)
        gone = await remove(client, "boss", "robot")

    assert [answer.json()["change"] for answer in answers] == ["added", "unchanged"]
    assert {each["name"]: each["kind"] for each in users} == {
        **dict.fromkeys(("blind", "boss", "ci", "lead", "nobody", "other"), "user"),
        "robot": "service",
    }
    assert gone.status_code == 200


async def test_a_dry_run_changes_no_user(data: Path) -> None:
    """A dry run returns what would be done, or the refusal, and neither users nor audit log change."""
    async with filled(data) as registry:
        client = registry.client
        answers = [
            await post(client, "users", "boss", name="new", password=FIRST, dry_run=True),
            await post(client, "users", "boss", name="ci", password=FIRST, dry_run=True),
            await post(client, "users", "boss", name="robot", service=True, dry_run=True),
            await remove(client, "boss", "ci", dry_run="true"),
        ]
        refused = await remove(client, "boss", "new", dry_run="true")
        still = await client.get("/api/v1/me", auth=as_user("ci"))
        users = await items_of(client, "users", "boss")
        records = await audited(client)

    assert [answer.json()["change"] for answer in answers] == ["added", "changed", "added", "removed"]
    assert all(answer.json()["dry_run"] for answer in answers)
    assert (refused.status_code, still.status_code, records) == (404, 200, [])
    assert {each["name"] for each in users} == {"blind", "boss", "ci", "lead", "nobody", "other"}


async def test_only_operators_change_users(data: Path) -> None:
    """Administrators of some repositories, other users and anonymous clients are refused, whether or not the user exists."""
    async with filled(data) as registry:
        client = registry.client
        callers = ("lead", "ci", "blind", "other", "nobody", None)
        refused = [
            [await get(client, "users", each) for each in callers],
            [await post(client, "users", each, name="ci", password=FIRST) for each in callers],
            [await post(client, "users", each, name="new", service=True) for each in callers],
            [await remove(client, each, "ci") for each in callers],
            [await remove(client, each, "not-there") for each in callers],
        ]
        records = await audited(client)

    for answers in refused:
        assert [answer.status_code for answer in answers] == [403] * 5 + [401]
    assert [each.text for each in refused[3]] == [each.text for each in refused[4]]
    assert records == []


async def test_an_api_token_changes_no_users(data: Path) -> None:
    """With a token of an operator an attacker could set the operator's password, and so escape the token's scope and life."""
    async with filled(data) as registry:
        client = registry.client
        fields: dict[str, Any] = {"repositories": ["**"], "actions": ["pull", "admin", "tokens"]}
        token = (await post(client, "tokens", "boss", **fields)).json()["text"]
        headers = {"authorization": f"Bearer {token}"}
        changed = await client.post(
            "/api/v1/users", json={"name": "boss", "password": "attacker"}, headers=headers, auth=httpx2.Auth()
        )
        removed = await client.delete("/api/v1/users", params={"name": "ci"}, headers=headers, auth=httpx2.Auth())
        listed = await client.get("/api/v1/users", headers=headers, auth=httpx2.Auth())
        still = await client.get("/api/v1/me", auth=as_user("boss"))

    assert (changed.status_code, removed.status_code) == (403, 403)
    assert "log in with user and password" in changed.json()["errors"][0]["message"]
    assert (listed.status_code, still.status_code) == (200, 200)


async def test_names_and_passwords_that_no_user_can_have_are_refused(data: Path) -> None:
    """The refusal names what is wrong, and has nothing of the password."""
    async with filled(data) as registry:
        client = registry.client
        answers = [
            await post(client, "users", "boss", name="a b", password=FIRST),
            await post(client, "users", "boss", name="anonymous", password=FIRST),
            await post(client, "users", "boss", name="new", password=NONE),
            await post(client, "users", "boss", name="new", password="x" * 73),
            await post(client, "users", "boss", name="new", password=FIRST, service=True),
            await post(client, "users", "boss", name="new", password=[FIRST]),
            await post(client, "users", "boss", name="new"),
        ]
        in_url = await remove(client, "boss", "new", password=FIRST)

    for answer in [*answers, in_url]:
        assert (answer.status_code, answer.json()["errors"][0]["detail"]["reason"]) == (400, "invalid")
        assert FIRST not in answer.text
        assert "xxx" not in answer.text


async def test_users_of_a_file_are_left_to_the_file(data: Path) -> None:
    """Each server has a users' file of its own, so a change through one of them is refused."""
    settings = settings_with_users(data)
    UserFile(settings.htpasswd).put("filed", b"$2b$04$GLeUIRv/93MsV7cD/UevQuICqlINx5xljyKKbrJ3AP9.NipMSTi.i")
    async with serving_as(settings) as registry:
        client = registry.client
        changed = await post(client, "users", "boss", name="filed", password=FIRST)
        service = await post(client, "users", "boss", name="filed", service=True)
        removed = await remove(client, "boss", "filed")
        users = await items_of(client, "users", "boss")

    for answer in (changed, service, removed):
        assert (answer.status_code, "in the users' file" in answer.text) == (400, True)
    assert {"name": "filed", "kind": "user"} in users
