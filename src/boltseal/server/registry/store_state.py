"""Reads the state of the store for operators: its logs, garbage collection, requested rebuilds. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from boltseal.server.storage.metadata import (
    blob_reviews,
    full_collection_table,
    ledger_store,
    ledger_tree,
    rebuild_table,
)
from boltseal.server.storage.metadata.full_collection_table import FullCollectionRow
from boltseal.server.storage.metadata.protocol import LEDGER, MARK, OBSERVATIONS, TAGS, Log, Metadata, Snapshot
from boltseal.server.storage.metadata.rebuild_table import RebuildRow


class LogState(NamedTuple):
    """The state of a log. `size`, `signed`, `witnessed`: numbers of entries. `doubt`: why it takes none; None: it takes them."""

    name: str
    origin: str
    size: int
    signed: int
    witnessed: int
    last_time_us: int
    doubt: str | None


class CollectionState(NamedTuple):
    """The state of garbage collection. `full`: a full collection that has not ended, None if there is none."""

    undeleted_blobs: int
    full: FullCollectionRow | None


class StoreState:
    """Reads the state of one store."""

    def __init__(self, database: Metadata) -> None:
        self._database = database

    async def logs(self) -> list[LogState]:
        """Return the state of each log that has begun."""
        return await self._database.read(lambda snapshot: list(self._logs(snapshot)))

    async def collection(self) -> CollectionState:
        """Return the state of garbage collection."""

        def query(snapshot: Snapshot) -> CollectionState:
            return CollectionState(blob_reviews.count_failed(snapshot), full_collection_table.find(snapshot))

        return await self._database.read(query)

    async def rebuilds_after(self, after: tuple[str, str], limit: int) -> list[RebuildRow]:
        """Return the last requests of rebuilds after an image and a base, sorted by these."""
        return await self._database.read(lambda snapshot: rebuild_table.requests_after(snapshot, after, limit))

    def _logs(self, snapshot: Snapshot) -> Iterator[LogState]:
        for log in (LEDGER, OBSERVATIONS):
            head = ledger_store.head(snapshot, log)
            if head is None:
                continue
            signed = ledger_tree.head(snapshot, log=log)
            witnessed = ledger_tree.head(snapshot, ledger_tree.WITNESSED, log)
            yield LogState(
                log.name,
                head.origin,
                head.size,
                0 if signed is None else signed.size,
                0 if witnessed is None else witnessed.size,
                head.last_time_us,
                self._doubt(log),
            )

    def _doubt(self, log: Log) -> str | None:
        doubts = self._database.doubts
        of_tags = doubts.get(TAGS) if log is LEDGER else None
        return doubts.get(log.name) or of_tags or doubts.get(f"{log.name}{MARK}")
