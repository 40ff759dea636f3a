"""Why a log takes no entries, until that is resolved. Most stores have none. No rules: `storage.ledger_doubts` has them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import inspect

from boltseal.server.storage.metadata.protocol import Log, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.replica_schema import ledger_doubt

_FIND: Final = "SELECT about, reason FROM ledger_doubt WHERE log = ?"
_PUT: Final = """
INSERT INTO ledger_doubt (log, about, reason) VALUES (?, ?, ?) ON CONFLICT (log, about) DO UPDATE SET reason = excluded.reason
"""
_CLEAR: Final = "DELETE FROM ledger_doubt WHERE log = ? AND about = ?"


def is_there(snapshot: Snapshot) -> bool:
    """Return whether the database has the table: not before data format 12."""
    return inspect(snapshot.sql.connection).has_table(ledger_doubt.name)


def find(snapshot: Snapshot, log: Log) -> dict[str, str]:
    """Return the reasons, by what they are about."""
    return dict(snapshot.sql.plain(_FIND, (log.name,)).fetchall())


def put(tx: UnitOfWork, log: Log, about: str, reason: str) -> None:
    """Write the reason of a doubt."""
    tx.sql.plain(_PUT, (log.name, about, reason))


def clear(tx: UnitOfWork, log: Log, about: str) -> None:
    """Remove a doubt."""
    tx.sql.plain(_CLEAR, (log.name, about))
