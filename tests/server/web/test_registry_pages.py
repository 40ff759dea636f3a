"""The pages that show a registry: what each caller sees, and how many queries each page makes."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from boltseal.ledger.entry import OF_EVERY_LOG, EntryKind
from boltseal.oci.reference import Repository
from boltseal.policy.refusals import RefusalReason
from boltseal.server.registry.search import SHOWN, Search
from boltseal.server.registry.tag_lists import FIRST, TagLists, TagOrder
from boltseal.server.store_factory import open_store
from boltseal.server.web.pages.words import EVENTS, REASONS
from tests.admin_requests import ONE, SECRET, TWO, as_user, filled, post, settings_with_users, until_signed
from tests.host_documents import report, running
from tests.images import image, push, put
from tests.page_logins import Browser
from tests.page_views import HOSTILE, MOST_STATEMENTS, as_person, counted
from tests.polling import until_answer
from tests.serving import FLOATING, Serving, ledger_key, serving, serving_as, settings_of

OUR_SCRIPT = re.compile(r'<script type="module" src="/ui/static/[0-9a-f]{16}/verify\.js"></script>')
PATHS = (
    "/ui/",
    "/ui/repositories",
    "/ui/search?q=shop",
    "/ui/repository?repository=shop/app",
    "/ui/tag?repository=shop/app&tag=1.4.2",
    "/ui/refused",
    "/ui/hosts",
    "/ui/bases",
    "/ui/rules?ref=shop/app:1.4.2",
    "/ui/entry?repository=shop/app&entry=2",
    "/ui/tokens?all=yes",
    "/ui/account",
)
FORMS = (
    "/ui/seal?repository=shop/app&tag=latest",
    "/ui/unseal?repository=shop/app&tag=1.4.2",
    "/ui/restore?repository=shop/app&tag=latest",
    "/ui/purge?repository=shop/app&reference=latest",
    "/ui/create-token",
    "/ui/revoke-token?id=aaaaaaaaaa",
)


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with filled(data) as registry:
        yield registry


async def refuse_a_push(registry: Serving, **headers: str) -> None:
    """Push another image to the sealed tag, and wait until the refusal is recorded."""
    client = registry.client
    client.auth = as_user("ci")
    answer = await client.put(
        "/v2/shop/app/manifests/1.4.2", content=TWO.raw, headers={"content-type": TWO.media_type, **headers}
    )
    client.auth = httpx2.Auth()
    assert answer.status_code == 409, answer.text

    async def recorded() -> bool:
        listed = await client.get("/api/v1/refused", params={"repository": "shop/app"}, auth=as_user("boss"))
        return bool(listed.json()["items"])

    await until_answer(recorded, "the refusal is recorded")


async def test_all_pages_have_strict_headers_and_one_stylesheet(shop: Serving) -> None:
    """No inline script, no style beside the stylesheet, nothing of another host, and no cache keeps a page."""
    browser = await as_person(shop, "boss")
    for path in (*PATHS, *FORMS, "/ui/upstreams"):
        page = await browser.get(path)

        assert page.status_code == 200, (path, page.text)
        assert page.headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'"), path
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=|https?://", OUR_SCRIPT.sub("", page.text)), path
        assert page.text.count('rel="stylesheet"') == 1
        assert '<a class="skip" href="#content">' in page.text


def test_every_kind_of_entry_about_a_tag_has_a_name() -> None:
    """A page names each kind of entry that the history of a tag can have, and knows no reason that does not exist."""
    assert {*EVENTS} == {*EntryKind} - OF_EVERY_LOG - {EntryKind.RULES_CHANGED, EntryKind.KEY_ANNOUNCED}
    assert {*REASONS} <= {*RefusalReason}


async def test_a_tag_page_shows_the_timeline(shop: Serving) -> None:
    """what `latest` resolved to, when, and by which user; the receipts, and the command that pulls it by digest."""
    browser = await as_person(shop, "ci")
    page = (await browser.get("/ui/tag?repository=shop/app&tag=latest")).text
    (entry,) = re.findall(r'data-entry="(\d+)"', page)
    receipt = await browser.get(f"/ui/ledger/receipt/{entry}")

    assert page.count("<strong>created</strong>") == page.count("<strong>moved</strong>") == 1
    assert page.index("<strong>moved</strong>") < page.index("<strong>created</strong>")
    assert f"docker pull 127.0.0.1:5000/shop/app@{TWO.digest}" in page
    assert "by <bdi>boss</bdi>" in page
    assert 'data-repository="shop/app" data-tag="latest"' in page
    assert str(ledger_key(shop.data)) in page
    assert f'data-digest="{TWO.digest}"' in page
    assert receipt.headers["content-disposition"] == f'attachment; filename="entry-{entry}.tlog-proof"'
    assert receipt.text.startswith("c2sp.org/tlog-proof@v1")


async def test_a_page_shows_what_was_refused(shop: Serving) -> None:
    """The pushed and the standing digest, who pushed, and the free tag; the client's address for administrators alone."""
    await refuse_a_push(shop)
    seen = {}
    for user in ("ci", "lead"):
        browser = await as_person(shop, user)
        for path in ("/ui/", "/ui/refused", "/ui/tag?repository=shop/app&tag=1.4.2"):
            seen[user, path] = (await browser.get(path)).text

    for (user, path), page in seen.items():
        assert "the tag is sealed" in page, path
        assert ONE.digest[:19] in page
        assert TWO.digest[:19] in page
        assert "<bdi>ci</bdi>" in page
        assert "<bdi>1.4.3</bdi>" in page
        assert ("127.0.0.1" in page.replace("127.0.0.1:5000", "")) == (user == "lead"), (user, path)


