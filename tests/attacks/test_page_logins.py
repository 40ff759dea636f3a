"""Attacks on the pages and on logins of people: each is refused, and begins no session.

The attacker has an account at the provider, sees tokens of others and of pipelines, has pages on other servers that the victim opens, may
write rows of the database without the key of the users, or is the provider's address book: people choose their names there.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from boltseal.server.auth.api_token_text import make_token
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.store_factory import open_store
from tests.fakes.issuer import AUDIENCE, Answer, b64, encoded, public_jwk
from tests.fakes.provider import ALICE, CLIENT, SECRET, Provider, running_provider
from tests.logins import claims, with_users
from tests.page_logins import Browser, with_provider
from tests.serving import ORIGIN, Clock, Serving, serving, serving_as

ATTACKERS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
NOW_S = int(time.time())
HEADER = {"alg": "RS256", "typ": "JWT", "kid": "key-1"}


@pytest.fixture(scope="module")
def shared_provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


@pytest.fixture
def provider(shared_provider: Provider) -> Provider:
    """The provider, honest again."""
    shared_provider.lies, shared_provider.header, shared_provider.token_text = {}, {}, None
    shared_provider.answer, shared_provider.reuse_codes = None, False
    shared_provider.publish()
    return shared_provider


@pytest.fixture
async def shop(data: Path, provider: Provider) -> AsyncIterator[Serving]:
    async with serving_as(with_provider(data, provider)) as running:
        yield running


def number_of(rows: str, snapshot: Snapshot) -> int:
    (found,) = snapshot.sql.plain(f"SELECT count(*) FROM {rows}").fetchone()  # noqa: S608 - constants of this test
    return int(found)


def forged(provider: Provider, header: Mapping[str, object], key: Any, nonce: str) -> str:
    """Return a token for this login with another header or key."""
    claims = provider.claims(**{**ALICE, "aud": CLIENT, "nonce": nonce})
    return encoded(key, {**HEADER, **header}, claims)


def unsigned(provider: Provider, algorithm: str, nonce: str) -> str:
    claims = provider.claims(**{**ALICE, "aud": CLIENT, "nonce": nonce})
    return ".".join(b64(json.dumps(part).encode()) for part in ({**HEADER, "alg": algorithm}, claims))


def with_hmac(provider: Provider, nonce: str) -> str:
    """Return a token whose HMAC has the provider's public key as its secret key."""
    pem = provider.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = unsigned(provider, "HS256", nonce)
    return f"{signed}.{b64(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


