"""Work that a server repeats beside its requests: the cleanup, and the comparison of all tags with the ledger.

Of all processes of a store, the one that gets the lease does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.mirror.retention import retain
from boltseal.server.notifications.database_outbox import expire_events
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.garbage_collection import collect_reviewed, collect_uploads, finish_purges
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.worker_threads import finish_in_thread
from boltseal.server.store_factory import CHECKED_AT_START, OpenStore, check_tags_alone

JANITOR_EVERY_S: Final = 3600.0
CHECK_EVERY_S: Final = 24 * 3600.0

_log = structlog.get_logger(__name__)


async def clean_up_regularly(
    store: OpenStore, leases: Leases, settings: Callable[[], Settings], every_s: float
) -> None:
    """Delete what is not needed, from time to time, in the process that gets the lease."""
    while True:
        now_us = store.database.now_us()
        if not settings().server.read_only and store.database.clock_guard(now_us) is None:
            try:
                removed = await finish_in_thread(_tidy_up, store, leases, settings(), now_us)
            except BoltsealError as error:
                _log.warning("cleanup failed", reason=error.message)
            else:
                if any(removed.values()):
                    _log.info("cleanup done", **removed)
        await asyncio.sleep(every_s)


async def check_tags_daily(store: OpenStore, leases: Leases) -> None:
    """Compare all tags with the ledger once a day, and soon where the start has not: in the process that gets the lease."""
    large = await store.database.read(ledger_store.size) > CHECKED_AT_START
    await asyncio.sleep(0 if large else CHECK_EVERY_S)
    while True:
        try:
            await asyncio.to_thread(check_tags_alone, store, leases)
        except BoltsealError as error:
            _log.warning("the tags were not compared with the ledger", reason=error.message)
        await asyncio.sleep(CHECK_EVERY_S)


def _tidy_up(store: OpenStore, leases: Leases, settings: Settings, now_us: int) -> dict[str, int]:
    """Return how much was deleted, by kind; nothing while another process does it."""
    lease = leases.acquire("tidy-up")
    if lease is None:
        return {}
    try:
        return _delete_unneeded(store, settings, now_us)
    finally:
        lease.release()


def _delete_unneeded(store: OpenStore, settings: Settings, now_us: int) -> dict[str, int]:
    """Return how many abandoned uploads, purged blobs, expired mirrored images and unreferenced blobs were deleted.

    With an object store also how many objects were deleted or joined.
    """
    expire_events(store.database, now_us)
    removed = {"uploads": sum(1 for _ in collect_uploads(store.database, store.blobs.upload_cleanup, now_us))}
    if store.database.frozen is not None:
        return removed
    removed["purged"] = sum(1 for _ in finish_purges(store.database, store.blobs.maintenance))
    if settings.upstreams:
        removed["mirrored"] = sum(1 for _ in retain(store.database, settings.upstreams, now_us, dry_run=False))
    removed["blobs"] = sum(1 for _ in collect_reviewed(store.database, store.blobs.maintenance, now_us))
    if store.blobs.upkeep is not None:
        removed["objects"] = store.blobs.upkeep.run(now_us)
    return removed
