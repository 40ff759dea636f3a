"""The audit log: who changed users and API tokens, when and how. What happens to tags is in the ledger.

A change and its record are one transaction. Records have names and IDs, and never a password or a token.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import inspect, select

from boltseal.server.storage.metadata.access_schema import audit_event
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

_NEXT: Final = "SELECT coalesce(max(idx), -1) + 1 FROM audit_event"
_PUT: Final = "INSERT INTO audit_event (idx, time_us, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?, ?)"
_EXPIRE: Final = "DELETE FROM audit_event WHERE time_us < ? AND idx < (SELECT max(idx) FROM audit_event)"


class AuditEvent(NamedTuple):
    """A change. `number`: counts up from 0. `actor`: who made it. `action`: such as `token.created`. `subject`: a user, or
    `OWNER (token ID)`. `time_us`: microseconds since the epoch.
    """

    number: int
    time_us: int
    actor: str
    action: str
    subject: str
    detail: str


def record(tx: UnitOfWork, actor: str, action: str, subject: str, detail: str = "") -> int | None:
    """Record a change in its own transaction. Return the number of the record; None: before data format 13 there is no audit log."""
    if not inspect(tx.sql.connection).has_table(audit_event.name):
        return None
    number: int = tx.sql.plain(_NEXT).fetchone()[0]
    tx.sql.plain(_PUT, (number, tx.now_us, actor, action, subject, detail))
    return number


def before(snapshot: Snapshot, number: int, limit: int) -> list[AuditEvent]:
    """Return the newest events below a number, the newest first."""
    columns = audit_event.c
    query = select(columns.idx, columns.time_us, columns.actor, columns.action, columns.subject, columns.detail)
    rows = snapshot.sql.connection.execute(query.where(columns.idx < number).order_by(columns.idx.desc()).limit(limit))
    return [AuditEvent(*row) for row in rows]


def expire(tx: UnitOfWork, before_us: int) -> int:
    """Delete events from before a time, but never the newest one, so that no number is used twice. Return how many."""
    return tx.sql.plain(_EXPIRE, (before_us,)).rowcount