FORGED: dict[str, Callable[[Provider, str], str]] = {
    "algorithm none": lambda provider, nonce: unsigned(provider, "none", nonce) + ".",
    "algorithm none with a signature": lambda provider, nonce: unsigned(provider, "none", nonce) + ".AA",
    "algorithm NoNe": lambda provider, nonce: unsigned(provider, "NoNe", nonce) + ".AA",
    "algorithm HS256 with the public key": with_hmac,
    "algorithm PS256 for a key of RS256": lambda p, nonce: forged(p, {"alg": "PS256"}, p.key, nonce),
    "algorithm RS512": lambda p, nonce: forged(p, {"alg": "RS512"}, p.key, nonce),
    "algorithm ES256 for a key of RSA": lambda p, nonce: forged(p, {"alg": "ES256"}, EC, nonce),
    "signed by another key": lambda p, nonce: forged(p, {}, ATTACKERS, nonce),
    "key in the header": lambda p, nonce: forged(p, {"jwk": public_jwk(ATTACKERS)}, ATTACKERS, nonce),
    "address of keys in the header": lambda p, nonce: forged(p, {"jku": "http://127.0.0.1:1/"}, ATTACKERS, nonce),
    "critical parameter": lambda p, nonce: forged(p, {"crit": ["b64"], "b64": False}, p.key, nonce),
    "no key": lambda p, nonce: forged(p, {"kid": None}, p.key, nonce),
    "access token": lambda p, nonce: forged(p, {"typ": "at+jwt"}, p.key, nonce),
    "no token": lambda _, __: "eyJhbGciOiJub25lIn0",
}
LIES: dict[str, dict[str, object]] = {
    "foreign audience": {"aud": "another-client"},
    "audience of pipelines": {"aud": AUDIENCE},
    "two audiences": {"aud": [CLIENT, "another-client"]},
    "two audiences with azp": {"aud": [CLIENT, "another-client"], "azp": CLIENT},
    "no audience": {"aud": None},
    "wrong azp": {"azp": "another-client"},
    "azp as a list": {"azp": [CLIENT]},
    "another issuer": {"iss": "https://evil.example.com"},
    "no nonce": {"nonce": None},
    "another nonce": {"nonce": "x" * 43},
    "nonce as a list": {"nonce": ["x"]},
    "nonce with a surrogate": {"nonce": "\ud800"},
    "expired": {"iat": NOW_S - 900, "nbf": NOW_S - 900, "exp": NOW_S - 60},
    "from the future": {"iat": NOW_S + 3600, "nbf": NOW_S + 3600, "exp": NOW_S + 3700},
    "valid for a year": {"exp": NOW_S + 31_536_000},
    "no times": {"iat": None, "nbf": None},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject with a line feed": {"sub": "person-1\r\nset-cookie: a=b"},
    "subject of megabytes": {"sub": "x" * 9000},
    "name with a line feed": {"preferred_username": "alice\r\nset-cookie: a=b"},
    "name with a bidi mark": {"preferred_username": "ali\u202ece"},
    "name with markup": {"preferred_username": "<script>alert(1)</script>"},
    "name that looks alike": {"preferred_username": "\u0430lice"},
    "name with a colon": {"preferred_username": "oidc:ci:repo"},
    "name too long": {"preferred_username": "a" * 64},
    "name as a number": {"preferred_username": 1},
    "no name": {"preferred_username": None},
    "groups as a text": {"groups": "dev"},
    "groups as an object": {"groups": {"dev": True}},
    "group everybody": {"groups": ["*"]},
    "group in another case": {"groups": ["Dev", "dev "]},
    "five hundred and one groups": {"groups": ["dev", *(f"g{n}" for n in range(500))]},
}


@pytest.mark.parametrize("attack", FORGED)
async def test_forged_tokens_are_refused(shop: Serving, provider: Provider, attack: str) -> None:
    """A token that the provider's key did not sign as our table demands begins no session."""
    browser = Browser(shop)
    address = await browser.begin()
    nonce = parse_qs(urlsplit(address).query)["nonce"][0]
    provider.token_text = FORGED[attack](provider, nonce)
    answer = await browser.back(provider.authorize(address))

    assert answer.status_code == 401
    assert browser.cookie() == ""


@pytest.mark.parametrize("attack", LIES)
async def test_claims_that_are_not_for_this_login_are_refused(shop: Serving, provider: Provider, attack: str) -> None:
    """Signed by the provider, and yet not this person's login here and now, or with a name that no user can have."""
    browser = Browser(shop)
    provider.lies = LIES[attack]
    answer = await browser.login_at(provider)

    assert answer.status_code in (401, 403)
    assert browser.cookie() == ""
    assert "<script>alert" not in answer.text
    assert "\u202e" not in answer.text


@pytest.mark.parametrize("skew_s", [-20, 20])
async def test_clocks_may_differ_a_little(shop: Serving, provider: Provider, skew_s: int) -> None:
    """Thirty seconds are allowed in both directions."""
    now_s = int(time.time()) + skew_s
    provider.lies = (
        {"iat": now_s, "nbf": now_s, "exp": now_s + 1}
        if skew_s > 0
        else {"exp": now_s, "iat": now_s - 60, "nbf": now_s - 60}
    )

    assert (await Browser(shop).login_at(provider)).status_code == 303


async def test_code_and_state_are_used_once(shop: Serving, provider: Provider) -> None:
    """A callback address that was seen (a history, a log) gives no second session, even if the provider accepts the code again."""
    provider.reuse_codes = True
    browser = Browser(shop)
    login_cookie = ""
    address = await browser.begin()
    login_cookie = browser.cookie("boltseal-login")
    back = provider.authorize(address)
    first = await browser.back(back)
    thief = Browser(shop)
    thief.http.cookies.set("boltseal-login", login_cookie)
    again = await thief.back(back)

    assert (first.status_code, again.status_code) == (303, 401)
    assert "used before" in again.text
    assert thief.cookie() == ""


