"""What the row of an API token says: its scope, when it stops to work, what its owner should do, and what is shown of it.

Plain functions of rows and times: nothing here reads the database or decides whether a token is accepted (`api_tokens` does).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypedDict

import msgspec

from boltseal.errors import Unavailable
from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import decode
from boltseal.policy.durations import UNITS_US
from boltseal.policy.token_scope import TokenTerms
from boltseal.server.storage.metadata.protocol import ApiTokenRow
from boltseal.server.storage.users import Users

WARNING_US: Final = 7 * UNITS_US["d"]
"""How long before its end a token's answers have a warning."""


class OwnerKind(StrEnum):
    """Whether the owner of a token is a person, who logs in, or a service account, which can't."""

    PERSON = "person"
    SERVICE = "service"


class StoredScope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scope as the row of its token has it: sorted, and not parsed."""

    repositories: list[str]
    actions: list[str]


def stored_scope(row: ApiTokenRow) -> StoredScope:
    """Return the scope of a token as texts, to be shown: parsing those of a hundred tokens takes seconds. Raises: Unavailable."""
    try:
        return decode(row.scope.encode(), StoredScope)
    except ValueError as error:
        raise scope_unreadable(row, error) from error


def scope_unreadable(row: ApiTokenRow, error: Exception) -> Unavailable:
    """Return the error of a token whose scope in the database can't be read. Such a token is not accepted."""
    return Unavailable(f"the scope of token {row.id} in the database can't be read: {error}")


def kind_of(users: Users, owner: str) -> OwnerKind | None:
    """Return what kind of user an owner is, None if there is no such user."""
    if owner in users.people:
        return OwnerKind.PERSON
    found = users.hashes.get(owner)
    return None if found is None else OwnerKind.PERSON if found else OwnerKind.SERVICE


def ends_us(row: ApiTokenRow, login_us: int | None, terms: TokenTerms) -> int:
    """Return when a token stops to work. `login_us`: of the owner's last login, None: never. 0: it does not work now."""
    if row.kind == OwnerKind.SERVICE:
        return row.expires_us
    return min(row.expires_us, 0 if login_us is None else login_us + terms.owner_seen_within_us)


def warning_of(row: ApiTokenRow, login_us: int | None, terms: TokenTerms, now_us: int) -> str:
    """Return what the owner should do soon, "" if nothing. It has no character that a header can't have."""
    if now_us >= row.expires_us:
        return ""
    if row.expires_us - now_us <= WARNING_US:
        return f"API token {row.id} expires at {format_time(row.expires_us)}; create another"
    if row.kind == OwnerKind.SERVICE:
        return ""
    if login_us is None:
        return f"API token {row.id} does not work until {row.owner} has logged in once"
    end_us = login_us + terms.owner_seen_within_us
    if now_us >= end_us:
        return f"API token {row.id} does not work until {row.owner} logs in again"
    if end_us - now_us <= WARNING_US:
        return f"API token {row.id} stops to work at {format_time(end_us)} unless {row.owner} logs in before"
    return ""


class TokenFields(TypedDict):
    """What is shown of a token, as the admin API and the commands have it. Times are ISO 8601 in UTC."""

    id: str
    owner: str
    kind: OwnerKind
    repositories: list[str]
    actions: list[str]
    description: str
    created: str
    created_by: str
    expires: str
    ends: str | None
    used: str | None
    warning: str


def token_fields(row: ApiTokenRow, login_us: int | None, terms: TokenTerms, now_us: int) -> TokenFields:
    """Return what is shown of a token. `login_us`: of its owner's last login, None: never. Raises: Unavailable."""
    scope, end_us = stored_scope(row), ends_us(row, login_us, terms)
    return TokenFields(
        id=row.id,
        owner=row.owner,
        kind=OwnerKind(row.kind),
        repositories=scope.repositories,
        actions=scope.actions,
        description=row.description,
        created=format_time(row.created_us),
        created_by=row.created_by,
        expires=format_time(row.expires_us),
        ends=format_time(end_us) if end_us > now_us else None,
        used=None if row.used_us is None else format_time(row.used_us),
        warning=warning_of(row, login_us, terms, now_us),
    )
