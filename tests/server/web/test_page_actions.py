"""Forms that change tags: each with a preview, the rights of the admin API, protection against pages of other servers, and the entry that it became."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.admin_requests import ONE, SECRET, TWO, USERS, as_user, filled, get, post, settings_with_users, until_signed
from tests.fakes.upstream import FakeUpstream
from tests.images import image, push
from tests.page_logins import Browser
from tests.page_views import HOSTILE, as_person, hidden
from tests.server.mirror.mirrors import NAME, table_of
from tests.serving import ORIGIN, Serving, serving, serving_as

LATEST = {"repository": "shop/app", "tag": "latest"}
SEALED = {"repository": "shop/app", "tag": "1.4.2"}
FORMS: Mapping[str, Mapping[str, str]] = {
    "seal": LATEST,
    "unseal": SEALED,
    "restore": {**LATEST, "to": ONE.digest},
    "accept": LATEST,
    "purge": {"repository": "shop/app", "reference": "latest"},
}
THREE = image("three")


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with filled(data) as registry:
        yield registry


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream().listening() as listening:
        yield listening


async def previewed(browser: Browser, name: str, given: Mapping[str, str], reason: str = "because") -> httpx2.Response:
    """Open a form, fill it in, and send it."""
    page = await browser.get(f"/ui/{name}", params=dict(given))
    assert page.status_code == 200, page.text
    return await browser.post(f"/ui/{name}", {**hidden(page.text), **given, "reason": reason})


async def done(browser: Browser, name: str, given: Mapping[str, str], reason: str = "because") -> httpx2.Response:
    """Send a form, and then that of its preview."""
    preview = await previewed(browser, name, given, reason)
    assert preview.status_code == 200, preview.text
    return await browser.post(f"/ui/{name}", hidden(preview.text))


async def tag_of(shop: Serving, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = (await get(shop.client, "tag", "boss", repository="shop/app", tag=tag)).json()["tag"]
    return found


async def entries_of(shop: Serving) -> int:
    """Return how many entries the ledger has."""
    (log, *_) = (await get(shop.client, "ledger", "boss")).json()["items"]
    return int(log["size"])


async def after(shop: Serving, browser: Browser, answer: httpx2.Response) -> str:
    """Follow the redirect of a form, when its entry is signed. Return the page."""
    assert answer.status_code == 303, answer.text
    await until_signed(shop.client)
    page = await browser.get(answer.headers["location"])
    assert page.status_code == 200, page.text
    return page.text


async def test_seal_shows_its_effect_and_becomes_an_entry(shop: Serving) -> None:
    """The preview changes nothing; the second form seals, and shows the entry with reason, user and receipt."""
    browser = await as_person(shop, "lead")
    before = await entries_of(shop)
    preview = await previewed(browser, "seal", LATEST, "the release of December")
    unchanged = await tag_of(shop, "latest"), await entries_of(shop)
    page = await after(shop, browser, await browser.post("/ui/seal", hidden(preview.text)))
    changed = await tag_of(shop, "latest")

    assert f'<code class="whole">{TWO.digest}</code>, now and for ever' in preview.text
    assert (unchanged[0]["mode"], unchanged[1]) == ("mutable", before)
    assert (changed["mode"], changed["digest"], changed["seal"]["by"]) == ("sealed", TWO.digest, "lead")
    assert "<strong>sealed</strong>" in page
    assert "Reason: <bdi>the release of December</bdi>" in page
    assert "by <bdi>lead</bdi>" in page
    assert re.search(rf"/ui/ledger/receipt/{before}\b", page)


async def test_unseal_lifts_the_protection(shop: Serving) -> None:
    """The image can be deleted afterwards, as after `boltseal tag unseal`."""
    browser = await as_person(shop, "lead")
    page = await after(shop, browser, await done(browser, "unseal", SEALED))

    assert "<strong>protection lifted</strong>" in page
    assert (await tag_of(shop, "1.4.2"))["keep"] == "deletable"


@pytest.mark.parametrize("to", [ONE.digest, ONE.digest[7:19], "1"])
async def test_restore_moves_the_tag_back(shop: Serving, to: str) -> None:
    """By a digest, the beginning of one, and the index of an entry; the preview shows both digests."""
    entries = (await get(shop.client, "history", "boss", **LATEST)).json()["items"]
    given = {**LATEST, "to": str(entries[-1]["index"]) if to == "1" else to}
    browser = await as_person(shop, "lead")
    form = (await browser.get("/ui/restore", params=dict(LATEST))).text
    preview = await previewed(browser, "restore", given)
    page = await after(shop, browser, await browser.post("/ui/restore", hidden(preview.text)))

    assert f'<option value="{ONE.digest}">' in form
    assert f'<option value="{TWO.digest}">' not in form
    assert preview.text.index(TWO.digest) < preview.text.index(f"{ONE.digest}</code></dd>")
    assert "<strong>restored</strong>" in page
    assert (await tag_of(shop, "latest"))["digest"] == ONE.digest


async def test_purge_deletes_what_its_preview_listed(shop: Serving) -> None:
    """The preview lists tags, manifests and blobs; the entry is on the page that follows."""
    browser = await as_person(shop, "lead")
    given = {"repository": "shop/app", "reference": "latest"}
    preview = await previewed(browser, "purge", given, "it has a password")
    there = await shop.client.get("/v2/shop/app/manifests/latest", auth=as_user("boss"))
    page = await after(shop, browser, await browser.post("/ui/purge", hidden(preview.text)))
    gone = await shop.client.get(f"/v2/shop/app/manifests/{TWO.digest}", auth=as_user("boss"))

    assert "Tags that would go: 1" in preview.text
    assert "<bdi>latest</bdi>" in preview.text
    assert TWO.digest in preview.text
    assert (there.status_code, gone.status_code) == (200, 404)
    assert "<strong>purged</strong>" in page
    assert "it has a password" in page


async def test_an_image_is_purged_by_its_digest(shop: Serving) -> None:
    """The page of an image links to its purge, which removes all of its tags."""
    browser = await as_person(shop, "lead")
    link = f"/ui/purge?repository=shop%2Fapp&amp;reference={TWO.digest.replace(':', '%3A')}"
    image_page = (await browser.get(f"/ui/image?repository=shop/app&digest={TWO.digest}")).text
    answer = await done(browser, "purge", {"repository": "shop/app", "reference": TWO.digest})

    assert link in image_page
    assert "<strong>purged</strong>" in await after(shop, browser, answer)


async def test_a_held_tag_is_accepted(data: Path, upstream: FakeUpstream) -> None:
    """The page of upstreams links to the form; clients get the new digest afterwards, and the other log has the entry."""
    table = table_of(upstream, rule=[{"tag": "*", "on_move": "hold"}])
    async with serving_as(settings_with_users(data, upstream=[table])) as shop:
        tag, url = {"repository": f"{NAME}/team/app", "tag": "1.4.2"}, f"/v2/{NAME}/team/app/manifests/1.4.2"
        for document in (ONE, TWO):
            upstream.publish("team/app", "1.4.2", document)
            await shop.client.get(url, auth=as_user("boss"))
        browser = await as_person(shop, "boss")
        listed = (await browser.get("/ui/upstreams")).text
        preview = await previewed(browser, "accept", tag, "read the notes")
        kept = await shop.client.get(url, auth=as_user("boss"))
        answer = await browser.post("/ui/accept", hidden(preview.text))
        page = await after(shop, browser, answer)
        served = await shop.client.get(url, auth=as_user("boss"))
        again = await browser.get("/ui/accept", params=tag)

    assert "/ui/accept?repository=" in listed
    assert preview.text.index(ONE.digest) < preview.text.index(TWO.digest)
    assert kept.headers["docker-content-digest"] == ONE.digest
    assert served.headers["docker-content-digest"] == TWO.digest
    assert "<strong>accepted</strong>" in page
    assert "read the notes" in page
    assert "/ui/ledger/observations/receipt/" in page
    assert again.status_code == 404


@pytest.mark.parametrize("name", ["seal", "restore"])
async def test_a_tag_that_moved_after_the_preview_stays(shop: Serving, name: str) -> None:
    """What is done is what was shown: the change is refused, and the form is shown again with the reason."""
    browser = await as_person(shop, "lead")
    preview = await previewed(browser, name, FORMS[name], "for a customer")
    shop.client.auth = as_user("boss")
    await push(shop.client, "shop/app", "latest", THREE)
    answer = await browser.post(f"/ui/{name}", hidden(preview.text))
    found = await tag_of(shop, "latest")

    assert answer.status_code == 412
    assert "Nothing was changed: " in answer.text
    assert 'value="for a customer"' in answer.text
    assert (found["mode"], found["digest"]) == ("mutable", THREE.digest)


async def test_a_purge_that_would_delete_more_than_its_preview_is_refused(shop: Serving) -> None:
    """If another tag resolves to the image by then, the purge is refused and nothing is deleted."""
    browser = await as_person(shop, "lead")
    preview = await previewed(browser, "purge", FORMS["purge"])
    shop.client.auth = as_user("boss")
    await push(shop.client, "shop/app", "1.5.0", TWO)
    answer = await browser.post("/ui/purge", hidden(preview.text))

    assert answer.status_code == 412
    assert (await tag_of(shop, "1.5.0"))["digest"] == TWO.digest


@pytest.mark.parametrize("name", ["seal", "unseal", "restore", "purge"])
async def test_without_a_preview_nothing_is_done(shop: Serving, name: str) -> None:
    """`step=change` without what the preview adds shows the preview."""
    browser = await as_person(shop, "lead")
    token, before = await browser.form_token("/ui/account"), await entries_of(shop)
    fields = {"form_token": token, **FORMS[name], "reason": "because", "step": "change"}
    answer = await browser.post(f"/ui/{name}", fields)

    assert answer.status_code == 200
    assert "What it would do" in answer.text
    assert await entries_of(shop) == before


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("user", USERS)
async def test_rights_are_those_of_the_admin_api(shop: Serving, name: str, user: str) -> None:
    """Each user: the form, its preview and the change are refused where the API refuses the same change as a dry run."""
    api = await post(shop.client, name, user, dry_run=True, reason="because", **FORMS[name])
    browser = Browser(shop)
    before = await entries_of(shop)
    if (await browser.login(user, f"pw-{user}")).status_code != 303:
        assert api.status_code == 403
        return
    token = await browser.form_token("/ui/account")
    fields = {"form_token": token, **FORMS[name], "reason": "because"}
    page = await browser.get(f"/ui/{name}", params=dict(FORMS[name]))
    preview = await browser.post(f"/ui/{name}", fields)
    change = None
    if api.status_code == 403:
        bound = {"step": "change", "at": TWO.digest, "plan": "x", "digest": TWO.digest}
        change = await browser.post(f"/ui/{name}", {**bound, **fields})

    assert preview.status_code == api.status_code
    assert (page.status_code == 403) == (api.status_code == 403)
    assert change is None or change.status_code == 403
    assert await entries_of(shop) == before


@pytest.mark.parametrize("user", ["boss", "lead", "ci"])
async def test_links_to_changes_are_for_people_who_may_make_them(shop: Serving, user: str) -> None:
    """A user without `admin` in the repository sees none of them."""
    browser = await as_person(shop, user)
    tag = (await browser.get("/ui/tag?repository=shop/app&tag=latest")).text
    sealed = (await browser.get("/ui/tag?repository=shop/app&tag=1.4.2")).text

    for link, page in (("seal", tag), ("restore", tag), ("purge", tag), ("unseal", sealed), ("purge", sealed)):
        assert (f'href="/ui/{link}?' in page) == (user != "ci"), link
    assert 'href="/ui/seal?' not in sealed


async def test_forms_of_a_private_repository_do_not_say_whether_it_exists(shop: Serving) -> None:
    """One answer for a repository that the user may not administer and for one that is not there."""
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    found = []
    for name in ("other/private", "other/nothing"):
        fields = {"form_token": token, "repository": name, "tag": "2.0", "reason": "because"}
        page = await browser.get("/ui/seal", params={"repository": name, "tag": "2.0"})
        answer = await browser.post("/ui/seal", fields)
        found.append([(each.status_code, each.text.replace(name, "NAME")) for each in (page, answer)])

    assert found[0] == found[1]
    assert found[0][0][0] == 403
    assert SECRET.digest not in str(found)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {},
    ],
)
async def test_forms_of_other_servers_change_nothing(shop: Serving, name: str, headers: dict[str, str]) -> None:
    """A form that another server's page sends (CSRF) is refused, even with all fields and the right token."""
    browser = await as_person(shop, "lead")
    before = await entries_of(shop)
    token = await browser.form_token("/ui/account")
    fields = {"form_token": token, **FORMS[name], "reason": "because", "step": "change", "at": TWO.digest}
    answer = await browser.post(f"/ui/{name}", fields, headers)

    assert answer.status_code == 403
    assert await entries_of(shop) == before


