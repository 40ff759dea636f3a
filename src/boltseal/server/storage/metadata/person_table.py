"""The rows of people who log in by an identity provider. No rules: `server.auth.people` has them.

A person has the user name of the first login for ever, so that another person of the provider never gets it. A new person, and
other groups, invalidate the caches of every process.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import inspect

from boltseal.server.storage.metadata.person_schema import person
from boltseal.server.storage.metadata.protocol import PersonRow, Snapshot, UnitOfWork

_COLUMNS: Final = "name, issuer, subject, display_name, member_of, changed_us, mac"
_FIND: Final = f"SELECT {_COLUMNS} FROM person WHERE issuer = ? AND subject = ?"  # noqa: S608 - constants alone
_NAMED: Final = f"SELECT {_COLUMNS} FROM person WHERE name = ?"  # noqa: S608 - constants alone
_EVERY: Final = f"SELECT {_COLUMNS} FROM person ORDER BY name"  # noqa: S608 - constants alone
_PUT: Final = f"""
INSERT INTO person ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
    display_name = excluded.display_name, member_of = excluded.member_of, changed_us = excluded.changed_us, mac = excluded.mac
"""  # noqa: S608 - constants alone
_REMOVE: Final = "DELETE FROM person WHERE name = ?"
_NEXT: Final = "SELECT coalesce(max(changed_us), 0) + 1, count(*) FROM person"


def is_there(snapshot: Snapshot) -> bool:
    """Return whether the database has these tables: not before data format 17."""
    return inspect(snapshot.sql.connection).has_table(person.name)


def find(snapshot: Snapshot, issuer: str, subject: str) -> PersonRow | None:
    """Return the person of a subject of the provider, or None."""
    row = snapshot.sql.plain(_FIND, (issuer, subject)).fetchone()
    return None if row is None else PersonRow(*row)


def named(snapshot: Snapshot, name: str) -> PersonRow | None:
    """Return the person with a user name, or None."""
    row = snapshot.sql.plain(_NAMED, (name,)).fetchone()
    return None if row is None else PersonRow(*row)


def every(snapshot: Snapshot) -> list[PersonRow]:
    """Return all people, by name."""
    return [PersonRow(*row) for row in snapshot.sql.plain(_EVERY, ()).fetchall()]


def next_time_us(tx: UnitOfWork) -> tuple[int, int]:
    """Return the time of a changed row, later than that of every other one, and how many rows there are."""
    newest_us, number = tx.sql.plain(_NEXT).fetchone()
    return max(tx.now_us, newest_us), number


def put(tx: UnitOfWork, row: PersonRow) -> None:
    """Add a person, or replace what is known of one, whose name, issuer and subject stay. `changed_us` is `next_time_us`."""
    tx.invalidates_caches = True
    tx.sql.plain(_PUT, row)


def remove(tx: UnitOfWork, name: str) -> bool:
    """Remove a person. Return whether there was one."""
    tx.invalidates_caches = True
    return bool(tx.sql.plain(_REMOVE, (name,)).rowcount)
