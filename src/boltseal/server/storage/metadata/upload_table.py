"""Open upload sessions: owner, repository, and the time at which each expires. No rules.

The bytes of a session are in the blob store. With local files the bytes decide whether a session exists and its length. A
killed process or a power cut can leave a row without bytes; garbage collection removes it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import delete, func, insert, select, update

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import upload_session

KEPT_FOR_US: Final = 24 * 3600 * 1_000_000
"""How long a session is kept after its last write."""


class UploadRow(NamedTuple):
    """One session. Times in microseconds since the epoch. `owner`: a user, or `anonymous at` an address."""

    id: str
    repository: str
    owner: str
    begun_us: int
    expires_us: int


_COLUMNS: Final = [upload_session.c[name] for name in UploadRow._fields]
_REMOVE = "DELETE FROM upload_session WHERE id = ?"


def add(tx: UnitOfWork, id_: str, repository: str, owner: str) -> None:
    """Record a session that begins now."""
    row = UploadRow(id_, repository, owner, tx.now_us, tx.now_us + KEPT_FOR_US)
    tx.sql.connection.execute(insert(upload_session), row._asdict())


def count_of(tx: UnitOfWork, owner: str) -> int:
    """Return how many sessions of an owner are open, and not expired."""
    of_owner = (upload_session.c.owner == owner, upload_session.c.expires_us > tx.now_us)
    query = select(func.count()).select_from(upload_session).where(*of_owner)
    return int(tx.sql.connection.execute(query).scalar_one())


def remove(tx: UnitOfWork, id_: str) -> None:
    """Forget a session. Does nothing if there is no row, as for sessions from before data format 5."""
    tx.sql.plain(_REMOVE, (id_,))


def remove_abandoned(tx: UnitOfWork, row: UploadRow) -> None:
    """Forget a session, unless its row was changed meanwhile."""
    unchanged = (upload_session.c.id == row.id, upload_session.c.expires_us == row.expires_us)
    tx.sql.connection.execute(delete(upload_session).where(*unchanged))


def extend(tx: UnitOfWork, id_: str, expires_us: int) -> None:
    """Set until when a session counts."""
    tx.sql.connection.execute(update(upload_session).where(upload_session.c.id == id_).values(expires_us=expires_us))


def all_uploads(snapshot: Snapshot) -> list[UploadRow]:
    """Return every row."""
    rows = snapshot.sql.connection.execute(select(*_COLUMNS).order_by(upload_session.c.id))
    return [UploadRow(*row) for row in rows]
