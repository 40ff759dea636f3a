"""Attacks on the admin API: other repositories' content, forged cursors, huge requests, logins in URLs, foreign web pages."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2

from boltseal.server.settings import Settings
from tests.admin_requests import ONE, SECRET, as_user, filled, get, items_of, post, settings_with_users
from tests.images import push
from tests.logins import bearer
from tests.serving import Serving, serving, serving_as

READS_OF_REPOSITORIES = ("tags", "tag", "history", "observations", "rules/test", "refused")
CHANGES: dict[str, dict[str, Any]] = {
    "seal": {"tag": "1.0", "reason": "mine"},
    "unseal": {"tag": "1.0", "reason": "mine"},
    "restore": {"tag": "1.0", "to": ONE.digest, "reason": "mine"},
    "accept": {"tag": "1.0", "reason": "mine"},
    "purge": {"reference": "1.0", "reason": "mine", "dry_run": True},
}
HIDDEN = ("other/private", "private", SECRET.digest, "2.0")


def seen(answer: httpx2.Response) -> dict[str, object]:
    """Return all of an answer that a client sees, but its request's ID."""
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return {"status": answer.status_code, "headers": headers, "body": answer.content}


def query_of(name: str, repository: str) -> dict[str, str]:
    return {"repository": repository, "tag": "1.0"} if name in ("tag", "rules/test") else {"repository": repository}


async def test_a_hidden_repository_is_refused_like_one_that_does_not_exist(data: Path) -> None:
    """The answers for a repository without rights and for an unknown one differ in nothing but the name that was sent."""
    async with filled(data) as registry:
        client = registry.client
        answers = [
            (
                await get(client, name, "ci", **query_of(name, "other/private")),
                await get(client, name, "ci", **query_of(name, "other/nothing")),
                await get(client, name, None, **query_of(name, "other/private")),
            )
            for name in READS_OF_REPOSITORIES
        ]

    for hidden, unknown, anonymous in answers:
        assert (hidden.status_code, unknown.status_code, anonymous.status_code) == (403, 403, 401)
        assert hidden.content.replace(b"other/private", b"X") == unknown.content.replace(b"other/nothing", b"X")
        assert hidden.headers.keys() == unknown.headers.keys()


async def test_a_hidden_repository_is_not_changed(data: Path) -> None:
    """Neither pullers nor administrators of other repositories change one, and each learns only that the right is missing."""
    async with filled(data) as registry:
        client = registry.client
        before = await items_of(client, "tags", "boss", repository="other/private")
        answers = {
            name: [
                await post(client, name, user, repository=repository, **fields)
                for user, repository in (
                    ("lead", "other/private"),
                    ("lead", "other/nothing"),
                    ("ci", "other/private"),
                    ("nobody", "other/private"),
                    (None, "other/private"),
                )
            ]
            for name, fields in CHANGES.items()
        }
        after = await items_of(client, "tags", "boss", repository="other/private")

    for each in answers.values():
        assert [answer.status_code for answer in each] == [403, 403, 403, 403, 401]
        assert each[0].content.replace(b"other/private", b"X") == each[1].content.replace(b"other/nothing", b"X")
    assert before == after


async def test_no_other_right_replaces_that_to_administrate_and_to_pull(data: Path) -> None:
    """The right to push does not administrate. Without the right to pull an administrator sees nothing, as answers have digests."""
    async with filled(data) as registry:
        client = registry.client
        for name, more in CHANGES.items():
            fields = {**more, **({"reference": "1.4.2"} if name == "purge" else {"tag": "1.4.2"})}
            pusher = await post(client, name, "ci", repository="shop/app", **fields)
            blind = await post(client, name, "blind", repository="shop/app", if_match=f'"{SECRET.digest}"', **fields)

            assert (pusher.status_code, "may not admin in shop/app" in pusher.text) == (403, True)
            assert (blind.status_code, "may not pull" in blind.text) == (403, True)
            assert ONE.digest not in blind.text


