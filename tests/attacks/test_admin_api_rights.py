"""Attacks on the rights of the admin API: every route with every kind of caller, compared with what the published document says.

The document names the right of each route in words. What each right means for these callers is written here once more, apart from the code
that checks it, so that a route which checks another right, or none, is found.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.server.api.admin.routes import PREFIX, RIGHTS, Right
from boltseal.server.auth.api_token_text import make_token
from tests.admin_requests import ONE, as_user, filled, post, settings_with_users
from tests.admin_routes import REQUESTS
from tests.host_documents import release, report, running
from tests.logins import bearer
from tests.serving import Serving, serving_as

PRIVATE = "other/private"


async def api_token(registry: Serving, owner: str, repository: str, *actions: str) -> dict[str, str]:
    """Return the headers of an API token of a user."""
    answer = await post(registry.client, "tokens", owner, repositories=[repository], actions=list(actions))
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["text"])


async def service_token(registry: Serving, user: str, *scopes: str) -> dict[str, str]:
    """Return the headers of a bearer token of the token service."""
    answer = await registry.client.get("/token", params={"scope": list(scopes)}, auth=as_user(user))
    return bearer(answer.json()["token"])


def basic(user: str) -> dict[str, str]:
    request = next(as_user(user).sync_auth_flow(httpx2.Request("GET", "http://localhost/")))
    return {"authorization": request.headers["authorization"]}


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with filled(data) as running:
        yield running


async def callers(registry: Serving) -> Mapping[str, dict[str, str]]:
    """Return the headers of each kind of caller."""
    everything = ("pull", "push", "delete", "admin", "report", "ledger")
    return {
        "anonymous": {},
        "nobody": basic("nobody"),
        "ci": basic("ci"),
        "lead": basic("lead"),
        "blind": basic("blind"),
        "other": basic("other"),
        "boss": basic("boss"),
        "token of boss": await api_token(registry, "boss", "**", *everything),
        "token of boss that pulls": await api_token(registry, "boss", "**", "pull"),
        "token of boss for shop": await api_token(registry, "boss", "shop/**", "pull", "push", "delete", "admin"),
        "token of boss that reports": await api_token(registry, "boss", "**", "report"),
        "token of nobody": await api_token(registry, "nobody", "**", *everything, "tokens"),
        "bearer of boss": await service_token(registry, "boss", "repository:shop/app:pull,push,delete"),
        "bearer of boss for the catalog": await service_token(registry, "boss", "registry:catalog:*"),
        "wrong token": bearer(make_token().text),
    }


REPORTS = {"boss", "token of boss", "token of boss that reports"}
OPERATES = {"boss", "token of boss"}
MANAGES_TOKENS = {"nobody", "ci", "lead", "blind", "other", "boss", "token of nobody"}
LISTS = {
    "nobody",
    "ci",
    "lead",
    "blind",
    "other",
    "boss",
    "token of boss",
    "token of boss that pulls",
    "token of boss for shop",
    "token of boss that reports",
    "token of nobody",
    "bearer of boss for the catalog",
}
LOGS_IN = LISTS | {"bearer of boss"}
PULLS = {
    "shop": {
        "ci",
        "lead",
        "boss",
        "token of boss",
        "token of boss that pulls",
        "token of boss for shop",
        "bearer of boss",
    },
    "other": {"other", "boss", "token of boss", "token of boss that pulls"},
}
ADMINISTRATES = {
    "shop": {"lead", "boss", "token of boss", "token of boss for shop"},
    "other": {"other", "boss", "token of boss"},
}


def entitled(right: Right, repository: str) -> set[str]:
    """Return who has a right, by the words of the document."""
    match right:
        case Right.LOGIN:
            return LOGS_IN
        case Right.USER:
            return MANAGES_TOKENS
        case Right.CATALOG | Right.HOSTS:
            return LISTS
        case Right.PULL:
            return PULLS[repository.partition("/")[0]]
        case Right.ADMIN:
            return ADMINISTRATES[repository.partition("/")[0]]
        case Right.OPERATOR:
            return OPERATES
        case Right.PASSWORD:
            return {"boss"}
        case Right.REPORT:
            return REPORTS


async def send(
    registry: Serving, method: str, name: str, asked: Mapping[str, Any], headers: Mapping[str, str]
) -> httpx2.Response:
    if method in ("GET", "DELETE"):
        return await registry.client.request(method, f"{PREFIX}{name}", params=asked, headers=headers)
    return await registry.client.request(method, f"{PREFIX}{name}", json=asked, headers=headers)


async def test_every_route_admits_exactly_the_callers_that_the_document_names(shop: Serving) -> None:
    """For each route and caller: an answer of the route for who has the right, and 401 or 403 for all others."""
    document = (await shop.client.get(f"{PREFIX}openapi.json")).json()
    known, wrong = await callers(shop), list[str]()
    words = {f"For {text}.": right for right, text in RIGHTS.items()}
    for (method, name), requests in REQUESTS.items():
        right = words[document["paths"][f"{PREFIX}{name}"][method.lower()]["description"]]
        asked = {**requests[0][1]}
        if right is Right.USER and "user" in asked:
            asked = {"id": "a" * 10}
        if (method, name) == ("POST", "tokens"):
            asked["life"] = "1h"  # a token creates none that lasts longer than itself
        if method != "GET" and "dry_run" not in asked and name in ("seal", "unseal", "restore", "accept"):
            asked["dry_run"] = True
        for repository in ("shop/app", PRIVATE) if "repository" in asked else ("shop/app",):
            if "repository" in asked:
                asked["repository"] = repository
            for caller, headers in known.items():
                answer = await send(shop, method, name, asked, headers)
                admitted = answer.status_code not in (401, 403)
                if admitted != (caller in entitled(right, repository)):
                    wrong.append(f"{method} {name} {repository} as {caller}: {answer.status_code} {answer.text[:200]}")

    assert wrong == []


async def test_no_answer_to_a_caller_has_a_trace_of_what_it_may_not_pull(shop: Serving) -> None:
    """Whatever a route answers, the name, tag and digest of a repository without the right to pull are not in it."""
    known, wrong = await callers(shop), list[str]()
    for (method, name), requests in REQUESTS.items():
        if method != "GET":
            continue
        for _, asked in requests:
            for caller, headers in known.items():
                if caller in PULLS["other"] | OPERATES | {"bearer of boss for the catalog"}:
                    continue
                answer = await send(shop, method, name, asked, headers)
                if b"private" in answer.content or b"other/" in answer.content:
                    wrong.append(f"{method} {name} {asked} as {caller}: {answer.text[:200]}")

    assert wrong == []


async def test_anonymous_clients_do_not_see_what_hosts_run(data: Path) -> None:
    """With `anonymous_pull` the whole internet may pull an image; which hosts run it, and who deployed it, is for users."""
    settings = settings_with_users(data)
    public = settings.auth.model_copy(update={"anonymous_pull": ("shop/**",)})
    async with serving_as(settings.model_copy(update={"auth": public})) as shop:
        image = running("registry.example/shop/app:1.4.2", ONE.digest)
        for document in (report("web-1", image), report("web-1") | release("shop", 1, image)):
            sent = await shop.client.post(f"{PREFIX}reports", json=document, headers=basic("boss"))
            assert sent.status_code == 200, sent.text
        asked: tuple[tuple[str, dict[str, str]], ...] = (
            ("hosts", {}),
            ("host", {"host": "web-1"}),
            ("hosts/images", {}),
            ("releases", {}),
        )
        anonymous = [await send(shop, "GET", name, query, {}) for name, query in asked]
        by_user = [await send(shop, "GET", name, query, basic("ci")) for name, query in asked]
        listed = await send(shop, "GET", "repositories", {}, {})

    assert [each.status_code for each in anonymous] == [401] * 4
    assert not any(b"web-1" in each.content for each in anonymous)
    assert all(b"web-1" in each.content for each in by_user)
    assert listed.status_code == 200
