"""Pipelines log in with ID tokens: one session for each `jti`, refresh tokens, rights by rules, and what the ledger says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.ledger.entry import parse
from boltseal.server.auth.actor import Actor
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata import pipeline_table
from boltseal.server.store_factory import open_store
from tests.fakes.issuer import Issuer, running_issuer
from tests.images import error_of, image, push, put
from tests.logins import bearer, claims, login, with_users
from tests.polling import until_answer
from tests.serving import Clock, Serving, serving_as

OFFLINE = {"offline_token": "true"}
SCOPE = "repository:acme/shop:pull,push"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def settings(data: Path, issuer: Issuer) -> Settings:
    return with_users(data, issuer=[issuer.table()])


@pytest.fixture
async def shop(settings: Settings) -> AsyncIterator[Serving]:
    """A registry that accepts the issuer's pipelines for `acme/**`."""
    async with serving_as(settings) as running:
        yield running


async def asked(shop: Serving, id_token: str, **parameters: str) -> httpx2.Response:
    """Log in at the token service as docker does."""
    return await shop.client.get(
        "/token", params={"scope": SCOPE, "account": "oidc", **parameters}, auth=httpx2.BasicAuth("oidc", id_token)
    )


async def test_a_pipeline_gets_a_token_for_what_its_rules_give(shop: Serving, issuer: Issuer) -> None:
    """The token has the scopes of the rules, and never outlives the ID token by more than the clocks may differ."""
    answer = await asked(shop, issuer.token(exp=issuer.claims()["iat"] + 60))
    held = claims(answer.json()["token"])

    assert held["access"] == [{"type": "repository", "name": "acme/shop", "actions": ["pull", "push"]}]
    assert held["sub"] == "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2"
    assert answer.json()["expires_in"] <= 90
    assert "refresh_token" not in answer.json()


async def test_a_pipeline_pushes_and_the_ledger_says_which(shop: Serving, issuer: Issuer) -> None:
    """The entry of a push has issuer, subject, repository, commit and run of the pipeline, and no other claim."""
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token(email="a@example.com"))
    await push(shop.client, "acme/shop", "1.4.2", image("one"))
    history: dict[str, Any] = {}

    async def is_signed() -> bool:
        history.update((await shop.client.get("/v2/acme/shop/_boltseal/history")).json())
        return bool(history["entries"])

    await until_answer(is_signed, "the history has the signed entry")
    entry = parse(history["entries"][-1]["line"].encode())

    assert entry.actor == "oidc:ci:repo:acme/shop:ref:refs/tags/v1.4.2"
    assert {key: text for key, text in entry.extra.items() if key.startswith("ci.")} == {
        "ci.issuer": issuer.url,
        "ci.subject": "repo:acme/shop:ref:refs/tags/v1.4.2",
        "ci.repository": "acme/shop",
        "ci.commit": "3f2a" * 10,
        "ci.run": "8213",
    }
    assert "a@example.com" not in json.dumps(history)


async def test_later_uses_get_the_same_session(shop: Serving, issuer: Issuer) -> None:
    """Clients send the password again for every scope: one `jti` is one session."""
    id_token = issuer.token()
    sessions = {claims((await asked(shop, id_token)).json()["token"])["session"] for _ in range(3)}
    other = claims((await asked(shop, issuer.token())).json()["token"])["session"]

    assert len(sessions) == 1
    assert other not in sessions


async def test_a_token_identifier_with_other_claims_is_refused(shop: Serving, issuer: Issuer) -> None:
    """A `jti` is bound to the claims of its first use."""
    await asked(shop, issuer.token(jti="same"))
    other = await asked(shop, issuer.token(jti="same", ref="refs/tags/v9.9.9"))

    assert other.status_code == 401
    assert "other claims" in error_of(other)[1]


async def test_a_restart_and_another_server_have_the_session(settings: Settings, issuer: Issuer) -> None:
    """Sessions are rows: a token of one server is accepted by the next one, and the jti is still bound."""
    async with serving_as(settings) as shop:
        token = (await asked(shop, issuer.token(jti="same"))).json()["token"]
    async with serving_as(settings) as shop:
        tags = await shop.client.get("/v2/acme/shop/tags/list", headers=bearer(token))
        other = await asked(shop, issuer.token(jti="same", run_id="1"))

    assert tags.status_code == 404  # admitted: there is no such repository yet
    assert other.status_code == 401