async def test_lists_have_no_trace_of_hidden_repositories(data: Path) -> None:
    """Pages, cursors, links and entity tags are the same whether or not there are repositories that the caller may not pull."""
    shown = []
    for name, more in (("alone", 0), ("beside", 12)):
        async with serving_as(settings_with_users(data.with_name(name))) as registry:
            client = registry.client
            client.auth = as_user("boss")
            for number in range(more):
                await push(client, f"aaa/hidden{number}", "1.0", SECRET)
                await push(client, f"shop{number}", "1.0", SECRET)
            for each in ("shop/a", "shop/b", "shop/c"):
                await push(client, each, "1.0", ONE)
            client.auth = httpx2.Auth()
            first = await get(client, "repositories", "ci", limit=2)
            second = await get(client, "repositories", "ci", limit=2, cursor=first.json()["next"])
            shown.append([seen(first), seen(second)])

    assert shown[0] == shown[1]
    assert b"hidden" not in b"".join(page["body"] for page in shown[1] if isinstance(page["body"], bytes))


async def test_a_purge_names_no_copies_in_hidden_repositories(data: Path) -> None:
    """An image that a hidden repository has too is purged as if that repository did not exist."""
    fields: dict[str, Any] = {"repository": "shop/app", "reference": "1.4.2", "reason": "a key", "dry_run": True}
    async with filled(data) as registry:
        mine = await post(registry.client, "purge", "lead", **fields)
        operators = await post(registry.client, "purge", "boss", **fields)

    assert (mine.status_code, mine.json()["kept"]) == (200, [])
    assert not any(word in mine.text for word in HIDDEN)
    assert {each["repository"] for each in operators.json()["kept"]} == {"other/private"}


async def test_a_restore_shows_nothing_of_other_repositories(data: Path) -> None:
    """A restore by the number of each entry answers the same for those of hidden repositories and those that do not exist."""
    async with filled(data) as registry:
        answers = [
            await post(
                registry.client,
                "restore",
                "lead",
                repository="shop/app",
                tag="latest",
                to=str(index),
                reason="x",
                dry_run=True,
            )
            for index in range(40)
        ]

    assert {answer.status_code for answer in answers} <= {200, 400}
    refused = [answer.text.replace(f"entry {index} ", "entry N ") for index, answer in enumerate(answers)]
    assert not any(word in text for text in refused for word in ("other/", "private", "2.0"))
    assert refused[39].count("entry N does not set the digest of shop/app:latest")
    assert refused.count(refused[39]) > 3


async def test_a_forged_cursor_shows_nothing_more(data: Path) -> None:
    """A cursor at a hidden repository begins a page there, and the page has only what the caller may pull."""

    def forged(*position: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(position).encode()).rstrip(b"=").decode()

    async with filled(data) as registry:
        client = registry.client
        at_hidden = await get(client, "repositories", "ci", cursor=forged("repositories", "other/private"))
        before_all = await get(client, "repositories", "ci", cursor=forged("repositories", ""))
        of_tags = await get(client, "tags", "ci", repository="shop/app", cursor=forged("tags", "1.4.2' OR 1=1 --"))

    assert [each["name"] for each in at_hidden.json()["items"]] == ["shop/app"]
    assert [each["name"] for each in before_all.json()["items"]] == ["shop/app"]
    assert [each["name"] for each in of_tags.json()["items"]] == ["latest"]


DAMAGED_CURSORS = (
    "x",
    "%00",
    "AAAA",
    "W10",
    "WyJ0YWdzIl0",
    "WyJoaXN0b3J5IiwxXQ",
    "WyJ0YWdzIix7fV0",
    "WyJ0YWdzIiwiXHUwMDAwIl0",
    base64.urlsafe_b64encode(b'["tags",' + b"[" * 900).decode(),
    base64.urlsafe_b64encode(b'["tags","\xff"]').decode(),
    "\u0663",
    "A" * 2049,
    "W" * 14_000,
)
DAMAGED_NUMBERS = ("-1", str(2**63), "1" * 1400, "1.5", '"abc"', "[1]", "null", "true")


