"""The SQLite connection of a snapshot, for tests that set a pragma or count steps."""

from __future__ import annotations

import sqlite3

from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage.metadata.sqlite import SqliteSession


def driver(snapshot: Snapshot) -> sqlite3.Connection:
    """Return the sqlite3 connection of a snapshot."""
    assert isinstance(snapshot.sql, SqliteSession)
    return snapshot.sql.driver
