"""The pages of images: what is in one, what changed between two, packages, and what became of base images."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import httpx2
import pytest

from boltseal.commands.image_contents import ReadLimits
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.commands.image_comparisons import ImageComparisons
from boltseal.server.store_factory import open_store
from tests.admin_requests import SECRET, USERS, as_user, settings_with_users, until_signed
from tests.host_documents import report, running
from tests.images import Document, artifact, image, index, push, signature, signature_tag
from tests.packaged_images import DPKG, dpkg, layer_of, sbom_of, spdx
from tests.page_images import BASE_LAYER, based_on, built_image
from tests.page_logins import Browser
from tests.page_views import HOSTILE, MOST_STATEMENTS, OWN, as_person, counted, text_of
from tests.serving import Serving, serving_as

BASE = built_image({"ADD base": BASE_LAYER})
NEWER_BASE = built_image({"ADD newer base": layer_of({"etc/base": b"newer"})})
OLD = built_image(
    {"ADD base": BASE_LAYER, "COPY one /app": layer_of({"app/one": b"1", "app/same": b"s"})},
    labels={"version": "1", **based_on(f"{OWN}/base/os:12", BASE)},
    settings={"Env": ["PATH=/bin", "MODE=old"], "User": "app"},
)
NEW = built_image(
    {
        "ADD base": BASE_LAYER,
        "COPY two /app": layer_of({"app/two": b"2", "app/same": b"s", DPKG: dpkg(bash="5.2", openssl="3.0.1")}),
    },
    labels={"version": "2", **based_on(f"{OWN}/base/os:12", BASE)},
    settings={"Env": ["PATH=/bin", "MODE=new"]},
)
ARM = built_image({"COPY arm /app": layer_of({"app/arm": b"a"})}, architecture="arm64")
BOTH = index(NEW, ARM)
UNSAFE = built_image(
    {HOSTILE: layer_of({f"app/{HOSTILE}": b""})},
    labels={HOSTILE: HOSTILE, **based_on(HOSTILE, BASE)},
    settings={"Env": [f"{HOSTILE}={HOSTILE}"], HOSTILE: HOSTILE},
    annotations={"a" + HOSTILE: HOSTILE},
)


def image_path(document: Document, repository: str = "shop/app", **more: str) -> str:
    """Return the address of the page of an image."""
    rest = "".join(f"&{name}={value}" for name, value in more.items())
    return f"/ui/image?repository={repository}&digest={document.digest}{rest}"


def changes_path(old: Document, new: Document, more: str = "") -> str:
    """Return the address of the page that compares two images."""
    return f"/ui/changes?repository=shop/app&old={old.digest}&new={new.digest}{more}"


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry whose tag `latest` moved twice, and whose base image was outdated by a newer one."""
    async with serving_as(settings_with_users(data)) as registry:
        client = registry.client
        client.auth = as_user("boss")
        await push(client, "base/os", "latest", BASE)
        await push(client, "shop/app", "latest", OLD)
        await push(client, "shop/app", "latest", NEW)
        await push(client, "shop/app", "latest", BOTH)
        await push(client, "shop/app", "1.0", OLD)
        await push(client, "other/private", "1.0", SECRET)
        client.auth = httpx2.Auth()
        await until_signed(client)
        yield registry


async def test_an_image_shows_its_layers_settings_and_labels(shop: Serving) -> None:
    """Each layer has its instruction and size; instructions without a layer, variables and labels are listed."""
    page = await (await as_person(shop, "ci")).get(image_path(OLD))
    text = text_of(page.text)

    assert page.status_code == 200, page.text
    assert "COPY one /app" in text
    assert 'CMD ["/run"] no layer none' in text
    assert "Env MODE old" in text
    assert "User app" in text
    assert "version 1" in text
    assert f"docker pull {OWN}/shop/app@{OLD.digest}" in text


