"""The page of rules: the ones in force, the one that decides about a typed tag, and the plan of others."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

from boltseal.policy.rules import parse_rules
from tests.admin_requests import ONE, USERS, as_user, filled, get, post
from tests.images import push
from tests.page_logins import Browser
from tests.page_views import HOSTILE, as_person, hidden
from tests.serving import ORIGIN, Serving, serving

RULES = [
    {"repository": "shop/**", "tag": "edge", "mode": "floating"},
    {"repository": "shop/**", "tag": "1.*", "keep": "365d", "settle": "90s"},
]
ALL_MOVE = '[[rule]]\nrepository = "**"\ntag = "**"\nmode = "floating"\n'


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with filled(data, rule=RULES) as registry:
        yield registry


def typed_rules(page: str) -> str:
    """Return the text of the field with the rules."""
    return unescape(page.partition("<textarea")[2].partition(">")[2].partition("</textarea>")[0])


async def planned(browser: Browser, rules: str, **more: str) -> tuple[int, str]:
    """Send the form. Return status and page."""
    token = await browser.form_token("/ui/account")
    answer = await browser.post("/ui/rules", {"form_token": token, "rules": rules, **more})
    return answer.status_code, answer.text


async def test_the_rules_in_force_are_listed_in_order(shop: Serving) -> None:
    """The rules of the configuration, and the built-in ones after them; the form has those of the configuration as they are."""
    page = (await (await as_person(shop, "boss")).get("/ui/rules")).text
    listed = (await get(shop.client, "rules", "boss")).json()["items"]
    table = page.partition('aria-label="Rules in force"')[2].partition("</table>")[0]

    assert table.count("<tr>") == len(listed) + 1
    assert table.index("<bdi>edge</bdi>") < table.index("<bdi>1.*</bdi>") < table.index("built-in")
    assert "<td>365d</td><td>90s</td>" in table
    assert parse_rules(tomllib.loads(typed_rules(page))["rule"]) == parse_rules(RULES)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("shop/app:edge", "floating"),
        ("shop/app:1.4.2", "sealed 90s after its first push"),
        ("127.0.0.1:5000/shop/app:edge", "floating"),
        ("shop/never-pushed:2.0", "sealed"),
        ("other/app:latest", "floating"),
    ],
)
async def test_a_typed_tag_shows_the_rule_that_decides(shop: Serving, typed: str, words: str) -> None:
    """The rule is that of `boltseal admin rules test`, also for a tag that was never pushed."""
    page = (await (await as_person(shop, "boss")).get(f"/ui/rules?ref={quote(typed)}")).text
    shown = page.partition('<dl aria-labelledby="test">')[2].partition("</dl>")[0]

    assert words in shown
    assert f'value="{typed}"' in page


@pytest.mark.parametrize(
    "typed", ["shop/app", "localhost:5000/app", "shop/app:", "Shop:1", ":", HOSTILE, HOSTILE + ":1"]
)
async def test_what_is_no_tag_is_explained(shop: Serving, typed: str) -> None:
    """The page is shown again with the message and what was typed."""
    answer = await (await as_person(shop, "boss")).get(f"/ui/rules?ref={quote(typed)}")

    assert answer.status_code == 200
    assert 'role="alert"' in answer.text
    assert "<script" not in answer.text
    assert "<img" not in answer.text


@pytest.mark.parametrize("user", USERS)
async def test_each_user_sees_what_the_api_shows(shop: Serving, user: str) -> None:
    """The list and the plan are for operators; a tag is tested by those who may pull from its repository."""
    browser = Browser(shop)
    if (await browser.login(user, f"pw-{user}")).status_code != 303:
        return
    rules = await get(shop.client, "rules", user)
    plan = await post(shop.client, "rules/plan", user, rules=[])
    page = (await browser.get("/ui/rules")).text
    status, _ = await planned(browser, "")

    assert ("Rules in force" in page) == ("<textarea" in page) == (rules.status_code == 200)
    assert status == plan.status_code
    for name in ("shop/app", "other/private"):
        api = await get(shop.client, "rules/test", user, repository=name, tag="1.0")
        tested = await browser.get(f"/ui/rules?ref={name}:1.0")

        assert tested.status_code == api.status_code, name


async def test_a_plan_shows_the_effect_on_every_tag(shop: Serving) -> None:
    """The page shows the plan of the API in words, and nothing is changed."""
    before = (await get(shop.client, "ledger", "boss")).json()["items"][0]["size"]
    browser = await as_person(shop, "boss")
    status, page = await planned(browser, ALL_MOVE)
    api = (await post(shop.client, "rules/plan", "boss", rules=tomllib.loads(ALL_MOVE)["rule"])).json()

    assert status == 200
    assert {each["effect"] for each in api["items"]} == {"stays-sealed"}
    assert page.count("none: it is sealed and stays so") == len(api["items"]) == 3
    assert f"{api['looked_at']} tags compared for this page" in page
    assert typed_rules(page) == ALL_MOVE
    assert (await get(shop.client, "ledger", "boss")).json()["items"][0]["size"] == before


async def test_a_long_plan_has_pages(shop: Serving) -> None:
    """Each page of a plan has a form that continues it with the same rules."""
    shop.client.auth = as_user("boss")
    for number in range(60):
        await push(shop.client, "shop/app", f"2.{number}", ONE)
    browser = await as_person(shop, "boss")
    _, first = await planned(browser, ALL_MOVE)
    answer = await browser.post("/ui/rules", hidden(first))
    shown = {each for page in (first, answer.text) for each in range(60) if f"<bdi>2.{each}</bdi>" in page}

    assert "There are further tags." in first
    assert "There are further tags." not in answer.text
    assert shown == set(range(60))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("[[rule", "is not valid TOML"),
        ("rule = 1", "is not an array of tables"),
        ('[[rule]]\nmode = "loose"', "mode"),
        ("[[rule]]\nkeep = 5", "keep"),
        ("x" * 6001, "a form at most 6000"),
    ],
)
async def test_rules_that_are_none_are_explained(shop: Serving, rules: str, message: str) -> None:
    """The page is shown again, with the text as it was."""
    status, page = await planned(await as_person(shop, "boss"), rules)

    assert status == 400
    assert "No plan was made: " in page
    assert message in page
    assert typed_rules(page) == rules


async def test_a_plan_needs_the_form_of_the_session(shop: Serving) -> None:
    """A form of another server's page, or one without the token, is refused."""
    browser = await as_person(shop, "boss")
    fields = {"form_token": await browser.form_token("/ui/account"), "rules": ""}
    other = await browser.post("/ui/rules", fields, {"origin": "https://evil.example.com"})
    without = await browser.post("/ui/rules", {"rules": ""}, {"origin": ORIGIN})

    assert (other.status_code, without.status_code) == (403, 403)


async def test_without_users_a_tag_can_be_tested(data: Path) -> None:
    """Without users there is no operator, so the page has neither list nor plan, and a tag can be tested."""
    async with serving(data) as registry:
        page = await Browser(registry).get("/ui/rules?ref=shop/app:1.0")

    assert "sealed" in page.text
    assert "<textarea" not in page.text