async def test_docker_gets_a_refresh_token_that_outlives_the_id_token(settings: Settings, issuer: Issuer) -> None:
    """With `offline_token=true` a pipeline gets a refresh token, which works for an hour, whatever the ID token's end."""
    id_token, other = issuer.token(), issuer.token()
    clock = Clock(issuer.claims()["iat"] * 1_000_000)
    async with serving_as(settings, clock=clock) as shop:
        refresh = (await asked(shop, id_token, **OFFLINE)).json()["refresh_token"]
        clock.advance(seconds=3599)
        late = await asked(shop, other)
        form = {"grant_type": "refresh_token", "refresh_token": refresh, "service": "boltseal", "scope": SCOPE}
        fresh = await shop.client.post("/token", data=form)
        shop.client.headers = bearer(fresh.json()["access_token"])
        pushed = await shop.client.post("/v2/acme/shop/blobs/uploads/")
        clock.advance(seconds=40)
        ended = await shop.client.post("/token", data=form)

    assert late.status_code == 401
    assert (fresh.status_code, pushed.status_code) == (200, 202)
    assert fresh.json()["scope"] == SCOPE
    assert fresh.json()["expires_in"] <= 2
    assert ended.status_code == 401
    assert ended.json()["error"] == "invalid_grant"


async def test_refresh_tokens_are_stored_as_hashes(settings: Settings, issuer: Issuer) -> None:
    """An attacker who reads the database learns neither a refresh token nor an ID token."""
    async with serving_as(settings) as shop:
        id_token = issuer.token()
        refresh = (await asked(shop, id_token, **OFFLINE)).json()["refresh_token"]
    stored = b"".join(path.read_bytes() for path in settings.server.data.glob("boltseal.db*"))

    assert refresh.encode() not in stored
    assert id_token.encode() not in stored


async def test_the_number_of_refresh_tokens_is_bounded(shop: Serving, issuer: Issuer) -> None:
    """Each login gets one of its own, until there are many; then a login works without."""
    id_token = issuer.token()
    answers = [(await asked(shop, id_token, **OFFLINE)).json() for _ in range(21)]

    assert len({answer["refresh_token"] for answer in answers[:20]}) == 20
    assert "refresh_token" not in answers[20]
    assert "token" in answers[20]


async def test_a_post_with_the_id_token_works_as_containerd_sends_it(shop: Serving, issuer: Issuer) -> None:
    """A form with the ID token as password gets an access token, and offline a refresh token."""
    form = {"grant_type": "password", "username": "oidc", "password": issuer.token(), "scope": SCOPE}
    answer = await shop.client.post("/token", data={**form, "access_type": "offline"})

    assert answer.json()["scope"] == SCOPE
    assert answer.json()["refresh_token"].startswith("bsr_")


async def test_a_revoked_session_ends_everything_of_it(settings: Settings, issuer: Issuer) -> None:
    """Revocation ends bearer and refresh tokens, and the same ID token opens no other session."""
    id_token = issuer.token()
    async with serving_as(settings) as shop:
        answer = (await asked(shop, id_token, **OFFLINE)).json()
    session = claims(answer["token"])["session"]
    with open_store(settings) as store:
        revoked = store.database.write_and_wait(lambda tx: pipeline_table.revoke(tx, session))
        again = store.database.write_and_wait(lambda tx: pipeline_table.revoke(tx, session))
    async with serving_as(settings) as shop:
        by_bearer = await shop.client.get("/v2/acme/shop/tags/list", headers=bearer(answer["token"]))
        form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
        by_refresh = await shop.client.post("/token", data=form)
        by_id_token = await asked(shop, id_token)

    assert (revoked, again) == (True, False)
    assert {each.status_code for each in (by_bearer, by_refresh, by_id_token)} == {401}


