"""The token service, as the Docker token specification has it: parameters, forms, responses and challenges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import bcrypt
import httpx2
import pytest

from boltseal.server.commands.users import put_user
from tests.images import Blob, error_of, push_blob
from tests.logins import PASSWORDS, as_user, bearer, claims, login, token, with_users
from tests.serving import Serving, serving_as

REALM = 'Bearer realm="http://127.0.0.1:5000/token",service="boltseal"'
PULL = "repository:shop/app:pull"
BLOB = Blob(b"shared")
MOUNT = f"/v2/shop/target/blobs/uploads/?mount={BLOB.digest}&from=shop/app"
MOUNT_SCOPES = "repository:shop/target:pull,push repository:shop/app:pull"
FORM = {"grant_type": "password", "client_id": "test", "username": "ci", "password": PASSWORDS["ci"]}


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    """A registry with a blob in shop/app and one in other/app."""
    async with serving_as(with_users(data)) as running:
        for repository, user in {"shop/app": "ci", "other/app": "other"}.items():
            running.client.auth = login(user)
            await push_blob(running.client, repository, BLOB)
        running.client.auth = httpx2.Auth()
        yield running


async def asked(shop: Serving, user: str | None = "ci", **parameters: str) -> httpx2.Response:
    """Request a token by GET."""
    return await shop.client.get("/token", params=parameters, auth=None if user is None else login(user))


@pytest.mark.parametrize("user", ["ci", None])
async def test_a_foreign_service_is_refused_by_get(shop: Serving, user: str | None) -> None:
    """The token service of one registry gives no token for another."""
    foreign = await asked(shop, user, service="registry.example", scope=PULL)
    ours = await asked(shop, user, service="boltseal", scope=PULL)
    unnamed = await asked(shop, user, scope=PULL)

    assert (foreign.status_code, error_of(foreign)[0]) == (400, "UNSUPPORTED")
    assert 'service is "registry.example"; expected "boltseal"' in error_of(foreign)[1]
    assert (ours.status_code, unnamed.status_code) == (200, 200)


async def test_a_foreign_service_is_refused_by_post(shop: Serving) -> None:
    """A form is treated as a query is."""
    foreign = await shop.client.post("/token", data={**FORM, "service": "registry.example", "scope": PULL})
    ours = await shop.client.post("/token", data={**FORM, "service": "boltseal", "scope": PULL})

    assert (foreign.status_code, ours.status_code) == (400, 200)


async def test_a_wrong_password_is_not_answered_with_the_refusal_of_the_service(shop: Serving) -> None:
    """A foreign service is refused before any password is checked, so that it costs no bcrypt."""
    answer = await shop.client.get("/token", params={"service": "elsewhere"}, auth=login("ci", "wrong"))

    assert answer.status_code == 400


async def test_the_account_must_be_the_login(shop: Serving) -> None:
    """`account` names the user of the login; docker sends both."""
    of_docker = {"account": "ci", "client_id": "docker", "offline_token": "true", "service": "boltseal"}
    same = await asked(shop, **of_docker)
    another = await asked(shop, account="boss", scope=PULL)
    twice = await shop.client.get("/token?account=ci&account=boss", auth=login("ci"))

    assert same.status_code == 200
    assert (another.status_code, twice.status_code) == (400, 400)
    assert 'account is "boss"; the login is "ci"' in error_of(another)[1]


async def test_an_account_without_a_login_gets_an_anonymous_token(shop: Serving) -> None:
    """A name alone proves nothing: the token is anonymous and has only what is public."""
    answer = await asked(shop, None, account="boss", scope=f"{PULL} repository:public/app:pull")
    held = claims(answer.json()["token"])

    assert held["sub"] == ""
    assert [item["name"] for item in held["access"]] == ["public/app"]


async def test_the_response_says_when_the_token_was_issued_and_ends(shop: Serving) -> None:
    """`token` and `access_token` are the same, `issued_at` and `expires_in` are the token's, and caches keep nothing."""
    answer = await asked(shop, scope=PULL)
    body = answer.json()
    held = claims(body["token"])

    assert body["token"] == body["access_token"]
    assert datetime.fromisoformat(body["issued_at"]).timestamp() == held["iat"]
    assert body["issued_at"].endswith("Z")
    assert body["expires_in"] == held["exp"] - held["iat"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("parameters", [{"offline_token": "true"}, {"access_type": "offline"}])
async def test_no_refresh_token_is_given(shop: Serving, parameters: dict[str, str]) -> None:
    """A refresh token is optional in the specification, and this registry has none: a client keeps its login."""
    by_get = await asked(shop, scope=PULL, **parameters)
    by_post = await shop.client.post("/token", data={**FORM, **parameters, "scope": PULL})

    assert (by_get.status_code, by_post.status_code) == (200, 200)
    assert "refresh_token" not in by_get.text + by_post.text


async def test_a_post_says_which_scopes_the_token_has(shop: Serving) -> None:
    """The specification requires `scope` in the response of a POST, whatever was left out of it."""
    wanted = f"{PULL},push,delete repository:other/app:pull registry:catalog:*"
    body = (await shop.client.post("/token", data={**FORM, "scope": wanted})).json()

    assert body["scope"] == "repository:shop/app:pull,push registry:catalog:*"
    assert {"access_token", "expires_in", "issued_at"} <= set(body)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "code": "x"}, "unsupported_grant_type"),
        ({"scope": PULL}, "invalid_request"),
        ({"grant_type": "password", "username": "ci"}, "invalid_request"),
        ({"grant_type": "password", "password": "pw-ci"}, "invalid_request"),
        ({**FORM, "service": "elsewhere"}, "invalid_request"),
        ({**FORM, "username": "ci:pw", "password": "ci"}, "invalid_request"),
    ],
)
async def test_a_refused_form_has_the_error_of_oauth2(shop: Serving, form: dict[str, str], error: str) -> None:
    """A POST is refused with the member `error` of RFC 6749, section 5.2, beside the errors of the registry."""
    answer = await shop.client.post("/token", data=form)

    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert answer.json()["error_description"] == answer.json()["errors"][0]["message"]


