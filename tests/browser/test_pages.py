"""Every page in a real browser, by mouse, by keyboard alone, without JavaScript, in both colour schemes, on narrow and wide screens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, StorageState

from tests.browser.filled_registry import HOSTILE, PATHS, FilledRegistry

pytestmark = pytest.mark.real

WIDTHS = (320, 768, 1920)


@pytest.fixture(scope="module")
def session(browser: Browser, registry: FilledRegistry) -> StorageState:
    """The cookies of the operator, who logs in by keyboard alone."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{registry.url}/ui/login")
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.name") != "user":
        page.keyboard.press("Tab")
    page.keyboard.type("boss")
    page.keyboard.press("Tab")
    page.keyboard.type("pw-boss")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{registry.url}/ui/")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def context(browser: Browser, session: StorageState) -> Iterator[BrowserContext]:
    opened = browser.new_context(storage_state=session)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page. At the end nothing was written to its console, such as a violation of its policy."""
    opened = context.new_page()
    written: list[str] = []
    opened.on("console", lambda message: written.append(message.text))
    opened.on("pageerror", lambda error: written.append(str(error)))
    yield opened
    assert written == []


def violations(page: Page) -> list[str]:
    """Return what axe finds: rules, and the elements that break them."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


def show(page: Page, registry: FilledRegistry, name: str) -> None:
    """Open a page, and wait until its script has checked the proof, if it has one."""
    answer = page.goto(registry.url + PATHS[name])
    assert answer is not None
    assert answer.status == 200, page.inner_text("body")
    if page.locator("#proof").count():
        page.wait_for_selector("#proof[data-outcome]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PATHS)
def test_axe_finds_nothing(page: Page, registry: FilledRegistry, name: str, scheme: str) -> None:
    """Names, roles, order and contrast are as assistive programs need them, in both colour schemes."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    show(page, registry, name)

    assert violations(page) == []


@pytest.mark.parametrize("name", PATHS)
def test_pages_fit_narrow_and_wide_screens(page: Page, registry: FilledRegistry, name: str) -> None:
    """At no width the page itself scrolls sideways; wide tables scroll inside of it."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        show(page, registry, name)

        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


@pytest.mark.parametrize("name", PATHS)
def test_no_text_of_a_client_becomes_markup(page: Page, registry: FilledRegistry, name: str) -> None:
    """Reasons, names of hosts and containers, clients' programs and platforms run nothing and make no element."""
    show(page, registry, name)

    assert page.evaluate("globalThis.attacked") is None
    assert page.locator("main img").count() == 0
    assert page.locator("main script").count() == 0


def test_the_hostile_texts_are_shown(page: Page, registry: FilledRegistry) -> None:
    """The pages of the test above do have the hostile texts; the overview has none."""
    shown = {}
    for name in ("tag", "hosts", "host", "image", "changes", "packages", "tokens", "overview"):
        show(page, registry, name)
        shown[name] = page.locator("main").text_content() or ""

    assert [name for name, text in shown.items() if HOSTILE not in text] == ["overview"]


@pytest.mark.parametrize("name", PATHS)
def test_pages_are_whole_without_javascript(
    browser: Browser, session: StorageState, context: BrowserContext, registry: FilledRegistry, name: str
) -> None:
    """A browser without JavaScript shows the same text; only the proof is checked by a script."""
    without = browser.new_context(storage_state=session, java_script_enabled=False).new_page()
    without.goto(registry.url + PATHS[name])
    with_script = context.new_page()
    show(with_script, registry, name)

    assert headings(without) == headings(with_script) != []
    assert without.locator("main tr").count() == with_script.locator("main tr").count()
    assert without.locator("main a").count() >= with_script.locator("main a").count()
    without.context.close()


def headings(page: Page) -> list[str]:
    """Return the headings of a page."""
    return page.locator("h1, h2").all_inner_texts()


def test_the_proof_of_a_tag_holds_on_its_page(page: Page, registry: FilledRegistry) -> None:
    """The script checks the entry with requests to the server of the page, for a local and for a mirrored tag."""
    for name in ("tag", "sealed-tag", "mirrored-tag"):
        show(page, registry, name)

        assert page.get_attribute("#proof", "data-outcome") == "holds", page.inner_text("#proof")
        assert page.inner_text("#proof").startswith("Holds (checked with code from this server)")


def test_without_javascript_no_proof_looks_like_success(
    browser: Browser, session: StorageState, registry: FilledRegistry
) -> None:
    """The page says that nothing was checked, and has the commands that check it."""
    without = browser.new_context(storage_state=session, java_script_enabled=False).new_page()
    without.goto(registry.url + PATHS["tag"])
    text = without.inner_text("#proof")
    without.context.close()

    assert text.startswith("Could not check")
    assert "boltseal ledger receipt verify tag.tlog-proof --key " in text


def test_a_receipt_is_a_download(page: Page, registry: FilledRegistry) -> None:
    """The link on the page of a tag saves the receipt as a file."""
    show(page, registry, "tag")
    with page.expect_download() as started:
        page.locator(".timeline a", has_text="Receipt of entry").first.click()

    assert started.value.suggested_filename.endswith(".tlog-proof")
    assert started.value.path().read_text().startswith("c2sp.org/tlog-proof@v1")


def test_the_keyboard_alone_finds_a_tag(page: Page, registry: FilledRegistry) -> None:
    """Tab reaches the skip link first, then the search; a result opens by Enter, and tables scroll by keys."""
    show(page, registry, "overview")
    page.keyboard.press("Tab")
    first = page.evaluate("document.activeElement.className")
    while page.evaluate("document.activeElement.id") != "q":
        page.keyboard.press("Tab")
    page.keyboard.type("shop/app:1.4.2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/search?**")
    link = "1.4.2"
    while page.evaluate("document.activeElement.textContent") != link:
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/tag?**")

    assert first == "skip"
    assert page.inner_text("h1") == "shop/app:1.4.2"


def test_the_skip_link_moves_the_focus_to_the_content(page: Page, registry: FilledRegistry) -> None:
    """Enter on the first link moves the focus past the navigation."""
    show(page, registry, "repositories")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    assert page.evaluate("document.activeElement.id") == "content"
