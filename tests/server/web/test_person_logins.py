"""Logins of people at an identity provider: sessions, groups, API tokens, and a provider that is down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from boltseal.commands.api_tokens import WantedToken
from boltseal.errors import Invalid
from boltseal.server.auth.logins import hash_password
from boltseal.server.commands.local_tokens import LocalTokens
from boltseal.server.commands.users import list_users, put_user, remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import audit_table, person_table
from boltseal.server.store_factory import open_store
from tests.fakes.issuer import DISCOVERY, Answer
from tests.fakes.provider import ALICE, SECRET, Provider, running_provider
from tests.logins import login
from tests.page_logins import Browser, with_provider
from tests.serving import Clock, serving_as

BOB = {**ALICE, "sub": "person-2", "preferred_username": "bob", "groups": ["all"]}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


async def make_token(settings: Settings, owner: str) -> str:
    """Return an API token of a person, created by the operator of the host."""
    wanted = WantedToken(owner, ("**",), ("pull", "push"))
    created = await asyncio.to_thread(LocalTokens(settings).create, wanted)
    return created.text


async def test_a_person_logs_in_and_sees_the_account(data: Path, provider: Provider) -> None:
    """The account has user name, name and groups of the provider."""
    async with serving_as(with_provider(data, provider)) as shop:
        browser = Browser(shop)
        answer = await browser.back(provider.authorize(await browser.begin("/ui/account?x=1")))
        page = await browser.get("/ui/account")

        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/account?x=1")
        assert "<bdi>alice@acme</bdi>" in page.text
        assert "<bdi>Alice Example</bdi>" in page.text
        assert "<bdi>all</bdi>, <bdi>dev</bdi>" in page.text
        assert "Log in with acme" in (await Browser(shop).get("/ui/login")).text


async def test_the_request_has_what_the_specifications_demand(data: Path, provider: Provider) -> None:
    """Code, S256, state, nonce, redirect address to the provider; verifier and the secret as Basic to the token endpoint."""
    async with serving_as(with_provider(data, provider)) as shop:
        browser = Browser(shop)
        asked = parse_qs(urlsplit(await browser.begin()).query)
        await browser.login_at(provider)
        ((form, headers),) = provider.requests

        assert asked["redirect_uri"] == ["http://127.0.0.1:5000/ui/login/callback"]
        assert asked["scope"] == ["openid profile"]
        assert form["grant_type"] == "authorization_code"
        assert len(form["code_verifier"]) == 43
        assert headers["authorization"].startswith("Basic ")
        assert "client_secret" not in form
        assert SECRET not in headers["authorization"]


async def test_the_secret_is_in_the_form_where_the_provider_wants_that(data: Path, provider: Provider) -> None:
    """A provider that only lists client_secret_post gets no Authorization header."""
    provider.publish(token_endpoint_auth_methods_supported=["client_secret_post"])
    async with serving_as(with_provider(data, provider)) as shop:
        answer = await Browser(shop).login_at(provider)
        ((form, headers),) = provider.requests

        assert answer.status_code == 303
        assert "authorization" not in headers
        assert form["client_secret"] == SECRET


async def test_groups_have_what_grants_give_them(data: Path, provider: Provider) -> None:
    """An API token of a person may do what the grants give to the groups, and nothing that `*` of users gives."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        await browser.login_at(provider)
        text = await make_token(settings, "alice@acme")
        scope = "repository:shop/app:pull,push"
        own = await shop.client.get("/token", params={"scope": scope}, auth=login("alice@acme", text))
        foreign = await shop.client.get("/v2/other/app/tags/list", auth=login("alice@acme", text))

        assert own.status_code == 200
        assert foreign.status_code == 403


async def test_leaving_a_group_takes_effect_at_the_next_login(data: Path, provider: Provider) -> None:
    """A login without any grant left gives no session, and tokens lose what the groups gave."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        await browser.login_at(provider)
        text = await make_token(settings, "alice@acme")
        before = await shop.client.get("/v2/shop/app/tags/list", auth=login("alice@acme", text))
        refused = await Browser(shop).login_at(provider, {**ALICE, "groups": ["all"]})
        after = await shop.client.get("/v2/shop/app/tags/list", auth=login("alice@acme", text))

        assert (before.status_code, refused.status_code, after.status_code) == (404, 403, 403)
        assert "no grant of this registry is for alice@acme or its groups" in refused.text


async def test_who_has_no_grant_is_not_written_down(data: Path, provider: Provider) -> None:
    """Any person in the world may have an account at a provider: without a grant there is no session and no row."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        answer = await browser.login_at(provider, BOB)

        assert answer.status_code == 403
        assert browser.cookie() == ""
    assert "bob@acme" not in list_users(settings)


