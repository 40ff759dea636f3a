"""The last request of a rebuild for each image and base, for all servers of a registry. No rules."""

from __future__ import annotations

from typing import Final, NamedTuple

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class RebuildRow(NamedTuple):
    """The last request for an image. `digest`: what the base resolved to. `time_us`: since the epoch.

    `outcome`, `tries`, `summary`: as of `project.bases.rebuild_journal`.
    """

    image: str
    base: str
    digest: str
    time_us: int
    outcome: str
    tries: int
    summary: str


_ALL: Final = "SELECT image, base, digest, time_us, outcome, tries, summary FROM requested_rebuild ORDER BY image, base"
_AFTER: Final = """
SELECT image, base, digest, time_us, outcome, tries, summary FROM requested_rebuild
WHERE (image, base) > (?, ?) ORDER BY image, base LIMIT ?
"""
_PUT: Final = """
INSERT INTO requested_rebuild (image, base, digest, time_us, outcome, tries, summary) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (image, base) DO UPDATE SET digest = excluded.digest, time_us = excluded.time_us, outcome = excluded.outcome,
    tries = excluded.tries, summary = excluded.summary
"""


def all_requests(snapshot: Snapshot) -> list[RebuildRow]:
    """Return all rows."""
    return [RebuildRow(*row) for row in snapshot.sql.plain(_ALL).fetchall()]


def requests_after(snapshot: Snapshot, after: tuple[str, str], limit: int) -> list[RebuildRow]:
    """Return the first rows after an image and a base."""
    return [RebuildRow(*row) for row in snapshot.sql.plain(_AFTER, (*after, limit)).fetchall()]


def put(tx: UnitOfWork, row: RebuildRow) -> None:
    """Write the last request for an image and a base."""
    tx.sql.plain(_PUT, row)
