"""The claims of the ID token with which a person logs in at an identity provider, checked and parsed once into a frozen type. Pure.

`check_person` takes the payload of a token whose signature was verified (`server.auth.id_tokens`), in this order:

1. the payload is a JSON object; `iss` is exactly the configured issuer
2. `aud` is exactly our client ID, and `azp`, if it is there, too: a token that is also for others is refused
3. `exp`, `nbf` and `iat` are whole seconds; clocks may differ by `CLOCK_SKEW_S`
4. `nonce` is that of this login, so the token was issued for it
5. `sub` is a short printable text, and the claim with the name makes a valid user name
6. the groups are a list of texts. Without the claim a person is in none

Only what the registry needs is kept: subject, user name, display name and groups.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.errors import quote
from boltseal.policy.pipeline_claims import MAX_SHOWN, ClaimsRefused, check_times, claims_object

MAX_GROUPS: Final = 500
MAX_GROUP: Final = 200
"""Characters of a group's name. Longer ones are left out."""
MAX_NAME: Final = 64
MAX_DISPLAY_NAME: Final = 100
_is_name = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]*[A-Za-z0-9])?", re.ASCII).fullmatch
_DISPLAY_CLAIMS: Final = ("name", "preferred_username", "email")


@dataclass(frozen=True, slots=True)
class PersonTerms:
    """What a token of a person must be. `name`: of the provider, the end of user names. The claims are named by the operator."""

    name: str
    issuer: str
    client_id: str
    name_claim: str = "preferred_username"
    groups_claim: str = "groups"


@dataclass(frozen=True, slots=True)
class PersonClaims:
    """The verified claims of one login. `user_name`: valid, and unique only together with `issuer` and `subject`."""

    issuer: str
    subject: str
    user_name: str
    display_name: str
    groups: frozenset[str]


def check_person(payload: bytes, terms: PersonTerms, *, nonce: str, now_s: int) -> PersonClaims:
    """Return the claims of a verified payload. `nonce`: the one that this login was begun with. Raises: ClaimsRefused."""
    # 1
    claims = claims_object(payload)
    if claims.get("iss") != terms.issuer:
        raise ClaimsRefused(f"the iss of the ID token is {_shown(claims.get('iss'))}; expected {quote(terms.issuer)}")
    # 2
    if claims.get("aud") not in (terms.client_id, [terms.client_id]):
        raise ClaimsRefused(
            f"the aud of the ID token is {_shown(claims.get('aud'))}; expected the client ID {quote(terms.client_id)} alone"
        )
    if claims.get("azp", terms.client_id) != terms.client_id:
        raise ClaimsRefused(f"the azp of the ID token is {_shown(claims.get('azp'))}; expected the client ID")
    # 3
    check_times(claims, now_s)
    # 4
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode("utf-8", "replace"), nonce.encode()):
        raise ClaimsRefused("the ID token is of another login: its nonce is missing or another one")
    # 5
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject.isprintable() or not 0 < len(subject) <= MAX_SHOWN:
        raise ClaimsRefused(f"the ID token has no valid sub; expected 1 to {MAX_SHOWN} printable characters")
    user_name = _user_name(claims.get(terms.name_claim), terms)
    # 6
    return PersonClaims(terms.issuer, subject, user_name, _display_name(claims, user_name), _groups(claims, terms))


def _user_name(value: object, terms: PersonTerms) -> str:
    name = f"{value}@{terms.name}"
    if not isinstance(value, str) or not _is_name(value) or len(name) > MAX_NAME:
        raise ClaimsRefused(
            f"the claim {terms.name_claim} is {_shown(value)}; expected letters, digits and . _ @ -, which with @{terms.name} "
            f"are at most {MAX_NAME} characters: set `name_claim` in [auth.oidc] to a claim that has a user name"
        )
    return name


def _display_name(claims: Mapping[str, object], user_name: str) -> str:
    """Return the first claim with a name that can be shown: one line, without invisible characters that change its direction."""
    texts = (claims.get(name) for name in _DISPLAY_CLAIMS)
    return next(
        (text for text in texts if isinstance(text, str) and text.isprintable() and 0 < len(text) <= MAX_DISPLAY_NAME),
        user_name,
    )


def _groups(claims: Mapping[str, object], terms: PersonTerms) -> frozenset[str]:
    """Return the groups, without `*`, which grants use for all people, and without names that can't be shown."""
    value = claims.get(terms.groups_claim, [])
    if not isinstance(value, list) or len(value) > MAX_GROUPS:
        raise ClaimsRefused(
            f"the claim {terms.groups_claim} of the ID token is no list of at most {MAX_GROUPS} groups; let the provider send "
            "only the groups that grants name"
        )
    return frozenset(
        group
        for group in value
        if isinstance(group, str) and group.isprintable() and 0 < len(group) <= MAX_GROUP and group != "*"
    )


def _shown(value: object) -> str:
    return quote(str(value), 80) if value is not None else "missing"