async def test_rules_that_were_withdrawn_end_at_once(data: Path, settings: Settings, issuer: Issuer) -> None:
    """A session is no login once no rule matches it, or its issuer is not configured."""
    async with serving_as(settings) as shop:
        token = (await asked(shop, issuer.token())).json()["token"]
    other_rule = {"claims": {"repository_id": "7"}, "repository": "acme/**", "actions": ["pull"]}
    answers = []
    for tables in ([issuer.table(other_rule)], []):
        changed = with_users(data, issuer=tables)
        async with serving_as(changed) as shop:
            answers.append(await shop.client.get("/v2/acme/shop/tags/list", headers=bearer(token)))

    assert [answer.status_code for answer in answers] == [401, 401]


async def test_grants_of_users_give_nothing_to_pipelines(data: Path, issuer: Issuer) -> None:
    """`users = ["*"]` is every user, and no pipeline: neither content nor ledger nor the operator's routes."""
    everything = {"users": ["*"], "repository": "**", "actions": ["pull", "push", "delete", "ledger", "admin"]}
    async with serving_as(with_users(data, grant=[everything], issuer=[issuer.table()])) as shop:
        shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
        statuses = {
            path: (await shop.client.get(path)).status_code
            for path in ("/v2/shop/app/tags/list", "/ledger/tile/entries/000", "/api/v1/users", "/v2/")
        }

    assert statuses == {
        "/v2/shop/app/tags/list": 403,
        "/ledger/tile/entries/000": 403,
        "/api/v1/users": 403,
        "/v2/": 200,
    }


async def test_the_catalog_shows_a_pipeline_what_it_may_pull(shop: Serving, issuer: Issuer) -> None:
    """The list of repositories has those of the rules and the public ones."""
    for repository, user in {"shop/app": "ci", "public/app": "boss"}.items():
        shop.client.auth = login(user)
        await push(shop.client, repository, "1.0.0", image("one"))
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", "1.4.2", image("one"))
    found = (await shop.client.get("/v2/_catalog")).json()["repositories"]

    assert found == ["acme/shop", "public/app"]


@pytest.mark.parametrize(
    ("tag", "status"),
    [("1.4.2", 201), ("latest", 201), ("1.4", 403), ("1.4.3", 403), ("v1.4.2", 403), ("nightly", 403)],
)
async def test_only_the_tags_of_the_rule_may_be_pushed(shop: Serving, issuer: Issuer, tag: str, status: int) -> None:
    """The git tag and mutable tags of `also`; `1.4` would be sealed by the built-in rules, so a release may not push it."""
    one = image("one")
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", one.digest, one)
    answer = await put(shop.client, "acme/shop", tag, one)
    by_query = await shop.client.put(
        f"/v2/acme/shop/manifests/{one.digest}?tag={tag}", content=one.raw, headers={"content-type": one.media_type}
    )

    assert (answer.status_code, by_query.status_code) == (status, status)


async def test_a_refused_tag_says_what_to_change(shop: Serving, issuer: Issuer) -> None:
    """A tag of `also` that would be sealed needs a rule of the registry, any other one a rule of the issuer."""
    one = image("one")
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", one.digest, one)
    sealed = await put(shop.client, "acme/shop", "1.4", one)
    other = await put(shop.client, "acme/shop", "1.4.3", one)

    assert error_of(sealed)[1].endswith('add a [[rule]] with tag = "1.4" and mode = "floating"')
    assert error_of(other)[1].endswith(
        "its rule allows 1.4, 1.4.2, latest; push one of these, or change [[auth.issuer.rule]]"
    )


async def test_the_refusal_of_a_pipeline_without_a_rule_shows_its_claims(shop: Serving, issuer: Issuer) -> None:
    """The refusal shows claims of the token, to compare with the rules, and the event that needs a permission of its own."""
    elsewhere = error_of(await asked(shop, issuer.token(repository_id="666")))[1]
    forks = error_of(await asked(shop, issuer.token(event_name="pull_request_target")))[1]

    assert 'sub "repo:acme/shop:ref:refs/tags/v1.4.2", repository_id "666", ref "refs/tags/v1.4.2"' in elsewhere
    assert "allow_pull_request_target" in forks
    assert "allow_pull_request_target" not in elsewhere


