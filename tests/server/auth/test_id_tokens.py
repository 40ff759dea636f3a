"""ID tokens of each allowed algorithm are accepted, and keys that are too weak or of another use are not used."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import Unauthenticated
from boltseal.server.auth.id_tokens import IdTokenInvalid, parse_keys, parse_unverified, verify
from tests.fakes.issuer import AUDIENCE, PrivateKey, encoded, number, public_jwk

ISSUER = "https://ci.example.com"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = Ed25519PrivateKey.generate()
NO_TEXTS: tuple[object, ...] = ([], {}, 1, True)


def claims() -> dict[str, Any]:
    now_s = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "s", "jti": "1", "iat": now_s, "exp": now_s + 300}


def accepted(token: str, *listed: dict[str, Any]) -> str:
    """Verify a token with these keys, and return its subject."""
    keys = parse_keys(json.dumps({"keys": listed}).encode())
    parsed = parse_unverified(token)
    return verify(parsed, keys, issuer=ISSUER, audience=AUDIENCE, now_s=int(time.time())).subject


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", RSA), ("PS256", RSA), ("ES256", EC), ("EdDSA", ED), ("Ed25519", ED)]
)
def test_each_allowed_algorithm_is_accepted(algorithm: str, key: PrivateKey) -> None:
    """A token that the issuer's key signed is accepted, also if the key says for which algorithm it is."""
    token = encoded(key, {"alg": algorithm, "kid": "k", "typ": "JWT", "x5t": "a"}, claims())

    assert accepted(token, public_jwk(key, kid="k")) == "s"
    assert accepted(token, public_jwk(key, kid="k", alg=algorithm, use="sig")) == "s"


@pytest.mark.parametrize(
    "listed",
    [
        *({**public_jwk(RSA, kid="k"), name: value} for name in ("alg", "kty", "use", "n", "e") for value in NO_TEXTS),
        public_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), kid="k"),  # noqa: S505 - it is refused
        public_jwk(RSA, kid="k", use="enc"),
        public_jwk(RSA, kid="k", alg="RS512"),
        public_jwk(RSA, kid="k", alg="PS256"),
        public_jwk(RSA, kid=""),
        public_jwk(RSA),
        {"kty": "oct", "k": "AAAA", "kid": "k"},
        {"kty": "RSA", "n": "!!", "e": "AQAB", "kid": "k"},
        {"kty": "RSA", "kid": "k"},
        {"kty": "RSA", "n": number(2**9000 + 1), "e": "AQAB", "kid": "k"},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "k"},
        {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "k"},
        {"kty": "EC", "crv": "P-256", "x": number(1, 32), "y": number(1, 32), "kid": "k"},
    ],
)
def test_a_key_that_may_not_be_used_is_left_out(listed: dict[str, Any]) -> None:
    """Weak and malformed keys, secret keys, and keys of another use or algorithm accept no token."""
    with pytest.raises(IdTokenInvalid, match="no key"):
        accepted(encoded(RSA, {"alg": "RS256", "kid": "k"}, claims()), listed)


@given(
    st.text(max_size=100)
    | st.from_regex(r"[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}", fullmatch=True)
)
def test_any_text_is_refused_in_words(text: str) -> None:
    """Whatever a client sends as password, the answer is a refusal and never another error."""
    with pytest.raises(Unauthenticated):
        parse_unverified(text)
