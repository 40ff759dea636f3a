"""What each witness stated last about the ledger. No rules: `storage.witness_statements` has them."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import inspect

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.replica_schema import witness_statement


class StatementRow(NamedTuple):
    """The statement of the witness with this key. `size`: in entries."""

    witness: str
    stated: str
    size: int


_ALL: Final = "SELECT witness, stated, size FROM witness_statement ORDER BY witness"
_PUT: Final = """
INSERT INTO witness_statement (witness, stated, size) VALUES (?, ?, ?)
ON CONFLICT (witness) DO UPDATE SET stated = excluded.stated, size = excluded.size
"""
_REMOVE: Final = "DELETE FROM witness_statement WHERE witness = ?"


def is_there(snapshot: Snapshot) -> bool:
    """Return whether the database has the table: not before data format 12."""
    return inspect(snapshot.sql.connection).has_table(witness_statement.name)


def all_statements(snapshot: Snapshot) -> list[StatementRow]:
    """Return every statement."""
    return [StatementRow(*row) for row in snapshot.sql.plain(_ALL).fetchall()]


def put(tx: UnitOfWork, row: StatementRow) -> None:
    """Write the statement of a witness."""
    tx.sql.plain(_PUT, row)


def remove(tx: UnitOfWork, witness: str) -> None:
    """Forget the statement of a witness."""
    tx.sql.plain(_REMOVE, (witness,))