async def test_an_index_shows_each_platform(shop: Serving) -> None:
    """The platforms are links; the config and the layers are those of the chosen one."""
    browser = await as_person(shop, "ci")
    first, arm = [await browser.get(path) for path in (image_path(BOTH), image_path(BOTH, platform="linux/arm64"))]
    unknown = await browser.get(image_path(BOTH, platform="linux/s390x"))

    assert "COPY two /app" in first.text
    assert "platform=linux%2Farm64" in first.text
    assert "COPY arm /app" in arm.text
    assert unknown.status_code == 404
    assert "has no image for linux/s390x" in unknown.text


async def test_an_image_shows_the_tags_that_ever_resolved_to_it(shop: Serving) -> None:
    """Tags of now, and the entries by which tags came to resolve to it, with their receipts."""
    browser = await as_person(shop, "ci")
    old, new = [text_of((await browser.get(image_path(each))).text) for each in (OLD, NEW)]

    assert "These resolve to it now: 1.0 ." in old
    assert re.search(r"latest created boss Entry \d", old)
    assert "No tag resolves to it now." in new
    assert re.search(r"latest moved boss Entry \d", new)


async def test_entries_of_a_digest_come_in_pages(shop: Serving) -> None:
    """A page looks at some entries only, and the next one at earlier ones, until there are none; a page shows where it began."""
    with open_store(settings_with_users(shop.data)) as store:
        ledger, found = store.registry.ledger, list[int]()
        following: int | None = 2**63 - 1
        while following is not None:
            page = await ledger.resolved_to(Repository("shop/app"), Digest.parse(OLD.digest), before=following, n=2)
            found += [index for index, _ in page.entries]
            following = page.following
    browser = await as_person(shop, "ci")
    first = (await browser.get(image_path(OLD))).text

    assert len(found) == 2
    assert [int(index) for index in re.findall(r'receipt/(\d+)">Entry', first)] == found


async def test_what_is_attached_is_listed(shop: Serving) -> None:
    """A signature by its tag, an SBOM and another artifact by their subject; the SBOM's packages have a page."""
    client = shop.client
    client.auth = as_user("boss")
    await push(client, "shop/app", signature_tag(OLD), signature(OLD, "shop"))
    for each in (sbom_of(OLD, spdx(left="1.3")), artifact("notes", subject=OLD)):
        answer = await push(client, "shop/app", each.digest, each)
        assert answer.status_code == 201, answer.text
    browser = await as_person(shop, "ci")
    text = text_of((await browser.get(image_path(OLD))).text)
    packages = text_of((await browser.get(f"/ui/packages?repository=shop/app&digest={OLD.digest}")).text)

    assert re.search(r"signature sha256:[0-9a-f]{12} .*\.sig", text)
    assert re.search(r"SBOM sha256:[0-9a-f]{12} application/spdx\+json", text)
    assert "artifact sha256:" in text
    assert "1 package, from an SBOM attached to the image" in packages
    assert "left 1.3 npm" in packages


async def test_packages_by_the_layers_are_read_where_asked(shop: Serving) -> None:
    """Without an SBOM the page says so, and has a link that reads the package databases."""
    browser = await as_person(shop, "ci")
    path = f"/ui/packages?repository=shop/app&digest={NEW.digest}"
    without, by_layers = [text_of((await browser.get(each)).text) for each in (path, f"{path}&layers=yes")]

    assert "Not known: no SBOM is attached to it" in without
    assert "2 packages, from package databases in the layers" in by_layers
    assert "bash 5.2 deb" in by_layers


async def test_hosts_that_run_the_image_are_listed(shop: Serving) -> None:
    """The page of an image lists the hosts that reported its digest."""
    sent = report("web-1", running("registry.example/shop/app:1.0", OLD.digest))
    answer = await shop.client.post("/api/v1/reports", json=sent, auth=as_user("boss"))
    assert answer.status_code == 200, answer.text
    page = await (await as_person(shop, "ci")).get(image_path(OLD))

    assert "/ui/host?host=web-1" in page.text


