"""Rights: attempts to reach content without the right, one test each.

The registry has four users: `ci` may pull and push `shop/**`, `boss` has every right there except admin, `other` has
every right in `other/**`, and anonymous clients may pull `public/**`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey

from boltseal.policy.grants import Action
from boltseal.server.auth.tokens import Tokens
from boltseal.server.commands.users import put_user, remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.metadata_factory import prepare_metadata
from tests.images import OCI_MANIFEST, image, push, push_blob
from tests.logins import AUTH, PASSWORDS, bearer, claims, login, token
from tests.polling import until_signed
from tests.serving import FIRST_START_US, Clock, Serving, serving, serving_as, settings_of
from tests.storage_choice import with_storage

IMAGE = image("one")


@pytest.fixture(scope="module")
def htpasswd() -> str:
    """A users' file, hashed cheaply because these tests are not about bcrypt's cost."""
    lines = [f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for name, word in PASSWORDS.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["file", "database"])
def settings(request: pytest.FixtureRequest, data: Path, htpasswd: str) -> Settings:
    """Settings with users in the users' file, and with users in the database."""
    settings = with_storage(Settings.model_validate({"server": {"data": data}, "auth": AUTH}))
    if request.param == "file":
        settings.htpasswd.parent.mkdir(exist_ok=True)
        settings.htpasswd.write_text(htpasswd)
    else:
        prepare_metadata(data, settings.storage)
        for line in htpasswd.splitlines():
            name, _, hashed = line.partition(":")
            put_user(settings, name, hashed.encode())
        assert not settings.htpasswd.exists()
    return settings


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST_START_US + 1_000_000)


