"""Forged and outdated tokens: each is refused on every route, and nothing has changed afterwards.

`tests/attacks/test_rights.py` has the forgeries of claims that need our key. Here the attacker has a true token of `ci`
(pull in `shop/**`), knows the public key and the form of the claims, and has no key of the registry.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey

from boltseal.server.commands.users import put_user, remove_user
from boltseal.server.settings import Settings
from boltseal.server.storage.key_file import KeyFile
from tests.images import OCI_MANIFEST, image, push
from tests.logins import AUTH, PASSWORDS, bearer, claims, login, token, with_users
from tests.serving import FIRST_START_US, Clock, Serving, serving_as

IMAGE = image("one")
EVERYTHING = [
    {"type": "repository", "name": "shop/app", "actions": ["pull", "push", "delete"]},
    {"type": "registry", "name": "catalog", "actions": ["*"]},
]
SIGNATURE_BYTES = 64
TWO_ALGORITHMS = b'{"alg":"none","typ":"JWT","alg":"Ed25519","kid":"x"}'
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493

ROUTES = [
    ("GET", "/v2/"),
    ("GET", "/v2/_catalog"),
    ("GET", "/v2/shop/app/manifests/1.4.2"),
    ("HEAD", f"/v2/shop/app/blobs/{IMAGE.config.digest}"),
    ("GET", "/v2/shop/app/tags/list"),
    ("GET", f"/v2/shop/app/referrers/{IMAGE.digest}"),
    ("GET", "/v2/shop/app/_boltseal/history"),
    ("POST", "/v2/shop/app/blobs/uploads/"),
    ("PUT", "/v2/shop/app/manifests/9.9.9"),
    ("DELETE", "/v2/shop/app/manifests/1.4.2"),
    ("GET", "/ledger/receipt/0"),
    ("POST", "/api/v1/accept"),
]


@pytest.fixture
def settings(data: Path) -> Settings:
    return with_users(data)


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST_START_US + 1_000_000)


@pytest.fixture
async def shop(settings: Settings, clock: Clock) -> AsyncIterator[Serving]:
    """A registry in which `ci` has pushed shop/app:1.4.2."""
    async with serving_as(settings, clock=clock) as running:
        running.client.auth = login("ci")
        await push(running.client, "shop/app", "1.4.2", IMAGE)
        running.client.auth = httpx2.Auth()
        yield running


class Forger:
    """What an attacker makes of a true token."""

    def __init__(self, true: str, public: bytes) -> None:
        self.head, self.payload, self.signature = true.split(".")
        self.claims = claims(true)
        self.public = public
        self.own = Ed25519PrivateKey.generate()

    def signed(self, header: dict[str, Any] | None = None, **changed: object) -> str:
        """Sign with the attacker's own key."""
        head = {"alg": "Ed25519", **(header or {})}
        body = {key: value for key, value in {**self.claims, **changed}.items() if value is not None}
        signing = f"{_part(head)}.{_part(body)}"
        return f"{signing}.{_base64(self.own.sign(signing.encode()))}"

    def unsigned(self, algorithm: str) -> str:
        """Name an algorithm that signs nothing."""
        return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{_part({**self.claims, 'access': EVERYTHING})}."

    def kept_signature(self, **changed: object) -> str:
        """Change claims and keep the signature."""
        return f"{self.head}.{_part({**self.claims, **changed})}.{self.signature}"

    def own_jwk(self) -> dict[str, object]:
        """The attacker's public key as a header would embed it."""
        return {"kty": "OKP", "crv": "Ed25519", "x": _base64(self.own.public_key().public_bytes_raw())}

    def of_other_algorithm(self, algorithm: str) -> str:
        """Sign with a key of another type: the public key as a secret, or an elliptic curve of one's own."""
        body = {**self.claims, "access": EVERYTHING}
        if algorithm.startswith("HS"):
            return jwt.encode({"alg": algorithm}, body, OctKey.import_key(self.public), algorithms=[algorithm])
        curve = ECKey.import_key(generate_private_key(SECP256R1()))
        return jwt.encode({"alg": algorithm}, body, curve, algorithms=[algorithm])

    def malleated(self) -> str:
        """Add the order of the group to the signature's scalar, which a lax verifier accepts as another signature."""
        raw = _unbase64(self.signature)
        scalar = int.from_bytes(raw[32:], "little") + ED25519_ORDER
        return f"{self.head}.{self.payload}.{_base64(raw[:32] + scalar.to_bytes(32, 'little'))}"


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _part(value: object) -> str:
    return _base64(json.dumps(value).encode())


