"""The users who may log in, with the encrypted hashes of their passwords.

The rules for names are in `server.storage.users`. With the first user a row says for ever that there was one. A change
invalidates the caches of every process, so that a removed user is refused at the next request.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import delete, func, insert, inspect, select

from boltseal.server.storage.metadata.protocol import AccountRow, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.replica_schema import users_existed
from boltseal.server.storage.metadata.schema import account

_EXISTED: Final = "SELECT id FROM users_existed"
_NOTE: Final = "INSERT INTO users_existed (id) VALUES (1) ON CONFLICT (id) DO NOTHING"


def all_accounts(snapshot: Snapshot) -> list[AccountRow]:
    """Return every user."""
    rows = snapshot.sql.connection.execute(select(account.c.name, account.c.encrypted_hash).order_by(account.c.name))
    return [AccountRow(*row) for row in rows]


def put(tx: UnitOfWork, name: str, encrypted_hash: str) -> bool:
    """Add a user, or replace the password of one. Return whether the user was there."""
    tx.invalidates_caches = True
    last_us = tx.sql.connection.execute(select(func.max(account.c.changed_us))).scalar_one() or 0
    changed_us = max(tx.now_us, last_us + 1)  # later than that of every other row
    known = remove(tx, name)
    row = {"name": name, "encrypted_hash": encrypted_hash, "changed_us": changed_us}
    tx.sql.connection.execute(insert(account), row)
    note_existed(tx)
    return known


def note_existed(tx: UnitOfWork) -> None:
    """Record that there was a user, here or in a users' file. Before data format 12 there is no such row: the migration writes it."""
    if inspect(tx.sql.connection).has_table(users_existed.name):
        tx.sql.plain(_NOTE)


def existed(snapshot: Snapshot) -> bool:
    """Return whether there was a user once."""
    return snapshot.sql.plain(_EXISTED).fetchone() is not None


def remove(tx: UnitOfWork, name: str) -> bool:
    """Remove a user. Return whether there was one."""
    tx.invalidates_caches = True
    return tx.sql.connection.execute(delete(account).where(account.c.name == name)).rowcount > 0
