"""The observations in a mirror's database, and the events it reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boltseal.ledger.entry import Entry, parse
from tests.storage_choice import read_rows


def rows(data: Path, sql: str) -> list[tuple[Any, ...]]:
    return read_rows(data, sql)


def observed(data: Path) -> list[Entry]:
    """Return the observations of tags, without the entries about the log itself."""
    lines = [parse(row[0]) for row in rows(data, "SELECT line FROM observation ORDER BY idx")]
    return [entry for entry in lines if entry.repository]


def story(data: Path) -> list[tuple[str, str, str]]:
    """Return kind, digest and previous digest of each observation."""
    return [(str(entry.kind), entry.digest, entry.was) for entry in observed(data)]