FORGERIES: dict[str, Callable[[Forger], str]] = {
    "alg none": lambda f: f.unsigned("none"),
    "alg None": lambda f: f.unsigned("None"),
    "alg NONE": lambda f: f.unsigned("NONE"),
    "an empty alg": lambda f: f.unsigned(""),
    "an unknown alg": lambda f: f.unsigned("HS0"),
    "HS256 with the public key": lambda f: f.of_other_algorithm("HS256"),
    "HS512 with the public key": lambda f: f.of_other_algorithm("HS512"),
    "ES256 with another key": lambda f: f.of_other_algorithm("ES256"),
    "another key": lambda f: f.signed(access=EVERYTHING),
    "another key under our kid": lambda f: f.signed({"kid": json.loads(_unbase64(f.head))["kid"]}),
    "kid is a path": lambda f: f.signed({"kid": "../../../../dev/null"}),
    "kid is a query": lambda f: f.signed({"kid": "x' UNION SELECT 'key"}),
    "kid is a number": lambda f: f.signed({"kid": 0}),
    "an embedded key": lambda f: f.signed({"jwk": f.own_jwk()}),
    "the address of a key": lambda f: f.signed({"jku": "http://127.0.0.1:9/keys.json"}),
    "the address of a certificate": lambda f: f.signed({"x5u": "http://127.0.0.1:9/chain.pem"}),
    "a critical header": lambda f: f.signed({"crit": ["exp"], "exp": 0}),
    "a number as critical headers": lambda f: f.signed({"crit": 1}),
    "a list of lists as critical headers": lambda f: f.signed({"crit": [[]]}),
    "a list as type": lambda f: f.signed({"typ": ["JWT"]}),
    "an unencoded payload": lambda f: f.signed({"b64": False, "crit": ["b64"]}),
    "scope widened": lambda f: f.kept_signature(access=EVERYTHING),
    "scope of all repositories": lambda f: f.kept_signature(
        access=[{"type": "repository", "name": "**", "actions": ["*"]}]
    ),
    "another user": lambda f: f.kept_signature(sub="boss"),
    "a list of users": lambda f: f.kept_signature(sub=["ci", "boss"]),
    "a longer life": lambda f: f.kept_signature(exp=f.claims["exp"] + 86_400),
    "another audience": lambda f: f.kept_signature(aud="elsewhere"),
    "no signature": lambda f: f"{f.head}.{f.payload}.",
    "two parts": lambda f: f"{f.head}.{f.payload}",
    "four parts": lambda f: f"{f.head}.{f.payload}.{f.signature}.{f.signature}",
    "half a signature": lambda f: f"{f.head}.{f.payload}.{f.signature[:43]}",
    "a signature of zeros": lambda f: f"{f.head}.{f.payload}.{_base64(bytes(SIGNATURE_BYTES))}",
    "a signature shifted by the order of the group": lambda f: f.malleated(),
    "a header with an embedded key under the signature": lambda f: (
        f"{_part({'typ': 'JWT', 'alg': 'Ed25519', 'kid': 'x', 'jwk': f.own_jwk()})}.{f.payload}.{f.signature}"
    ),
    "a header with two algorithms": lambda f: f"{_base64(TWO_ALGORITHMS)}.{f.payload}.{f.signature}",
    "a header that is nested deeply": lambda f: f"{_base64(b'[' * 6000)}.{f.payload}.{f.signature}",
    "a header with another kid under the signature": lambda f: (
        f"{_part({'alg': 'Ed25519', 'kid': 'x'})}.{f.payload}.{f.signature}"
    ),
    "JSON serialization": lambda f: json.dumps(
        {"payload": f.payload, "protected": f.head, "signature": f.signature}, separators=(",", ":")
    ),
    "an encrypted token": lambda f: f"{_part({'alg': 'dir', 'enc': 'A128GCM'})}..{f.payload}.{f.signature}.x",
    "a list as claims": lambda f: f"{f.head}.{_part([f.claims])}.{f.signature}",
    "not base64": lambda f: f"{f.head}.{f.payload[:-2]}!!.{f.signature}",
}