@pytest.mark.parametrize("page", ["repository?", "tag?tag=2.0&", "refused?", "refused?tag=2.0&"])
async def test_what_may_not_be_pulled_is_refused_as_what_does_not_exist(shop: Serving, page: str) -> None:
    """The answers of a private repository and of one that does not exist differ in nothing but the name."""
    browser = await as_person(shop, "ci")
    private, missing = [
        await browser.get(f"/ui/{page}repository={repository}") for repository in ("other/private", "no/such")
    ]

    assert private.status_code == missing.status_code == 403
    assert "ci may not pull in" in private.text
    assert private.text.replace("other/private", "no/such") == missing.text


async def test_lists_counts_and_search_have_what_the_caller_may_pull(shop: Serving) -> None:
    """Neither overview nor search names a private repository, its tags, its digests, or their number."""
    browser = await as_person(shop, "ci")
    texts = [
        "other", "2.0", "1.0", "other/private", "other/private:", SECRET.digest, SECRET.digest[7:15], ONE.digest,
    ]  # fmt: skip
    found = {text: (await browser.get(f"/ui/search?q={quote(text)}")).text for text in texts}
    pages = [(await browser.get(path)).text for path in PATHS]
    theirs = await (await as_person(shop, "boss")).get(f"/ui/search?q={SECRET.digest}")

    for page in (*pages, *found.values()):
        assert "repository=other" not in page
    for text in texts[:-1]:
        assert "Nothing that you may pull begins with" in found[text], text
    assert f"{ONE.digest}</code></a> in " in found[ONE.digest]
    assert "repository=other%2Fprivate" in theirs.text


async def test_the_overview_names_a_purged_image_without_a_tag(shop: Serving) -> None:
    """The entry of a purge is one of an image, not of a tag: there is no link to a tag without a name."""
    untagged = image("without a tag")
    shop.client.auth = as_user("boss")
    assert (await push(shop.client, "shop/app", untagged.digest, untagged)).status_code == 201
    words = {"repository": "shop/app", "reference": untagged.digest, "reason": "a test"}
    planned = (await post(shop.client, "purge", "boss", **words, dry_run=True)).json()
    purged = await post(shop.client, "purge", "boss", **words, plan=planned["plan"])
    assert purged.status_code == 200, purged.text
    await until_signed(shop.client)
    text = (await (await as_person(shop, "boss")).get("/ui/")).text

    assert untagged.digest[7:19] in text
    assert " by digest</td>" in text
    assert "tag=&" not in text
    assert 'tag="' not in text