async def test_a_damaged_cursor_is_refused(data: Path) -> None:
    """Whatever is no cursor of this list is a 400, never the first page and never an error of the database."""
    async with filled(data) as registry:
        tags = [
            await get(registry.client, "tags", "ci", repository="shop/app", cursor=each) for each in DAMAGED_CURSORS
        ]
        history = [
            await get(
                registry.client,
                "history",
                "ci",
                repository="shop/app",
                cursor=base64.urlsafe_b64encode(f'["history",{each}]'.encode()).rstrip(b"=").decode(),
            )
            for each in DAMAGED_NUMBERS
        ]

    assert [answer.status_code for answer in tags] == [400] * len(tags)
    assert [answer.status_code for answer in history] == [400] * len(history)


async def test_a_cursor_of_operators_has_a_repository_that_can_exist(data: Path) -> None:
    """The number in the cursor of all tags is compared with keys of the database, so a larger one is a 400."""
    cursors = [
        base64.urlsafe_b64encode(f'["expire",{number},"1.0"]'.encode()).rstrip(b"=").decode()
        for number in (2**31 - 1, 2**31, 2**63 - 1)
    ]
    async with filled(data) as registry:
        answers = [await get(registry.client, "expire", "boss", cursor=cursor) for cursor in cursors]

    assert [answer.status_code for answer in answers] == [200, 400, 400]


async def test_a_limit_outside_its_range_is_refused(data: Path) -> None:
    """No page is larger than a thousand items, whatever number is sent."""
    limits = ("0", "-1", "1001", "9" * 23, "1e9", "NaN", "", "10.5", "0x10", "\u0663", " 5")
    async with filled(data) as registry:
        client = registry.client
        lists = [await get(client, "repositories", "ci", limit=limit) for limit in limits]
        tags = [await get(client, "tags", "ci", repository="shop/app", limit=limit) for limit in limits]

    assert [answer.status_code for answer in lists] == [400] * len(limits)
    assert [answer.status_code for answer in tags] == [400] * len(limits)


HOSTILE_BODIES = {
    b"[" * 100_000: 400,
    b'{"a":' * 40_000: 400,
    b'{"repository":"shop/app","tag":"latest","reason":"' + b"x" * 5000 + b'"}': 400,
    b" " * (256 * 1024) + b"{}": 413,
    b'{"repository":"shop/app","repository":"other/private","tag":"1.0","reason":"x"}': 403,
    b'{"repository":1,"tag":"latest","reason":"x"}': 400,
    b"\xff\xfe": 400,
    b"": 400,
    b"null": 400,
}


async def test_a_hostile_body_is_refused(data: Path) -> None:
    """Nested, large, doubled and foreign JSON is refused before anything is looked up, with a short message."""
    headers = {"content-type": "application/json"}
    async with filled(data) as registry:
        answers = [
            await registry.client.post("/api/v1/seal", content=body, headers=headers, auth=as_user("lead"))
            for body in HOSTILE_BODIES
        ]

    assert [answer.status_code for answer in answers] == list(HOSTILE_BODIES.values())
    assert max(len(answer.content) for answer in answers) < 1000


SENT_BY_FORMS = (
    None,
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "text/plain; a=application/json",
)


async def test_a_foreign_web_page_changes_nothing(data: Path) -> None:
    """A form or script of another site can send these content types with a browser's login, but not JSON."""
    async with filled(data) as registry:
        client = registry.client
        for name, fields in CHANGES.items():
            body = json.dumps({"repository": "other/private", **fields}).encode()
            for content_type in SENT_BY_FORMS:
                headers = {"origin": "https://evil.example"} | ({"content-type": content_type} if content_type else {})
                answer = await client.post(f"/api/v1/{name}", content=body, headers=headers, auth=as_user("boss"))

                assert (answer.status_code, "application/json" in answer.text) == (400, True)
            preflight = await client.options(f"/api/v1/{name}", headers={"origin": "https://evil.example"})

            assert preflight.status_code == 405
            assert not any(header.startswith("access-control") for header in preflight.headers)