async def test_two_uses_of_one_answer_at_once_give_one_session(data: Path, provider: Provider) -> None:
    """At two servers, at the same time."""
    provider.reuse_codes = True
    settings = with_provider(data, provider)
    async with serving_as(settings) as one, serving_as(settings) as two:
        browser, other = Browser(one), Browser(two)
        back = provider.authorize(await browser.begin())
        other.http.cookies.set("boltseal-login", browser.cookie("boltseal-login"))
        answers = await asyncio.gather(browser.back(back), other.back(back))

    assert sorted(answer.status_code for answer in answers) == [303, 401]


async def test_an_answer_is_for_the_browser_that_asked(shop: Serving, provider: Provider) -> None:
    """The attacker's own answer in the victim's browser (login CSRF) begins no session there."""
    attacker, victim = Browser(shop), Browser(shop)
    back = provider.authorize(await attacker.begin())
    await victim.get("/ui/login")
    without, other = await Browser(shop).back(back), await victim.back(back)

    assert (without.status_code, other.status_code) == (401, 401)
    assert victim.cookie() == ""
    assert provider.requests == [] or "not begun in this browser" in other.text


def changed_state(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda state: ".".join(change(state.split(".")))


@pytest.mark.parametrize(
    "change",
    [
        changed_state(lambda parts: [parts[0], str(NOW_S + 9_999_999), *parts[2:]]),
        changed_state(lambda parts: [*parts[:2], b64(b"//evil.example.com"), parts[3]]),
        changed_state(lambda parts: parts[:3]),
        changed_state(lambda parts: [*parts[:3], "A" * 43]),
        changed_state(lambda parts: [*parts, parts[3]]),
        lambda _: "",
        lambda _: "\ud7ff",
        lambda _: "...",
    ],
)
async def test_a_changed_state_is_refused(shop: Serving, provider: Provider, change: Callable[[str], str]) -> None:
    """End and target page of a state are authenticated; before anything is asked of the provider."""
    browser = Browser(shop)
    address = await browser.begin()
    before = len(provider.requests)
    state = change(parse_qs(urlsplit(address).query)["state"][0])
    answer = await browser.back(provider.authorize(address, state=state))

    assert answer.status_code in (400, 401)
    assert len(provider.requests) == before


def made_state(browser: Browser, end: str, return_to: str) -> str:
    """Return a state that its sender made from its own cookie, which it knows."""
    text = f"x.{end}.{return_to}"
    code = hmac.digest(browser.cookie("boltseal-login").encode(), f"boltseal state {text}".encode(), hashlib.sha256)
    return f"{text}.{b64(code)}"


@pytest.mark.parametrize(
    ("end", "return_to"),
    [
        ("soon", ""),
        ("", ""),
        ("-1", ""),
        ("9" * 5000, ""),
        ("\u0669" * 10, ""),
        (str(NOW_S + 9_999_999), ""),
        (str(NOW_S + 300), "A"),
        (str(NOW_S + 300), b64(b"\xff")),
        (str(NOW_S + 300), "!"),
    ],
    ids=range(9),
)
async def test_a_state_that_the_sender_made_is_refused(
    shop: Serving, provider: Provider, end: str, return_to: str
) -> None:
    """An attacker knows the cookie of its own browser, and can authenticate a state with any end and page: refused, without an internal error."""
    browser = Browser(shop)
    address = await browser.begin()
    before = len(provider.requests)
    answer = await browser.back(provider.authorize(address, state=made_state(browser, end, return_to)))

    assert answer.status_code == 401
    assert len(provider.requests) == before


async def test_a_state_that_the_sender_made_redirects_to_no_other_page(shop: Serving, provider: Provider) -> None:
    """The page in a state is checked where it is used, not only where the state was made."""
    browser = Browser(shop)
    address = urlsplit(await browser.begin())
    state = made_state(browser, str(int(time.time()) + 300), b64(b"//evil.example.com/\r\nset-cookie: a=b"))
    key = browser.cookie("boltseal-login").encode()
    nonce, verifier = (
        b64(hmac.digest(key, f"boltseal {purpose} {state}".encode(), hashlib.sha256))
        for purpose in ("nonce", "verifier")
    )
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    query |= {"state": state, "nonce": nonce, "code_challenge": b64(hashlib.sha256(verifier.encode()).digest())}
    answer = await browser.back(provider.authorize(address._replace(query=urlencode(query)).geturl()))

    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")


async def test_a_stolen_code_is_worth_nothing_in_another_login(shop: Serving, provider: Provider) -> None:
    """PKCE: the code of the victim's login with the attacker's state has another verifier."""
    victim, attacker = Browser(shop), Browser(shop)
    stolen = parse_qs(urlsplit(provider.authorize(await victim.begin())).query)["code"][0]
    answer = await attacker.back(provider.authorize(await attacker.begin(), code=stolen))

    assert answer.status_code == 401
    assert "invalid_grant" in answer.text


async def test_a_token_of_another_login_is_refused(shop: Serving, provider: Provider) -> None:
    """A provider that is tricked into returning an earlier ID token (nonce replay) begins no session."""
    first = Browser(shop)
    address = await first.begin()
    provider.token_text = provider.id_token(parse_qs(urlsplit(address).query)["nonce"][0], ALICE)
    await first.back(provider.authorize(address))
    second = Browser(shop)
    answer = await second.login_at(provider)

    assert first.cookie() != ""
    assert answer.status_code == 401
    assert "is of another login" in answer.text


@pytest.mark.parametrize("iss", ["https://evil.example.com", "", None])
async def test_an_answer_of_another_provider_is_refused(shop: Serving, provider: Provider, iss: str | None) -> None:
    """Mix-up: `iss` must be the provider's, and must be there if the provider always sends it; the code is not sent anywhere."""
    provider.publish(authorization_response_iss_parameter_supported=True)
    browser = Browser(shop)
    address = await browser.begin()
    before = len(provider.requests)
    answer = await browser.back(provider.authorize(address, iss=iss))

    assert answer.status_code == 401
    assert len(provider.requests) == before


async def test_an_error_of_the_provider_is_text(shop: Serving, provider: Provider) -> None:
    """What stands in the address is shown escaped, and begins no session, also beside a code."""
    browser = Browser(shop)
    answer = await browser.back(provider.authorize(await browser.begin(), error="<script>alert(1)</script>"))

    assert answer.status_code == 401
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


async def test_a_session_that_was_placed_is_not_used(shop: Serving) -> None:
    """Session fixation: neither an invented cookie nor the attacker's own session survives the victim's login."""
    attacker, victim = Browser(shop), Browser(shop)
    await attacker.login("other", "pw-other")
    placed = attacker.cookie()
    victim.http.cookies.set("boltseal-session", placed)
    victim.http.cookies.set("boltseal-login", "A" * 43)
    token = await Browser.at(shop, victim.http.cookies).form_token("/ui/account")
    form = hmac.new(b"A" * 43, b"boltseal form v1", hashlib.sha256).hexdigest()
    answer = await victim.post("/ui/login", {"form_token": form, "user": "ci", "password": "pw-ci"})
    page = await attacker.get("/ui/account")

    assert answer.status_code == 303
    assert token
    assert placed not in answer.headers["set-cookie"]
    assert page.status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example.com"},
        {"origin": "null"},
        {"origin": "http://localhost:5000.evil.example.com"},
        {"origin": "http://localhost"},
        {"origin": "http://127.0.0.1:5001"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {},
        {"origin": "http://["},
    ],
)
@pytest.mark.parametrize("path", ["/ui/logout", "/ui/logout-everywhere", "/ui/login"])
async def test_forms_of_other_origins_are_refused(shop: Serving, path: str, headers: dict[str, str]) -> None:
    """CSRF: also with the right token, the browser's word on the origin counts."""
    browser = Browser(shop)
    first = await browser.form_token()
    await browser.login("ci", "pw-ci")
    own = await browser.form_token("/ui/account")
    fields = {"form_token": first if path == "/ui/login" else own, "user": "other", "password": "pw-other"}
    answer = await browser.post(path, fields, headers)

    assert answer.status_code == 403
    assert (await browser.get("/ui/account")).status_code == 200