async def test_a_search_says_that_a_repository_has_more_tags(shop: Serving) -> None:
    """Of more tags than one page shows, the page says that there are others."""
    shop.client.auth = as_user("boss")
    for number in range(SHOWN + 1):
        assert (await put(shop.client, "shop/app", f"9.{number}", ONE)).status_code == 201
    browser = await as_person(shop, "boss")
    some, all_of_them = [(await browser.get(f"/ui/search?q=shop/app:9{text}")).text for text in ("", ".0")]

    assert "There are others" in some
    assert "There are others" not in all_of_them


async def test_a_receipt_needs_the_right_to_pull(shop: Serving) -> None:
    """The entry of another repository is refused, and its repository is not named."""
    boss = (await (await as_person(shop, "boss")).get("/ui/tag?repository=other/private&tag=2.0")).text
    (entry,) = re.findall(r'data-entry="(\d+)"', boss)
    answer = await (await as_person(shop, "ci")).get(f"/ui/ledger/receipt/{entry}")

    assert answer.status_code == 403
    assert "other/private" not in answer.text


async def test_without_login_pages_lead_to_the_form_and_back(shop: Serving) -> None:
    """The page that was asked for follows the login."""
    browser = Browser(shop)
    answer = await browser.get("/ui/tag?repository=shop/app&tag=1.4.2")
    form = await browser.get(answer.headers["location"])
    (back,) = re.findall(r'name="return_to" value="([^"]+)"', form.text)
    logged_in = await browser.login("ci", "pw-ci", return_to=unescape(back))

    assert answer.status_code == 303
    assert urlsplit(answer.headers["location"]).path == "/ui/login"
    assert logged_in.headers["location"] == "/ui/tag?repository=shop/app&tag=1.4.2"


async def test_anonymous_callers_see_what_they_may_pull(data: Path) -> None:
    """With `anonymous_pull` the pages show public repositories without a login, and a link to log in."""
    settings = settings_with_users(data)
    grants = settings.auth.model_copy(update={"anonymous_pull": ("shop/**",)})
    async with serving_as(settings.model_copy(update={"auth": grants})) as registry:
        registry.client.auth = as_user("boss")
        await push(registry.client, "shop/app", "1.4.2", ONE)
        await push(registry.client, "other/private", "2.0", SECRET)
        page = await Browser(registry).get("/ui/")
        private = await Browser(registry).get("/ui/repository?repository=other/private")

    assert "repository=shop%2Fapp" in page.text
    assert "other" not in page.text
    assert '<a href="/ui/login">Log in</a>' in page.text
    assert private.status_code == 303


async def test_only_operators_see_upstreams(shop: Serving) -> None:
    """Held tags are of all repositories, so an administrator of some of them does not see them."""
    lead, boss = await as_person(shop, "lead"), await as_person(shop, "boss")

    assert (await lead.get("/ui/upstreams")).status_code == 403
    assert "/ui/upstreams" not in (await lead.get("/ui/")).text
    assert (await boss.get("/ui/upstreams")).status_code == 200


