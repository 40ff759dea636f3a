"""The page of base images, and where other pages show outdated ones: what images state, compared with what this registry recorded."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from functools import partial
from html import unescape
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.metadata import rebuild_table
from boltseal.server.storage.metadata.rebuild_table import RebuildRow
from boltseal.server.store_factory import open_metadata
from tests.admin_requests import USERS, as_user, settings_with_users, until_signed
from tests.images import Document, push, signature, signature_tag
from tests.packaged_images import layer_of
from tests.page_images import BASE_LAYER, based_on, built_image
from tests.page_logins import Browser
from tests.page_views import HOSTILE, MOST_STATEMENTS, OWN, as_person, counted, text_of
from tests.serving import Serving, serving_as

OS = built_image({"ADD base": BASE_LAYER})
NEWER_OS = built_image({"ADD newer base": layer_of({"etc/base": b"newer"})})
RUNTIME = built_image(
    {"ADD base": BASE_LAYER, "RUN add runtime": layer_of({"rt": b"1"})}, labels=based_on(f"{OWN}/base/os:edge", OS)
)
APP = built_image({"COPY app": layer_of({"app": b"1"})}, labels=based_on(f"{OWN}/base/runtime:edge", RUNTIME))
FRESH = built_image({"COPY fresh": layer_of({"app": b"2"})}, labels=based_on(f"{OWN}/base/os:edge", NEWER_OS))
FOREIGN = built_image({"COPY foreign": layer_of({"app": b"3"})}, labels=based_on("docker.io/library/debian:12", OS))
PLAIN = built_image({"COPY plain": layer_of({"app": b"4"})})
UNSAFE = built_image({"COPY unsafe": layer_of({"app": b"5"})}, labels=based_on(HOSTILE, OS))


def based(number: int) -> Document:
    """Return another image on the outdated base."""
    return built_image(
        {f"COPY {number}": layer_of({"app": b"%d" % number})}, labels=based_on(f"{OWN}/base/os:edge", OS)
    )


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry with images on a base that moved, directly and over another one; and on others."""
    async with serving_as(settings_with_users(data)) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "base/os", "edge", OS)
        await push(client, "base/runtime", "edge", RUNTIME)
        for tag, document in (("1.0", APP), ("latest", APP), ("2.0", FRESH), ("3.0", FOREIGN), ("4.0", PLAIN)):
            await push(client, "shop/app", tag, document)
        await push(client, "base/os", "edge", NEWER_OS)
        client.auth = httpx2.Auth()
        await until_signed(client)
        yield registry


async def page_of(shop: Serving, user: str = "boss", path: str = "/ui/bases") -> str:
    answer = await (await as_person(shop, user)).get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


async def moved_at(shop: Serving) -> str:
    """Return when the base moved, as the ledger has it."""
    query = {"repository": "base/os", "tag": "edge"}
    answer = await shop.client.get("/api/v1/history", params=query, auth=as_user("boss"))
    return str(answer.json()["items"][0]["time"])


async def test_the_tree_has_bases_of_bases(shop: Serving) -> None:
    """The outdated base comes first, with the image on it that is a base itself, and below that the image on that one."""
    page = await page_of(shop)
    tree = text_of(page.partition('<ul class="tree">')[2].partition("</main>")[0])
    outdated = tree.index("outdated since")
    runtime = tree.index(f"{OWN}/base/runtime:edge")
    app = tree.index("1.0 , latest")

    assert outdated < runtime < app
    assert tree.count(f"{OWN}/base/os:edge at") == 2  # at its former and at its present digest
    assert f'<time datetime="{await moved_at(shop)}">' in page
    assert "not known: it is in no repository here that you may pull" in tree
    assert "4.0" not in tree


async def test_the_counts_are_of_images(shop: Serving) -> None:
    """Images are counted once, however many tags they have: on an outdated base, on another one, or without one."""
    text = text_of(await page_of(shop))

    assert "7 tags looked at: 1 image on an outdated base, 3 on another, 2 without a stated base." in text