async def refusals(shop: Serving, text: str) -> dict[str, int]:
    """Send a token to every route, and return the statuses."""
    found = {}
    for method, path in ROUTES:
        content: bytes | None = None
        headers = bearer(text)
        if method == "PUT":
            content, headers = IMAGE.raw, {**headers, "content-type": OCI_MANIFEST}
        if path.startswith("/api"):
            content, headers = (
                b'{"repository":"shop/app","tag":"1.4.2"}',
                {**headers, "content-type": "application/json"},
            )
        answer = await shop.client.request(method, path, headers=headers, content=content)
        found[f"{method} {path}"] = answer.status_code
    return found


def public_key(settings: Settings, clock: Clock) -> bytes:
    """Return the public key of our tokens, which is no secret."""
    (key, *_) = KeyFile(settings.keys / "token.json").current(clock())
    return Ed25519PrivateKey.from_private_bytes(key.seed).public_key().public_bytes_raw()


@pytest.mark.parametrize("kind", FORGERIES)
async def test_a_forged_token_is_refused_on_every_route(
    shop: Serving, settings: Settings, clock: Clock, kind: str
) -> None:
    """Every route answers 401, and neither a tag nor an upload session came of it."""
    true = await token(shop, "ci", "repository:shop/app:pull")
    forged = FORGERIES[kind](Forger(true, public_key(settings, clock)))
    statuses = await refusals(shop, forged)
    tags = (await shop.client.get("/v2/shop/app/tags/list", headers=bearer(true))).json()["tags"]

    assert set(statuses.values()) == {401}, statuses
    assert tags == ["1.4.2"]


async def test_the_true_token_of_the_forger_is_accepted(shop: Serving, settings: Settings, clock: Clock) -> None:
    """The token that the forgeries start from pulls, and its signature is by the key whose public part the forger has."""
    true = await token(shop, "ci", "repository:shop/app:pull")
    forger = Forger(true, public_key(settings, clock))
    Ed25519PublicKey.from_public_bytes(forger.public).verify(
        _unbase64(forger.signature), f"{forger.head}.{forger.payload}".encode()
    )
    answer = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(true))

    assert answer.status_code == 200


async def signed_by_us(
    shop: Serving, settings: Settings, clock: Clock, changed: Mapping[str, object], user: str = "ci"
) -> str:
    """Sign claims with the registry's own key, as a defect of the token service would."""
    (key, *_) = KeyFile(settings.keys / "token.json").current(clock())
    now_s = clock() // 1_000_000
    body = {
        "iss": "boltseal",
        "aud": "boltseal",
        "sub": user,
        "login": claims(await token(shop, user))["login"],
        "nbf": now_s,
        "exp": now_s + 300,
        "access": EVERYTHING,
        **changed,
    }
    ours = OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(key.seed))
    return jwt.encode({"alg": "Ed25519", "kid": key.id}, body, ours, algorithms=["Ed25519"])