async def test_pages_of_a_registry_without_users(data: Path) -> None:
    """On loopback everything is shown; what needs an operator is refused, not sent to a login that is not possible."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", ONE)
        browser = Browser(registry)
        page, upstreams = await browser.get("/ui/"), await browser.get("/ui/upstreams")

    assert "repository=shop%2Fapp" in page.text
    assert "Log in" not in page.text
    assert upstreams.status_code == 403


async def test_disabled_pages_are_not_there(data: Path) -> None:
    """`enabled = false` in [ui] removes all pages."""
    settings = settings_with_users(data)
    async with serving_as(settings.model_copy(update={"ui": settings.ui.model_copy(update={"enabled": False})})) as one:
        assert (await Browser(one).get("/ui/")).status_code == 404


async def test_texts_of_pushers_are_no_markup(data: Path) -> None:
    """A reason, the names and reasons in a report, a client's program, and the parameters of an address are shown as text."""
    async with filled(data) as shop:
        answer = await post(shop.client, "seal", "lead", repository="shop/app", tag="latest", reason=HOSTILE)
        assert answer.status_code == 200, answer.text
        await until_signed(shop.client)
        sent = report("web-1", running("localhost:5000/shop/app:1.4.2", ONE.digest, name=HOSTILE, reason=HOSTILE))
        sent_answer = await shop.client.post("/api/v1/reports", json=sent, auth=as_user("boss"))
        assert sent_answer.status_code == 200, sent_answer.text
        await refuse_a_push(shop, **{"user-agent": HOSTILE})
        browser = await as_person(shop, "boss")
        pages = [
            (await browser.get(path)).text
            for path in (
                "/ui/tag?repository=shop/app&tag=latest",
                "/ui/host?host=web-1",
                "/ui/tag?repository=shop/app&tag=1.4.2",
                f"/ui/search?q={quote(HOSTILE)}",
                f"/ui/host?host={quote(HOSTILE)}",
                f"/ui/hosts?digest={quote(HOSTILE)}",
                f"/ui/repository?repository={quote(HOSTILE)}",
                f"/ui/refused?repository=shop/app&tag={quote(HOSTILE)}",
                f"/ui/{quote(HOSTILE)}",
                *PATHS,
            )
        ]

        assert "&lt;script&gt;alert(1)" in pages[0]
        assert "&lt;script&gt;alert(1)" in pages[1]
        for page in pages:
            assert "<script" not in OUR_SCRIPT.sub("", page)
            assert "<img" not in page


async def test_a_search_that_goes_on_names_no_hidden_repository(data: Path) -> None:
    """Each page of a search for tags goes on after a repository that the caller may pull, and all of them are searched."""
    settings = settings_of(data, FLOATING)
    shown = ["m/shop", "n/shop", "y/shop"]
    async with serving_as(settings) as registry:
        for name in (*shown, *(f"{letter}/hidden" for letter in "abcdopqz")):
            await push(registry.client, name, "1.4", ONE)
    found, places = list[str](), list[str]()
    with open_store(settings) as store:
        search, after = Search(store.database, looked_into=2), ""
        while True:
            page = await search.find("1.4", lambda name: name in shown, after)
            found += [each.repository for each in page.tags]
            if page.following is None:
                break
            after = page.following
            places.append(after)

    assert found == shown
    assert set(places) <= set(shown)


async def test_tags_come_in_the_order_of_versions_with_their_lines(data: Path) -> None:
    """Newest version first, tags without a version last; each order and line in pages without gaps."""
    names = [f"1.{minor}.{patch}" for minor in range(4) for patch in range(40)]
    async with serving(data, FLOATING) as registry:
        for name in (*names, "latest"):
            await push(registry.client, "shop/app", name, ONE)
        seen = {
            query: await all_tags(Browser(registry), f"/ui/repository?repository=shop/app{query}")
            for query in ("", "&order=time", "&order=name", "&line=1.2")
        }
        page = (await Browser(registry).get("/ui/repository?repository=shop/app")).text

    newest_first = list(reversed(names))
    assert seen[""] == [*newest_first, "latest"]
    assert seen["&order=time"] == ["latest", *newest_first]
    assert seen["&order=name"] == sorted([*names, "latest"])
    assert seen["&line=1.2"] == [name for name in newest_first if name.startswith("1.2.")]
    assert "161 tags" in page
    assert "1.2 (40)" in page
    assert "Version 1.3</th>" in page
    assert 'class="mode mutable"' in page


async def all_tags(browser: Browser, path: str) -> list[str]:
    """Follow the links to the next page, and return all tags."""
    found: list[str] = []
    following: str | None = path
    while following is not None:
        page = await browser.get(following)
        assert page.status_code == 200, page.text
        found += re.findall(r'<td><a href="/ui/tag\?[^"]*"><bdi>([^<]+)</bdi>', page.text)
        link = re.search(r'rel="next" href="([^"]+)"', page.text)
        following = None if link is None else unescape(link[1])
    return found


