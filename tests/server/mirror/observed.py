"""What a mirror recorded in its database, and what it reported."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from boltseal.ledger.entry import Entry, parse
from boltseal.server.storage.metadata.migrate import DATABASE_NAME


def rows(data: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        return connection.execute(sql).fetchall()


def observed(data: Path) -> list[Entry]:
    """The log of observations, without what it says of itself."""
    lines = [parse(row[0]) for row in rows(data, "SELECT line FROM observation ORDER BY idx")]
    return [entry for entry in lines if entry.repository]


def story(data: Path) -> list[tuple[str, str, str]]:
    """The same as (kind, digest, was)."""
    return [(str(entry.kind), entry.digest, entry.was) for entry in observed(data)]
