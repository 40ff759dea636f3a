"""Attacks on logins of pipelines: each is refused, and opens no session.

The attacker has valid tokens of the issuer for other repositories and audiences, as every user of it can get them, has seen tokens of
the victim's pipeline, knows the issuer's public key, and has keys of his own. The rule allows releases of repository 123 to push
their git tag to `acme/**`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.store_factory import open_store
from tests.fakes.issuer import AUDIENCE, RULE, Answer, Issuer, b64, encoded, public_jwk, running_issuer
from tests.images import image, push, put
from tests.logins import bearer, login, token, with_users
from tests.serving import Serving, serving_as

ATTACKERS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
IMAGE = image("one")
HEADER = {"alg": "RS256", "typ": "JWT", "kid": "key-1"}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
async def shop(data: Path, issuer: Issuer) -> AsyncIterator[Serving]:
    async with serving_as(with_users(data, issuer=[issuer.table()])) as running:
        yield running


def with_header(issuer: Issuer, **changes: object) -> str:
    """Return a token that the issuer's key signed, with another header."""
    return encoded(issuer.key, {**HEADER, **changes}, issuer.claims())


def unsigned(issuer: Issuer, algorithm: str) -> str:
    parts = ({**HEADER, "alg": algorithm}, issuer.claims())
    return ".".join(b64(json.dumps(part).encode()) for part in parts) + "."


def with_hmac(issuer: Issuer) -> str:
    """Return a token whose HMAC has the issuer's public key as its secret key."""
    pem = issuer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = unsigned(issuer, "HS256").rstrip(".")
    return f"{signed}.{b64(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


def with_payload(issuer: Issuer, payload: bytes) -> str:
    """Return a true token of another repository whose claims were replaced after it was signed."""
    head, _, signature = issuer.token(repository_id="666").split(".")
    return f"{head}.{b64(payload)}.{signature}"


def mixed(issuer: Issuer) -> str:
    """Return the header and signature of one token with the claims of another."""
    first, second = issuer.token(repository_id="666").split("."), issuer.token().split(".")
    return f"{first[0]}.{second[1]}.{first[2]}"


def embedded_key(issuer: Issuer) -> str:
    header = {**HEADER, "jwk": public_jwk(ATTACKERS)}
    return encoded(ATTACKERS, header, issuer.claims())


