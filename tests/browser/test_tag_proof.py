"""The script of the tag page checks the proof of a tag with requests to its own server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from boltseal.server.web.rendering import PAGE_HEADERS
from boltseal.server.web.static_files import StaticFiles
from tests.browser.chromium import chromium
from tests.browser.proven_registry import PRIVATE, PUBLIC, ProvenRegistry, proven_registry
from tests.browser.relay import Relay, relaying

pytestmark = pytest.mark.real

TAG = "1.4.2"
WITHOUT_SCRIPT = "Could not check in this browser. Check it with: boltseal ledger receipt verify"
POLICY = {"content-security-policy": dict(PAGE_HEADERS)[b"content-security-policy"].decode()}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvenRegistry]:
    with proven_registry(tmp_path_factory.mktemp("proven") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(["--host-resolver-rules=MAP reg.example 127.0.0.1"]) as running:
        yield running


@pytest.fixture
def relay(registry: ProvenRegistry) -> Iterator[Relay]:
    with relaying(registry.url, POLICY) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page. At the end nothing was written to its console, such as a violation of its policy, but requests that failed."""
    opened = browser.new_page()
    written: list[str] = []
    opened.on("console", lambda message: written.append(message.text))
    opened.on("pageerror", lambda error: written.append(str(error)))
    yield opened
    opened.close()
    assert [text for text in written if not text.startswith("Failed to load resource")] == []


def values_of(registry: ProvenRegistry, repository: str = PUBLIC) -> dict[str, str]:
    """Return the attributes of the element on the page of a tag."""
    index = registry.index_of(repository, TAG)
    return {
        "ledger": "../../ledger/",
        "key": registry.key,
        "registry": "reg.example",
        "repository": repository,
        "tag": TAG,
        "digest": registry.entries[index].digest,
        "entry": str(index),
    }


def put_page(relay: Relay, values: Mapping[str, str]) -> None:
    """Serve a page of a tag with these attributes, as the server writes it for people without JavaScript."""
    attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in values.items())
    relay.pages["/ui/tags/one"] = (
        '<!doctype html><html lang="en"><title>Tag</title><script type="module" src="/ui/static/verify.js"></script>'
        f'<div id="proof" {attributes}>{WITHOUT_SCRIPT}</div>'
    )


def proof(page: Page, relay: Relay, values: Mapping[str, str]) -> tuple[str, str]:
    """Open the page of a tag, and return the outcome and what it says."""
    put_page(relay, values)
    page.goto(f"{relay.url}/ui/tags/one")
    page.wait_for_selector("#proof[data-outcome]", timeout=30_000)
    return page.get_attribute("#proof", "data-outcome") or "", page.inner_text("#proof")


def test_a_tag_holds(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """The page shows the outcome `holds`, and whose code checked it."""
    outcome, text = proof(page, relay, {**values_of(registry), "ledger": "../ledger/"})

    assert outcome == "holds", text
    assert text.startswith("Holds (checked with code from this server): Entry ")
    assert all(path.startswith("/ui/") for path in relay.asked if path != "/favicon.ico")


def test_the_address_is_relative_to_the_page(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """A registry below a path of a proxy has the ledger of its own, not that at the top of the host."""
    outcome, _ = proof(page, relay, values_of(registry))

    assert outcome == "holds"
    assert "/ledger/checkpoint" in relay.asked


@pytest.mark.parametrize("field", ["repository", "tag", "digest"])
def test_another_row_differs(page: Page, registry: ProvenRegistry, relay: Relay, field: str) -> None:
    """A page that shows another repository, tag or digest than its entry differs, and names the command."""
    other = {"repository": PRIVATE, "tag": "1.4.3", "digest": "sha256:" + "0" * 64}[field]
    outcome, text = proof(page, relay, {**values_of(registry), field: other})

    assert outcome == "differs"
    assert text.startswith("Differs (checked with code from this server): the entry has the ")
    assert f"boltseal ledger receipt verify tag.tlog-proof --key {registry.key}" in text


@pytest.mark.parametrize("part", ["checkpoint", "tile/0/000.p/{size}", "receipt/{index}"])
def test_a_forged_part_differs(page: Page, registry: ProvenRegistry, relay: Relay, part: str) -> None:
    """A changed byte in the checkpoint, in the tile or in the entry gives `differs`."""
    values = values_of(registry)
    path = "/ledger/" + part.format(size=len(registry.entries), index=values["entry"])
    relay.lies[path] = lambda body: body[:20] + bytes([body[20] ^ 1]) + body[21:]
    if part.startswith("tile"):
        relay.lies[path] = lambda body: bytes(len(body))
    outcome, text = proof(page, relay, values)

    assert outcome == "differs", text
    assert "Holds" not in text


def test_a_repository_that_needs_a_login_cannot_be_checked(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """Without a session the entry is not shown: could not check, with the command."""
    outcome, text = proof(page, relay, {**values_of(registry, PRIVATE), "ledger": "../ledger/"})

    assert outcome == "unknown"
    assert text.startswith("Could not check (checked with code from this server): entry ")
    assert f"boltseal ledger receipt reg.example/{PRIVATE}:{TAG} -o tag.tlog-proof" in text


def test_a_tag_without_an_entry_cannot_be_checked(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """An attribute that is no number gives no outcome but `could not check`."""
    outcome, _ = proof(page, relay, {**values_of(registry), "entry": ""})

    assert outcome == "unknown"


def test_plain_http_cannot_check(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """Over http and another name than localhost, browsers have no cryptography."""
    put_page(relay, values_of(registry))
    page.goto(f"http://reg.example:{relay.port}/ui/tags/one")
    page.wait_for_selector("#proof[data-outcome]")

    assert page.get_attribute("#proof", "data-outcome") == "unknown"
    assert "no access to cryptography" in page.inner_text("#proof")


def test_texts_of_the_page_are_never_markup(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """Attributes with markup are shown as text, and are no part of a command to copy."""
    values = {**values_of(registry), "tag": '"><img src=x onerror=alert(1)>$(id)'}
    outcome, text = proof(page, relay, values)

    assert outcome == "differs"
    assert page.locator("img").count() == 0
    assert "$(id)" in text.partition("Check it without this page")[0]
    assert "boltseal ledger receipt verify FILE --key KEY" in text


def test_without_javascript_the_words_of_the_server_stay(
    browser: Browser, registry: ProvenRegistry, relay: Relay
) -> None:
    """Without JavaScript the page says that it could not check, and names the command."""
    put_page(relay, values_of(registry))
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{relay.url}/ui/tags/one")

        assert page.inner_text("#proof") == WITHOUT_SCRIPT
        assert page.get_attribute("#proof", "data-outcome") is None


def test_scripts_of_a_page_are_of_one_version(registry: ProvenRegistry) -> None:
    """A script under its version is cacheable for ever, and imports the other one under the same version."""
    address = httpx2.URL(registry.url).join(StaticFiles().address("verify.js"))
    script, imported = httpx2.get(address), httpx2.get(address.join("./proof.js"))
    current = httpx2.get(f"{registry.url}/ui/static/verify.js")

    assert 'from "./proof.js"' in script.text
    assert [each.headers["cache-control"] for each in (script, imported)] == ["public, max-age=31536000, immutable"] * 2
    assert current.headers["cache-control"] == "public, max-age=300"
    assert {each.headers["x-content-type-options"] for each in (script, imported, current)} == {"nosniff"}
    assert {each.headers["content-type"] for each in (script, imported)} == {"text/javascript; charset=utf-8"}