@pytest.fixture
async def shop(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A registry to which `ci` has pushed shop/app:1.4.2."""
    async with serving_as(settings, clock=clock) as running:
        running.client.auth = login("ci")
        await push(running.client, "shop/app", "1.4.2", IMAGE)
        running.client.auth = httpx2.Auth()
        yield running


READS = [
    f"/v2/shop/app/manifests/{'1.4.2'}",
    f"/v2/shop/app/manifests/{IMAGE.digest}",
    f"/v2/shop/app/blobs/{IMAGE.layers[0].digest}",
    "/v2/shop/app/tags/list",
    f"/v2/shop/app/referrers/{IMAGE.digest}",
    "/v2/shop/app/_oci/tag-history/1.4.2",
    "/v2/shop/app/_oci/tag-history/no-such-tag",
    "/v2/shop/app/_boltseal/history",
    "/v2/shop/app/_boltseal/history/1.4.2",
    "/v2/shop/app/_boltseal/records",
    f"/v2/shop/app/_boltseal/chains?digests={IMAGE.digest}",
    "/v2/shop/app/_oci/ext/discover",
    "/v2/shop/app/manifests/no-such-tag",
    f"/v2/shop/nothing/blobs/{IMAGE.layers[0].digest}",
]


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_existence_is_not_revealed_without_the_right_to_pull(shop: Serving, path: str, method: str) -> None:
    """A user of another team, or an unknown one, gets the same answer for existing and missing content."""
    known = await shop.client.request(method, path, auth=login("other"))
    unknown = await shop.client.request(method, path)
    conditional = await shop.client.request(
        method, path, auth=login("other"), headers={"if-none-match": f'"{IMAGE.digest}"'}
    )

    assert (known.status_code, unknown.status_code, conditional.status_code) == (403, 401, 403)
    assert "docker-content-digest" not in known.headers


async def test_a_blob_is_not_mounted_out_of_a_repository_that_may_not_be_read(shop: Serving) -> None:
    """Without the right to pull, a mount by name or from any repository starts an upload, as if the blob did not exist."""
    digest = IMAGE.layers[0].digest
    named = await shop.client.post(f"/v2/other/app/blobs/uploads/?mount={digest}&from=shop/app", auth=login("other"))
    anywhere = await shop.client.post(f"/v2/other/app/blobs/uploads/?mount={digest}", auth=login("other"))
    allowed = await shop.client.post(f"/v2/shop/two/blobs/uploads/?mount={digest}&from=shop/app", auth=login("ci"))

    assert (named.status_code, anywhere.status_code, allowed.status_code) == (202, 202, 201)


async def test_the_catalog_lists_what_may_be_pulled(shop: Serving) -> None:
    """No page of the catalog lists a repository that the user may not pull."""
    lists = {
        name: (await shop.client.get("/v2/_catalog?n=1", auth=login(name))).json()["repositories"] for name in PASSWORDS
    }

    assert lists == {"ci": ["shop/app"], "boss": ["shop/app"], "other": []}


async def test_a_right_to_push_does_not_allow_deletion(shop: Serving) -> None:
    """A grant to push does not allow deletion: each action needs its own grant."""
    refused = await shop.client.delete("/v2/shop/app/manifests/1.4.2", auth=login("ci"))
    sealed = await shop.client.delete("/v2/shop/app/manifests/1.4.2", auth=login("boss"))

    assert (refused.status_code, sealed.status_code) == (403, 405)
    assert refused.json()["errors"][0]["message"].startswith("ci may not delete in shop/app")


async def test_anonymous_clients_may_only_pull_public_repositories(shop: Serving) -> None:
    """An anonymous token allows public pulls; pushing needs a login."""
    shop.client.auth = login("boss")
    await push(shop.client, "public/app", "1.0.0", IMAGE)
    shop.client.auth = httpx2.Auth()
    anonymous = await token(shop, None, "repository:public/app:pull,push", "repository:shop/app:pull")
    public = await shop.client.get("/v2/public/app/manifests/1.0.0", headers=bearer(anonymous))
    private = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(anonymous))
    pushed = await shop.client.post("/v2/public/app/blobs/uploads/", headers=bearer(anonymous))

    assert (public.status_code, private.status_code, pushed.status_code) == (200, 401, 401)
    assert claims(anonymous)["access"] == [{"type": "repository", "name": "public/app", "actions": ["pull"]}]


async def test_a_token_is_cut_to_the_grants(shop: Serving) -> None:
    """A token never exceeds the user's grants, whatever scopes are requested; several scopes share one token."""
    text = await token(
        shop, "ci", "repository:shop/app:pull,push,delete", "repository:other/app:pull repository:shop/b:*", "junk"
    )

    assert claims(text)["access"] == [
        {"type": "repository", "name": "shop/app", "actions": ["pull", "push"]},
        {"type": "repository", "name": "shop/b", "actions": ["pull", "push"]},
    ]


async def test_a_token_allows_only_its_scopes(shop: Serving) -> None:
    """A token for pulling does not allow pushing; the challenge names the required scope."""
    text = await token(shop, "ci", "repository:shop/app:pull")
    pulled = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    pushed = await shop.client.post("/v2/shop/app/blobs/uploads/", headers=bearer(text))

    assert (pulled.status_code, pushed.status_code) == (200, 401)
    assert pushed.headers["www-authenticate"] == (
        'Bearer realm="http://127.0.0.1:5000/token",service="boltseal",scope="repository:shop/app:pull,push",error="insufficient_scope"'
    )


async def test_a_token_of_a_removed_user_is_refused(shop: Serving, settings: Settings) -> None:
    """Grants and users are checked at each request, so a token of a removed user is refused."""
    text = await token(shop, "ci", "repository:shop/app:pull,push")
    before = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    remove_user(settings, "ci")
    pulled = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    pushed = await shop.client.post("/v2/shop/app/blobs/uploads/", headers=bearer(text))
    by_password = await shop.client.get("/v2/shop/app/manifests/1.4.2", auth=login("ci"))

    assert (before.status_code, pulled.status_code, pushed.status_code, by_password.status_code) == (200, 401, 401, 401)


async def test_a_token_loses_a_revoked_grant(settings: Settings, clock: Clock) -> None:
    """A token allows only what the user's current grants allow."""
    async with serving_as(settings, clock=clock) as before:
        text = await token(before, "ci", "repository:shop/app:pull,push")
    fewer = {**AUTH, "grant": [{"users": ["ci"], "repository": "shop/**", "actions": ["pull"]}]}
    later = Settings.model_validate({"server": {"data": settings.server.data}, "auth": fewer})
    async with serving_as(later, clock=clock) as after:
        pushed = await after.client.post("/v2/shop/app/blobs/uploads/", headers=bearer(text))

    assert pushed.status_code == 403


def without_push(settings: Settings) -> Settings:
    """Settings in which `ci` may only pull."""
    auth = settings.auth.model_dump(exclude={"grant"}, exclude_unset=True)
    grants = ({**grant, "actions": ["pull"]} if grant["users"] == ["ci"] else grant for grant in settings.auth.grant)
    return Settings.model_validate({"server": {"data": settings.server.data}, "auth": {**auth, "grant": list(grants)}})


@pytest.mark.parametrize("lost", ["grant", "user"])
async def test_a_push_whose_user_loses_the_right_in_the_middle_is_refused(
    settings: Settings, clock: Clock, lost: str
) -> None:
    """Every write is authorized again: between the start and end of an upload, and between blobs and manifest."""
    other = image("two")
    blob = other.layers[0]
    async with serving_as(settings, clock=clock) as before:
        text = await token(before, "ci", "repository:shop/app:pull,push")
        location = (await before.client.post("/v2/shop/app/blobs/uploads/", headers=bearer(text))).headers["location"]
        begun = await before.client.patch(location, content=blob.data[:10], headers=bearer(text))
        for part in other.blobs:
            before.client.auth = login("ci")
            await push_blob(before.client, "shop/app", part)
    if lost == "user":
        remove_user(settings, "ci")
    async with serving_as(settings if lost == "user" else without_push(settings), clock=clock) as after:
        patched = await after.client.patch(location, content=blob.data[10:], headers=bearer(text))
        put = await after.client.put(f"{location}?digest={blob.digest}", headers=bearer(text))
        cancelled = await after.client.delete(location, headers=bearer(text))
        published = await after.client.put(
            "/v2/shop/app/manifests/9.9.9", content=other.raw, headers={"content-type": OCI_MANIFEST, **bearer(text)}
        )
        there = await after.client.head("/v2/shop/app/manifests/9.9.9", auth=login("boss"))

    assert begun.status_code == 202
    refused = 403 if lost == "grant" else 401
    assert [each.status_code for each in (patched, put, cancelled, published)] == [refused] * 4
    assert there.status_code == 404


async def test_shared_caches_may_keep_only_public_answers(data: Path) -> None:
    """A registry without users sends no public cache headers, because users may be added and a cache would still
    answer."""
    async with serving(data) as without_users:
        await push(without_users.client, "shop/app", "1.4.2", IMAGE)
        before = await without_users.client.get(f"/v2/shop/app/manifests/{IMAGE.digest}")
    granted = Settings.model_validate({"server": {"data": data}, "auth": {"anonymous_pull": True}})
    async with serving_as(granted) as open_to_all:
        manifest = await open_to_all.client.get(f"/v2/shop/app/manifests/{IMAGE.digest}")
        blob = await open_to_all.client.get(f"/v2/shop/app/blobs/{IMAGE.config.digest}")

    assert before.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert manifest.headers["Cache-Control"] == blob.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_a_token_ends(shop: Serving, clock: Clock) -> None:
    """A token expires exactly after five minutes."""
    text = await token(shop, "ci", "repository:shop/app:pull")
    clock.advance(seconds=310)
    answer = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))

    assert answer.status_code == 401
    assert "expired" in answer.json()["errors"][0]["message"]


