"""The state of the store as metrics: disk, database, blobs, uploads, and the two logs.

Everything is cheap to read except the blobs, which are counted at most once a minute: a second for eight million.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from boltseal.errors import BoltsealError
from boltseal.ledger.clock import is_behind
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import (
    blob_reviews,
    layer_chain_table,
    ledger_store,
    ledger_tree,
    upload_progress,
    usage,
)
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, TAGS, Log, Metadata, Snapshot
from boltseal.server.storage.metrics import Gauge

BLOBS_EVERY_S: Final = 60.0
_LOGS: Final = (LEDGER, OBSERVATIONS)


class StoreGauges:
    """The gauges of one store. Called in threads."""

    def __init__(
        self,
        data: Path,
        database: Metadata,
        clock_s: Callable[[], float] = time.monotonic,
        *,
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self._data = data
        self._database = database
        self._clock_s = clock_s
        self._now_us = now_us
        self._counting = threading.Lock()
        self._blobs: tuple[float, usage.BlobTotals] | None = None

    def read(self, disk: DiskReserve) -> Iterator[Gauge]:
        """Yield every gauge whose value can be read."""
        parts: tuple[Callable[[], list[Gauge]], ...] = (
            partial(_disk, disk),
            self._database_size,
            self._uploads,
            self._logs,
            self._clock,
            self._pending_chains,
            self._undeleted_blobs,
            self._blob_totals,
        )
        for part in parts:
            try:
                yield from part()
            except (BoltsealError, OSError):  # metrics of the rest are still served; this part is absent
                continue

    def _database_size(self) -> list[Gauge]:
        """Return the size of the database of SQLite; nothing if the metadata is in PostgreSQL."""
        database = self._data / DATABASE_NAME
        files = [file for file in (database, database.with_name(f"{database.name}-wal")) if file.exists()]
        size = sum(file.stat().st_size for file in files)
        help_text = "Size of the metadata database with its write-ahead log"
        return [Gauge("boltseal_database_size_bytes", help_text, {"": size})] if files else []

    def _uploads(self) -> list[Gauge]:
        """Count the sessions in files, or those in an object store."""
        in_files = sum(1 for _ in (self._data / "uploads").iterdir())
        in_objects = self._database.read_and_wait(upload_progress.count)
        return [Gauge("boltseal_uploads_open", "Unfinished upload sessions", {"": in_files + in_objects})]

    def _logs(self) -> list[Gauge]:
        def sizes(snapshot: Snapshot, log: Log) -> tuple[int, int] | None:
            head = ledger_store.head(snapshot, log)
            if head is None:
                return None
            signed = ledger_tree.head(snapshot, log=log)
            return head.size, head.size - (0 if signed is None else signed.size)

        found = self._database.read_and_wait(lambda snapshot: {log.name: sizes(snapshot, log) for log in _LOGS})
        begun = {name: pair for name, pair in found.items() if pair is not None}
        frozen = {name: float(name in self._database.doubts) for name in begun}
        if TAGS in self._database.doubts and LEDGER.name in frozen:
            frozen[LEDGER.name] = 1.0
        entries = {name: float(size) for name, (size, _) in begun.items()}
        unsigned = {name: float(number) for name, (_, number) in begun.items()}
        return [
            Gauge("boltseal_ledger_entries", "Entries of a log", entries, "log"),
            Gauge("boltseal_ledger_unsigned_entries", "Entries that no signed checkpoint covers yet", unsigned, "log"),
            Gauge("boltseal_ledger_frozen", "Whether a log is in doubt: no writes", frozen, "log"),
        ]

    def _clock(self) -> list[Gauge]:
        if self._now_us is None:
            return []
        now_us = self._now_us()
        heads = self._database.read_and_wait(lambda snapshot: [ledger_store.head(snapshot, log) for log in _LOGS])
        behind = any(head is not None and is_behind(head.last_time_us, now_us) for head in heads)
        wrong = behind or self._database.clock_guard(now_us) is not None
        help_text = "Whether nothing is written because the clock cannot be right"
        return [Gauge("boltseal_clock_wrong", help_text, {"": float(wrong)})]

    def _pending_chains(self) -> list[Gauge]:
        pending = self._database.read_and_wait(layer_chain_table.count_pending)
        help_text = "Stored manifests whose layer chain is not known yet: older ones, and those without their config"
        return [Gauge("boltseal_layer_chains_pending", help_text, {"": pending})]

    def _undeleted_blobs(self) -> list[Gauge]:
        failed = self._database.read_and_wait(blob_reviews.count_failed)
        help_text = "Unreferenced blobs whose bytes the store failed to delete; they are tried again"
        return [Gauge("boltseal_blobs_undeleted", help_text, {"": failed})]

    def _blob_totals(self) -> list[Gauge]:
        with self._counting:
            now = self._clock_s()
            if self._blobs is None or now - self._blobs[0] >= BLOBS_EVERY_S:
                self._blobs = (now, self._database.read_and_wait(usage.blob_totals))
            totals = self._blobs[1]
        return [
            Gauge("boltseal_blobs", "Stored blobs, each counted once", {"": totals.blobs}),
            Gauge(
                "boltseal_repository_blob_bytes",
                "Bytes of the blobs of all repositories; a blob of two repositories counts twice",
                {"": totals.repository_bytes},
            ),
        ]


def _disk(disk: DiskReserve) -> list[Gauge]:
    return [
        Gauge("boltseal_disk_free_bytes", "Free disk space of the data folder", {"": disk.free_bytes()}),
        Gauge("boltseal_disk_reserve_bytes", "Disk space that uploads must leave free", {"": disk.reserve_bytes}),
    ]
