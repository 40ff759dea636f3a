"""API tokens on pages: with the rights of the admin API, a preview, a recent login, and a text that one answer alone has."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from boltseal.server.settings import Settings
from tests.admin_requests import USERS, as_user, get, items_of
from tests.api_tokens import ROBOT, create, made, revoke, settings_with_tokens, with_token
from tests.api_tokens import id_of as id_in
from tests.page_logins import Browser
from tests.page_views import HOSTILE, as_person, hidden, text_of
from tests.serving import FIRST_START_US, ORIGIN, Clock, Serving, serving_as

CREATE, REVOKE = "/ui/create-token", "/ui/revoke-token"
FIELDS: Mapping[str, str] = {
    "repositories": "shop/**\nother/tool",
    "pull": "yes",
    "push": "yes",
    "life": "30d",
    "description": "deploys of shop",
}
TOKEN = re.compile(r"boltseal_[a-z2-7]{10}[0-9A-Za-z]{49}")


@pytest.fixture
def settings(data: Path) -> Settings:
    return settings_with_tokens(data)


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST_START_US + 1_000_000)


@pytest.fixture
async def shop(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    async with serving_as(settings, clock=clock) as registry:
        yield registry


async def previewed(browser: Browser, path: str, given: Mapping[str, str]) -> httpx2.Response:
    """Send the form of an action with these fields."""
    token = await browser.form_token("/ui/account")
    return await browser.post(path, {"form_token": token, **given})


async def created(browser: Browser, **more: str) -> httpx2.Response:
    """Send the form, and then that of its preview."""
    preview = await previewed(browser, CREATE, {**FIELDS, **more})
    assert preview.status_code == 200, preview.text
    return await browser.post(CREATE, hidden(preview.text))


async def tokens_in(shop: Serving) -> list[dict[str, Any]]:
    """Return the tokens of all users."""
    return await items_of(shop.client, "tokens", "boss", all="true")


def secret_of(page: httpx2.Response) -> str:
    """Return the token that a page shows."""
    (found,) = TOKEN.findall(page.text)
    return str(found)


async def test_a_person_creates_a_token_after_its_preview(shop: Serving) -> None:
    """The preview shows owner, scope and end and creates nothing; the next answer alone has the token, which works."""
    browser = await as_person(shop, "lead")
    preview = await previewed(browser, CREATE, FIELDS)
    between = await tokens_in(shop)
    answer = await browser.post(CREATE, hidden(preview.text))
    text = secret_of(answer)
    works = await shop.client.get("/api/v1/me", auth=with_token(text, "lead"))
    (stored,) = await tokens_in(shop)
    record = (await items_of(shop.client, "audit", "boss"))[0]

    assert between == []
    assert not TOKEN.search(preview.text)
    assert "Owner lead" in text_of(preview.text)
    assert "Repositories other/tool , shop/** Actions pull, push Expires " in text_of(preview.text)
    assert "(in 30 days)" in text_of(preview.text)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert works.json()["token"]["actions"] == ["pull", "push"]
    assert (stored["owner"], stored["created_by"], stored["description"]) == ("lead", "lead", "deploys of shop")
    assert f"Record {record['number']} of the audit log: token.created by lead" in text_of(answer.text)
    assert record["detail"].endswith("; for: deploys of shop")


async def test_a_form_that_is_sent_again_creates_no_second_token(
    shop: Serving, settings: Settings, clock: Clock
) -> None:
    """A reload is refused and shows no token, also at a server that was started again, and after the token was revoked."""
    browser = await as_person(shop, "lead")
    preview = await previewed(browser, CREATE, FIELDS)
    first = await browser.post(CREATE, hidden(preview.text))
    again = await browser.post(CREATE, hidden(preview.text))
    async with serving_as(settings, clock=clock) as other:
        elsewhere = await Browser.at(other, browser.http.cookies).post(CREATE, hidden(preview.text))
        await revoke(other.client, id=id_in(secret_of(first)))
        later = await Browser.at(other, browser.http.cookies).post(CREATE, hidden(preview.text))

        assert await tokens_in(other) == []
    for answer in (again, elsewhere, later):
        assert answer.status_code == 412
        assert "created no second token" in answer.text
        assert not TOKEN.search(answer.text)
        assert 'value="deploys of shop"' in answer.text


async def test_a_token_is_in_no_other_page_no_header_and_no_log(shop: Serving) -> None:
    """The text of a token is in one body: not in its headers, addresses, log lines, or pages after it."""
    browser = await as_person(shop, "boss")
    with structlog.testing.capture_logs() as lines:
        answer = await created(browser, owner=ROBOT)
        later = [await browser.get(path) for path in ("/ui/tokens", "/ui/tokens?all=yes", "/ui/account", CREATE)]
        later.append(await browser.get(REVOKE, params={"id": id_in(secret_of(answer))}))
    text = secret_of(answer)
    secret = text.removeprefix("boltseal_")[10:]

    assert secret not in str(lines) + str(answer.headers.raw) + str(answer.url)
    assert answer.text.count(secret) == 1
    assert all(secret not in page.text for page in later)
    assert id_in(text) in later[1].text
    assert id_in(text) not in later[0].text


@pytest.mark.parametrize("owner", ["", ROBOT, "lead", "ci", "no-such"])
@pytest.mark.parametrize("user", USERS)
async def test_rights_to_create_are_those_of_the_admin_api(shop: Serving, user: str, owner: str) -> None:
    """Each user creates on pages the tokens that the API lets the same user create, and no others."""
    browser = await as_person(shop, user)
    api = await create(shop.client, user, owner=owner, dry_run=True)
    preview = await previewed(browser, CREATE, {**FIELDS, "owner": owner})
    confirmed = {**FIELDS, "owner": owner, "step": "change", "once": "x"}
    change = await previewed(browser, CREATE, confirmed)

    assert preview.status_code == change.status_code == api.status_code
    assert [each["owner"] for each in await tokens_in(shop)] == ([owner or user] if api.status_code == 200 else [])


@pytest.mark.parametrize("user", USERS)
async def test_rights_to_list_and_revoke_are_those_of_the_admin_api(shop: Serving, user: str) -> None:
    """Each user sees and revokes on pages what the API shows and lets revoke."""
    ids = [id_in(await made(shop.client, owner=owner)) for owner in (ROBOT, "lead", user)]
    browser = await as_person(shop, user)
    for query in ({}, {"all": "true"}):
        api = await get(shop.client, "tokens", user, **query)
        page = await browser.get("/ui/tokens", params=query)
        listed = {each["id"] for each in api.json()["items"]} if api.status_code == 200 else set()

        assert page.status_code == api.status_code
        assert {each for each in ids if each in page.text} == listed
    for each in ids:
        planned = await revoke(shop.client, user, id=each, dry_run="true")
        before = len(await tokens_in(shop))
        preview = await previewed(browser, REVOKE, {"id": each, "reason": "because"})
        change = await previewed(browser, REVOKE, {"id": each, "reason": "because", "step": "change"})

        assert preview.status_code == change.status_code == planned.status_code
        assert len(await tokens_in(shop)) == before - (planned.status_code == 200)


async def test_a_token_is_revoked_after_its_preview(shop: Serving) -> None:
    """The list links to the form; the preview revokes nothing; afterwards the token is refused, and the record has the reason."""
    browser = await as_person(shop, "lead")
    text = secret_of(await created(browser))
    listed = await browser.get("/ui/tokens")
    form = await browser.get(REVOKE, params={"id": id_in(text)})
    preview = await browser.post(REVOKE, {**hidden(form.text), "reason": "it leaked"})
    works = await shop.client.get("/v2/", auth=with_token(text, "lead"))
    done = await browser.post(REVOKE, hidden(preview.text))
    refused = await shop.client.get("/v2/", auth=with_token(text, "lead"))
    again = await browser.post(REVOKE, hidden(preview.text))
    record = (await items_of(shop.client, "audit", "boss"))[0]

    assert f'href="/ui/revoke-token?id={id_in(text)}"' in listed.text
    assert "It was never used" in preview.text or "Last used" in preview.text
    assert (works.status_code, done.status_code, refused.status_code, again.status_code) == (200, 200, 401, 404)
    assert f"Record {record['number']} of the audit log: token.revoked by lead" in text_of(done.text)
    assert (record["action"], record["detail"]) == ("token.revoked", "it leaked")


async def test_a_session_creates_tokens_only_shortly_after_its_login(shop: Serving, clock: Clock) -> None:
    """After 15 minutes the form asks for another login, a sent form is refused, and revoking still works."""
    browser = await as_person(shop, "lead")
    old = secret_of(await created(browser))
    preview = await previewed(browser, CREATE, FIELDS)
    clock.advance(seconds=16 * 60)
    form = await browser.get(CREATE)
    refused = [await browser.post(CREATE, hidden(preview.text)), await previewed(browser, CREATE, FIELDS)]
    ended = await previewed(browser, REVOKE, {"id": id_in(old), "reason": "because", "step": "change"})
    link = re.search(r'href="(/ui/login[^"]*)"', form.text)
    assert link is not None
    login = await browser.get(link[1].replace("&amp;", "&"))
    fields = {**hidden(login.text), "user": "lead", "password": "pw-lead"}
    back = await browser.post("/ui/login", fields)
    stale = await browser.post(CREATE, hidden(preview.text))
    fresh = await created(browser)

    assert "You logged in more than 15 minutes ago" in form.text
    assert 'name="repositories"' not in form.text
    assert [each.status_code for each in refused] == [401, 401]
    assert "Nothing was changed: " in refused[0].text
    assert ended.status_code == 200
    assert back.headers["location"] == CREATE
    assert stale.status_code == 403
    assert TOKEN.search(fresh.text)
    assert len(await tokens_in(shop)) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
        {},
    ],
)
async def test_forms_of_other_servers_change_no_token(shop: Serving, headers: dict[str, str]) -> None:
    """A form that another server's page sends (CSRF) creates and revokes nothing, even with the right form token."""
    kept = id_in(await made(shop.client, owner="lead"))
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    fields = {"form_token": token, "step": "change"}
    answers = [
        await browser.post(CREATE, {**fields, **FIELDS, "once": "x"}, headers),
        await browser.post(REVOKE, {**fields, "id": kept, "reason": "because"}, headers),
    ]

    assert [each.status_code for each in answers] == [403, 403]
    assert [each["id"] for each in await tokens_in(shop)] == [kept]


