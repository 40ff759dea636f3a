"""The forms that change tags and API tokens, in a real browser: by keyboard alone, without JavaScript, and as assistive programs need them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from tests.browser.filled_registry import PATHS, FilledRegistry

pytestmark = pytest.mark.real


@pytest.fixture(params=[True, False], ids=["with JavaScript", "without JavaScript"])
def scripted(request: pytest.FixtureRequest) -> bool:
    """Whether the browser runs JavaScript."""
    return bool(request.param)


@pytest.fixture
def context(browser: Browser, registry: FilledRegistry, *, scripted: bool) -> Iterator[BrowserContext]:
    """A browser in which the operator is logged in."""
    opened = browser.new_context(java_script_enabled=scripted)
    page = opened.new_page()
    page.goto(f"{registry.url}/ui/login")
    page.fill("#user", "boss")
    page.fill("#password", "pw-boss")
    page.click("main button")
    page.wait_for_url(f"{registry.url}/ui/")
    page.close()
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page. At the end nothing was written to its console."""
    opened = context.new_page()
    written: list[str] = []
    opened.on("console", lambda message: written.append(message.text))
    yield opened
    assert written == []


def until_signed(page: Page) -> None:
    """Follow the link that loads the page of an entry again, until the entry is signed."""
    for _ in range(100):
        again = page.get_by_role("link", name="load this page again")
        if not again.count():
            return
        page.wait_for_timeout(200)
        again.click()
        page.wait_for_load_state()
    raise AssertionError("the entry was not signed in time")


@pytest.mark.parametrize("name", ["seal", "unseal", "restore", "accept", "purge"])
def test_each_form_shows_its_effect_first(page: Page, registry: FilledRegistry, name: str, *, scripted: bool) -> None:
    """The preview has the effect, one button, and no violation of axe; the screen of a phone does not scroll sideways."""
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto(registry.url + PATHS[name])
    page.fill("#reason", "to look at it")
    page.click("main button")
    page.wait_for_load_state()
    buttons = page.locator("main button").all_inner_texts()

    assert page.locator("h2").all_inner_texts()[0] == "What it would do"
    assert len(buttons) == 1
    _check(page, scripted)


def test_the_keyboard_alone_restores_a_tag(page: Page, registry: FilledRegistry) -> None:
    """Tab, letters and Enter: from the page of the tag over the form and its preview to the entry."""
    page.goto(f"{registry.url}/ui/tag?repository=shop/unsafe&tag=latest")
    _tab_to(page, "Restore an earlier digest")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/restore?**")
    digest = page.locator("datalist option").first.get_attribute("value") or ""
    page.locator("main").focus()
    page.keyboard.press("Tab")  # the heading's links come first
    while page.evaluate("document.activeElement.id") != "to":
        page.keyboard.press("Tab")
    page.keyboard.type(digest[:19])
    page.keyboard.press("Escape")  # closes the list of earlier digests
    page.keyboard.press("Tab")
    page.keyboard.type("by keyboard")
    page.keyboard.press("Enter")
    page.wait_for_selector("h2")
    _tab_to(page, "Restore shop/unsafe:latest")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/entry?**")
    until_signed(page)

    assert "restored" in page.inner_text(".timeline")
    assert digest in page.inner_text(".timeline")
    assert "Reason: by keyboard" in page.inner_text(".timeline")


def test_the_keyboard_alone_creates_and_revokes_a_token(
    context: BrowserContext, registry: FilledRegistry, *, scripted: bool
) -> None:
    """From the account over form and preview to the token; a reload shows a refusal; the list links to its revocation."""
    page, written = context.new_page(), list[str]()
    page.on("console", lambda message: written.append(message.text))
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto(f"{registry.url}/ui/account")
    _follow(page, "Your API tokens")
    _follow(page, "Create an API token")
    _type_in(page, "description", "by keyboard")
    _type_in(page, "repositories", "shop/**")
    _follow(page, "Show what it would do")
    _check(page, scripted)
    _follow(page, "Create an API token")
    _check(page, scripted)
    text = page.locator("pre code").first.inner_text()
    token = text.removeprefix("boltseal_")[:10]
    page.reload()
    _check(page, scripted)
    refusal, again = page.inner_text("[role=alert]"), page.content()
    page.goto(f"{registry.url}/ui/tokens")
    _follow(page, f"Revoke {token}")
    _type_in(page, "reason", "it was a test")
    _follow(page, "Show what it would do")
    _check(page, scripted)
    _follow(page, f"Revoke API token {token}")
    _check(page, scripted)

    assert text.startswith("boltseal_")
    assert "Nothing was changed: this request was made before" in refusal
    assert text not in again
    assert page.inner_text("h1") == f"API token {token} is revoked"
    assert [each for each in written if "412" not in each] == []  # Chromium writes the status of the refusal


def _check(page: Page, scripted: bool) -> None:
    """Check that a page fits the screen of a phone, and that axe finds nothing."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    if scripted:  # axe is a script
        assert [each["id"] for each in Axe().run(page).response["violations"]] == []


def _follow(page: Page, text: str) -> None:
    """Press Enter on the link or button with this text, and wait for the next page."""
    _tab_to(page, text)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def _type_in(page: Page, field: str, text: str) -> None:
    """Press Tab until the field has the focus, and type."""
    while page.evaluate("document.activeElement.id") != field:
        page.keyboard.press("Tab")
    page.keyboard.type(text)


def _tab_to(page: Page, text: str) -> None:
    """Press Tab until the link or button with this text has the focus."""
    for _ in range(200):
        page.keyboard.press("Tab")
        name = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
        if page.evaluate(name) == text:
            return
    raise AssertionError(f"the keyboard does not reach {text}")