@pytest.mark.parametrize("token", ["", "0" * 64, "\u00e9" * 64, "of the other session"])
async def test_forms_without_the_token_of_the_session_are_refused(shop: Serving, token: str) -> None:
    """CSRF by an old browser or a sibling host: without the token of this very session nothing happens."""
    browser, other = Browser(shop), Browser(shop)
    await browser.login("ci", "pw-ci")
    await other.login("other", "pw-other")
    given = await other.form_token("/ui/account") if token.startswith("of") else token
    answer = await browser.post("/ui/logout-everywhere", {"form_token": given})

    assert answer.status_code == 403
    assert (await browser.get("/ui/account")).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"form_token=", "text/plain", 400),
        (b"{}", "application/json", 400),
        (b"form_token=a&form_token=b", "application/x-www-form-urlencoded", 400),
        (b"user=%ff", "application/x-www-form-urlencoded", 400),
        (b"user=\xff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=" % n for n in range(50)), "application/x-www-form-urlencoded", 400),
        (b"user=" + b"a" * 20_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_other_bodies_are_no_forms(shop: Serving, body: bytes, content_type: str, status: int) -> None:
    """A body that a form of another site can send as text, a field twice, broken text or megabytes."""
    browser = Browser(shop)
    await browser.get("/ui/login")
    headers = {"origin": ORIGIN, "content-type": content_type}
    answer = await browser.http.post("/ui/login", content=body, headers=headers)

    assert answer.status_code == status


ELSEWHERE = (
    "//evil.example.com",
    "/\\evil.example.com",
    "\\\\evil.example.com",
    "https://evil.example.com",
    "https:evil.example.com",
    "javascript:alert(1)",
    "/ui//evil.example.com",
    "/ui/\\evil.example.com",
    "/ui/../\\evil.example.com",
    "/ui/..//evil.example.com",
    "/ui/account\r\nset-cookie: a=b",
    "/ui/account%0d%0aset-cookie: a=b",
    "/v2/",
    "/ui@evil.example.com",
    " /ui/account",
    "/ui/\t/evil.example.com",
    "/ui/logout",
    "/ui/login?return_to=/ui/login",
    "/ui/\u2044evil",
    "/ui/" + "a" * 600,
)


@pytest.mark.parametrize("address", ELSEWHERE)
async def test_the_login_ends_on_a_page_of_ours(shop: Serving, provider: Provider, address: str) -> None:
    """Open redirect: by the form and by the provider, raw and encoded, the browser ends on a page of ours."""
    by_form = await Browser(shop).login("ci", "pw-ci", return_to=address)
    browser = Browser(shop)
    begun = await browser.get(f"/ui/login/provider?return_to={quote(address, safe='')}")
    found = [by_form.headers["location"]]
    if begun.status_code == 303:
        found.append((await browser.back(provider.authorize(begun.headers["location"]))).headers["location"])

    assert set(found) == {"/ui/"}
    assert begun.status_code in (303, 400)


@pytest.mark.parametrize(
    "discovery",
    [
        {"token_endpoint": "http://127.0.0.1:1/token"},
        {"token_endpoint": "http://169.254.169.254/latest/meta-data/"},
        {"token_endpoint": "https://10.0.0.1/token"},
        {"token_endpoint": "https://localhost:1/token"},
        {"token_endpoint": "file:///etc/passwd"},
        {"token_endpoint": "https://user:word@127.0.0.1/token"},
        {"token_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://evil.example.com/"},
        {"authorization_endpoint": "https://evil.example.com/\r\nset-cookie: a=b"},
        {"authorization_endpoint": "https://evil.example.com/#"},
        {"authorization_endpoint": None},
        {"jwks_uri": "https://[::1]:1/keys"},
        {"issuer": "https://evil.example.com"},
    ],
)
async def test_discovery_reaches_no_internal_address(
    shop: Serving, provider: Provider, discovery: dict[str, Any]
) -> None:
    """SSRF: what the document says is checked before and at the connection; logins are 503, nothing is sent to the address."""
    provider.publish(**discovery)
    browser = Browser(shop)
    begun = await browser.get("/ui/login/provider")
    answer = begun
    if begun.status_code == 303:
        before = len(provider.requests)
        answer = await browser.back(provider.authorize(begun.headers["location"]))
        assert len(provider.requests) == before

    assert answer.status_code == 503
    assert browser.cookie() == ""


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(b" " * 300_000), 503),
        (Answer(b"", 302, {"location": "http://169.254.169.254/"}), 503),
        (Answer(b"", 307, {"location": "http://127.0.0.1:1/"}), 503),
        (Answer(b'{"access_token": "x"}'), 503),
        (Answer(b'{"id_token": 1}'), 503),
        (Answer(b"[" * 100_000), 503),
        (Answer(b"<html>", 500), 503),
        (Answer(b'{"error": "invalid_grant"}', 400), 401),
        (Answer(b"\xff", 400), 401),
        (Answer(b'{"error": "invalid_client"}', 401), 503),
        (Answer(b"\x1f\x8b\x08\x00", 200, {"content-encoding": "gzip"}), 503),
    ],
)
async def test_answers_of_the_token_endpoint_are_bounded(
    shop: Serving, provider: Provider, answer: Answer, status: int
) -> None:
    """Too large, a redirect, no ID token, nested deeply, compressed: no session, and a reason."""
    provider.answer = answer
    browser = Browser(shop)
    found = await browser.login_at(provider)

    assert found.status_code == status
    assert browser.cookie() == ""