@pytest.mark.parametrize("given", ["no field", "", "0" * 64, "of another session"])
async def test_forms_without_the_token_of_the_session_change_no_token(shop: Serving, given: str) -> None:
    """A form without a form token, with a guessed one, or with that of another session is refused."""
    kept = id_in(await made(shop.client, owner="lead"))
    browser, other = await as_person(shop, "lead"), await as_person(shop, "lead")
    fields = {"step": "change"}
    if given != "no field":
        fields["form_token"] = await other.form_token("/ui/account") if given.startswith("of") else given
    answers = [
        await browser.post(CREATE, {**fields, **FIELDS, "once": "x"}),
        await browser.post(REVOKE, {**fields, "id": kept, "reason": "because"}),
    ]

    assert [each.status_code for each in answers] == [403, 403]
    assert [each["id"] for each in await tokens_in(shop)] == [kept]


async def test_an_address_changes_no_token(shop: Serving) -> None:
    """GET with all fields of a confirmed form shows the form; without `once` a confirmed form shows the preview."""
    kept = id_in(await made(shop.client, owner="lead"))
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    confirmed = {"form_token": token, "step": "change"}
    pages = [
        await browser.get(CREATE, params={**confirmed, "repositories": "**", "pull": "yes", "once": "x"}),
        await browser.get(REVOKE, params={**confirmed, "id": kept, "reason": "because"}),
    ]
    preview = await browser.post(CREATE, {"form_token": token, "step": "change", **FIELDS})

    assert [each.status_code for each in pages] == [200, 200]
    assert "What it would do" in preview.text
    assert [each["id"] for each in await tokens_in(shop)] == [kept]


