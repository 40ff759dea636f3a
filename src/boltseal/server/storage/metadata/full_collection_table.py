"""How far a full collection is (`storage.full_collection`), so that one that was killed is continued. No rules."""

from __future__ import annotations

from typing import Final, NamedTuple

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class FullCollectionRow(NamedTuple):
    """What has been compared: all earlier stages, and of `stage` everything up to `position`. `began_us`: since the epoch."""

    stage: str
    position: str
    began_us: int


_FIND: Final = "SELECT stage, position, began_us FROM full_collection"
_CLEAR: Final = "DELETE FROM full_collection"
_SET: Final = """
INSERT INTO full_collection (id, stage, position, began_us) VALUES (1, ?, ?, ?) ON CONFLICT (id)
DO UPDATE SET stage = excluded.stage, position = excluded.position, began_us = excluded.began_us
"""


def find(snapshot: Snapshot) -> FullCollectionRow | None:
    """Return the position of a full collection that has not ended, None if there is none."""
    row = snapshot.sql.plain(_FIND).fetchone()
    return None if row is None else FullCollectionRow(*row)


def put(tx: UnitOfWork, row: FullCollectionRow) -> None:
    """Record a position."""
    tx.sql.plain(_SET, row)


def clear(tx: UnitOfWork) -> None:
    """Record that the full collection has ended."""
    tx.sql.plain(_CLEAR)