def forged(settings: Settings, clock: Clock) -> dict[str, str]:
    keys = KeyFile(settings.keys / "token.json")
    seed = keys.current(clock())[0].seed
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    mine = OKPKey.import_key(Ed25519PrivateKey.generate())
    now_s = clock() // 1_000_000
    body = {
        "iss": "boltseal",
        "aud": "boltseal",
        "sub": "boss",
        "nbf": now_s,
        "exp": now_s + 300,
        "access": [{"type": "repository", "name": "shop/app", "actions": ["pull", "push", "delete"]}],
    }
    part = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    real = Tokens(keys, "boltseal", clock).issue("ci", {"shop/app": frozenset({Action.PULL})}).text
    head, _, signature = real.split(".")
    ours = OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(seed))
    return {
        "unsigned": f"{none}.{part}.",
        "of another key": jwt.encode({"alg": "Ed25519"}, body, mine, algorithms=["Ed25519"]),
        "signed with the public key as a secret": jwt.encode(
            {"alg": "HS256"}, body, OctKey.import_key(public), algorithms=["HS256"]
        ),
        "with other claims under the same signature": f"{head}.{part}.{signature}",
        "for another audience": Tokens(keys, "elsewhere", clock)
        .issue("ci", {"shop/app": frozenset({Action.PULL})})
        .text,
        "of another issuer": jwt.encode({"alg": "Ed25519"}, {**body, "iss": "mallory"}, ours, algorithms=["Ed25519"]),
        "that never ends": jwt.encode({"alg": "Ed25519"}, {**body, "exp": now_s + 10**9}, ours, algorithms=["Ed25519"]),
        "without an end": jwt.encode(
            {"alg": "Ed25519"}, {k: v for k, v in body.items() if k != "exp"}, ours, algorithms=["Ed25519"]
        ),
        "with actions that are none": jwt.encode(
            {"alg": "Ed25519"},
            {**body, "access": [{"name": "shop/app", "actions": [["pull"]]}]},
            ours,
            algorithms=["Ed25519"],
        ),
        "empty": "",
        "no token": "a.b.c",
        "too long": "x" * 17_000,
    }