async def test_without_a_session_no_token_is_changed(shop: Serving) -> None:
    """A form needs a session: neither a password nor an API token in a header is one."""
    text = await made(shop.client, owner="lead", actions=("admin", "tokens"))
    own = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    fields = {**FIELDS, "step": "change", "once": "x"}
    answers = [
        await Browser(shop).http.post(CREATE, data=fields, auth=auth, headers=own)
        for auth in (as_user("lead"), with_token(text, "lead"))
    ]
    pages = [await Browser(shop).get(path) for path in ("/ui/tokens", CREATE, REVOKE)]

    assert [each.status_code for each in answers] == [401, 401]
    assert all(each.headers["location"].startswith("/ui/login?return_to=") for each in pages)
    assert len(await tokens_in(shop)) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"life": "900d"}, "expected at most 366d"),
        ({"life": "soon"}, "a whole number and a unit"),
        ({"repositories": "  "}, "the scope has no repository"),
        ({"repositories": "shop/[x"}, "of the scope"),
        ({"pull": "", "push": ""}, "the scope has no action"),
        ({"ledger": "yes"}, "is for all repositories at once"),
        ({"description": " "}, "description is empty"),
        ({"description": "x" * 201}, ""),
    ],
)
async def test_a_refused_form_is_shown_again_with_what_was_typed(
    shop: Serving, given: dict[str, str], words: str
) -> None:
    """The form comes back with the message of the API, with its fields and with the boxes that were checked."""
    browser = await as_person(shop, "lead")
    sent = {**FIELDS, **given}
    answer = await previewed(browser, CREATE, sent)

    assert answer.status_code == 400
    assert "Nothing was changed: " in answer.text
    assert words in text_of(answer.text)
    assert f">{sent['repositories']}</textarea>" in answer.text
    assert ('name="pull" value="yes" checked' in answer.text) == bool(sent["pull"])
    assert 'name="delete" value="yes">' in answer.text