NOW_S = int(time.time())
FORGED: dict[str, Callable[[Issuer], str]] = {
    "algorithm none": lambda issuer: unsigned(issuer, "none"),
    "algorithm None": lambda issuer: unsigned(issuer, "None") + "AA",
    "algorithm none with a signature": lambda issuer: unsigned(issuer, "none") + "AA",
    "algorithm HS256 with the public key": with_hmac,
    "algorithm RS512": lambda issuer: with_header(issuer, alg="RS512"),
    "algorithm PS256 for a key of RS256": lambda issuer: with_header(issuer, alg="PS256"),
    "algorithm ES256 for a key of RSA": lambda issuer: encoded(EC, {**HEADER, "alg": "ES256"}, issuer.claims()),
    "no algorithm": lambda issuer: with_header(issuer, alg=None),
    "signed by another key": lambda issuer: encoded(ATTACKERS, HEADER, issuer.claims()),
    "key in the header": embedded_key,
    "address of keys in the header": lambda issuer: with_header(issuer, jku="http://127.0.0.1:1/keys"),
    "certificate in the header": lambda issuer: with_header(issuer, x5c=["AAAA"]),
    "critical parameter": lambda issuer: with_header(issuer, crit=["b64"], b64=False),
    "unknown key": lambda issuer: with_header(issuer, kid="key-2"),
    "path as key": lambda issuer: with_header(issuer, kid="../../dev/null"),
    "no key": lambda issuer: with_header(issuer, kid=None),
    "access token": lambda issuer: with_header(issuer, typ="at+jwt"),
    "claims replaced": lambda issuer: with_payload(issuer, json.dumps(issuer.claims()).encode()),
    "parts of two tokens": mixed,
    "signature cut": lambda issuer: issuer.token()[:-8],
    "signature empty": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "four parts": lambda issuer: issuer.token() + ".AA",
    "encrypted": lambda issuer: "a.b.c.d.e",
    "spaces": lambda issuer: issuer.token().replace(".", ". "),
    "megabytes": lambda issuer: issuer.token(padding="x" * 20_000),
    "nested deeply": lambda issuer: with_payload(issuer, b"[" * 4000),
    "another issuer": lambda issuer: issuer.token(iss="https://evil.example.com"),
    "issuer with a slash": lambda issuer: issuer.token(iss=issuer.url + "/"),
    "issuer as a list": lambda issuer: issuer.token(iss=[issuer.url]),
    "foreign audience": lambda issuer: issuer.token(aud="https://other.example.com"),
    "two audiences": lambda issuer: issuer.token(aud=[AUDIENCE, "https://other.example.com"]),
    "no audience": lambda issuer: issuer.token(aud=None),
    "audience of a prefix": lambda issuer: issuer.token(aud=AUDIENCE + ".evil.example"),
    "expired": lambda issuer: issuer.token(iat=NOW_S - 900, nbf=NOW_S - 900, exp=NOW_S - 600),
    "from the future": lambda issuer: issuer.token(iat=NOW_S + 6000, nbf=NOW_S + 6000, exp=NOW_S + 6300),
    "for ever": lambda issuer: issuer.token(exp=NOW_S + 10 * 365 * 86_400),
    "no end": lambda issuer: issuer.token(exp=None),
    "end as a text": lambda issuer: issuer.token(exp="9999999999"),
    "no identifier": lambda issuer: issuer.token(jti=None),
    "no subject": lambda issuer: issuer.token(sub=None),
    "subject with a line": lambda issuer: issuer.token(sub="repo:acme/shop\nactor=boss"),
    "subject with a direction mark": lambda issuer: issuer.token(sub="repo:\u202epohs/emca"),
    "another repository": lambda issuer: issuer.token(repository_id="666"),
    "another owner of the same name": lambda issuer: issuer.token(repository_owner_id="666"),
    "repository identifier with zeros": lambda issuer: issuer.token(repository_id="0123"),
    "repository identifier as a fraction": lambda issuer: issuer.token(repository_id=123.0),
    "repository identifier in a list": lambda issuer: issuer.token(repository_id=["123"]),
    "no repository": lambda issuer: issuer.token(repository_id=None),
    "pull_request_target": lambda issuer: issuer.token(event_name="pull_request_target"),
    "branch called like a tag": lambda issuer: issuer.token(ref="refs/heads/v1.4.2", ref_type="branch"),
    "branch that says it is a tag": lambda issuer: issuer.token(ref="refs/heads/v1.4.2"),
    "tag that says it is a branch": lambda issuer: issuer.token(ref_type="branch"),
    "tag of a star": lambda issuer: issuer.token(ref="refs/tags/v*"),
    "tag of a path": lambda issuer: issuer.token(ref="refs/tags/v../../other/manifests/1"),
    "tag of a placeholder": lambda issuer: issuer.token(ref="refs/tags/v{git_tag}"),
    "tag of a digest": lambda issuer: issuer.token(ref="refs/tags/vsha256:" + "0" * 64),
    "tag of another image's signatures": lambda issuer: issuer.token(ref=f"refs/tags/vsha256-{'0' * 64}.sig"),
    "tag of another image's referrers": lambda issuer: issuer.token(ref=f"refs/tags/vsha256-{'0' * 64}"),
    "tag without prefix": lambda issuer: issuer.token(ref="refs/tags/1.4.2"),
}


def sessions(data: Path, issuer: Issuer) -> int:
    """Return how many sessions are stored."""

    def count(snapshot: Snapshot) -> int:
        row = snapshot.sql.plain("SELECT count(*) FROM pipeline_session").fetchone()
        return int(row[0]) if row else -1

    with open_store(with_users(data, issuer=[issuer.table()])) as store:
        return store.database.read_and_wait(count)


