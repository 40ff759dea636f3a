"""Logins to pages with the password, sessions, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.server.auth.logins import hash_password
from boltseal.server.commands.users import put_user, remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import audit_table, session_table
from boltseal.server.store_factory import open_store
from tests.logins import login, with_users
from tests.page_logins import Browser
from tests.serving import Clock, Serving, serving, serving_as
from tests.storage_choice import with_storage

START_US = 1_900_000_000_000_000


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with serving_as(with_users(data)) as running:
        yield running


async def test_a_login_shows_the_account(shop: Serving) -> None:
    """The account page says who is logged in, and lists the session."""
    browser = Browser(shop)
    answer = await browser.login("ci", "pw-ci")
    page = await browser.get("/ui/account")

    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    assert "<bdi>ci</bdi>" in page.text
    assert "(this one)" in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


async def test_a_page_without_login_redirects_to_the_form(shop: Serving) -> None:
    """A page that needs a session sends the browser to the form."""
    answer = await Browser(shop).get("/ui/account")

    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")


async def test_the_page_that_was_asked_for_follows_the_login(shop: Serving) -> None:
    """A return address below /ui/ is where the browser goes after the login."""
    answer = await Browser(shop).login("ci", "pw-ci", return_to="/ui/account?from=mail")

    assert answer.headers["location"] == "/ui/account?from=mail"


async def test_a_wrong_password_shows_the_form_again(shop: Serving) -> None:
    """No session begins, and the message does not say whether the user exists."""
    browser = Browser(shop)
    wrong, unknown = await browser.login("ci", "wrong"), await browser.login("nobody", "wrong")

    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert 'role="alert" class="message">wrong user or password' in wrong.text
    assert browser.cookie() == ""
    assert "www-authenticate" not in wrong.headers


async def test_failed_logins_are_limited_together_with_those_of_clients(shop: Serving) -> None:
    """Five failures at the form and at the token service: the next login of either has to wait."""
    browser = Browser(shop)
    for _ in range(3):
        await browser.login("ci", "wrong")
    for _ in range(2):
        await shop.client.get("/token", auth=login("ci", "wrong"))
    on_page, by_client = await browser.login("boss", "pw-boss"), await shop.client.get("/token", auth=login("boss"))

    assert (on_page.status_code, by_client.status_code) == (429, 429)
    assert "too many failed logins" in on_page.text
    assert "retry-after" in on_page.headers


async def test_an_api_token_is_no_password_of_a_page(shop: Serving) -> None:
    """Tokens are for programs: with one there is no session, which would outlive the token's limits."""
    created = await shop.client.post(
        "/api/v1/tokens", json={"repositories": ["**"], "actions": ["pull"]}, auth=login("ci")
    )
    browser = Browser(shop)
    text = next(value for value in created.json().values() if str(value).startswith("boltseal_"))
    answer = await browser.login("ci", text)

    assert answer.status_code == 401
    assert "API tokens are for programs" in answer.text


async def test_logout_ends_the_session_at_once(shop: Serving) -> None:
    """The cookie is worth nothing afterwards, also where it was copied."""
    browser = Browser(shop)
    await browser.login("ci", "pw-ci")
    cookie, token = browser.cookie(), await browser.form_token("/ui/account")
    answer = await browser.post("/ui/logout", {"form_token": token})
    browser.http.cookies.set("boltseal-session", cookie)

    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (await browser.get("/ui/account")).status_code == 303


async def test_logout_everywhere_ends_all_sessions_of_the_user_at_all_servers(data: Path) -> None:
    """Two servers on one database: a session of the other one ends, that of another user does not."""
    settings = with_users(data)
    async with serving_as(settings) as one, serving_as(settings) as two:
        here, there, other = Browser(one), Browser(two), Browser(two)
        await here.login("ci", "pw-ci")
        await there.login("ci", "pw-ci")
        await other.login("boss", "pw-boss")
        page = await there.get("/ui/account")
        await here.post("/ui/logout-everywhere", {"form_token": await here.form_token("/ui/account")})

        assert page.text.count("<tr>") == 3
        assert (await there.get("/ui/account")).status_code == 303
        assert (await here.get("/ui/account")).status_code == 303
        assert (await other.get("/ui/account")).status_code == 200


async def test_sessions_end_by_age_and_by_idleness(data: Path) -> None:
    """After an hour without a request, and after twelve hours with requests, a login is needed again."""
    clock = Clock(START_US)
    async with serving_as(with_users(data), clock=clock) as shop:
        idle, busy = Browser(shop), Browser(shop)
        await idle.login("ci", "pw-ci")
        await busy.login("ci", "pw-ci")
        alive = []
        for _ in range(24):
            clock.advance(seconds=1795)
            alive.append((await busy.get("/ui/account")).status_code)
        clock.advance(seconds=125)

        assert set(alive) == {200}
        assert (await busy.get("/ui/account")).status_code == 303
        assert (await idle.get("/ui/account")).status_code == 303