@pytest.mark.parametrize(
    "kind",
    [
        "unsigned",
        "of another key",
        "signed with the public key as a secret",
        "with other claims under the same signature",
        "for another audience",
        "of another issuer",
        "that never ends",
        "without an end",
        "with actions that are none",
        "empty",
        "no token",
        "too long",
    ],
)
async def test_a_forged_token_is_refused(shop: Serving, settings: Settings, clock: Clock, kind: str) -> None:
    """A token that this registry did not sign, for itself, for the present time, is refused."""
    text = forged(settings, clock)[kind]
    answer = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))

    assert answer.status_code == 401
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


async def test_a_token_is_valid_after_one_rotation_but_not_after_several(
    shop: Serving, settings: Settings, clock: Clock
) -> None:
    """A rotated key still verifies its tokens, until a later rotation removes it."""
    text = await token(shop, "ci", "repository:shop/app:pull")
    keys = KeyFile(settings.keys / "token.json")
    keys.rotate(clock())
    once = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    keys.rotate(clock())
    keys.rotate(clock())
    other = text + "="  # another header than the cached one
    gone = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(other))

    assert (once.status_code, gone.status_code) == (200, 401)


async def test_a_key_that_was_stolen_signs_nothing_new_after_its_rotation(
    shop: Serving, settings: Settings, clock: Clock
) -> None:
    """A rotated key verifies only tokens from before its rotation, so a stolen key signs no valid new or backdated
    token."""
    file = KeyFile(settings.keys / "token.json")
    (stolen, *_) = file.current(clock())
    file.rotate(clock())
    thief = settings.keys.with_name("thief.json")
    clock.advance(seconds=60)
    thief.write_text(json.dumps([{"id": stolen.id, "seed": base64.b64encode(stolen.seed).decode(), "since_us": 0}]))
    scopes = {"shop/app": frozenset({Action.PULL})}
    later = Tokens(KeyFile(thief), settings.auth.service, clock).issue("ci", scopes).text
    answer = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(later))

    assert answer.status_code == 401