async def test_forged_and_foreign_tokens_are_refused(data: Path, issuer: Issuer) -> None:
    """Each is a 401 at the token service and at a route, gets no refresh token, and opens no session."""
    found: dict[str, tuple[int, int]] = {}
    async with serving_as(with_users(data, issuer=[issuer.table()])) as shop:
        for name, forge in FORGED.items():
            forged = forge(issuer)
            auth = httpx2.BasicAuth("oidc", forged)
            answer = await shop.client.get("/token", params={"offline_token": "true"}, auth=auth)
            pushed = await shop.client.post("/v2/acme/shop/blobs/uploads/", auth=auth)
            found[name] = (answer.status_code, pushed.status_code)
            assert "token" not in answer.json()
        after = await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", issuer.token()))
    unknown_key = {"unknown key", "path as key"}  # the issuer cannot be asked again so soon: a doubt, and no session

    assert {name: got for name, got in found.items() if got != (401, 401) and name not in unknown_key} == {}
    assert all(set(found[name]) <= {401, 503} for name in unknown_key)
    assert after.status_code == 200
    assert sessions(data, issuer) == 1


async def test_an_id_token_is_no_bearer_token(shop: Serving, issuer: Issuer) -> None:
    """The token of the CI is never accepted as a token of ours."""
    answer = await shop.client.get("/v2/acme/shop/tags/list", headers=bearer(issuer.token()))

    assert answer.status_code == 401


async def test_our_tokens_are_no_id_tokens(shop: Serving) -> None:
    """A bearer token, and a refresh token, are no password of a pipeline."""
    ours = await token(shop, "ci", "repository:shop/app:pull")
    answers = [
        await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", text)) for text in (ours, "bsr_" + "x" * 43)
    ]

    assert [answer.status_code for answer in answers] == [401, 401]