async def test_a_withdrawn_key_is_no_key(data: Path, provider: Provider) -> None:
    """After a rotation tokens of the new key are accepted, of the old one not."""
    settings = with_provider(data, provider)
    old = provider.key
    provider.rotate("key-2")
    async with serving_as(settings) as shop:
        by_new = await Browser(shop).login_at(provider)
        browser = Browser(shop)
        address = await browser.begin()
        nonce = parse_qs(urlsplit(address).query)["nonce"][0]
        provider.token_text = forged(provider, {}, old, nonce)
        by_old = await browser.back(provider.authorize(address))
    provider.rotate("key-1")

    assert by_new.status_code == 303
    assert by_old.status_code in (401, 503)
    assert browser.cookie() == ""


def encrypted(data: Path) -> Settings:
    settings = with_users(data)
    return settings.model_copy(
        update={"server": settings.server.model_copy(update={"public_url": "https://registry.example.com"})}
    )


async def test_cookies_are_bound_to_the_host(data: Path) -> None:
    """With TLS: `__Host-`, Secure, HttpOnly, SameSite=Lax, for all paths, without Domain."""
    async with serving_as(encrypted(data)) as shop:
        browser = Browser(shop, origin="https://registry.example.com")
        form = await browser.get("/ui/login")
        answer = await browser.login("ci", "pw-ci")
    lines = [*form.headers.get_list("set-cookie"), *answer.headers.get_list("set-cookie")]

    assert len(lines) == 3
    assert all(line.startswith("__Host-boltseal-") for line in lines)
    assert all("; Path=/; HttpOnly; SameSite=Lax; Secure" in line for line in lines)
    assert all("domain" not in line.lower() for line in lines)