async def test_repeated_and_too_many_fields_are_refused(shop: Serving) -> None:
    """A field that is sent twice, or more than 20 fields, are no form of ours."""
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    headers = {"origin": ORIGIN, "sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
    start = f"form_token={token}&repositories=shop/app&description=x&pull=yes"
    answers = [
        await browser.http.post(CREATE, content=f"{start}&{more}".encode(), headers=headers)
        for more in ("pull=yes", "&".join(f"field{number}=x" for number in range(17)))
    ]

    assert [each.status_code for each in answers] == [400, 400]
    assert "the form has a field twice" in answers[0].text


async def test_texts_of_tokens_are_no_markup(shop: Serving) -> None:
    """Descriptions, globs, owners, IDs and reasons are shown as text on every page of tokens."""
    browser = await as_person(shop, "boss")
    preview = await previewed(browser, CREATE, {**FIELDS, "owner": "lead", "description": HOSTILE})
    answer = await browser.post(CREATE, hidden(preview.text))
    token = id_in(secret_of(answer))
    pages = [
        preview,
        answer,
        await browser.get("/ui/tokens?all=yes"),
        await browser.get(CREATE, params={"owner": HOSTILE}),
        await browser.get(REVOKE, params={"id": HOSTILE}),
        await previewed(browser, CREATE, {**FIELDS, "owner": HOSTILE, "repositories": HOSTILE, "life": HOSTILE}),
        await previewed(browser, REVOKE, {"id": HOSTILE, "reason": HOSTILE}),
        await previewed(browser, REVOKE, {"id": token, "reason": HOSTILE}),
        await previewed(browser, REVOKE, {"id": token, "reason": HOSTILE, "step": "change"}),
    ]

    for page in pages:
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert "script-src" not in page.headers["content-security-policy"]
        assert "default-src 'self'" in page.headers["content-security-policy"]
    assert all("&lt;script&gt;alert(1)" in page.text for page in pages[:3])


async def test_the_list_has_pages_of_a_hundred(shop: Serving) -> None:
    """An operator's list of all tokens goes on after 100, and shows each token once."""
    for number in range(103):
        await made(shop.client, owner=ROBOT if number % 2 else "lead")
    browser = await as_person(shop, "boss")
    first = (await browser.get("/ui/tokens?all=yes")).text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = (await browser.get(following[1].replace("&amp;", "&"))).text
    found = [re.findall(r"/ui/revoke-token\?id=([a-z2-7]+)", page) for page in (first, second)]

    assert [len(each) for each in found] == [100, 3]
    assert sorted(each for page in found for each in page) == [each["id"] for each in await tokens_in(shop)]
    assert 'rel="next"' not in second