async def test_an_old_password_is_refused_at_the_next_request(shop: Serving, settings: Settings) -> None:
    """After a password change the old password is refused at once, also in a header that was valid a moment ago."""
    before = await shop.client.get("/v2/shop/app/manifests/1.4.2", auth=login("ci"))
    put_user(settings, "ci", bcrypt.hashpw(b"another", bcrypt.gensalt(4)))
    after = await shop.client.get("/v2/shop/app/manifests/1.4.2", auth=login("ci"))

    assert (before.status_code, after.status_code) == (200, 401)


async def test_a_password_that_is_changed_while_it_is_checked_is_no_login(shop: Serving, settings: Settings) -> None:
    """The comparison takes a moment; what it was right about is not right any more, and no token is issued for the new password."""
    put_user(settings, "ci", bcrypt.hashpw(b"pw-ci", bcrypt.gensalt(13)))
    before = await checks(shop)
    logging_in = asyncio.create_task(shop.client.get("/token", auth=login("ci")))
    while await checks(shop) == before:  # the comparison has not begun
        pass
    put_user(settings, "ci", bcrypt.hashpw(b"another", bcrypt.gensalt(4)))

    assert (await logging_in).status_code == 401


@pytest.mark.parametrize("name", ["other", None])
async def test_receipts_by_index_reveal_no_repository_name(shop: Serving, name: str | None) -> None:
    """A refusal for an entry's receipt does not reveal the name of a private repository."""
    auth = httpx2.Auth() if name is None else login(name)
    await until_signed(shop.client, 3)
    answers = [await shop.client.get(f"/ledger/receipt/{index}", auth=auth) for index in range(10)]
    texts = [answer.text + str(answer.headers) for answer in answers]

    assert {answer.status_code for answer in answers} <= {401, 403, 404}
    assert [answer.status_code for answer in answers][2] == (401 if name is None else 403)
    assert not [one for one in texts if "shop" in one]


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!", "Basic Y2k=", "Basic \xff", "Digest x", "Bearer", "ci:pw-ci", "Basic " + "A" * 30_000],
)
async def test_a_header_that_can_not_be_read_is_a_401(shop: Serving, header: str) -> None:
    """An unreadable Authorization header gets 401 and is not echoed."""
    answer = await shop.client.get("/v2/shop/app/tags/list", headers={b"authorization": header.encode("latin-1")})

    assert answer.status_code == 401
    assert header not in answer.text


async def test_the_existence_of_users_is_not_revealed(shop: Serving) -> None:
    """A wrong password and an unknown user get the same answer."""
    wrong = await shop.client.get("/v2/", auth=login("ci", "nope"))
    absent = await shop.client.get("/v2/", auth=httpx2.BasicAuth("nobody", "nope"))

    assert (wrong.status_code, absent.status_code) == (401, 401)
    assert wrong.content == absent.content


async def test_guessing_is_slowed(shop: Serving) -> None:
    """After a few failures an address must wait, even with the right password; a recently authenticated client need
    not."""
    remembered = await shop.client.get("/v2/", auth=login("boss"))
    guesses = [await shop.client.get("/v2/", auth=login("ci", f"guess{n}")) for n in range(8)]
    right = await shop.client.get("/v2/", auth=login("other"))
    again = await shop.client.get("/v2/", auth=login("boss"))

    assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 3
    assert (remembered.status_code, right.status_code, again.status_code) == (200, 429, 200)
    assert "retry-after" in right.headers


async def test_guessing_is_slowed_for_a_whole_network_of_ipv6(shop: Serving) -> None:
    """Failed logins are counted per IPv6 /64 network, since an attacker in it has 2^64 addresses."""
    answers = []
    for number in range(8):
        transport = httpx2.ASGITransport(app=shop.app, client=(f"2001:db8:0:1::{number:x}", 5))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:5000") as client:
            answers.append(await client.get("/v2/", auth=login("ci", f"guess {number}")))

    assert [answer.status_code for answer in answers][-1] == 429