async def test_cookies_of_other_hosts_are_not_used(data: Path) -> None:
    """Cookie tossing: a sibling host can place cookies without the prefix, and two of one name; none is used."""
    async with serving_as(encrypted(data)) as shop:
        browser = Browser(shop, origin="https://registry.example.com")
        await browser.login("ci", "pw-ci")
        own = browser.cookie("__Host-boltseal-session")
        attacker = Browser(shop, origin="https://registry.example.com")
        found = [
            (await attacker.get("/ui/account", headers={"cookie": text.encode("latin-1")})).status_code
            for text in (
                f"__Host-boltseal-session={own}",
                f"boltseal-session={own}",
                f"__Host-boltseal-session={own}; __Host-boltseal-session={'A' * 43}",
                f"__host-boltseal-session={own}",
                f"__Host-boltseal-session={own}x",
                f"x__Host-boltseal-session={own}",
                "__Host-boltseal-session=" + "\u00e9" * 43,
            )
        ]

    assert found == [200, 303, 303, 303, 303, 303, 303]


async def test_names_that_people_choose_are_text(data: Path, provider: Provider) -> None:
    """XSS and spoofing by display name and group: escaped, and what changes the direction of text is not shown at all."""
    async with serving_as(with_provider(data, provider)) as shop:
        browser = Browser(shop)
        await browser.login_at(
            provider,
            {**ALICE, "name": '"><script>alert(1)</script>', "groups": ["dev", "<img src=x onerror=alert(1)>"]},
        )
        page = await browser.get("/ui/account")
        other = Browser(shop)
        await other.login_at(
            provider, {**ALICE, "name": "Admin\u202egpj\r\nset-cookie: a=b", "groups": ["dev", "o\u202eps"]}
        )
        turned = await other.get("/ui/account")

    assert "<script>" not in page.text
    assert "<img" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "\u202e" not in turned.text
    assert "<dd><bdi>alice</bdi></dd>" in turned.text


