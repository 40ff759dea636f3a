"""Verifies the ID tokens of pipelines and people: JSON Web Tokens, signed by the keys of a configured issuer.

Steps, in this order; nothing of a token is trusted before the third:

1. size and form: three parts in base64url, and a header with the parameters below and no other. `crit`, `jwk`, `jku`, `x5u`,
   `x5c` and `b64` are for the sender to choose, so a token that has one is refused
2. the algorithm is on our list, and the key with the header's `kid` is of that algorithm's type. There is no key for `none`, and none
   of the types has a secret key, so a public key is never the key of an HMAC
3. the signature
4. the claims (`policy.pipeline_claims`; of people `policy.person_claims`)

Keys are public: RSA of 2048 to 8192 bits, EC on P-256, Ed25519. Others in an issuer's document are left out.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwa import EdDSAAlgorithm, ESAlgorithm, JWSAlgModel, RSAAlgorithm, RSAPSSAlgorithm
from joserfc.jwk import ECKey, OKPKey, RSAKey

from boltseal.errors import Unauthenticated, quote
from boltseal.oci.jsontext import decode
from boltseal.policy.pipeline_claims import PipelineClaims, check_claims

MAX_TOKEN_BYTES: Final = 12 * 1024
MAX_KEYS: Final = 50
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

PublicKey = RSAKey | ECKey | OKPKey
_ALGORITHMS: Final[Mapping[str, tuple[JWSAlgModel, type[PublicKey]]]] = {
    "RS256": (RSAAlgorithm(256), RSAKey),
    "PS256": (RSAPSSAlgorithm(256), RSAKey),
    "ES256": (ESAlgorithm("ES256", "P-256", 256), ECKey),
    "EdDSA": (EdDSAAlgorithm(), OKPKey),
    "Ed25519": (EdDSAAlgorithm(), OKPKey),
}
_KINDS: Final[Mapping[str, type[PublicKey]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_TYPES: Final = frozenset({"", "jwt"})
_is_part = re.compile(r"[A-Za-z0-9_-]+", re.ASCII).fullmatch


class IdTokenInvalid(Unauthenticated):
    """A text that is no ID token of a configured issuer, or has a wrong signature."""


class KeysInvalid(ValueError):
    """An issuer's document of keys that cannot be read."""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The header parameters that a token may have. `x5t*` only name a certificate, and are not used."""

    alg: str
    kid: str
    typ: str = ""
    x5t: str = ""
    x5t_s256: str = msgspec.field(name="x5t#S256", default="")


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key of an issuer. `algorithm`: the only one that it may be used with; None: any for its type."""

    key: PublicKey
    algorithm: str | None


class SignedToken(NamedTuple):
    """A token whose form is valid and whose signature was not checked. `signed`: the bytes that the signature is over."""

    algorithm: str
    key_id: str
    signed: bytes
    payload: bytes
    signature: bytes

    @property
    def issuer_unverified(self) -> str:
        """The issuer that the token says it is of: only to find the key that it must be signed with."""
        try:
            claimed = decode(self.payload, _Issuer).iss
        except ValueError as error:
            raise IdTokenInvalid("the ID token's claims have no iss") from error
        return claimed


class _Issuer(msgspec.Struct):
    iss: str


def parse_unverified(text: str) -> SignedToken:
    """Return the parts of a token (steps 1 and the first half of 2). Raises: IdTokenInvalid."""
    if len(text) > MAX_TOKEN_BYTES:
        raise IdTokenInvalid(f"the ID token is longer than {MAX_TOKEN_BYTES} bytes")
    parts = text.split(".")
    if len(parts) != 3 or not all(_is_part(part) for part in parts):
        raise IdTokenInvalid("the password is no ID token; expected the token of the pipeline, three parts with dots")
    try:
        raw_header, payload, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in parts)
        header = decode(raw_header, _Header)
    except ValueError as error:
        raise IdTokenInvalid("the ID token's header is not valid; expected alg, kid and typ") from error
    if header.typ.lower() not in _TYPES:
        raise IdTokenInvalid(f"the token is of type {quote(header.typ, 20)}; expected an ID token (JWT)")
    if header.alg not in _ALGORITHMS:
        raise IdTokenInvalid(
            f"the ID token's algorithm is {quote(header.alg, 20)}; expected one of {', '.join(_ALGORITHMS)}"
        )
    return SignedToken(header.alg, header.kid, f"{parts[0]}.{parts[1]}".encode("ascii"), payload, signature)


def verify(
    token: SignedToken, keys: Mapping[str, IssuerKey], *, issuer: str, audience: str, now_s: int
) -> PipelineClaims:
    """Return the claims of a pipeline's token that one of these keys signed (steps 2 to 4). Raises: IdTokenInvalid, ClaimsRefused."""
    check_signature(token, keys)
    # 4
    return check_claims(token.payload, issuer=issuer, audience=audience, now_s=now_s)


def check_signature(token: SignedToken, keys: Mapping[str, IssuerKey]) -> None:
    """Check that one of these keys signed a token (steps 2 and 3). Raises: IdTokenInvalid."""
    # 2
    held = keys.get(token.key_id)
    model, kind = _ALGORITHMS[token.algorithm]
    if held is None or not isinstance(held.key, kind) or held.algorithm not in (None, token.algorithm):
        raise IdTokenInvalid(f"the issuer has no key {quote(token.key_id, 40)} for {token.algorithm}")
    # 3
    if not model.verify(token.signed, token.signature, held.key):
        raise IdTokenInvalid("the ID token's signature is wrong")


def parse_keys(raw: bytes) -> dict[str, IssuerKey]:
    """Return the usable public keys of an issuer's document (RFC 7517) by their `kid`.

    Raises:
        KeysInvalid: it is no such document, or has a key identifier twice, so that the sender of a token could choose.
    """
    try:
        listed = decode(raw, _KeySet).keys
    except ValueError as error:
        raise KeysInvalid("not a JSON Web Key Set") from error
    if len(listed) > MAX_KEYS:
        raise KeysInvalid(f"{len(listed)} keys; at most {MAX_KEYS} are allowed")
    found: dict[str, IssuerKey] = {}
    for each in listed:
        key_id = each.get("kid")
        key = _usable(each)
        if not isinstance(key_id, str) or not key_id or key is None:
            continue
        if key_id in found:
            raise KeysInvalid(f"two keys have the kid {quote(key_id, 40)}")
        found[key_id] = key
    return found


def _usable(listed: dict[str, Any]) -> IssuerKey | None:
    """Return a key for signatures; None for one that we do not use."""
    kind = _KINDS.get(str(listed.get("kty")))
    algorithm = listed.get("alg")
    if algorithm is not None and not (isinstance(algorithm, str) and algorithm in _ALGORITHMS):
        return None
    if kind is None or listed.get("use", "sig") != "sig":
        return None
    if listed.get("crv", "P-256" if kind is ECKey else "Ed25519") not in ("P-256", "Ed25519"):
        return None
    wanted = ("kty", "n", "e", "crv", "x", "y")  # no private part, and nothing that limits the key's operations
    try:
        if kind is RSAKey and not MIN_RSA_BITS <= _bits(listed["n"]) <= MAX_RSA_BITS:
            return None
        key = kind.import_key({name: listed[name] for name in wanted if name in listed})
    except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    return IssuerKey(key, algorithm)


def _bits(modulus: str) -> int:
    """Return the length of an RSA key. Raises: ValueError, TypeError."""
    return int.from_bytes(base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)), "big").bit_length()