async def test_a_login_in_the_url_is_refused_and_not_repeated(data: Path) -> None:
    """A secret in a URL reaches the logs of proxies, so it is never accepted, also beside a valid login."""
    fields = {"repository": "shop/app", "tag": "latest", "reason": "x"}
    async with filled(data) as registry:
        for parameter in ("token", "access_token", "Password", "authorization", "api_key"):
            read = await get(registry.client, "repositories", "boss", **{parameter: "pw-boss"})
            change = await registry.client.post(f"/api/v1/seal?{parameter}=pw-boss", json=fields, auth=as_user("boss"))

            assert (read.status_code, change.status_code) == (400, 400)
            assert "pw-boss" not in read.text + change.text
            assert "Authorization header" in read.text


async def test_a_token_gives_only_its_scopes(data: Path) -> None:
    """A token for one repository reads that one, and neither another nor the lists of operators, and changes nothing."""
    async with filled(data) as registry:
        client = registry.client
        params = {"scope": "repository:shop/app:pull,push,delete,admin"}
        asked = await client.get("/token", params=params, auth=as_user("boss"))
        headers = bearer(asked.json()["token"])

        async def read(name: str, **query: str) -> int:
            return (await client.get(f"/api/v1/{name}", params=query, headers=headers)).status_code

        allowed = await read("tags", repository="shop/app")
        other = await read("tags", repository="other/private")
        lists = [await read(name) for name in ("repositories", "users", "grants", "rules", "gc")]
        me = (await client.get("/api/v1/me", headers=headers)).json()
        change = await client.post(
            "/api/v1/seal", json={"repository": "shop/app", "tag": "latest", "reason": "x"}, headers=headers
        )

    assert (allowed, other, lists) == (200, 401, [401] * 5)
    assert me == {"user": "boss", "operator": False, "token": None}
    assert change.status_code == 401


async def test_a_registry_without_users_has_no_operator(registry: Serving) -> None:
    """Without users every client may read and push, and none may administrate over HTTP."""
    await push(registry.client, "shop/app", "latest", ONE)
    read = await registry.client.get("/api/v1/tags", params={"repository": "shop/app"})
    change = await registry.client.post("/api/v1/seal", json={"repository": "shop/app", "tag": "latest", "reason": "x"})
    users = await registry.client.get("/api/v1/users")

    assert (read.status_code, change.status_code, users.status_code) == (200, 401, 401)


async def test_a_page_of_a_rebound_name_reads_nothing(data: Path) -> None:
    """A registry on loopback without users refuses requests under the name of another host (DNS rebinding)."""
    async with serving(data) as registry:
        answers = [
            await registry.client.get(f"/api/v1/{name}", headers={"host": "evil.example"})
            for name in ("repositories", "me", "tags?repository=shop/app")
        ]

    assert [answer.status_code for answer in answers] == [403, 403, 403]


async def test_a_path_has_one_spelling(data: Path) -> None:
    """No escape, doubled slash or other spelling of a path is a route."""
    async with filled(data) as registry:
        client = registry.client
        statuses = {
            path: (await client.get(f"/api/v1/{path}?repository=shop/app", auth=as_user("boss"))).status_code
            for path in ("tags%2f", "%74ags", "tags/", "tags//", "TAGS", "tags;a", "openapi.json%00")
        }

    assert set(statuses.values()) == {404}, statuses


def test_operators_need_one_grant_of_everything() -> None:
    """`admin` on many repositories does not make an operator, since new repositories would not be covered."""
    tables = [{"users": ["a"], "repository": "*", "actions": ["admin"]}, {"users": ["b"], "actions": ["admin"]}]
    grants = Settings.model_validate({"auth": {"grant": tables}}).grants

    assert [grants.administers_all(user) for user in ("a", "b", "c")] == [False, True, False]