async def test_a_session_is_no_login_elsewhere(shop: Serving) -> None:
    """The cookie gives nothing at /v2/, /token, /api/v1/ and the ledger, where pages of other servers could use it."""
    browser, anonymous = Browser(shop), Browser(shop)
    await browser.login("ci", "pw-ci")
    paths = (
        "/v2/",
        "/v2/shop/app/tags/list",
        "/token?scope=repository:shop/app:pull",
        "/api/v1/tokens",
        "/api/v1/grants",
    )
    found = [(await browser.get(path), await anonymous.get(path)) for path in paths]
    changed = await browser.http.post("/api/v1/tokens", json={"repositories": ["**"], "actions": ["pull"]})

    assert [
        (mine.status_code, path)
        for (mine, other), path in zip(found, paths, strict=True)
        if mine.status_code != other.status_code
    ] == []
    assert [mine.status_code for mine, _ in found] == [401, 401, 200, 401, 401]
    assert claims(found[2][0].json()["token"])["access"] == []
    assert changed.status_code == 401


async def test_rows_that_this_registry_did_not_write_are_no_sessions(data: Path, provider: Provider) -> None:
    """An account that can write rows of the database makes no session, and gives no person another group or session another owner."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        alice, ci = Browser(shop), Browser(shop)
        await alice.login_at(provider)
        await ci.login("ci", "pw-ci")
    cookie = "B" * 43

    def forge(tx: UnitOfWork) -> None:
        row = tx.sql.plain("SELECT * FROM page_session WHERE owner = 'ci'").fetchone()
        tx.sql.plain(
            "INSERT INTO page_session (cookie_sha256, owner, login, address, began_us, ends_us, seen_us, mac) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (hashlib.sha256(cookie.encode()).hexdigest(), *row[1:]),
        )
        tx.sql.plain("UPDATE page_session SET owner = 'boss' WHERE cookie_sha256 = ?", (row[0],))
        tx.sql.plain("UPDATE person SET member_of = '[\"ops\"]', changed_us = changed_us + 1")
        tx.invalidates_caches = True

    with open_store(settings) as store:
        store.database.write_and_wait(forge)
    async with serving_as(settings) as shop:
        forger = Browser(shop)
        forger.http.cookies.set("boltseal-session", cookie)
        answers = [
            (await each.get("/ui/account")).status_code
            for each in (forger, Browser.at(shop, ci.http.cookies), Browser.at(shop, alice.http.cookies))
        ]

    assert answers == [303, 303, 303]


async def test_pages_cannot_be_framed_or_cached(shop: Serving) -> None:
    """Clickjacking and shared caches: pages, errors and redirects forbid both, and every script that is not ours."""
    browser = Browser(shop)
    answers = [await browser.get(path) for path in ("/ui/login", "/ui/account", "/ui/nothing", "/ui/login/callback")]

    for answer in answers:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "<script" not in answer.text
        assert " style=" not in answer.text


async def test_another_name_of_loopback_is_refused(data: Path) -> None:
    """DNS rebinding: a site that resolves its name to this machine reads no page of a registry without users."""
    async with serving(data) as shop:
        answer = await Browser(shop).get("/ui/account", headers={"host": "evil.example.com"})

    assert answer.status_code == 403


async def test_failures_at_the_provider_make_an_address_wait(data: Path, provider: Provider) -> None:
    """Guessing codes is limited as guessing passwords is; answers for another browser do not count, which pages of other servers can send."""
    clock = Clock(time.time_ns() // 1000)
    async with serving_as(with_provider(data, provider), clock=clock) as shop:
        for _ in range(10):
            await Browser(shop).get("/ui/login/callback?code=x&state=x")
        browser = Browser(shop)
        found = [
            (await browser.back(provider.authorize(await browser.begin(), code="guess"))).status_code for _ in range(6)
        ]

    assert found == [401] * 5 + [429]


async def test_a_token_in_the_form_counts_as_a_failed_login(data: Path, provider: Provider) -> None:
    """What looks like an API token is refused, and writes no more records than wrong passwords do."""
    settings = with_provider(data, provider)
    clock = Clock(time.time_ns() // 1000)
    async with serving_as(settings, clock=clock) as shop:
        browser = Browser(shop)
        found = [(await browser.login("ci", make_token().text)).status_code for _ in range(12)]
    with open_store(settings) as store:
        records = store.database.read_and_wait(partial(number_of, "audit_event WHERE action = 'login.failed'"))

    assert found == [401] * 5 + [429] * 7
    assert records == 5


async def test_secrets_are_not_logged(data: Path, provider: Provider, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither the client's secret nor codes, states, cookies, passwords or tokens are in the log, also where a login fails."""
    async with serving_as(with_provider(data, provider)) as shop:
        browser = Browser(shop)
        back = provider.authorize(await browser.begin())
        await browser.back(back)
        await Browser(shop).login("ci", "wrong-password")
        provider.answer = Answer(b'{"error": "invalid_client"}', 401)
        await Browser(shop).login_at(provider)
    secrets = [
        SECRET,
        browser.cookie(),
        "wrong-password",
        *(values[0] for name, values in parse_qs(urlsplit(back).query).items() if name != "iss"),
    ]
    out, err = capfd.readouterr()

    assert not [secret for secret in secrets if secret in out + err]


