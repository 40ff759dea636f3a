"""Scripts of pages read the ledger with the session of the person who looks at the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.proof import open_receipt
from tests.images import image, push
from tests.logins import login, with_users
from tests.page_logins import Browser
from tests.polling import until_answer
from tests.serving import ORIGIN, Serving, ledger_key, serving_as


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry whose ledger is not public, with an entry of shop/app."""
    async with serving_as(with_users(data)) as running:
        transport = httpx2.ASGITransport(app=running.app)
        async with httpx2.AsyncClient(transport=transport, base_url=ORIGIN, auth=login("ci")) as client:
            await push(client, "shop/app", "1.4.2", image("one"))
        yield running


async def entry_of(registry: Serving) -> str:
    """Return the path of the receipt of shop/app:1.4.2 for pages, when it is signed."""

    async def signed() -> str:
        for index in range(5):
            answer = await registry.client.get(f"/ledger/receipt/{index}", auth=login("ci"))
            if answer.status_code == 200:
                return f"/ui/ledger/receipt/{index}"
        return ""

    return await until_answer(signed, "the entry of the push is signed")


async def test_a_person_reads_what_the_script_needs(shop: Serving) -> None:
    """With a session, checkpoint, hashes and the entry of a repository of one's own are served."""
    path = await entry_of(shop)
    browser = Browser(shop)
    await browser.login("ci", "pw-ci")
    checkpoint, receipt = await browser.get("/ui/ledger/checkpoint"), await browser.get(path)
    size = checkpoint.text.split("\n")[1]
    tile = await browser.get(f"/ui/ledger/tile/0/000.p/{size}")

    assert [each.status_code for each in (checkpoint, receipt, tile)] == [200, 200, 200]
    assert open_receipt(receipt.content, ledger_key(shop.data)).entry.tag == "1.4.2"
    assert len(tile.content) == 32 * int(size)


async def test_without_a_session_no_entry_is_shown(shop: Serving) -> None:
    """An anonymous browser is sent to the login instead of an entry of a repository that needs one."""
    answer = await Browser(shop).get(await entry_of(shop))

    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000.p/1", "observations/checkpoint", "receipt/0"])
async def test_a_registry_without_anonymous_pulls_shows_nothing(data: Path, path: str) -> None:
    """Where everything needs a login, checkpoint and hashes do as well."""
    async with serving_as(with_users(data, anonymous_pull=[])) as running:
        answer = await Browser(running).get(f"/ui/ledger/{path}")

    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/login")


async def test_entries_of_other_repositories_are_not_shown(shop: Serving) -> None:
    """A person without the right to pull from a repository gets none of its entries, and not its name."""
    path = await entry_of(shop)
    browser = Browser(shop)
    await browser.login("other", "pw-other")
    answer = await browser.get(path)

    assert answer.status_code == 403
    assert "shop/app" not in answer.text


async def test_a_session_opens_nothing_outside_of_the_pages(shop: Serving) -> None:
    """`/ledger/` ignores cookies, and pages of other origins may read neither."""
    path = await entry_of(shop)
    browser = Browser(shop)
    await browser.login("ci", "pw-ci")
    outside = await browser.get(path.removeprefix("/ui"))
    inside = await browser.get(path, headers={"origin": "https://elsewhere.example"})

    assert outside.status_code == 401
    assert "access-control-allow-origin" not in inside.headers


@pytest.mark.parametrize("path", ["tile/entries/000.p/1", "tile/0/0", "tags", "%63heckpoint", "receipt/x", ""])
async def test_other_paths_are_unknown(shop: Serving, path: str) -> None:
    """Bundles of entries, other spellings and other routes are 404."""
    browser = Browser(shop)
    await browser.login("boss", "pw-boss")
    answer = await browser.get(f"/ui/ledger/{path}")

    assert answer.status_code == 404
