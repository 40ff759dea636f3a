"""The rows of API tokens, of service accounts, and of users' last logins. No rules: `server.auth` has them.

A new or revoked token invalidates the caches of every process, so that its caller gets the answer when no server accepts the
token any more, or each accepts it. The times of the last use and of the last login do not: they are looked up, or only shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import Select, delete, func, insert, inspect, select

from boltseal.server.storage.metadata.access_schema import api_token, last_login, service_account
from boltseal.server.storage.metadata.account_table import note_existed
from boltseal.server.storage.metadata.protocol import ApiTokenRow, Snapshot, UnitOfWork

_COLUMNS: Final = tuple(api_token.c[name] for name in ApiTokenRow._fields)
_NOTE_LOGIN: Final = """
INSERT INTO last_login (name, login_us) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET login_us = excluded.login_us WHERE excluded.login_us > last_login.login_us
"""
_NOTE_USED: Final = "UPDATE api_token SET used_us = ? WHERE id = ? AND (used_us IS NULL OR used_us < ?)"
_OWNER: Final = """
SELECT name FROM account WHERE name = ? UNION ALL SELECT name FROM service_account WHERE name = ?
UNION ALL SELECT name FROM person WHERE name = ?
"""
_EXPIRE: Final = "DELETE FROM api_token WHERE expires_us < ?"


def is_there(snapshot: Snapshot) -> bool:
    """Return whether the database has these tables: not before data format 13."""
    return inspect(snapshot.sql.connection).has_table(api_token.name)


def _rows(snapshot: Snapshot, query: Select[Any]) -> list[ApiTokenRow]:
    return [ApiTokenRow(*row) for row in snapshot.sql.connection.execute(query)]


def after(snapshot: Snapshot, token: str, limit: int, owner: str | None) -> list[ApiTokenRow]:
    """Return the next tokens in the order of their IDs. `owner` None: those of all."""
    query = select(*_COLUMNS).where(api_token.c.id > token).order_by(api_token.c.id).limit(limit)
    return _rows(snapshot, query if owner is None else query.where(api_token.c.owner == owner))


def find(snapshot: Snapshot, token: str) -> ApiTokenRow | None:
    """Return a token, or None."""
    return next(iter(_rows(snapshot, select(*_COLUMNS).where(api_token.c.id == token))), None)


def of_owner(snapshot: Snapshot, owner: str) -> list[ApiTokenRow]:
    """Return all tokens of an owner."""
    return _rows(snapshot, select(*_COLUMNS).where(api_token.c.owner == owner).order_by(api_token.c.id))


def every(snapshot: Snapshot) -> list[ApiTokenRow]:
    """Return all tokens, in the order of their IDs."""
    return _rows(snapshot, select(*_COLUMNS).order_by(api_token.c.id))


def counts(snapshot: Snapshot, owner: str) -> tuple[int, int]:
    """Return how many tokens an owner has, and how many there are."""
    count = select(func.count()).select_from(api_token)
    connection = snapshot.sql.connection
    return (
        connection.execute(count.where(api_token.c.owner == owner)).scalar_one(),
        connection.execute(count).scalar_one(),
    )


def next_time_us(tx: UnitOfWork) -> int:
    """Return the time of a new token: later than that of every other one."""
    newest = tx.sql.connection.execute(select(func.max(api_token.c.created_us))).scalar_one()
    return max(tx.now_us, (newest or 0) + 1)


def add(tx: UnitOfWork, row: ApiTokenRow) -> None:
    """Add a token, whose time is `next_time_us`."""
    tx.invalidates_caches = True
    tx.sql.connection.execute(insert(api_token), row._asdict())


def remove(tx: UnitOfWork, tokens: Collection[str]) -> None:
    """Remove tokens by their IDs."""
    tx.invalidates_caches = True
    for token in tokens:
        tx.sql.connection.execute(delete(api_token).where(api_token.c.id == token))


def expire(tx: UnitOfWork, before_us: int) -> int:
    """Remove tokens that have expired before a time. Return how many. No process accepts them, so no cache is wrong."""
    return tx.sql.plain(_EXPIRE, (before_us,)).rowcount


def note_used(tx: UnitOfWork, times: Mapping[str, int]) -> None:
    """Write when tokens were used, by ID."""
    for token, used_us in sorted(times.items()):
        tx.sql.plain(_NOTE_USED, (used_us, token, used_us))


def note_login(tx: UnitOfWork, name: str, login_us: int) -> None:
    """Write when a user logged in with the password."""
    tx.sql.plain(_NOTE_LOGIN, (name, login_us))


def logins(snapshot: Snapshot, names: Collection[str]) -> dict[str, int]:
    """Return when these users logged in last."""
    found = {}
    for name in names:
        row = snapshot.sql.connection.execute(select(last_login.c.login_us).where(last_login.c.name == name)).first()
        if row is not None:
            found[name] = int(row[0])
    return found


def service_accounts(snapshot: Snapshot) -> list[str]:
    """Return the names of the service accounts, sorted."""
    return list(
        snapshot.sql.connection.execute(select(service_account.c.name).order_by(service_account.c.name)).scalars()
    )


def has_owner(snapshot: Snapshot, name: str) -> bool:
    """Return whether a name is that of a user, of a service account or of a person of the identity provider."""
    return snapshot.sql.plain(_OWNER, (name, name, name)).fetchone() is not None


def add_service(tx: UnitOfWork, name: str) -> bool:
    """Add a service account. Return whether it is new."""
    tx.invalidates_caches = True
    if name in service_accounts(tx):
        return False
    newest = tx.sql.connection.execute(select(func.max(service_account.c.created_us))).scalar_one()
    created_us = max(tx.now_us, (newest or 0) + 1)
    tx.sql.connection.execute(insert(service_account), {"name": name, "created_us": created_us})
    note_existed(tx)
    return True


def remove_owner(tx: UnitOfWork, name: str) -> bool:
    """Remove all tokens of a user, and what is known of it besides. Return whether it was a service account."""
    tx.invalidates_caches = True
    connection = tx.sql.connection
    connection.execute(delete(api_token).where(api_token.c.owner == name))
    connection.execute(delete(last_login).where(last_login.c.name == name))
    return connection.execute(delete(service_account).where(service_account.c.name == name)).rowcount > 0