async def test_who_only_asks_writes_nothing(data: Path, provider: Provider) -> None:
    """A million begun logins, and answers that are not valid, fill no table."""
    settings = with_provider(data, provider)
    async with serving_as(settings) as shop:
        for _ in range(5):
            browser = Browser(shop)
            await browser.begin()
            await browser.get("/ui/login/callback?" + urlencode({"code": "x", "state": "x"}))
    with open_store(settings) as store:
        rows = [
            store.database.read_and_wait(partial(number_of, table))
            for table in ("page_session", "used_state", "person", "failed_login")
        ]

    assert rows == [0, 0, 0, 0]


async def test_a_persons_token_is_no_login_of_a_pipeline(data: Path, provider: Provider) -> None:
    """A token of a person and one of a pipeline differ in audience and nonce, also at one provider: neither is the other's login."""
    settings = with_provider(data, provider)
    auth = settings.auth.model_copy(update={"issuer": (provider.table(),)})
    async with serving_as(settings.model_copy(update={"auth": auth})) as shop:
        of_person = await shop.client.get("/token", auth=("oidc", provider.id_token("n" * 43, ALICE)))
        provider.token_text = provider.token()
        of_pipeline = await Browser(shop).login_at(provider)

    assert (of_person.status_code, of_pipeline.status_code) == (401, 401)


async def test_a_provider_that_was_removed_has_no_people(data: Path, provider: Provider) -> None:
    """Without [auth.oidc], or with another provider, the sessions of its people end."""
    async with serving_as(with_provider(data, provider)) as shop:
        browser = Browser(shop)
        await browser.login_at(provider)
    async with serving_as(with_provider(data, provider, url="https://other.example.com")) as shop:
        answer = await Browser.at(shop, browser.http.cookies).get("/ui/account")

    assert answer.status_code == 303