async def test_also_tags_may_be_pushed_where_rules_let_them_move(data: Path, issuer: Issuer) -> None:
    """Under a rule that lets `1.4` move, a release moves it."""
    rules = [{"repository": "**", "tag": "[0-9].[0-9]", "mode": "floating"}]
    settings = with_users(data, issuer=[issuer.table()])
    async with serving_as(settings.model_copy(update={"rule": tuple(rules)})) as shop:
        shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
        one = image("one")
        await push(shop.client, "acme/shop", "1.4", one)
        found = await shop.client.head("/v2/acme/shop/manifests/1.4")

    assert found.headers["docker-content-digest"] == one.digest


async def test_signatures_of_the_own_image_may_be_pushed(shop: Serving, issuer: Issuer) -> None:
    """The tag of a signature is allowed for an image that the pipeline pushed, or that its tag resolves to; no other."""
    own, other, signature = image("own"), image("other"), image("signature")
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token(ref="refs/tags/v9.0.0", sub="another"))
    await push(shop.client, "acme/shop", other.digest, other)
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", own.digest, own)
    await push(shop.client, "acme/shop", signature.digest, signature)

    async def signed(digest: str) -> int:
        return (await put(shop.client, "acme/shop", digest.replace(":", "-") + ".sig", signature)).status_code

    before, foreign = await signed(own.digest), await signed(other.digest)
    await push(shop.client, "acme/shop", "1.4.2", other)

    assert (before, foreign) == (201, 403)
    assert await signed(other.digest) == 201  # the tag that it may push resolves to it now


async def test_records_name_no_other_tag_and_no_claims(shop: Serving, issuer: Issuer) -> None:
    """A record is about a tag of the rule, and its writer cannot state claims of a pipeline."""
    one = image("one")
    shop.client.auth = login("ci")
    await push(shop.client, "shop/app", "1.0.0", one)
    record: dict[str, Any] = {"kind": "built", "digest": one.digest, "extra": {"ci.issuer": issuer.url}}
    forged = await shop.client.post("/v2/shop/app/_boltseal/records", json=record)
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", "1.4.2", one)
    other = await shop.client.post("/v2/acme/shop/_boltseal/records", json={**record, "extra": {}, "tag": "1.0.0"})
    own = await shop.client.post("/v2/acme/shop/_boltseal/records", json={**record, "extra": {}, "tag": "1.4.2"})

    assert (forged.status_code, other.status_code, own.status_code) == (400, 403, 201)


async def test_an_issuer_that_is_down_stops_new_logins_only(shop: Serving, issuer: Issuer) -> None:
    """Sessions that are open go on, and keys that were fetched are used; only an unknown key gets a 503."""
    token = (await asked(shop, issuer.token())).json()["token"]
    issuer.answers.clear()
    known = await asked(shop, issuer.token())
    issuer.key_id = "key-2"
    unknown = await asked(shop, issuer.token())
    opened = await shop.client.get("/v2/acme/shop/tags/list", headers=bearer(token))

    assert (known.status_code, unknown.status_code, opened.status_code) == (200, 503, 404)
    assert "try the login again" in error_of(unknown)[1]
    assert unknown.headers["retry-after"]


async def test_without_issuers_oidc_is_a_user_name_like_others(data: Path, issuer: Issuer) -> None:
    """Where no issuer is configured, an ID token is a wrong password."""
    async with serving_as(with_users(data)) as shop:
        answer = await asked(shop, issuer.token())

    assert answer.status_code == 401
    assert issuer.asked == []


async def test_the_rights_of_users_do_not_change(shop: Serving) -> None:
    """Beside pipelines, users log in and push as before, without a refresh token."""
    shop.client.auth = login("ci")
    answer = await shop.client.get("/token", params={"scope": SCOPE, "offline_token": "true"})
    await push(shop.client, "shop/app", "1.0.0", image("one"))

    assert claims(answer.json()["token"])["access"] == []
    assert "refresh_token" not in answer.json()


def test_a_pipeline_that_is_called_like_an_api_token_stays_itself() -> None:
    """The text of an actor names the same one again, also for a subject that ends like an API token."""
    pipeline = Actor("oidc:ci:repo:acme/shop (token abc)")

    assert Actor.of_record(pipeline.recorded) == pipeline
    assert Actor.of_record("ci (token abc)") == Actor("ci", token="abc")  # noqa: S106 - an ID
