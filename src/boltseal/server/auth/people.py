"""People of an identity provider as users of this registry: their names, and the code by which a row is trusted.

A person is identified by issuer and subject. The user name is `NAME@PROVIDER`: what the configured claim says at the first login, and
the name of `[auth.oidc]`. It never changes, and no other person gets it: a provider may give a name to another person later, who
must not get the rights and API tokens of the first. A user of the same name in the users' file or the database comes first.

The message authentication code is made from all that gives a person rights, with a key that is not in the database. A row with
another code is no user: an account that can write only rows gives no person another group.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable
from typing import Final

import structlog

from boltseal.oci.jsontext import decode
from boltseal.policy.person_claims import PersonClaims
from boltseal.server.storage.metadata.protocol import PersonRow
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage.users import Person

MAX_PEOPLE: Final = 50_000
_PURPOSE: Final = "person of a provider"
"""Separates this code from that of an API token, whose first part has no space."""

_log = structlog.get_logger(__name__)


def person_row(key: UserKey, name: str, claims: PersonClaims, changed_us: int, *, may_create: bool) -> PersonRow:
    """Return the row of a person who has just logged in. `may_create`: create the key of the users where there is none."""
    row = PersonRow(
        name, claims.issuer, claims.subject, claims.display_name, json.dumps(sorted(claims.groups)), changed_us, ""
    )
    return row._replace(mac=_code(key, row, may_create=may_create))


def parse_people(rows: Iterable[PersonRow], key: UserKey) -> dict[str, Person]:
    """Return the people of the rows by name, without those whose code is wrong. Raises: UserKeyUnreadable."""
    people: dict[str, Person] = {}
    for row in rows:
        if hmac.compare_digest(_code(key, row), row.mac):
            groups = frozenset(decode(row.member_of.encode(), list[str]))
            people[row.name] = Person(row.issuer, row.subject, row.display_name, groups)
        else:
            _log.error("a person in the database was not written by this registry, and is no user", user=row.name)
    return people


def login_of_person(issuer: str, subject: str) -> str:
    """Return what sessions have of the person that they began with: differs for each, and reveals nothing."""
    return hashlib.blake2b(json.dumps([issuer, subject]).encode(), digest_size=12).hexdigest()


def _code(key: UserKey, row: PersonRow, *, may_create: bool = False) -> str:
    parts = [_PURPOSE, row.name, row.issuer, row.subject, row.member_of]
    return key.token_code(parts, may_create=may_create)