@pytest.mark.parametrize("given", ["no field", "", "0" * 64, "of another session"])
async def test_forms_without_the_token_of_the_session_change_nothing(shop: Serving, given: str) -> None:
    """A form without a token, with a guessed one, or with that of another session of the same user is refused."""
    browser, other = await as_person(shop, "lead"), await as_person(shop, "lead")
    fields = {**LATEST, "reason": "because", "step": "change", "at": TWO.digest}
    if given != "no field":
        fields["form_token"] = await other.form_token("/ui/account") if given.startswith("of") else given
    answer = await browser.post("/ui/seal", fields)

    assert answer.status_code == 403
    assert (await tag_of(shop, "latest"))["mode"] == "mutable"


async def test_an_address_changes_nothing(shop: Serving) -> None:
    """GET with all fields of a confirmed form shows the form; other methods are refused."""
    browser = await as_person(shop, "lead")
    before = await entries_of(shop)
    token = await browser.form_token("/ui/account")
    for name, given in FORMS.items():
        fields = {**given, "form_token": token, "reason": "because", "step": "change", "at": TWO.digest}
        page = await browser.get(f"/ui/{name}", params=fields)
        put = await browser.http.put(f"/ui/{name}", params=fields)

        assert page.status_code == (404 if name == "accept" else 200)
        assert (put.status_code, put.headers["allow"]) == (405, "GET, HEAD, POST")
    assert await entries_of(shop) == before


