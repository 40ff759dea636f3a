"""Pages show to each user what the admin API shows to the same user, and nothing else: a comparison of both for every user."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from tests.admin_requests import ONE, SECRET, TWO, USERS, as_user, filled, until_signed
from tests.host_documents import release, report, running
from tests.images import push
from tests.page_logins import Browser
from tests.polling import until_answer
from tests.serving import Serving

TAGS = (
    ("shop/app", "1.4.2"), ("shop/app", "latest"), ("shop/app", "no-such"),
    ("other/private", "1.0"), ("other/private", "2.0"), ("no/such", "1.0"),
)  # fmt: skip
SHOWN = {303: 401, 403: 403, 404: 404, 400: 400, 200: 200}
"""The status of the API for that of a page: a page sends a browser without login to the form."""


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry with refused pushes and reports about both repositories."""
    async with filled(data) as registry:
        await refuse(registry, "shop/app", "1.4.2")
        await refuse(registry, "other/private", "2.0")
        images = (
            running("localhost:5000/shop/app:1.4.2", ONE.digest),
            running("localhost:5000/other/private:2.0", SECRET.digest),
        )
        for sent in (report("web-1", *images), report("web-1", **release("both", 1, *images))):
            answer = await registry.client.post("/api/v1/reports", json=sent, auth=as_user("boss"))
            assert answer.status_code == 200, answer.text
        yield registry


async def refuse(registry: Serving, repository: str, tag: str) -> None:
    """Push another image to a sealed tag."""
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=registry.app), base_url=registry.client.base_url, auth=as_user("boss")
    ) as client:
        answer = await push(client, repository, tag, TWO)
    assert answer.status_code == 409, answer.text

    async def recorded() -> bool:
        listed = await registry.client.get("/api/v1/refused", params={"repository": repository}, auth=as_user("boss"))
        return bool(listed.json()["items"])

    await until_answer(recorded, "the refusal is recorded")
    await until_signed(registry.client)


class Both:
    """One user at the admin API and at the pages."""

    def __init__(self, shop: Serving, user: str) -> None:
        self.browser = Browser(shop)
        self._client = shop.client
        self._auth = as_user(user)
        self._user = user

    async def log_in(self) -> None:
        """Log in to the pages, as every user may, also one without a grant."""
        answer = await self.browser.login(self._user, f"pw-{self._user}")
        assert answer.status_code == 303, answer.text

    async def api(self, name: str, **query: str) -> tuple[int, Any]:
        """Return status and document of a read."""
        answer = await self._client.get(f"/api/v1/{name}", params=query, auth=self._auth)
        return answer.status_code, answer.json()

    async def page(self, name: str, **query: str) -> tuple[int, str]:
        """Return the status as the API has it, and the text of a page."""
        answer = await self.browser.get(f"/ui/{name}", params=query)
        return SHOWN[answer.status_code], answer.text


def linked(text: str, name: str) -> set[str]:
    """Return the values of a parameter in the links of a page."""
    return {unquote(value) for value in re.findall(rf'href="[^"]*[?;]{name}=([^&"]+)', text)}


@pytest.mark.parametrize("user", USERS)
async def test_a_page_shows_what_the_api_shows_to_the_same_user(shop: Serving, user: str) -> None:
    """Repositories, tags, entries, refused pushes, hosts and upstreams: the same status, and the same names and digests."""
    both = Both(shop, user)
    await both.log_in()
    status, listed = await both.api("repositories")
    names = {each["name"] for each in listed["items"]} if status == 200 else set()
    shown = {name: await both.page(name) for name in ("", "repositories", "refused", "hosts", "upstreams")}

    assert shown["repositories"][0] == shown[""][0] == status
    assert linked(shown["repositories"][1], "repository") == names
    assert linked(shown[""][1], "repository") <= names
    for page, read in (("refused", "refused/all"), ("hosts", "hosts"), ("upstreams", "upstreams")):
        status, document = await both.api(read)

        assert shown[page][0] == status, page
        if page == "refused" and status == 200:
            assert linked(shown[page][1], "repository") == {each["repository"] for each in document["items"]}
            assert shown[page][1].count("<time") >= len(document["items"])
        if page == "hosts" and status == 200:
            assert linked(shown[page][1], "host") == {each["name"] for each in document["items"]}
    for text in (text for _, text in shown.values()):
        assert all(name in text for name in linked(text, "repository"))
        assert ("other/private" in text) <= ("other/private" in names)


@pytest.mark.parametrize("user", USERS)
async def test_a_tag_is_shown_to_those_who_may_pull_it(shop: Serving, user: str) -> None:
    """The page of each tag and its list have the status of the API, and the same entries and digests."""
    both, compared = Both(shop, user), 0
    await both.log_in()
    for repository, tag in TAGS:
        status, _ = await both.api("tag", repository=repository, tag=tag)
        shown, text = await both.page("tag", repository=repository, tag=tag)

        assert shown == status, (repository, tag)
        status, tags = await both.api("tags", repository=repository)
        shown, page = await both.page("repository", repository=repository)

        assert shown == status, repository
        if status == 200:
            assert linked(page, "tag") == {each["name"] for each in tags["items"]}
        status, history = await both.api("history", repository=repository, tag=tag)
        if status == 200 and shown == 200 and history["items"]:
            receipts = set(re.findall(r"/ui/ledger/receipt/(\d+)", text))
            compared += 1

            assert receipts >= {str(each["index"]) for each in history["items"]}
    assert compared or user in ("blind", "nobody")


@pytest.mark.parametrize("user", USERS)
async def test_a_search_finds_what_the_api_shows(shop: Serving, user: str) -> None:
    """By repository, tag and digest: only repositories in the user's list, and no count of others."""
    both = Both(shop, user)
    await both.log_in()
    status, listed = await both.api("repositories")
    names = {each["name"] for each in listed["items"]} if status == 200 else set()
    for text in ("s", "other", "1", "2.0", ONE.digest[:15], SECRET.digest, "other/private:2"):
        shown, page = await both.page("search", q=text)

        assert shown == status, text
        assert linked(page, "repository") <= names, text
        if "other/private" not in names and text in ("other", "2.0", SECRET.digest, "other/private:2"):
            assert not linked(page, "repository")
    if "shop/app" in names:
        assert linked((await both.page("search", q=ONE.digest[:15]))[1], "repository") >= {"shop/app"}


@pytest.mark.parametrize("user", USERS)
async def test_what_hosts_run_is_shown_as_the_api_shows_it(shop: Serving, user: str) -> None:
    """Images and releases on the page of a host are those that the API lists, for each user."""
    both = Both(shop, user)
    await both.log_in()
    status, images = await both.api("hosts/images", host="web-1")
    shown, page = await both.page("host", host="web-1")
    found, _ = await both.api("host", host="web-1")

    assert shown == found
    assert user != "boss" or found == status == 200
    if found == status == 200:
        assert set(re.findall(r"<bdi>(localhost:5000/[^<]+)</bdi>", page)) == {
            each["image"]["reference"] for each in images["items"]
        } | set(await releases(both))


async def releases(both: Both) -> list[str]:
    """Return the references of the releases that the API lists."""
    _, listed = await both.api("releases", host="web-1")
    return [image["reference"] for each in listed["items"] for image in each["images"]]
