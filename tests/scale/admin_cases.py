"""The requests of an operator whose work is measured at several sizes: every route of the admin API, and pages that need a login."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tests.host_documents import report, running
from tests.images import digest_of
from tests.scale.big_store import session_id
from tests.scale.route_cases import Case, Target, get, pages


def admin_list(name: str, query: str = "") -> Case:
    """Return a case that reads a page of a list of the admin API, in the middle where it has a position."""
    return get(f"admin: {name}{query}", f"/api/v1/{name}", f"/api/v1/{name}{query}")


def admin_pages(name: str, query: str) -> Case:
    """Return a case that reads a whole list of the admin API page by page."""
    return pages(f"admin: {name}{query}", f"/api/v1/{name}", f"/api/v1/{name}{query}")


def change(name: str, fields: Mapping[str, object], *expected: int) -> Case:
    """Return a case of a change by the admin API. `{number}` in a field is a new number, `{middle}` one of the middle."""

    async def act(target: Target) -> None:
        number = next(target.numbers) % target.size
        body = {
            key: text.format(number=f"{number:06}", middle=target.middle) if isinstance(text, str) else text
            for key, text in fields.items()
        }
        await target.send("POST", f"/api/v1/{name}", *expected, json=body)

    shown = ", ".join(str(value) for key, value in fields.items() if key != "reason")
    return Case(f"admin: {name} {shown}", "POST", f"/api/v1/{name}", act)


async def plan_rules(target: Target) -> None:
    """Read a whole plan of other rules page by page."""
    cursor: str | None = ""
    while cursor is not None:
        rules = [{"repository": "many/sealed", "mode": "floating"}]
        answer = await target.send("POST", "/api/v1/rules/plan", 200, json={"rules": rules, "cursor": cursor})
        cursor = answer.json()["next"]


async def plan_token(target: Target) -> None:
    """Return the API token that would be created."""
    body = {"repositories": ["many/**"], "actions": ["pull"], "dry_run": True}
    await target.send("POST", "/api/v1/tokens", 200, json=body)


async def create_token(target: Target) -> None:
    """Create an API token, by a request that works once, and revoke it."""
    body = {"repositories": ["many/**"], "actions": ["pull"], "once": f"request {next(target.numbers)}"}
    made = (await target.send("POST", "/api/v1/tokens", 200, json=body)).json()["token"]["id"]
    await target.send("DELETE", f"/api/v1/tokens?id={made}", 200)


async def add_service(target: Target) -> None:
    """Add a service account and remove it."""
    await target.send("POST", "/api/v1/users", 200, json={"name": "robot", "service": True})
    await target.send("DELETE", "/api/v1/users?name=robot", 200)


async def plan_removal(target: Target) -> None:
    """Return the user that would be removed."""
    await target.send("DELETE", "/api/v1/users?name=boss&dry_run=true", 200)


async def plan_revocation(target: Target) -> None:
    """Return the tokens of the operator that would be revoked."""
    await target.send("DELETE", "/api/v1/tokens?user=boss&dry_run=true", 200, 403)


async def plan_ending(target: Target) -> None:
    """Return the session of a pipeline that would be revoked."""
    await target.send("DELETE", f"/api/v1/sessions?id={session_id(0)}&dry_run=true", 200)


async def plan_forgetting(target: Target) -> None:
    """Return the host that would be forgotten."""
    await target.send("DELETE", "/api/v1/host?host=web-1&dry_run=true", 200)


def page(name: str, path: str) -> Case:
    """Return a case of a page as an operator sees it, who logs in with the first of them."""

    async def act(target: Target) -> None:
        if not any("session" in cookie for cookie in target.client.cookies):
            await log_in(target)
        await target.send("GET", path, 200)

    return Case(f"page: {name}", "GET", path.partition("?")[0], act)


async def log_in(target: Target) -> None:
    """Fill in the login form as the operator does."""
    form = (await target.send("GET", "/ui/login", 200)).text
    fields = {"form_token": re.findall(r'name="form_token" value="([^"]+)"', form)[0], "user": "boss"}
    own = {"origin": str(target.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    await target.send("POST", "/ui/login", 303, data={**fields, "password": "pw-boss"}, headers=own)


_WHY: Final = {"reason": "measured"}
ADMIN_CASES: Final[Sequence[Case]] = [
    admin_list("openapi.json"),
    admin_list("me"),
    admin_list("repositories"),
    admin_pages("repositories", "?limit=100"),
    admin_list("tags", "?repository=many/tags"),
    admin_pages("tags", "?repository=many/tags&limit=100"),
    admin_list("tag", "?repository=many/sealed&tag=1.000100"),
    admin_list("history", "?repository=many/moves&tag=latest"),
    admin_list("history", "?repository=r/000100"),
    admin_pages("history", "?repository=many/moves&tag=latest&limit=100"),
    admin_pages("history", "?repository=many/tags&limit=100"),
    get("admin: observations", "/api/v1/observations", "/api/v1/observations?repository=many/tags", 404),
    admin_list("rules/test", "?repository=many/tags&tag=1.000100"),
    admin_list("ledger"),
    admin_list("rules"),
    admin_list("users"),
    admin_list("grants"),
    admin_list("upstreams"),
    admin_list("held"),
    admin_list("rebuilds"),
    admin_list("gc"),
    change("gc", {"dry_run": True}, 200),
    change("gc", {}, 200),
    admin_list("tokens"),
    admin_list("tokens", "?all=true"),
    admin_list("audit"),
    admin_list("refused", "?repository=many/sealed"),
    admin_pages("refused", "?repository=many/sealed&limit=100"),
    admin_list("refused/all"),
    admin_pages("refused/all", "?limit=100"),
    admin_list("sessions"),
    admin_pages("sessions", "?limit=100"),
    Case("admin: sessions, plan", "DELETE", "/api/v1/sessions", plan_ending),
    Case("admin: tokens, plan of a new one", "POST", "/api/v1/tokens", plan_token),
    Case("admin: tokens, create and revoke", "POST", "/api/v1/tokens", create_token),
    Case("admin: users, add and remove", "POST", "/api/v1/users", add_service),
    Case("admin: users, plan", "DELETE", "/api/v1/users", plan_removal),
    Case("admin: tokens, plan", "DELETE", "/api/v1/tokens", plan_revocation),
    change("reports", report("web-1", *(running("app:1", digest_of(b"%d" % n)) for n in range(100))), 200),
    admin_list("hosts"),
    admin_list("host", "?host=web-1"),
    admin_list("hosts/images", "?host=web-1"),
    admin_list("releases"),
    get("page: login", "/ui/", "/ui/login"),
    page("hosts", "/ui/hosts"),
    page("a host", "/ui/host?host=web-1"),
    page("upstreams", "/ui/upstreams"),
    page("tokens", "/ui/tokens"),
    page("tokens of all users", "/ui/tokens?all=yes"),
    page("the form of a token", "/ui/create-token"),
    page("the form that revokes a token", "/ui/revoke-token?id=aaaaaaaaaa"),
    Case("admin: host, plan", "DELETE", "/api/v1/host", plan_forgetting),
    admin_list("expire"),
    admin_pages("expire", "?limit=1000"),
    change("expire", {"dry_run": True}, 200),
    change("expire", {"limit": 1}, 200),
    Case("admin: rules/plan, every page", "POST", "/api/v1/rules/plan", plan_rules, runs=1),
    change("seal", {"repository": "many/mutable", "tag": "edge-{middle}", "dry_run": True, **_WHY}, 200),
    change("seal", {"repository": "many/mutable", "tag": "edge-{number}", **_WHY}, 200),
    change("unseal", {"repository": "many/sealed", "tag": "1.{number}", **_WHY}, 200),
    change("restore", {"repository": "many/moves", "tag": "latest", "to": "1", **_WHY}, 400),
    change("restore", {"repository": "many/moves", "tag": "latest", "to": "2026-01-01", **_WHY}, 200, 404),
    change("accept", {"repository": "many/tags", "tag": "1.{middle}"}, 404),
    change("purge", {"repository": "many/sealed", "reference": "1.{middle}", "dry_run": True, **_WHY}, 200),
    change("purge", {"repository": "many/tags", "reference": "1.{middle}", "dry_run": True, **_WHY}, 200),
    change("purge", {"repository": "many/tags", "reference": "1.{middle}", "plan": "another", **_WHY}, 412),
]
"""The cases of the admin API, sent by an operator to a registry with users."""
