"""The catalog with tokens of the scope `registry:catalog:*` (Docker token specification)."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

import bcrypt
import httpx2
import pytest

from boltseal.client.catalog import list_repositories
from boltseal.client.challenges import parse_challenges
from boltseal.client.credentials import CredentialStore
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.settings import Settings
from boltseal.server.store_factory import open_store
from tests.images import image, push
from tests.logins import AUTH, PASSWORDS, bearer, claims, login, token
from tests.serving import Serving, serving_as

REGISTRY = "127.0.0.1:5000"
CATALOG = "registry:catalog:*"
IMAGE = image("listed")
PUSHED = {"other/a": "other", "other/b": "other", "public/a": "boss", "shop/a": "ci", "shop/b": "ci"}
VISIBLE: dict[str | None, list[str]] = {
    "ci": ["public/a", "shop/a", "shop/b"],
    "other": ["other/a", "other/b", "public/a"],
    None: ["public/a"],
}
CHALLENGE = f'Bearer realm="http://127.0.0.1:5000/token",service="boltseal",scope="{CATALOG}"'


@cache
def htpasswd() -> str:
    """Return the users' file, the same at each call: another hash ends the tokens of its user."""
    lines = [f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in PASSWORDS.items()]
    return "".join(lines)


def guarded(data: Path, **auth: object) -> Settings:
    """Return settings with the users and grants of `tests.logins`, and other `[auth]` settings."""
    keys = data.with_name(f"{data.name}.keys")
    keys.mkdir(exist_ok=True)
    (keys / "htpasswd").write_text(htpasswd())
    return Settings.model_validate({"server": {"data": data}, "auth": {**AUTH, **auth}})


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry with repositories of three teams."""
    async with serving_as(guarded(data)) as running:
        for repository, user in PUSHED.items():
            running.client.auth = login(user)
            await push(running.client, repository, "1.0.0", IMAGE)
        running.client.auth = httpx2.Auth()
        yield running


async def listed(shop: Serving, text: str, n: int = 100) -> list[str]:
    """Return what a token lists, over all pages."""
    found: list[str] = []
    url = f"/v2/_catalog?n={n}"
    while url:
        answer = await shop.client.get(url, headers=bearer(text))
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["repositories"]) <= n
        found += answer.json()["repositories"]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    return found


async def test_the_challenge_names_the_scope_of_the_catalog(shop: Serving) -> None:
    """The 401 for the catalog has the scope that the client needs."""
    answer = await shop.client.get("/v2/_catalog")

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == CHALLENGE


@pytest.mark.parametrize("user", VISIBLE)
async def test_a_client_that_follows_the_challenge_gets_what_it_may_pull(shop: Serving, user: str | None) -> None:
    """A token with the catalog's scope lists what its user may pull; an anonymous one lists public repositories."""
    challenged = await shop.client.get("/v2/_catalog")
    (challenge,) = parse_challenges(challenged.headers["www-authenticate"])
    text = await token(shop, user, challenge.parameters["scope"])

    assert await listed(shop, text) == VISIBLE[user]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("user", ["ci", "other"])
async def test_pages_of_a_token_have_every_visible_repository_once(shop: Serving, user: str, n: int) -> None:
    """Hidden repositories neither shorten nor end a page of the catalog."""
    assert await listed(shop, await token(shop, user, CATALOG), n) == VISIBLE[user]


async def test_a_page_skips_more_hidden_repositories_than_are_read_at_once(shop: Serving) -> None:
    """A database batch without any visible repository does not end the catalog."""
    with open_store(guarded(shop.data)) as store:
        page = await store.registry.pulls.catalog(
            len(VISIBLE["ci"]), None, may_read=lambda repository: str(repository) in VISIBLE["ci"], batch=1
        )

    assert [str(repository) for repository in page.items] == VISIBLE["ci"]
    assert not page.more


async def test_a_catalog_of_hidden_repositories_does_not_make_other_reads_wait(shop: Serving) -> None:
    """A caller who may read few repositories makes the registry read many: between two batches others are answered."""
    order: list[str] = []

    def hidden(_: str) -> bool:
        order.append("catalog")
        return False

    with open_store(guarded(shop.data)) as store:
        await asyncio.gather(
            *(store.registry.pulls.catalog(None, None, may_read=hidden, batch=1) for _ in range(4)),
            store.database.read(lambda _: order.append("other")),
        )

    assert order.count("catalog") == 4 * len(PUSHED)
    assert order.index("other") < 2 * len(PUSHED)


async def test_a_mount_of_a_blob_of_hidden_repositories_does_not_make_other_reads_wait(shop: Serving) -> None:
    """A caller who mounts a blob that many repositories have, and may read none, makes no other request wait for all."""
    order: list[str] = []

    def hidden(_: Repository) -> bool:
        order.append("mount")
        return False

    with open_store(guarded(shop.data)) as store:
        uploads, digest = store.registry.uploads, Digest.parse(IMAGE.config.digest)
        *mounted, _ = await asyncio.gather(
            *(uploads.mount(Repository("shop/new"), digest, None, may_read=hidden, batch=1) for _ in range(4)),
            store.database.read(lambda _: order.append("other")),
        )

    assert mounted == [False] * 4
    assert order.count("mount") == 4 * len(PUSHED)
    assert order.index("other") < 2 * len(PUSHED)


