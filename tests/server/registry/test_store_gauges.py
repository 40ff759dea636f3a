"""The state of a store as metrics."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from boltseal.server.registry.store_gauges import BLOBS_EVERY_S, StoreGauges
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.store_factory import now_us, open_metadata
from tests.serving import settings_of


@pytest.mark.files_only("damages the file of the database")
def test_unreadable_metrics_are_absent_and_not_zero(data: Path) -> None:
    """Metrics of a damaged database are left out, while those of the disk are served."""
    with closing(open_database(data / DATABASE_NAME, data / GENERATION_NAME, now_us)) as database:
        gauges = StoreGauges(data, database)
        whole = {gauge.name for gauge in gauges.read(DiskReserve(data, 0))}
    damaged = data / DATABASE_NAME
    with closing(open_database(damaged, data / GENERATION_NAME, now_us)) as database:
        damaged.write_bytes(b"no database" * 10_000)
        left = {gauge.name for gauge in StoreGauges(data, database).read(DiskReserve(data, 0))}

    assert whole > left
    assert {"boltseal_ledger_entries", "boltseal_blobs"} <= whole - left
    assert {"boltseal_disk_free_bytes", "boltseal_database_size_bytes"} <= left


def test_blobs_are_counted_once_a_minute(data: Path) -> None:
    """Blobs are counted once a minute; a blob of two repositories is one blob, whose bytes count in each."""
    now = [1000.0]

    def add(tx: UnitOfWork) -> None:
        for name in ("a", "b"):
            repository = queries.ensure_repository(tx, name, None)
            queries.add_blob(tx, repository, f"sha256:{'a' * 64}", 100, "ci")

    with open_metadata(settings_of(data)) as database:
        gauges = StoreGauges(data, database, lambda: now[0])

        def read() -> tuple[float, float]:
            found = {gauge.name: gauge.values for gauge in gauges.read(DiskReserve(data, 0))}
            return found["boltseal_blobs"][""], found["boltseal_repository_blob_bytes"][""]

        before = read()
        database.write_and_wait(add)
        cached = read()
        now[0] += BLOBS_EVERY_S
        after = read()

    assert [before, cached, after] == [(0, 0), (0, 0), (1, 200)]
