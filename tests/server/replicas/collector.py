"""A process that collects garbage all the time beside the servers, as if their days were over at once.

`python -m tests.server.replicas.collector CONFIG DATA` collects under the lease, again and again, until SIGTERM. Then it prints a JSON
object: how many items of each kind it deleted or hid.

The waiting times of garbage collection cannot be configured. Each run is ten days ahead of the clock, so that what is unused is hidden
at once, and what no repository has is deleted at once. The time for which a blob is hidden is measured by the database's clock: in
repositories whose names begin with AGED it is set back, so that they lose unused blobs at once. In all other repositories a hidden blob
stays, as it does for an hour.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.server.configuration import load
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.storage.coordination.factory import open_leases
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.garbage_collection import collect_reviewed
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.hidden_blobs import HIDDEN_FOR_US
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.store_factory import begin, now_us

TEN_DAYS_US: Final = 10 * 86_400_000_000
PAUSE_S: Final = 0.02
AGED: Final = "races/source"
_AGE: Final = """
UPDATE blob SET hidden_us = hidden_us - ? WHERE hidden_us IS NOT NULL AND repository_id IN
(SELECT id FROM repository WHERE name LIKE ?)
"""


def age(tx: UnitOfWork) -> None:
    """Make hidden blobs of some repositories as old as those that go."""
    tx.sql.plain(_AGE, (HIDDEN_FOR_US, f"{AGED}%"))


def collect_once(store: OpenStore, leases: Leases, counted: Counter[str]) -> None:
    """Do what is due, if no server does it at the moment."""
    lease = leases.acquire("tidy-up")
    if lease is None:
        return
    try:
        with fenced(store.database, lease):
            store.database.write_and_wait(age)
            for item in collect_reviewed(
                store.database, store.blobs.maintenance, store.database.now_us() + TEN_DAYS_US
            ):
                counted[item.what] += 1
    finally:
        lease.release()


def main(config: Path, data: Path) -> None:
    """Collect until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = load(config)
    settings = settings.model_copy(update={"server": settings.server.model_copy(update={"data": data})})
    store = begin(settings, now_us)
    leases = open_leases(settings.server.data, settings.storage)
    counted: Counter[str] = Counter()
    sys.stdout.write("collecting\n")
    sys.stdout.flush()
    while not ended.wait(PAUSE_S):
        try:
            collect_once(store, leases, counted)
        except Unavailable as error:
            counted[error.message] += 1
    leases.close()
    store.close()
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
