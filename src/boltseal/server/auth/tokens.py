"""Bearer tokens: the caller and the requested actions, signed, valid for five minutes. They give no right by themselves.

A token (JWT, EdDSA) has a subject and, per repository, the actions that were requested and granted when it was issued. It
may also cover the catalog, the list of repositories (type `registry`, name `catalog`, action `*`). A request may do what
both the token and the grants now allow: a withdrawn grant ends at once, and a token never allows more than was requested.

The checks, in this order: the header is one that we write, signature by one of our keys, issuer, audience, begin and end;
then the form of the claims.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from boltseal.errors import Unauthenticated
from boltseal.oci.jsontext import decode
from boltseal.policy.grants import Action
from boltseal.server.storage.key_file import KEPT, KeyFile, StoredSigningKey

LIFE_S: Final = 300
LEEWAY_S: Final = 5
MAX_TOKEN_BYTES: Final = 16 * 1024
ISSUER: Final = "boltseal"
CATALOG_SCOPE: Final = "registry:catalog:*"
"""The scope of the catalog, as the Docker token specification names it."""
_ALGORITHMS: Final = ["Ed25519"]
_TYPE: Final = "JWT"
_CATALOG: Final = {"type": "registry", "name": "catalog", "actions": ["*"]}


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a token. `user` None: anonymous. `ends_s`: seconds since the epoch.

    `scopes`: actions by repository. `catalog`: whether it covers the catalog. `login`, `api_token`, `session`: as `Tokens.issue` was
    given them.
    """

    user: str | None
    scopes: Mapping[str, frozenset[Action]]
    ends_s: int
    catalog: bool = False
    login: str = ""
    api_token: str = ""
    session: str = ""


class IssuedToken(NamedTuple):
    """A signed token. `issued_s`: seconds since the epoch. `scope`: what it has, as the Docker token specification writes it.

    `life_s`: for how many seconds it is valid.
    """

    text: str
    issued_s: int
    scope: str
    life_s: int = LIFE_S


class Tokens:
    """Issues and verifies the tokens of one service. `now_us`: the clock, microseconds since the epoch."""

    def __init__(self, keys: KeyFile, service: str, now_us: Callable[[], int]) -> None:
        self._keys = keys
        self.service = service
        self._now_us = now_us

    def issue(
        self,
        user: str | None,
        scopes: Mapping[str, frozenset[Action]],
        *,
        catalog: bool = False,
        login: str = "",
        api_token: str = "",
        session: str = "",
        ends_s: float | None = None,
    ) -> IssuedToken:
        """Return a token with these scopes. `user` None: anonymous. `catalog`: whether it covers the catalog.

        `login`: differs for each password of each user and for each API token, so that a token ends with it. `api_token`: the ID of
        the API token that was the login; "": a password. `session`: of a pipeline, "" for users. `ends_s`: when the login itself
        ends, which the token does not outlive.

        Raises:
            KeysUnreadable: the signing keys cannot be read.
        """
        now_s = self._now_us() // 1_000_000
        life_s = LIFE_S if ends_s is None else max(0, min(LIFE_S, int(ends_s) - now_s))
        key = self._keys.current(self._now_us())[0]
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": self.service,
            "sub": user or "",
            "login": login,
            **({"session": session} if session else {}),
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + life_s,
            "jti": secrets.token_hex(8),
            "access": [
                {"type": "repository", "name": name, "actions": sorted(actions)}
                for name, actions in sorted(scopes.items())
            ]
            + ([_CATALOG] if catalog else []),
        } | ({"api_token": api_token} if api_token else {})
        text = jwt.encode(
            {"typ": _TYPE, "alg": _ALGORITHMS[0], "kid": key.id}, claims, _jwk(key), algorithms=_ALGORITHMS
        )
        scope = " ".join(f"{item['type']}:{item['name']}:{','.join(item['actions'])}" for item in claims["access"])
        return IssuedToken(text, now_s, scope, life_s)

    def left_s(self, ends_s: float) -> float:
        """Return for how many seconds a token is valid still, by the clock that it was issued by."""
        return max(0.0, ends_s - self._now_us() / 1_000_000)

    def check(self, text: str) -> Claims:
        """Verify a token and return its claims.

        Raises:
            Unauthenticated: this registry did not issue it, or it is no longer valid.
            KeysUnreadable: the signing keys cannot be read.
        """
        if len(text) > MAX_TOKEN_BYTES:
            raise Unauthenticated(f"the token is longer than {MAX_TOKEN_BYTES} bytes; log in again")
        if not _is_our_header(text.partition(".")[0]):
            raise Unauthenticated("the token was not signed by this registry; log in again")
        until_us: int | None = None  # when the next key took over: a token issued later with this key is forged
        for key in self._keys.current(self._now_us()):
            try:
                found = jwt.decode(text, _jwk(key), algorithms=_ALGORITHMS)
            except (JoseError, ValueError):
                until_us = key.since_us
                continue
            return self._claims(found.claims, until_us)
        raise Unauthenticated("the token was not signed by this registry; log in again")

    def _claims(self, claims: Mapping[str, Any], until_us: int | None) -> Claims:
        now_s = self._now_us() // 1_000_000
        user, begins_s, ends_s = claims.get("sub"), claims.get("nbf"), claims.get("exp")
        login, api_token, session = claims.get("login"), claims.get("api_token", ""), claims.get("session", "")
        if claims.get("iss") != ISSUER or claims.get("aud") != self.service:
            raise Unauthenticated("the token is for another service; log in again")
        if (
            not isinstance(user, str)
            or not isinstance(login, str)
            or not isinstance(api_token, str)
            or not isinstance(session, str)
            or type(begins_s) is not int
            or type(ends_s) is not int
        ):
            raise Unauthenticated("the token has invalid claims; log in again")
        if not begins_s - LEEWAY_S <= now_s < ends_s + LEEWAY_S or ends_s - begins_s > LIFE_S:
            raise Unauthenticated("the token has expired; request another")
        if until_us is not None and begins_s > until_us // 1_000_000 + LEEWAY_S:
            raise Unauthenticated("the token was signed by a retired key; request another")
        scopes, catalog = _access(claims.get("access"))
        return Claims(user or None, scopes, ends_s, catalog, login, api_token, session)


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The header of a token as `Tokens.issue` writes it."""

    typ: str
    alg: str
    kid: str


def _is_our_header(part: str) -> bool:
    """Return whether the first part of a token is a header that we write.

    Other parameters (crit, jwk, jku, x5c, b64) are for the attacker to choose, before the signature is verified: the
    library that verifies must not interpret them, and raises TypeError for some.
    """
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        header = decode(raw, _Header)
    except ValueError:  # not ASCII, not base64, not JSON of this form
        return False
    return header.typ == _TYPE and header.alg in _ALGORITHMS


def _access(access: object) -> tuple[dict[str, frozenset[Action]], bool]:
    """Return the actions by repository, and whether the token covers the catalog.

    Raises:
        Unauthenticated: the claim has another form.
    """
    try:
        items = list(access)  # type: ignore[call-overload]  # the except below handles any other type
        scopes = {
            item["name"]: frozenset(Action(action) for action in item["actions"]) for item in items if item != _CATALOG
        }
        return scopes, _CATALOG in items
    except (TypeError, KeyError, ValueError) as error:
        raise Unauthenticated("the token has invalid claims; log in again") from error


@lru_cache(maxsize=2 * KEPT)  # a third of the time of issuing a token, otherwise
def _jwk(key: StoredSigningKey) -> OKPKey:
    return OKPKey.import_key(Ed25519PrivateKey.from_private_bytes(key.seed))