async def test_a_flood_of_logins_costs_one_bcrypt_at_a_time(shop: Serving) -> None:
    """Of concurrent logins from many addresses a few wait and the others get 429; known users are served meanwhile."""
    text = await token(shop, "ci", "repository:shop/app:pull")

    async def guess(number: int) -> int:
        source = httpx2.ASGITransport(app=shop.app, client=(f"192.0.2.{number % 250}", number))
        async with httpx2.AsyncClient(transport=source, base_url="http://localhost:5000") as attacker:
            return (await attacker.get("/v2/", auth=login("boss", f"guess {number}"))).status_code

    async def pull() -> int:
        return (await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))).status_code

    before = await checks(shop)
    results = await asyncio.gather(*(guess(number) for number in range(250)), pull())
    compared = await checks(shop) - before

    assert results.pop() == 200
    assert set(results) == {401, 429}
    assert compared == results.count(401) < 250


async def checks(shop: Serving) -> int:
    """Return how many passwords were compared so far."""
    text = (await shop.client.get("/metrics")).text
    line = next((each for each in text.splitlines() if each.startswith("boltseal_password_checks_total ")), " 0")
    return int(float(line.rpartition(" ")[2]))


async def test_the_challenge_never_has_the_host_of_the_request(shop: Serving) -> None:
    """The token service in the challenge is never taken from a forged Host header."""
    answer = await shop.client.get("/v2/", headers={"host": "evil.example"})

    assert answer.status_code == 401
    assert "evil.example" not in answer.headers["www-authenticate"]


async def test_a_write_is_recorded_with_who_did_it(shop: Serving) -> None:
    """The message of a refused push names the login that published the tag."""
    other = image("two")
    shop.client.auth = login("boss")
    for part in other.blobs:
        await push_blob(shop.client, "shop/app", part)
    refused = await shop.client.put(
        "/v2/shop/app/manifests/1.4.2", content=other.raw, headers={"content-type": OCI_MANIFEST}
    )

    assert refused.status_code == 409
    assert " by ci; " in refused.json()["errors"][0]["message"]


async def test_an_unreadable_users_file_refuses_every_login(shop: Serving, settings: Settings) -> None:
    """A broken line in the users' file refuses every login, not only that user's."""
    settings.htpasswd.write_text("ci:plain-text-password\n")
    answer = await shop.client.get("/v2/", auth=login("ci"))

    assert answer.status_code == 503
    assert "plain-text-password" not in answer.text


@pytest.mark.parametrize("gone", ["the users' file", "the last row"])
async def test_a_server_on_a_network_whose_last_user_goes_is_not_open(data: Path, htpasswd: str, gone: str) -> None:
    """A server on a network that loses its last user refuses every request instead of allowing all."""
    settings = with_storage(Settings.model_validate({"server": {"data": data, "listen": "0.0.0.0:5000"}}))
    prepare_metadata(data, settings.storage)
    name, _, hashed = htpasswd.splitlines()[0].partition(":")
    if gone == "the last row":
        put_user(settings, name, hashed.encode())
    else:
        settings.htpasswd.parent.mkdir(exist_ok=True)
        settings.htpasswd.write_text(htpasswd.splitlines()[0] + "\n")
    async with serving_as(settings) as registry:
        before = await registry.client.get("/v2/", auth=login(name))
        if gone == "the last row":
            remove_user(settings, name)
        else:
            settings.htpasswd.unlink()
        pushed = await registry.client.post("/v2/shop/app/blobs/uploads/")
        version = await registry.client.get("/v2/")

    assert before.status_code == 200
    assert (pushed.status_code, version.status_code) == (401, 401)


