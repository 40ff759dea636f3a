"""Readiness of the registry: what prevents it from serving, and what only prevents writes.

Blockers make it not ready, so that a load balancer sends traffic elsewhere: the database does not answer, the clock cannot
be right (`ledger.clock`), or the ledger is in doubt. Notes leave it ready, because pulls work: it is read-only by its
settings, the disk reserve is reached, or a reload failed in whole or in part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from boltseal.errors import BoltsealError
from boltseal.server.registry.sequencer import check_clock
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import Metadata

DATABASE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`blockers`: why the registry is not ready, one sentence each. `notes`: what else the operator has to know."""

    blockers: tuple[str, ...]
    notes: tuple[str, ...]


async def readiness(
    database: Metadata,
    disk_reserve: DiskReserve,
    read_only: str | None,
    notes: tuple[str, ...],
    clock: Callable[[], int],
) -> Readiness:
    """Return the readiness now. `read_only`: why writes are refused, None where they are not."""
    blockers: list[str] = []
    found = list(notes)
    try:
        now_us = clock()
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            head = await database.read(lambda snapshot: ledger_store.head(snapshot))
        if head is not None:
            check_clock(head.last_time_us, now_us)
        clock_doubt = database.clock_guard(now_us)
        if clock_doubt is not None:
            blockers.append(clock_doubt)
    except TimeoutError:
        blockers.append(f"the database has not answered for {DATABASE_TIMEOUT_S:g} seconds")
    except BoltsealError as error:
        blockers.append(error.message)
    if database.frozen is not None:
        blockers.append(f"the ledger is in doubt, so pushes and deletes are refused: {database.frozen}")
    elif read_only is not None:
        found.append(read_only)
    try:
        disk_reserve.check(0)
    except BoltsealError as error:
        found.append(error.message)
    return Readiness(tuple(blockers), tuple(found))
