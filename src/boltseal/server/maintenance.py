"""Work that a server repeats beside its requests: the cleanup, and the comparison of all tags with the ledger.

Of all processes of a store, the one that gets the lease does it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from boltseal.errors import BoltsealError
from boltseal.server.auth.api_tokens import expire_tokens
from boltseal.server.mirror.retention import retain
from boltseal.server.notifications.database_outbox import expire_events
from boltseal.server.registry.ledger_start import CHECKED_AT_START, check_tags
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.registry.refused_pushes import expire_refused
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.protocol import LeaseLost, Leases
from boltseal.server.storage.garbage_collection import (
    CLEANUP_LEASE,
    FAILED,
    HIDDEN_BLOB,
    REPOSITORY_BLOB,
    collect_reviewed,
    collect_uploads,
    finish_purges,
)
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.worker_threads import finish_in_thread

JANITOR_EVERY_S: Final = 3600.0
CHECK_EVERY_S: Final = 24 * 3600.0
CHECK_PAUSE_S: Final = 0.05
"""The pause between batches while all tags are compared with the ledger, so that requests go on."""
_COUNTED: Final = {"blob": "blobs", REPOSITORY_BLOB: "repository_blobs", HIDDEN_BLOB: "hidden", FAILED: "failed"}
"""The names of the log for what garbage collection does with blobs."""

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


def check_tags_alone(store: OpenStore, leases: Leases) -> None:
    """Compare all tags with the ledger while the server runs, with pauses, unless another process does it."""
    lease = leases.acquire("tag-check")
    if lease is None:
        return
    try:
        if store.database.frozen is None:
            check_tags(store, pause=lambda: time.sleep(CHECK_PAUSE_S))
    finally:
        lease.release()


def _tidy_up(store: OpenStore, leases: Leases, settings: Settings, now_us: int) -> Mapping[str, int]:
    """Return how much was deleted, by kind; nothing while another process does it."""
    lease = leases.acquire(CLEANUP_LEASE)
    if lease is None:
        return {}
    try:
        with fenced(store.database, lease):
            return _delete_unneeded(store, settings, now_us)
    finally:
        lease.release()


def _delete_unneeded(store: OpenStore, settings: Settings, now_us: int) -> Mapping[str, int]:
    """Return how many abandoned uploads, purged blobs, expired mirrored images and blobs were deleted or hidden.

    With an object store also how many objects were deleted or joined. A step that fails is logged, and the others are done.
    """
    database, blobs, upkeep = store.database, store.blobs, store.blobs.upkeep
    removed = Counter[str]()
    with _logged("events"):
        expire_events(database, now_us)
    with _logged("API tokens"):
        removed["tokens"] += database.write_and_wait(lambda tx: expire_tokens(tx, now_us))
    with _logged("refused pushes"):
        removed["refused"] += database.write_and_wait(lambda tx: expire_refused(tx, now_us))
    with _logged("uploads"):
        removed["uploads"] += sum(1 for _ in collect_uploads(database, blobs.upload_cleanup, now_us))
    if database.frozen is not None:
        return removed
    with _logged("purged"):
        removed["purged"] += sum(1 for _ in finish_purges(database, blobs.maintenance))
    if settings.upstreams:
        with _logged("mirrored"):
            removed["mirrored"] += sum(1 for _ in retain(database, settings.upstreams, now_us, dry_run=False))
    with _logged("blobs"):
        for item in collect_reviewed(database, blobs.maintenance, now_us):
            removed[_COUNTED[item.what]] += 1
            if item.what == FAILED:
                _log.warning("blob not deleted; it is tried again", digest=item.name, reason=item.reason)
    if upkeep is not None:
        with _logged("objects"):
            removed["objects"] += upkeep.run(now_us)
    return removed


@contextmanager
def _logged(step: str) -> Iterator[None]:
    """Log an error of a step of the cleanup, which is done again in an hour. Raises: LeaseLost: another process goes on."""
    try:
        yield
    except LeaseLost:
        raise
    except BoltsealError as error:
        _log.warning("cleanup failed", step=step, reason=error.message)