async def test_a_session_ends_with_its_user_and_with_the_password(data: Path) -> None:
    """A removed user, and one with another password, has to log in again."""
    settings = with_users(data)
    async with serving_as(settings) as shop:
        removed, changed = Browser(shop), Browser(shop)
        await removed.login("other", "pw-other")
        await changed.login("ci", "pw-ci")
        await asyncio.to_thread(remove_user, settings, "other")
        await asyncio.to_thread(put_user, settings, "ci", hash_password("another"))

        assert (await removed.get("/ui/account")).status_code == 303
        assert (await changed.get("/ui/account")).status_code == 303


async def test_a_login_counts_for_the_api_tokens_of_its_user(data: Path) -> None:
    """A person's token that had stopped works again after a login on the page."""
    clock = Clock(START_US)
    async with serving_as(with_users(data), clock=clock) as shop:
        asked = {"repositories": ["shop/**"], "actions": ["pull"], "life": "90d"}
        created = (await shop.client.post("/api/v1/tokens", json=asked, auth=login("ci"))).json()
        text = next(value for value in created.values() if str(value).startswith("boltseal_"))
        clock.advance(days=31)
        over = await shop.client.get("/token", auth=login("ci", text))
        await Browser(shop).login("ci", "pw-ci")
        again = await shop.client.get("/token", auth=login("ci", text))

        assert (over.status_code, again.status_code) == (401, 200)


async def test_logins_and_logouts_are_in_the_audit_log(data: Path) -> None:
    """With name and address, and without what an unknown user typed."""
    settings = with_users(data)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        await browser.login("hunter2-is-my-password", "oops")
        await browser.login("ci", "wrong")
        await browser.login("ci", "pw-ci")
        await browser.post("/ui/logout", {"form_token": await browser.form_token("/ui/account")})
    with open_store(settings) as store:
        events = store.database.read_and_wait(lambda snapshot: audit_table.before(snapshot, 10_000, 100))
    found = [(each.actor, each.action, each.subject, each.detail) for each in reversed(events)]

    assert found[-4:] == [
        ("anonymous", "login.failed", "unknown user", "wrong user or password; from 127.0.0.1"),
        ("anonymous", "login.failed", "ci", "wrong user or password; from 127.0.0.1"),
        ("ci", "login", "ci", "password; from 127.0.0.1"),
        ("ci", "logout", "ci", "from 127.0.0.1"),
    ]


async def test_the_database_has_no_cookie(data: Path) -> None:
    """Only its hash: a copy of the database is no login."""
    settings = with_users(data)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        await browser.login("ci", "pw-ci")
    with open_store(settings) as store:
        (row,) = store.database.read_and_wait(lambda snapshot: session_table.of_owner(snapshot, "ci"))

    assert browser.cookie() not in "".join(map(str, row))


async def test_a_registry_without_users_says_so(data: Path) -> None:
    """On loopback without users there is no user to log in, and the pages say that."""
    async with serving(data) as shop:
        browser = Browser(shop)
        form, account = await browser.get("/ui/login"), await browser.get("/ui/account")

    assert "has no users" in form.text
    assert "has no users" in account.text


@pytest.mark.parametrize(
    ("server", "enabled", "status"),
    [
        ({"listen": "0.0.0.0:5000", "allow_anonymous": True, "behind_proxy": True}, None, 404),
        ({"listen": "0.0.0.0:5000", "behind_proxy": True}, None, 200),
        ({}, False, 404),
        ({"listen": "0.0.0.0:5000", "allow_anonymous": True, "behind_proxy": True}, True, 200),
    ],
)
async def test_pages_are_served_where_it_is_safe(
    data: Path, server: dict[str, object], enabled: bool | None, status: int
) -> None:
    """On loopback, and elsewhere while callers must log in; a setting decides otherwise."""
    ui = {} if enabled is None else {"enabled": enabled}
    settings = with_storage(Settings.model_validate({"server": {"data": data, **server}, "ui": ui}))
    async with serving_as(settings) as shop:
        answer = await Browser(shop).get("/ui/login")

    assert answer.status_code == status


async def test_pages_answer_as_http_demands(shop: Serving) -> None:
    """Unknown pages are 404, other methods 405 with Allow, HEAD is GET without the body; the stylesheet is ours."""
    browser = Browser(shop)
    unknown, method = await browser.get("/ui/nothing"), await browser.http.delete("/ui/login")
    head, css = await browser.http.head("/ui/login"), await browser.get("/ui/static/pages.css")

    assert (unknown.status_code, method.status_code, method.headers["allow"]) == (404, 405, "GET, POST")
    assert (head.status_code, head.text) == (200, "")
    assert css.headers["content-type"] == "text/css; charset=utf-8"
    assert (await browser.get("/ui/")).status_code == 200