async def test_a_person_keeps_the_user_name_and_no_other_gets_it(data: Path, provider: Provider) -> None:
    """Renamed at the provider, a person is the same user; who gets the name there afterwards is refused."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        await Browser(shop).login_at(provider)
        renamed, successor = Browser(shop), Browser(shop)
        await renamed.login_at(provider, {**ALICE, "preferred_username": "alice.married"})
        refused = await successor.login_at(provider, {**ALICE, "sub": "person-3"})
        page = await renamed.get("/ui/account")

        assert "<bdi>alice@acme</bdi>" in page.text
        assert refused.status_code == 403
        assert "is that of another user" in refused.text


async def test_a_user_of_this_registry_keeps_the_name(data: Path, provider: Provider) -> None:
    """A person whose name a local user has is refused, and `admin user add` refuses the name of a person."""
    settings = with_provider(data, provider)
    put_user(settings, "bob@acme", hash_password("secret"))
    async with serving_as(settings) as shop:
        refused = await Browser(shop).login_at(provider, {**BOB, "groups": ["dev"]})
        await Browser(shop).login_at(provider)

        assert refused.status_code == 403
    with pytest.raises(Invalid, match="is a person of the identity provider"):
        put_user(settings, "alice@acme", hash_password("secret"))


async def test_a_removed_person_has_no_session(data: Path, provider: Provider) -> None:
    """`admin user remove` ends sessions, and the user is listed until then."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        browser = Browser(shop)
        await browser.login_at(provider)
        listed = list_users(settings)
        await asyncio.to_thread(remove_user, settings, "alice@acme")

        assert listed["alice@acme"] == "person"
        assert (await browser.get("/ui/account")).status_code == 303


async def test_a_provider_that_is_down_ends_no_session(data: Path, provider: Provider) -> None:
    """New logins are 503, and say why; who is logged in stays so."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        inside = Browser(shop)
        await inside.login_at(provider)
    provider.answers[DISCOVERY] = Answer(b"", 502)
    async with serving_as(settings) as shop:
        inside = Browser.at(shop, inside.http.cookies)
        outside = await Browser(shop).get("/ui/login/provider")

        assert (await inside.get("/ui/account")).status_code == 200
        assert outside.status_code == 503
        assert "answered HTTP 502" in outside.text


async def test_an_expired_login_at_the_provider_has_to_begin_again(data: Path, provider: Provider) -> None:
    """Ten minutes are enough for a login."""
    clock = Clock(time.time_ns() // 1000)
    async with serving_as(with_provider(data, provider), clock=clock) as shop:
        browser = Browser(shop)
        address = provider.authorize(await browser.begin())
        clock.advance(seconds=601)
        answer = await browser.back(address)

        assert answer.status_code == 401
        assert "took too long" in answer.text


async def test_a_hundred_logins_at_once(data: Path, provider: Provider) -> None:
    """Each person gets a session of its own, and the provider's keys are fetched once."""
    async with serving_as(with_provider(data, provider)) as shop:
        browsers = [Browser(shop) for _ in range(100)]
        people = [{**ALICE, "sub": f"p{n}", "preferred_username": f"user{n}"} for n in range(100)]
        answers = await asyncio.gather(*(b.login_at(provider, p) for b, p in zip(browsers, people, strict=True)))
        pages = await asyncio.gather(*(browser.get("/ui/account") for browser in browsers))

        assert {answer.status_code for answer in answers} == {303}
        assert len({browser.cookie() for browser in browsers}) == 100
        assert all(f"<bdi>user{n}@acme</bdi>" in page.text for n, page in enumerate(pages))
        assert provider.asked.count("/keys") == 1


async def test_a_hundred_logins_with_the_password_at_once(data: Path, provider: Provider) -> None:
    """Each gets a session or is asked to try again; none waits without end, and none fails otherwise."""
    async with serving_as(with_provider(data, provider)) as shop:
        browsers = [Browser(shop) for _ in range(100)]
        answers = await asyncio.gather(*(browser.login("ci", "pw-ci") for browser in browsers))
        found = [answer.status_code for answer in answers]

        assert set(found) <= {303, 429}
        assert found.count(303) >= 50


async def test_the_audit_log_has_people(data: Path, provider: Provider) -> None:
    """With name and address, and no claim besides."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        await Browser(shop).login_at(provider, {**ALICE, "email": "alice@private.example", "phone_number": "1"})
        await Browser(shop).login_at(provider, BOB)
    with open_store(settings) as store:
        events = store.database.read_and_wait(lambda snapshot: audit_table.before(snapshot, 10_000, 100))
        people = store.database.read_and_wait(person_table.every)
    found = [(each.action, each.subject, each.detail) for each in reversed(events)]

    assert found[-3:-1] == [("person.added", "alice@acme", ""), ("login", "alice@acme", "by acme; from 127.0.0.1")]
    assert found[-1][:2] == ("login.failed", "bob@acme")
    assert "private" not in json.dumps([found, people])