async def test_a_moved_base_is_outdated_since_its_tag_moved(data: Path) -> None:
    """The tag of the base, when it moved and to what; a caller who may not pull the base learns nothing of it."""
    rules = [{"repository": "base/**", "tag": "**", "mode": "floating"}]
    async with serving_as(settings_with_users(data, rule=rules)) as shop:
        client = shop.client
        client.auth = as_user("boss")
        await push(client, "base/os", "12", BASE)
        await push(client, "shop/app", "1.0", OLD)
        await until_signed(client)
        boss, path = await as_person(shop, "boss"), image_path(OLD)
        current = text_of((await boss.get(path)).text)
        await push(client, "base/os", "12", NEWER_BASE)
        await until_signed(client)
        history = await client.get("/api/v1/history", params={"repository": "base/os", "tag": "12"})
        outdated = (await boss.get(path)).text
        hidden = (await (await as_person(shop, "ci")).get(path)).text

    moved = history.json()["items"][0]["time"]
    assert "current: the tag resolves to the stated digest" in current
    assert "<strong>outdated</strong>" in outdated
    assert f'<time datetime="{moved}">' in outdated
    assert f"digest={NEWER_BASE.digest.replace(':', '%3A')}" in outdated
    assert "not known: it is in no repository here that you may pull" in hidden
    assert NEWER_BASE.digest[7:19] not in hidden


async def test_a_comparison_shows_every_kind_of_difference(shop: Serving) -> None:
    """Layers, settings and labels at once; packages and files after a click on the link."""
    browser = await as_person(shop, "ci")
    first = (await browser.get(changes_path(OLD, NEW))).text
    link = re.search(r'href="([^"]+)#contents">Compare packages', first)
    assert link is not None
    text, contents = text_of(first), text_of((await browser.get(unescape(link[1]))).text)

    assert "not the same image" in text
    assert "1 layer in common from the bottom up" in text
    assert "removed COPY one /app" in text
    assert "added COPY two /app" in text
    assert "Env MODE old new" in text
    assert "User app none" in text
    assert "version 1 2" in text
    assert "package changed bash (deb) 5.1 5.2" in contents
    assert "file added /app/two" in contents
    assert "file removed /app/one" in contents
    assert "/app/same" not in contents


async def test_a_comparison_has_pages(data: Path) -> None:
    """Packages and files come in pages without gaps."""
    names = [f"app/file-{number:03}" for number in range(250)]
    old = built_image({"COPY old": layer_of(dict.fromkeys(names, b"old"))})
    new = built_image({"COPY new": layer_of(dict.fromkeys(names, b"new"))})
    async with serving_as(settings_with_users(data)) as shop:
        shop.client.auth = as_user("boss")
        for document in (old, new):
            await push(shop.client, "shop/app", document.digest, document)
        browser = await as_person(shop, "ci")
        found, path, pages = list[str](), changes_path(old, new, "&contents=yes"), 0
        while True:
            page, pages = (await browser.get(path)).text, pages + 1
            found += re.findall(r"<td>(?:package|file)</td><td>\w+</td><td class=\"free\"><bdi>([^<]+)<", page)
            link = re.search(r'rel="next" href="([^"]+)"', page)
            if link is None:
                break
            path = unescape(link[1])

    assert pages == 3
    assert found == [f"/{name}" for name in names]


async def test_images_that_are_too_large_are_not_read(data: Path) -> None:
    """The reasons have the limit: of the stored layers, and of what they unpack to."""
    settings = settings_with_users(data)
    async with serving_as(settings) as registry:
        registry.client.auth = as_user("boss")
        for document in (OLD, NEW):
            await push(registry.client, "shop/app", document.digest, document)
    old, new = Digest.parse(OLD.digest), Digest.parse(NEW.digest)
    with open_store(settings) as store:
        small = ImageComparisons(store.registry.pulls, ReadLimits(layer_bytes=10))
        packed = ImageComparisons(store.registry.pulls, ReadLimits(unpacked_bytes=10))
        found = [await each.contents(Repository("shop/app"), old, new, None) for each in (small, packed)]

    for each in found:
        assert (each.rows, each.packages_reason != "", each.files_reason != "") == ((), True, True)
    assert "at most 10 are read" in found[0].files_reason