@pytest.mark.parametrize("gone", ["the users' file", "the last row"])
async def test_a_server_behind_a_proxy_whose_last_user_goes_is_not_open(data: Path, htpasswd: str, gone: str) -> None:
    """A server on loopback behind a proxy that loses its last user refuses every request, also after the next start."""
    settings = settings_of(data, behind_proxy=True, public_url="https://registry.example.com")
    prepare_metadata(data, settings.storage)
    name, _, hashed = htpasswd.splitlines()[0].partition(":")
    if gone == "the last row":
        put_user(settings, name, hashed.encode())
    else:
        settings.htpasswd.parent.mkdir(exist_ok=True)
        settings.htpasswd.write_text(htpasswd.splitlines()[0] + "\n")
    async with serving_as(settings) as registry:
        before = await registry.client.get("/v2/", auth=login(name))
        if gone == "the last row":
            remove_user(settings, name)
        else:
            settings.htpasswd.unlink()
        answers = [
            await registry.client.post("/v2/shop/app/blobs/uploads/"),
            await registry.client.get("/v2/"),
            await registry.client.get("/v2/_catalog"),
            await registry.client.get("/v2/shop/app/tags/list", auth=login(name)),
        ]
    async with serving_as(settings) as registry:
        after_a_start = await registry.client.get("/v2/")

    assert before.status_code == 200
    assert [answer.status_code for answer in answers] == [401, 401, 401, 401]
    assert after_a_start.status_code == 401


@pytest.mark.parametrize("kept", ["the users' file", "rows"])
async def test_data_whose_folder_of_keys_is_missing_is_not_open(data: Path, htpasswd: str, kept: str) -> None:
    """Data restored without the key folder, and so without the users' file, serves nothing to clients without a login."""
    settings = settings_of(data)
    prepare_metadata(data, settings.storage)
    name, _, hashed = htpasswd.splitlines()[0].partition(":")
    if kept == "rows":
        put_user(settings, name, hashed.encode())
    else:
        settings.htpasswd.parent.mkdir(exist_ok=True)
        settings.htpasswd.write_text(htpasswd)
    async with serving_as(settings) as registry:
        registry.client.auth = login(name)
        await push(registry.client, "shop/app", "1.4.2", IMAGE)
        await until_signed(registry.client, 3)
    shutil.rmtree(settings.keys)
    async with serving_as(settings) as registry:
        pulled = await registry.client.get("/v2/shop/app/manifests/1.4.2")
        with_login = await registry.client.get("/v2/shop/app/manifests/1.4.2", auth=login(name))

    assert pulled.status_code in (401, 503)
    assert with_login.status_code in (401, 503)


async def test_an_upload_belongs_to_its_repository(shop: Serving) -> None:
    """An upload session's address under another repository is refused."""
    started = await shop.client.post("/v2/shop/app/blobs/uploads/", auth=login("ci"))
    session = started.headers["location"].rpartition("/")[2]
    stolen = await shop.client.patch(f"/v2/other/app/blobs/uploads/{session}", content=b"x", auth=login("other"))
    direct = await shop.client.patch(f"/v2/shop/app/blobs/uploads/{session}", content=b"x", auth=login("other"))

    assert (stolen.status_code, direct.status_code) == (404, 403)


async def test_oauth2_clients_get_a_token_by_form(shop: Serving) -> None:
    """containerd posts a form first: the password grant works, and no refresh token is returned."""
    form = {"grant_type": "password", "service": "boltseal", "username": "ci", "password": "pw-ci"}
    given = await shop.client.post("/token", data={**form, "scope": "repository:shop/app:pull"})
    wrong = await shop.client.post("/token", data={**form, "password": "x"})
    refresh = await shop.client.post("/token", data={"grant_type": "refresh_token", "refresh_token": "x"})
    used = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(given.json()["access_token"]))

    assert (given.status_code, wrong.status_code, refresh.status_code, used.status_code) == (200, 401, 400, 200)
    assert "refresh_token" not in given.json()