@pytest.mark.parametrize(
    ("begins_s", "ends_s"), [(3600, 3900), (-900, -600), (-300, -6), (6, 300), (0, 3600), (300, 0)]
)
async def test_a_token_outside_of_its_time_is_refused_on_every_route(
    shop: Serving, settings: Settings, clock: Clock, begins_s: int, ends_s: int
) -> None:
    """A token is refused if it is not yet valid, expired, valid for over five minutes, or ends before it begins."""
    clock.advance(hours=2)  # longer ago than any of these times
    now_s = clock() // 1_000_000
    text = await signed_by_us(shop, settings, clock, {"nbf": now_s + begins_s, "exp": now_s + ends_s})
    statuses = await refusals(shop, text)

    assert set(statuses.values()) == {401}, statuses


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": ["boltseal", "elsewhere"]},
        {"aud": None},
        {"iss": ["boltseal"]},
        {"sub": None},
        {"sub": 1},
        {"nbf": "0"},
        {"login": None},
        {"login": ["ci"]},
        {"exp": True},
        {"access": None},
        {"access": "repository:shop/app:pull"},
        {"access": [{"type": "repository", "name": "shop/app", "actions": "pull"}]},
        {"access": [{"type": "repository", "name": "shop/app"}]},
        {"access": [["shop/app", "pull"]]},
    ],
)
async def test_claims_of_another_form_are_refused_even_with_our_signature(
    shop: Serving, settings: Settings, clock: Clock, changed: dict[str, object]
) -> None:
    """The registry refuses claims in a form that its token service never writes."""
    statuses = await refusals(shop, await signed_by_us(shop, settings, clock, changed))

    assert set(statuses.values()) == {401}, statuses


async def test_a_token_never_gives_more_than_the_grants_of_its_user(
    shop: Serving, settings: Settings, clock: Clock
) -> None:
    """A signed token gives no scope that the grants of its user do not give."""
    text = await signed_by_us(shop, settings, clock, {})  # `ci` may not delete
    allowed = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    deleted = await shop.client.delete("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    foreign = await signed_by_us(shop, settings, clock, {}, "other")
    pulled = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(foreign))

    assert (allowed.status_code, deleted.status_code, pulled.status_code) == (200, 403, 403)


async def test_a_token_of_a_removed_user_is_refused_on_every_route(shop: Serving, settings: Settings) -> None:
    """A token of a removed user is refused from the next request on."""
    text = await token(shop, "ci", "repository:shop/app:pull,push", "registry:catalog:*")
    before = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    remove_user(settings, "ci")
    statuses = await refusals(shop, text)

    assert before.status_code == 200
    assert set(statuses.values()) == {401}, statuses


@pytest.mark.parametrize("change", ["another password", "removed and created again"])
async def test_a_token_of_an_earlier_login_of_a_user_is_refused_on_every_route(
    shop: Serving, settings: Settings, change: str
) -> None:
    """A new password, or another person under the name of a removed user, ends every token at the next request."""
    text = await token(shop, "ci", "repository:shop/app:pull,push", "registry:catalog:*")
    before = await shop.client.get("/v2/shop/app/manifests/1.4.2", headers=bearer(text))
    if change == "removed and created again":
        remove_user(settings, "ci")
    put_user(settings, "ci", bcrypt.hashpw(b"another", bcrypt.gensalt(4)))
    statuses = await refusals(shop, text)

    assert before.status_code == 200
    assert set(statuses.values()) == {401}, statuses