async def test_without_a_session_nothing_is_done(shop: Serving) -> None:
    """A form needs a login, one that was ended counts no more, and passwords or API tokens in headers are none."""
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    fields = {**LATEST, "form_token": token, "reason": "because", "step": "change", "at": TWO.digest}
    cookie = browser.cookie()
    await browser.post("/ui/logout", {"form_token": token})
    browser.http.cookies.set("boltseal-session", cookie)
    ended = await browser.post("/ui/seal", fields)
    header = await Browser(shop).http.post(
        "/ui/seal", data=fields, auth=as_user("boss"), headers={"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    )
    form = await Browser(shop).get("/ui/seal", params=dict(LATEST))

    assert (ended.status_code, header.status_code) == (401, 401)
    assert form.headers["location"].startswith("/ui/login?return_to=%2Fui%2Fseal%3F")
    assert (await tag_of(shop, "latest"))["mode"] == "mutable"


async def test_without_users_pages_change_nothing(data: Path) -> None:
    """Without users there is no administrator, so each form is refused as by the admin API."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "latest", ONE)
        browser = Browser(registry)
        page = await browser.get("/ui/tag?repository=shop/app&tag=latest")
        form = await browser.get("/ui/seal", params=dict(LATEST))
        answer = await browser.post("/ui/seal", {**LATEST, "reason": "because"})

    assert 'href="/ui/seal' not in page.text
    assert (form.status_code, answer.status_code) == (403, 401)


async def test_a_read_only_registry_refuses_with_the_reason(data: Path) -> None:
    """The form says that nothing is written now, as the API does."""
    settings = settings_with_users(data)
    async with serving_as(settings) as registry:
        registry.client.auth = as_user("boss")
        await push(registry.client, "shop/app", "latest", ONE)
    frozen = settings.model_copy(update={"server": settings.server.model_copy(update={"read_only": True})})
    async with serving_as(frozen) as registry:
        answer = await previewed(await as_person(registry, "lead"), "seal", LATEST)
        api = await post(registry.client, "seal", "lead", dry_run=True, reason="because", **LATEST)

    assert answer.status_code == api.status_code == 405
    assert "Nothing was changed: " in answer.text


@pytest.mark.parametrize(
    ("name", "given", "status"),
    [
        ("seal", {**LATEST, "reason": "  "}, 400),
        ("seal", {**LATEST, "reason": "x" * 5000}, 400),
        ("unseal", {**LATEST, "reason": "because"}, 400),
        ("restore", {**LATEST, "to": "never", "reason": "because"}, 400),
        ("restore", {**LATEST, "to": SECRET.digest, "reason": "because"}, 404),
        ("purge", {"repository": "shop/app", "reference": "sha256:1", "reason": "because"}, 400),
        ("purge", {"repository": "shop/app", "reference": "9.9", "reason": "because"}, 404),
    ],
)
async def test_a_refused_form_is_shown_again(shop: Serving, name: str, given: dict[str, str], status: int) -> None:
    """A refused form comes back with the message of the API, and with what was typed."""
    browser = await as_person(shop, "lead")
    token = await browser.form_token("/ui/account")
    answer = await browser.post(f"/ui/{name}", {"form_token": token, **given})

    assert answer.status_code == status
    assert 'role="alert"' in answer.text
    assert (
        f'name="reason" size="80" maxlength="1000" required aria-describedby="reason-help" value="{given["reason"]}"'
        in answer.text
    )


async def test_what_was_typed_is_no_markup(shop: Serving) -> None:
    """Reasons in form, preview and entry, and names in the address, are shown as text."""
    browser = await as_person(shop, "lead")
    preview = await previewed(browser, "seal", LATEST, HOSTILE)
    entry = await after(shop, browser, await browser.post("/ui/seal", hidden(preview.text)))
    token = await browser.form_token("/ui/account")
    pages = [
        preview.text,
        entry,
        (await browser.post("/ui/restore", {"form_token": token, **LATEST, "to": HOSTILE, "reason": HOSTILE})).text,
        (await browser.get("/ui/seal", params={"repository": HOSTILE, "tag": HOSTILE})).text,
        (await browser.get("/ui/purge", params={"repository": "shop/app", "reference": HOSTILE})).text,
        (await browser.get("/ui/entry", params={"repository": "shop/app", "entry": HOSTILE})).text,
        (await browser.get("/ui/entry", params={"repository": "shop/app", "purged": HOSTILE})).text,
    ]

    for page in pages:
        assert "<script" not in page
        assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in preview.text
    assert "&lt;script&gt;alert(1)" in entry


async def test_a_change_that_is_done_already_says_so(shop: Serving) -> None:
    """The preview has no button, and names the entry that stands."""
    browser = await as_person(shop, "lead")
    again = await previewed(browser, "restore", {**LATEST, "to": TWO.digest})
    sealed = await previewed(browser, "seal", SEALED)

    for page in (again.text, sealed.text):
        assert "<strong>Nothing.</strong>" in page
        assert '<form method="post"' not in page
        assert 'href="/ui/entry?' in page


async def test_an_entry_of_another_repository_is_not_shown(shop: Serving) -> None:
    """An entry is not shown by its index under another repository, nor to a user who may not pull its own."""
    index = (await tag_of(shop, "latest"))["entry"] + 2
    browser = await as_person(shop, "ci")
    found = [
        (await browser.get("/ui/entry", params={"repository": name, "entry": str(index)}))
        for name in ("shop/app", "other/private")
    ]
    later = await browser.get("/ui/entry", params={"repository": "shop/app", "entry": "999999"})

    assert [each.status_code for each in found] == [404, 403]
    assert all(SECRET.digest not in each.text for each in found)
    assert (later.status_code, "load this page again" in later.text) == (200, True)