@pytest.mark.parametrize("user", USERS)
async def test_images_and_bases_are_those_that_the_user_may_pull(shop: Serving, user: str) -> None:
    """Neither the image of another repository is shown, nor what became of a base there."""
    browser = Browser(shop)
    if (await browser.login(user, f"pw-{user}")).status_code != 303:
        return
    listed = await shop.client.get("/api/v1/repositories", auth=as_user(user))
    names = {each["name"] for each in listed.json()["items"]} if listed.status_code == 200 else set()
    page = await browser.get("/ui/bases")

    assert page.status_code == listed.status_code
    assert ("outdated since" in text_of(page.text)) == ("base/os" in names)
    assert (">shop/app<" in page.text) == ("shop/app" in names)
    assert ("Requested rebuilds" in page.text) == (user == "boss")


async def test_the_repository_shows_base_and_signature_of_each_tag(shop: Serving) -> None:
    """Outdated since when, current, not known or not stated; attached is no claim that a signature is valid."""
    shop.client.auth = as_user("boss")
    await push(shop.client, "shop/app", signature_tag(FRESH), signature(FRESH, "shop"))
    await push(shop.client, "shop/app", "5.0", based(5))
    page = await page_of(shop, path="/ui/repository?repository=shop/app&order=name")
    rows = {
        cells[0]: cells[-2:]
        for row in page.split("<tr>")[2:]
        for cells in [[text_of(cell).strip() for cell in row.partition("</tr>")[0].split("<td>")[1:]]]
    }

    assert rows["2.0"] == ["attached", "current"]
    assert rows["3.0"] == ["none", "not known"]
    assert rows["4.0"] == ["none", "none stated"]
    assert rows["5.0"][1].startswith("outdated since")
    assert rows["1.0"] == ["none", "current"]


async def test_the_overview_counts_outdated_images_of_the_last_changes(shop: Serving) -> None:
    """The overview names tag and base of each outdated image, as far as the caller may pull both."""
    boss, ci = text_of(await page_of(shop, path="/ui/")), text_of(await page_of(shop, "ci", "/ui/"))

    assert re.search(r"Among 6 images of the last changes, 1 is built on an outdated base: base/runtime : edge", boss)
    assert "None of 4 images of the last changes is known to be built on an outdated base." in ci
    assert "base/runtime : edge" not in ci


async def test_rebuilds_are_listed_with_their_end(data: Path) -> None:
    """Each requested rebuild shows how it ended, the number of tries and the last line of output."""
    settings = settings_with_users(data)
    async with serving_as(settings) as shop:
        for outcome in ("done", "failed"):
            row = RebuildRow(f"{OWN}/shop/{outcome}:1", f"{OWN}/base/os:edge", OS.digest, 1, outcome, 2, HOSTILE)
            with open_metadata(settings) as database:
                database.write_and_wait(partial(rebuild_table.put, row=row))
        page = await page_of(shop)

    assert "done at try 2: <bdi>&lt;script&gt;" in page
    assert "failed at try 2: " in page
    assert "<script" not in page


async def test_names_of_bases_are_no_markup(data: Path) -> None:
    """Markup in a label is shown as text."""
    async with serving_as(settings_with_users(data)) as shop:
        shop.client.auth = as_user("boss")
        await push(shop.client, "shop/app", "1.0", UNSAFE)
        await until_signed(shop.client)
        pages = [await page_of(shop, path=path) for path in ("/ui/bases", "/ui/", "/ui/repository?repository=shop/app")]

    assert "&lt;script&gt;alert(1)" in pages[0]
    for page in pages:
        assert "<script" not in page
        assert "<img" not in page


async def test_a_large_registry_has_pages_of_the_same_cost(shop: Serving) -> None:
    """All tags come, without gaps, and a page runs as many statements as before."""
    browser = await as_person(shop, "boss")
    await browser.get("/ui/bases")
    with counted() as few:
        await browser.get("/ui/bases")
    shop.client.auth = as_user("boss")
    images = [based(number) for number in range(20)]
    for number in range(230):
        await push(shop.client, "shop/app", f"7.{number}", images[number % 20])
    found: list[str] = []
    path: str | None = "/ui/bases"
    while path is not None:
        await browser.get(path)
        with counted() as statements:
            page = (await browser.get(path)).text
        assert len(statements) <= max(len(few) + 10, MOST_STATEMENTS)
        found += re.findall(r"<bdi>(7\.\d+)</bdi>", page)
        link = re.search(r'rel="next" href="([^"]+)"', page)
        path = None if link is None else unescape(link[1])

    assert sorted(found) == sorted(f"7.{number}" for number in range(230))