async def test_a_token_after_its_grant_was_taken_away_reaches_nothing(
    data: Path, settings: Settings, clock: Clock
) -> None:
    """The present grants decide what a token may do, not those at the time of its issue."""
    async with serving_as(settings, clock=clock) as before:
        before.client.auth = login("ci")
        await push(before.client, "shop/app", "1.4.2", IMAGE)
        before.client.auth = httpx2.Auth()
        text = await token(before, "ci", "repository:shop/app:pull,push,delete", "registry:catalog:*")
    grant = [{"users": ["boss"], "repository": "shop/**", "actions": ["pull"]}]
    nothing = Settings.model_validate({"server": {"data": data}, "auth": {**AUTH, "grant": grant}})
    async with serving_as(nothing, clock=clock) as after:
        statuses = await refusals(after, text)
        listed = (await after.client.get("/v2/_catalog", headers=bearer(text))).json()

    assert {route: status for route, status in statuses.items() if status not in (401, 403, 404)} == {
        "GET /v2/": 200,
        "GET /v2/_catalog": 200,
    }
    assert listed == {"repositories": []}


async def test_a_token_of_a_former_installation_is_refused(shop: Serving, tmp_path: Path, clock: Clock) -> None:
    """A registry that was set up again with the same users and grants refuses the tokens of the former one."""
    async with serving_as(with_users(tmp_path / "before"), clock=clock) as earlier:
        text = await token(earlier, "ci", "repository:shop/app:pull,push", "registry:catalog:*")
    statuses = await refusals(shop, text)

    assert set(statuses.values()) == {401}, statuses


async def test_a_token_is_valid_over_a_restart(settings: Settings, clock: Clock) -> None:
    """A token stays valid over a restart, because the registry stores its keys."""
    async with serving_as(settings, clock=clock) as before:
        text = await token(before, "ci", "repository:shop/app:pull,push")
    async with serving_as(settings, clock=clock) as after:
        started = await after.client.post("/v2/shop/app/blobs/uploads/", headers=bearer(text))

    assert started.status_code == 202


async def test_a_token_is_no_password_and_a_password_is_no_token(shop: Serving) -> None:
    """A token is refused as a password, and a password as a token, because the scheme selects the verification."""
    text = await token(shop, "ci", "repository:shop/app:pull")
    as_password = await shop.client.get("/v2/shop/app/tags/list", auth=httpx2.BasicAuth("ci", text))
    as_token = await shop.client.get("/v2/shop/app/tags/list", headers=bearer(PASSWORDS["ci"]))

    assert (as_password.status_code, as_token.status_code) == (401, 401)


@pytest.mark.parametrize("scope", ["repository:shop/app:pull", "registry:catalog:*", ""])
async def test_a_token_gets_no_other_token(shop: Serving, clock: Clock, scope: str) -> None:
    """A stolen token ends with its own time: it is no login for the token service."""
    text = await token(shop, "ci", "repository:shop/app:pull")
    clock.advance(seconds=240)
    query = {"service": "boltseal"} | ({"scope": scope} if scope else {})
    answer = await shop.client.get("/token", params=query, headers=bearer(text))

    assert answer.status_code == 401
    assert "token" not in answer.json()


@pytest.mark.parametrize(
    "header", [{"jwk": {}}, {"jku": "http://127.0.0.1:9"}, {"crit": []}, {"b64": True}, {"typ": "JOSE"}, {"cty": "JWT"}]
)
async def test_a_token_of_our_key_with_a_parameter_that_we_do_not_write_is_refused(
    shop: Serving, settings: Settings, clock: Clock, header: dict[str, object]
) -> None:
    """The header is compared with the one that the registry writes, before the library that verifies reads it."""
    true = await token(shop, "ci", "repository:shop/app:pull")
    (key, *_) = KeyFile(settings.keys / "token.json").current(clock())
    own = Ed25519PrivateKey.from_private_bytes(key.seed)
    written = json.loads(_unbase64(true.split(".")[0]))
    signing = f"{_part({**written, **header})}.{true.split('.')[1]}"
    changed = f"{signing}.{_base64(own.sign(signing.encode()))}"
    path = "/v2/shop/app/tags/list"
    answers = [await shop.client.get(path, headers=bearer(text)) for text in (true, changed)]

    assert [answer.status_code for answer in answers] == [200, 401]