async def test_a_repository_with_too_many_tags_is_listed_by_name(data: Path) -> None:
    """The order by version is not made, whatever order was asked for."""
    settings = settings_of(data, FLOATING)
    names = [f"1.{number}.0" for number in range(12)]
    async with serving_as(settings) as registry:
        for name in names:
            await push(registry.client, "shop/app", name, ONE)
    with open_store(settings) as store:
        lists = TagLists(store.database, max_sorted=11)
        page = await lists.page(Repository("shop/app"), TagOrder.VERSION, FIRST, 10)

    assert (page.order, page.tags, page.lines, page.more) == (TagOrder.NAME, None, (), True)
    assert [each.name for each in page.listed] == sorted(names)[:10]


async def test_a_change_of_a_tag_shows_at_once(data: Path) -> None:
    """The order that is kept in memory is made again when a tag was pushed, moved or deleted."""
    async with serving(data, FLOATING) as registry:
        browser = Browser(registry)
        await push(registry.client, "shop/app", "1.0.0", ONE)
        first = await all_tags(browser, "/ui/repository?repository=shop/app&order=time")
        await push(registry.client, "shop/app", "1.1.0", ONE)
        second = await all_tags(browser, "/ui/repository?repository=shop/app&order=time")
        await push(registry.client, "shop/app", "1.0.0", TWO)
        third = await all_tags(browser, "/ui/repository?repository=shop/app&order=time")
        await registry.client.delete("/v2/shop/app/manifests/1.1.0")
        last = await all_tags(browser, "/ui/repository?repository=shop/app&order=time")

    assert (first, second, third, last) == (["1.0.0"], ["1.1.0", "1.0.0"], ["1.0.0", "1.1.0"], ["1.0.0"])


async def test_the_number_of_queries_does_not_grow(data: Path) -> None:
    """Every page of a registry with many tags, repositories and refusals runs as many statements as with few."""
    async with filled(data) as shop:
        await refuse_a_push(shop)
        browser = await as_person(shop, "boss")
        few = await statements_of_pages(browser)
        shop.client.auth = as_user("boss")
        for number in range(60):
            await push(shop.client, "shop/app", f"2.{number}.0", image(f"of {number}"))
            await push(shop.client, f"shop/more-{number}", "1.0", ONE)
            await push(shop.client, "shop/app", "latest", (ONE, TWO)[number % 2])
        await until_signed(shop.client)
        many = await statements_of_pages(browser)

    for path, number in many.items():
        assert number <= max(few[path] + 1, 2), (path, few[path], number)
        assert number <= MOST_STATEMENTS


async def statements_of_pages(browser: Browser) -> dict[str, int]:
    """Return how many statements each page runs once its templates and orders are in memory."""
    found = {}
    for path in (*PATHS, *FORMS, "/ui/upstreams", "/ui/host?host=none"):
        await browser.get(path)
        with counted() as statements:
            await browser.get(path)
        found[path] = len(statements)
    return found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/ui/repository?repository=shop/app&order=size", "expected version, time, name"),
        ("/ui/repository?repository=shop/app&cursor=x", "cannot read the cursor"),
        ("/ui/repository?repository=Shop", "repository"),
        ("/ui/hosts?tag=1.4.2", "tag needs repository"),
    ],
)
async def test_a_wrong_address_says_what_is_wrong(shop: Serving, path: str, message: str) -> None:
    """An address that was typed wrongly has a page with the reason."""
    page = await (await as_person(shop, "boss")).get(path)

    assert page.status_code == 400
    assert message in page.text


async def test_pages_that_show_are_only_read(shop: Serving) -> None:
    """A page that is no form takes none."""
    browser = await as_person(shop, "boss")
    for path in PATHS[:-1]:
        if path.startswith("/ui/rules"):  # its form plans
            continue

        assert (await browser.post(path, {})).status_code == 405


async def test_a_tag_that_does_not_exist(shop: Serving) -> None:
    """404 where the caller may pull."""
    browser = await as_person(shop, "ci")

    assert (await browser.get("/ui/tag?repository=shop/app&tag=9.9")).status_code == 404
    assert (await browser.get("/ui/repository?repository=shop/none")).status_code == 404