async def test_a_tag_page_compares_two_points(shop: Serving) -> None:
    """A form without script has every point of the timeline, and each move has a link of its own."""
    browser = await as_person(shop, "ci")
    page = (await browser.get("/ui/tag?repository=shop/app&tag=latest")).text
    options = re.findall(r'<option value="(sha256:[0-9a-f]{64})"( selected)?>', page)
    link = f"/ui/changes?repository=shop%2Fapp&amp;old={OLD.digest}&amp;new={NEW.digest}".replace(
        "sha256:", "sha256%3A"
    )

    assert [digest for digest, _ in options] == 2 * [BOTH.digest, NEW.digest, OLD.digest]
    assert [digest for digest, chosen in options if chosen] == [NEW.digest, BOTH.digest]
    assert link in page
    assert (await browser.get(changes_path(NEW, BOTH))).status_code == 200


@pytest.mark.parametrize("user", USERS)
async def test_images_are_shown_to_those_who_may_pull(shop: Serving, user: str) -> None:
    """Image, comparison and packages have the status that the API has for a tag of the repository; others learn nothing."""
    browser = Browser(shop)
    if (await browser.login(user, f"pw-{user}")).status_code != 303:
        return
    for repository, document in (("shop/app", OLD), ("other/private", SECRET), ("no/such", OLD)):
        answer = await shop.client.get(
            "/api/v1/tag", params={"repository": repository, "tag": "1.0"}, auth=as_user(user)
        )
        for path in (
            image_path(document, repository),
            f"/ui/packages?repository={repository}&digest={document.digest}",
            f"/ui/changes?repository={repository}&old={document.digest}&new={document.digest}",
        ):
            page = await browser.get(path)

            assert page.status_code == answer.status_code, (path, page.text)
    crossed = await browser.get(image_path(SECRET))
    assert crossed.status_code in (403, 404)
    assert "secret" not in crossed.text


async def test_texts_of_builders_are_no_markup(shop: Serving) -> None:
    """Instructions, variables, labels, annotations, base names, file names and packages are shown as text."""
    client = shop.client
    client.auth = as_user("boss")
    await push(client, "shop/app", "unsafe", UNSAFE)
    unsafe = sbom_of(UNSAFE, spdx(**{HOSTILE: HOSTILE}))
    await push(client, "shop/app", unsafe.digest, unsafe)
    browser = await as_person(shop, "ci")
    paths = [
        image_path(UNSAFE),
        changes_path(OLD, UNSAFE, "&contents=yes"),
        f"/ui/packages?repository=shop/app&digest={UNSAFE.digest}",
    ]
    pages = [await browser.get(path) for path in paths]

    for page in pages:
        assert page.status_code == 200, page.text
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text
        assert "<img" not in page.text


async def test_what_is_no_image_has_a_page(shop: Serving) -> None:
    """An artifact without a container's config shows what its manifest has; a missing digest is 404, a wrong one 400."""
    client = shop.client
    client.auth = as_user("boss")
    notes = artifact("notes", subject=OLD)
    await push(client, "shop/app", notes.digest, notes)
    browser = await as_person(shop, "ci")

    assert "Refers to" in (await browser.get(image_path(notes))).text
    assert (await browser.get(image_path(SECRET))).status_code == 404
    assert (await browser.get("/ui/image?repository=shop/app&digest=sha256:12")).status_code == 400


async def test_a_page_of_an_image_runs_few_statements(shop: Serving) -> None:
    """The page runs the same number of statements, however many tags and entries the repository has."""
    client, browser = shop.client, await as_person(shop, "boss")
    paths = (image_path(BOTH), changes_path(OLD, BOTH), f"/ui/packages?repository=shop/app&digest={NEW.digest}")
    few = [await statements(browser, path) for path in paths]
    client.auth = as_user("boss")
    for number in range(30):
        await push(client, "shop/app", f"2.{number}", BOTH)
        await push(client, "shop/app", "latest", image(f"of {number}"))
    await until_signed(client)
    many = [await statements(browser, path) for path in paths]

    assert all(now <= before + 1 <= MOST_STATEMENTS for before, now in zip(few, many, strict=True)), (few, many)


async def statements(browser: Browser, path: str) -> int:
    """Return how many statements a page runs once its templates are in memory."""
    await browser.get(path)
    with counted() as found:
        answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return len(found)