@pytest.mark.parametrize("scopes", [[], ["repository:shop/a:pull"], ["registry:catalog:pull"], ["registry:other:*"]])
async def test_a_token_without_the_scope_is_refused_and_never_gets_an_empty_list(
    shop: Serving, scopes: list[str]
) -> None:
    """A token without the catalog's scope gets `insufficient_scope`, never an empty list."""
    answer = await shop.client.get("/v2/_catalog", headers=bearer(await token(shop, "ci", *scopes)))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == f'{CHALLENGE},error="insufficient_scope"'
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


async def test_a_token_for_another_repository_gets_insufficient_scope(shop: Serving) -> None:
    """A token for one repository used at another gets `insufficient_scope` with the scope that it lacks."""
    answer = await shop.client.get("/v2/shop/b/tags/list", headers=bearer(await token(shop, "ci", CATALOG)))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].endswith('scope="repository:shop/b:pull",error="insufficient_scope"')


async def test_the_catalog_comes_in_one_token_with_repositories_and_unknown_types_are_ignored(shop: Serving) -> None:
    """Several scopes, in one or several parameters, make one token; unknown types are ignored."""
    text = await token(shop, "ci", f"{CATALOG} repository:shop/a:pull", "plugin:shop/a:pull", "repository:other/a:pull")
    tags = await shop.client.get("/v2/shop/a/tags/list", headers=bearer(text))

    assert claims(text)["access"] == [
        {"type": "repository", "name": "shop/a", "actions": ["pull"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]
    assert tags.status_code == 200
    assert await listed(shop, text) == VISIBLE["ci"]


async def test_the_scope_of_the_catalog_is_no_right_in_a_repository(data: Path) -> None:
    """A token's scope for the catalog gives no right in a repository named `catalog`."""
    grant = [{"users": ["ci"], "repository": "**", "actions": ["pull", "push"]}]
    async with serving_as(guarded(data, grant=grant)) as shop:
        shop.client.auth = login("ci")
        await push(shop.client, "catalog", "1.0.0", IMAGE)
        shop.client.auth = httpx2.Auth()
        of_catalog = await token(shop, "ci", CATALOG)
        of_repository = await token(shop, "ci", "repository:catalog:*")
        pulled = await shop.client.get("/v2/catalog/tags/list", headers=bearer(of_catalog))
        names = await shop.client.get("/v2/_catalog", headers=bearer(of_repository))

    assert (pulled.status_code, names.status_code) == (401, 401)


async def test_without_public_repositories_an_anonymous_token_has_no_catalog(data: Path) -> None:
    """Without public repositories an anonymous token has no scope for the catalog."""
    async with serving_as(guarded(data, anonymous_pull=[])) as shop:
        text = await token(shop, None, CATALOG)
        answer = await shop.client.get("/v2/_catalog", headers=bearer(text))

    assert claims(text)["access"] == []
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, CHALLENGE)


async def test_oauth2_clients_get_the_catalog_too(shop: Serving) -> None:
    """`POST /token` accepts the catalog's scope as `GET` does."""
    form = {"grant_type": "password", "username": "ci", "password": PASSWORDS["ci"], "scope": CATALOG}
    answer = await shop.client.post("/token", data=form)

    assert await listed(shop, answer.json()["access_token"]) == VISIBLE["ci"]


@pytest.mark.parametrize("user", ["ci", "other"])
async def test_the_catalog_is_listed_with_basic_authentication(shop: Serving, user: str) -> None:
    """The catalog can be listed with Basic authentication, without a token."""
    answer = await shop.client.get("/v2/_catalog", auth=login(user))

    assert answer.json() == {"repositories": VISIBLE[user]}


async def test_a_token_lists_nothing_that_its_user_may_not_pull_any_more(data: Path, shop: Serving) -> None:
    """A user's present grants decide what a token lists, not those when it was issued."""
    text = await token(shop, "ci", CATALOG)
    fewer = [{"users": ["ci"], "repository": "shop/b", "actions": ["pull"]}]
    async with serving_as(guarded(data, grant=fewer)) as later:
        assert await listed(later, text) == ["public/a", "shop/b"]


@pytest.fixture
async def transport(shop: Serving, tmp_path: Path) -> AsyncIterator[Transport]:
    """boltseal's client, logged in as `ci`."""
    login_ci = b64encode(f"ci:{PASSWORDS['ci']}".encode()).decode()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {REGISTRY: {"auth": login_ci}}}))
    transport = Transport(CredentialStore([config]), app=httpx2.ASGITransport(app=shop.app))
    yield transport
    await transport.aclose()


async def test_boltseals_own_client_follows_the_challenge(transport: Transport) -> None:
    """boltseal's client lists what its login may pull, even if it has a token for a repository."""
    tags = [tag async for tag in RegistryClient(transport, REGISTRY).tags(Repository("shop/a"))]
    names = [name async for name in list_repositories(transport, REGISTRY)]

    assert tags == ["1.0.0"]
    assert names == VISIBLE["ci"]
