"""Sessions of pages, and what was used that works once: states of logins, requests of API tokens. No rules: `server.auth` has them.

A session is stored by the hash of its cookie, and each request reads it: a session that was ended is ended at every server.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import inspect

from boltseal.server.storage.metadata.person_schema import page_session
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class PageSessionRow(NamedTuple):
    """A session. `login`: differs for each password of the owner; "": of an identity provider. `mac`: as `server.auth.page_sessions`
    makes it. Times in microseconds since the epoch; `seen_us`: of a request, to the minute.
    """

    cookie_sha256: str
    owner: str
    login: str
    address: str
    began_us: int
    ends_us: int
    seen_us: int
    mac: str


_COLUMNS: Final = "cookie_sha256, owner, login, address, began_us, ends_us, seen_us, mac"
_FIND: Final = f"SELECT {_COLUMNS} FROM page_session WHERE cookie_sha256 = ?"  # noqa: S608 - constants alone
_OF_OWNER: Final = f"SELECT {_COLUMNS} FROM page_session WHERE owner = ? ORDER BY began_us DESC, cookie_sha256"  # noqa: S608 - constants
_ADD: Final = f"INSERT INTO page_session ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants alone
_SEEN: Final = "UPDATE page_session SET seen_us = ? WHERE cookie_sha256 = ? AND seen_us < ?"
_REMOVE: Final = "DELETE FROM page_session WHERE cookie_sha256 = ?"
_REMOVE_OWNER: Final = "DELETE FROM page_session WHERE owner = ?"
_EXPIRE: Final = "DELETE FROM page_session WHERE ends_us < ?"
_USE: Final = "INSERT INTO used_state (state_sha256, ends_us) VALUES (?, ?) ON CONFLICT (state_sha256) DO NOTHING"
_EXPIRE_STATES: Final = "DELETE FROM used_state WHERE ends_us < ?"


def is_there(snapshot: Snapshot) -> bool:
    """Return whether the database has these tables: not before data format 17."""
    return inspect(snapshot.sql.connection).has_table(page_session.name)


def find(snapshot: Snapshot, cookie_sha256: str) -> PageSessionRow | None:
    """Return a session by the hash of its cookie, or None."""
    row = snapshot.sql.plain(_FIND, (cookie_sha256,)).fetchone()
    return None if row is None else PageSessionRow(*row)


def of_owner(snapshot: Snapshot, owner: str) -> list[PageSessionRow]:
    """Return all sessions of a user, the newest first."""
    return [PageSessionRow(*row) for row in snapshot.sql.plain(_OF_OWNER, (owner,)).fetchall()]


def add(tx: UnitOfWork, row: PageSessionRow, *, most: int) -> None:
    """Add a session. Ends the oldest ones of its owner if there are more than `most`."""
    tx.sql.plain(_ADD, row)
    for old in of_owner(tx, row.owner)[most:]:
        remove(tx, old.cookie_sha256)


def note_seen(tx: UnitOfWork, cookie_sha256: str, seen_us: int) -> None:
    """Write when a session was used. A session that has ended meanwhile stays ended."""
    tx.sql.plain(_SEEN, (seen_us, cookie_sha256, seen_us))


def remove(tx: UnitOfWork, cookie_sha256: str) -> bool:
    """End a session. Return whether there was one."""
    return bool(tx.sql.plain(_REMOVE, (cookie_sha256,)).rowcount)


def remove_of_owner(tx: UnitOfWork, owner: str) -> int:
    """End all sessions of a user. Return how many."""
    return tx.sql.plain(_REMOVE_OWNER, (owner,)).rowcount


def expire(tx: UnitOfWork, before_us: int) -> int:
    """Remove sessions and used states that ended before a time. Return how many sessions."""
    tx.sql.plain(_EXPIRE_STATES, (before_us,))
    return tx.sql.plain(_EXPIRE, (before_us,)).rowcount


def use_state(tx: UnitOfWork, state_sha256: str, ends_us: int) -> bool:
    """Record the use of what works once. Return False if it was used before. `ends_us`: until when that must be known."""
    return bool(tx.sql.plain(_USE, (state_sha256, ends_us)).rowcount)