async def test_a_bearer_token_gets_no_other_token(shop: Serving, issuer: Issuer) -> None:
    """A stolen bearer token cannot be renewed for ever."""
    ours = (await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", issuer.token()))).json()["token"]
    answer = await shop.client.get("/token", params={"offline_token": "true"}, headers=bearer(ours))

    assert answer.status_code == 401


async def test_a_pipeline_that_no_rule_matches_any_more_is_logged_out(data: Path, issuer: Issuer) -> None:
    """After the last rule for it was removed, neither its tokens nor its refresh token are a login, for any route."""
    auth = httpx2.BasicAuth("oidc", issuer.token())
    async with serving_as(with_users(data, issuer=[issuer.table()])) as shop:
        asked = {"offline_token": "true", "scope": ["repository:acme/shop:pull", "registry:catalog:*"]}
        held = (await shop.client.get("/token", params=asked, auth=auth)).json()
        before = (await shop.client.get("/v2/_catalog", headers=bearer(held["token"]))).status_code
    other = {**RULE, "claims": {"repository_id": "999"}}
    async with serving_as(with_users(data, issuer=[issuer.table(other)])) as shop:
        form = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
        refreshed = (await shop.client.post("/token", data=form)).status_code
        paths = ("/v2/", "/v2/_catalog", "/v2/acme/shop/tags/list", "/ledger/checkpoint", "/api/v1/me")
        after = [(await shop.client.get(path, headers=bearer(held["token"]))).status_code for path in paths]

    assert before == 200
    assert refreshed == 401
    assert after == [401] * len(paths)


async def test_an_attacker_cannot_fix_the_session_of_another_pipeline(shop: Serving, issuer: Issuer) -> None:
    """An attacker who uses a `jti` first does not get the rights of a later token with it: that one is refused."""
    mine = issuer.token(jti="chosen", sub="repo:acme/shop:pull_request")
    theirs = issuer.token(jti="chosen")
    first = await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", mine))
    second = await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", theirs))

    assert (first.status_code, second.status_code) == (200, 401)


async def test_scopes_beyond_the_rule_are_not_given(shop: Serving, issuer: Issuer) -> None:
    """Names of other repositories, actions beyond the rule, and stars give nothing more."""
    scopes = [
        "repository:shop/app:pull,push",
        "repository:acme:pull",
        "repository:acme/../shop/app:push",
        "repository:acme/shop:*",
        "repository:**:push",
        "registry:catalog:*",
    ]
    answer = await shop.client.get("/token", params={"scope": scopes}, auth=httpx2.BasicAuth("oidc", issuer.token()))
    payload = answer.json()["token"].split(".")[1]
    access: list[dict[str, Any]] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["access"]

    assert {item["name"]: item["actions"] for item in access} == {"acme/shop": ["pull", "push"], "catalog": ["*"]}


@pytest.mark.parametrize("method", ["DELETE", "PUT"])
async def test_other_tags_and_deletes_are_refused(shop: Serving, issuer: Issuer, method: str) -> None:
    """A pipeline neither deletes what it pushed nor pushes a tag that is not its own, by path or by query."""
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    await push(shop.client, "acme/shop", "1.4.2", IMAGE)
    if method == "DELETE":
        answers = [await shop.client.delete(f"/v2/acme/shop/manifests/{each}") for each in ("1.4.2", IMAGE.digest)]
    else:
        answers = [await put(shop.client, "acme/shop", IMAGE.digest, IMAGE, tags=["1.4.2", "9.9.9"])]
        answers += [
            await put(shop.client, "acme/shop", each, IMAGE) for each in ("9.9.9", "sha256-" + "0" * 64 + ".sig")
        ]
    tags = (await shop.client.get("/v2/acme/shop/tags/list")).json()["tags"]

    assert {answer.status_code for answer in answers} == {403}
    assert tags == ["1.4.2"]


async def test_a_mount_from_a_foreign_repository_copies_nothing(shop: Serving, issuer: Issuer) -> None:
    """Without pull on the source a mount is an upload, whether or not the blob exists there."""
    shop.client.auth = login("ci")
    await push(shop.client, "shop/app", "1.0.0", IMAGE)
    shop.client.auth = httpx2.BasicAuth("oidc", issuer.token())
    mount = {"mount": IMAGE.config.digest, "from": "shop/app"}
    answer = await shop.client.post("/v2/acme/shop/blobs/uploads/", params=mount)

    assert answer.status_code == 202


async def test_tokens_of_two_issuers_are_not_mixed_up(data: Path, issuer: Issuer) -> None:
    """A token of one configured issuer that says it is of the other is refused, and so is a `jti` shared by both: two sessions."""
    with running_issuer() as other:
        tables = [issuer.table(), other.table(name="other")]
        async with serving_as(with_users(data, issuer=tables)) as shop:

            async def status(text: str) -> int:
                return (await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", text))).status_code

            crossed = await status(issuer.token(iss=other.url))
            shared = [await status(each.token(jti="shared")) for each in (issuer, other)]

    assert crossed == 401
    assert shared == [200, 200]


async def test_logs_have_no_token_and_no_needless_claim(
    data: Path, issuer: Issuer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither a login nor a refused one writes the token or a claim beyond the subject."""
    tokens = [issuer.token(email="a@example.com"), issuer.token(email="a@example.com", repository_id="7")]
    async with serving_as(with_users(data, issuer=[issuer.table()])) as shop:
        for each in tokens:
            await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", each))
    written = "".join(capfd.readouterr())

    assert "a@example.com" not in written
    assert not any(part in written for each in tokens for part in each.split("."))


async def test_unknown_keys_do_not_flood_the_issuer(shop: Serving, issuer: Issuer) -> None:
    """A thousand tokens with unknown keys cause one request for keys."""
    for number in range(200):
        await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", with_header(issuer, kid=f"key-{number + 2}")))

    assert issuer.asked.count("/keys") == 1


async def test_a_user_called_oidc_does_not_log_in_by_a_pipeline(shop: Serving, issuer: Issuer) -> None:
    """The user name decides: an ID token under another name is a wrong password."""
    for user in ("ci", "OIDC", "oidc "):
        answer = await shop.client.get("/token", auth=httpx2.BasicAuth(user, issuer.token()))
        assert answer.status_code == 401


async def test_refused_answers_send_nothing_of_the_issuer(data: Path, issuer: Issuer) -> None:
    """An issuer that redirects to an internal service gets no answer of it to a client."""
    issuer.publish(jwks_uri="https://169.254.169.254/latest/meta-data")
    issuer.answers["/latest"] = Answer(b"secret")
    rule = {**RULE, "repository": "**"}
    async with serving_as(with_users(data, issuer=[issuer.table(rule)])) as shop:
        answer = await shop.client.get("/token", auth=httpx2.BasicAuth("oidc", issuer.token()))

    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert issuer.asked == ["/.well-known/openid-configuration"]
