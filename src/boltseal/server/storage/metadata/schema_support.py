"""Two versions of boltseal on one schema: which changes of it a running older server survives.

    schema_support   one row: the oldest revision whose servers may work on this schema

A migration either expands the schema (new tables, columns that may be empty, indexes), and servers of the revision before it
work on as before; or it contracts it (what they need changes its meaning or goes), and none of them may run. Each revision
says which, in its `change`. So what a version no longer needs is removed at the earliest by the version after it.

An older server may start on a newer schema that was only expanded since. One that would contract it waits until no older server
is alive (`postgres_schema`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from boltseal.server.storage.metadata.sql import SqlStatements

OLDEST_SERVER: Final = "0016"
"""The oldest revision whose servers may work on the newest schema: that of the last migration that contracts."""
_CLEAR: Final = "DELETE FROM schema_support"
_RECORD: Final = "INSERT INTO schema_support (id, oldest) VALUES (1, ?)"
_FIND: Final = "SELECT oldest FROM schema_support"


class Change(StrEnum):
    """What a migration does to servers of the revision before it."""

    EXPANDS = "expands"
    """Servers of the revision before work on as before."""
    CONTRACTS = "contracts"
    """No server of the revision before may run."""


def record(sql: SqlStatements) -> None:
    """Record which servers may work on the newest schema, in the transaction that creates it or migrates to it."""
    sql.plain(_CLEAR)
    sql.plain(_RECORD, (OLDEST_SERVER,))


def oldest(sql: SqlStatements) -> str:
    """Return the oldest revision whose servers may work on this schema, which has revision 0016 or a later one."""
    row = sql.plain(_FIND).fetchone()
    return "9999" if row is None else str(row[0])