async def test_a_form_that_is_not_utf_8_is_refused(shop: Serving) -> None:
    """Bytes that are not UTF-8 are not replaced: a user name or a password would become another one."""
    form = b"grant_type=password&username=ci&password=pw-ci%FF"
    answer = await shop.client.post("/token", content=form)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_colon_in_a_user_name_does_not_move_a_part_of_the_password(data: Path) -> None:
    """A form whose user name has the begin of the password after a colon is no login."""
    settings = with_users(data)
    put_user(settings, "colon", bcrypt.hashpw(b"a:b", bcrypt.gensalt(4)))
    async with serving_as(settings) as registry:
        right = await registry.client.post("/token", data={**FORM, "username": "colon", "password": "a:b"})
        moved = await registry.client.post("/token", data={**FORM, "username": "colon:a", "password": "b"})

    assert (right.status_code, moved.status_code) == (200, 400)


@pytest.mark.parametrize(
    ("actions", "granted"),
    [
        ("*", ["pull", "push"]),
        ("pull,*", ["pull", "push"]),
        ("*,frobnicate", ["pull", "push"]),
        ("pull,,push", ["pull", "push"]),
        ("pull,frobnicate", ["pull"]),
        ("PULL", []),
        ("", []),
        ("admin,ledger", []),
    ],
)
async def test_a_token_has_the_requested_actions_that_the_user_has(
    shop: Serving, actions: str, granted: list[str]
) -> None:
    """A star among the actions stands for all, unknown actions are ignored, and none of them is a refusal."""
    text = await token(shop, "ci", f"repository:shop/app:{actions}")

    assert [item["actions"] for item in claims(text)["access"]] == ([granted] if granted else [])


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_another_method_is_refused_with_those_that_are_allowed(shop: Serving, method: str) -> None:
    """Only GET and POST request a token."""
    answer = await shop.client.request(method, "/token")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_a_wrong_login_in_a_form_is_a_401(shop: Serving) -> None:
    """containerd and docker repeat the request by GET after a 401, and report a wrong login as one."""
    answer = await shop.client.post("/token", data={**FORM, "password": "wrong"})

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_grant")


async def test_many_scopes_in_both_forms_make_one_token(shop: Serving) -> None:
    """Several parameters, scopes separated by spaces, a class in the type, and all actions by a star."""
    text = await token(
        shop, "ci", f"{PULL} repository:shop/b:push", "repository(plugin):shop/c:pull", "repository:shop/d:*"
    )

    assert {item["name"]: item["actions"] for item in claims(text)["access"]} == {
        "shop/app": ["pull"],
        "shop/b": ["push"],
        "shop/c": ["pull"],
        "shop/d": ["pull", "push"],
    }


async def test_a_token_that_would_be_refused_for_its_length_is_not_issued(shop: Serving) -> None:
    """A token of many long names is a refusal that says so, and no token that each request refuses."""
    scopes = [f"repository:shop/{number:03}{'a' * 200}:pull,push" for number in range(100)]
    few, many = [
        await shop.client.post("/token", data={**FORM, "scope": " ".join(scopes[:count])}) for count in (30, 100)
    ]
    used = await shop.client.get(f"/v2/shop/000{'a' * 200}/tags/list", headers=bearer(few.json()["token"]))

    assert (few.status_code, used.status_code, many.status_code) == (200, 404, 400)
    assert "request fewer repositories at once" in many.text


async def test_the_challenge_of_a_mount_names_the_source_too(shop: Serving) -> None:
    """A client that follows the challenge of a mount gets a token with which it succeeds."""
    challenged = await shop.client.post(MOUNT)
    text = await token(shop, "ci", *MOUNT_SCOPES.split())
    mounted = await shop.client.post(MOUNT, headers=bearer(text))

    assert challenged.status_code == 401
    assert challenged.headers["www-authenticate"] == f'{REALM},scope="{MOUNT_SCOPES}"'
    assert mounted.status_code == 201


async def test_a_mount_with_a_token_that_lacks_the_source_is_insufficient_scope(shop: Serving) -> None:
    """Where the user may pull the source, a token without that scope is refused rather than answered with an upload."""
    text = await token(shop, "ci", "repository:shop/target:pull,push")
    answer = await shop.client.post(MOUNT, headers=bearer(text))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == f'{REALM},scope="{MOUNT_SCOPES}",error="insufficient_scope"'


@pytest.mark.parametrize("source", ["other/app", "other/nothing", "Not a NAME"])
async def test_a_mount_from_a_repository_that_may_not_be_pulled_is_an_upload(shop: Serving, source: str) -> None:
    """The response is that of a blob that does not exist, with a token as with a password."""
    url = f"/v2/shop/target/blobs/uploads/?mount={BLOB.digest}&from={source.replace(' ', '%20')}"
    text = await token(shop, "ci", "repository:shop/target:pull,push", f"repository:{source}:pull")
    by_token = await shop.client.post(url, headers=bearer(text))
    by_password = await shop.client.post(url, headers=as_user("ci"))

    assert (by_token.status_code, by_password.status_code) == (202, 202)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "manifests/1.0.0", "pull"),
        ("HEAD", "manifests/1.0.0", "pull"),
        ("PUT", "manifests/1.0.0", "pull,push"),
        ("DELETE", "manifests/1.0.0", "pull,delete"),
        ("GET", f"blobs/{BLOB.digest}", "pull"),
        ("DELETE", f"blobs/{BLOB.digest}", "pull,delete"),
        ("GET", "tags/list", "pull"),
        ("GET", f"referrers/{BLOB.digest}", "pull"),
        ("POST", "blobs/uploads/", "pull,push"),
        ("PATCH", "blobs/uploads/" + "0123456789ab4def8123456789abcdef", "pull,push"),
        ("GET", "_oci/ext/discover", "pull"),
        ("GET", "_oci/tag-history/1.0.0", "pull"),
        ("GET", "_boltseal/history", "pull"),
        ("POST", "_boltseal/records", "pull,push"),
    ],
)
async def test_every_challenge_names_the_scope_that_is_needed(
    shop: Serving, method: str, path: str, scope: str
) -> None:
    """Without a login, and with a token for something else, whether the repository exists or not."""
    elsewhere = await token(shop, "boss", "repository:shop/elsewhere:pull,push,delete")
    for repository in ("shop/app", "shop/nothing"):
        url, needed = f"/v2/{repository}/{path}", f'{REALM},scope="repository:{repository}:{scope}"'
        first = await shop.client.request(method, url)
        lacking = await shop.client.request(method, url, headers=bearer(elsewhere))

        assert (first.status_code, first.headers["www-authenticate"]) == (401, needed)
        assert (lacking.status_code, lacking.headers["www-authenticate"]) == (
            401,
            f'{needed},error="insufficient_scope"',
        )
