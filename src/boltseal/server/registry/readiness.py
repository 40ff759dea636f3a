"""Is the registry fit to be asked: what keeps it from serving, and what only keeps it from taking new things in.

Blockers make it not ready, so that traffic goes elsewhere: the database does not answer, the clock is behind the ledger.
Notes leave it ready, as pulls go on: read-only, the disk's reserve is reached, a reload that failed or left something
out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError
from boltseal.server.registry.sequencer import check_clock
from boltseal.server.storage.metadata import ledger_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.server.storage.disk_reserve import DiskReserve
    from boltseal.server.storage.metadata.protocol import Metadata

ANSWERS_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """`blockers`: why it is not ready, one sentence each. `notes`: what else whoever runs it must know."""

    blockers: tuple[str, ...]
    notes: tuple[str, ...]


async def readiness(
    database: Metadata, room: DiskReserve, read_only: str | None, notes: tuple[str, ...], clock: Callable[[], int]
) -> Readiness:
    """What is so now. `read_only`: why nothing is taken in, None where things are."""
    blockers: list[str] = []
    found = list(notes)
    try:
        now = clock()
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            head = await database.read(lambda held: ledger_store.head(held))
        if head is not None:
            check_clock(head.last_time_us, now)
    except TimeoutError:
        blockers.append(f"the database has not answered for {ANSWERS_WITHIN_S:g} seconds")
    except BoltsealError as error:
        blockers.append(error.message)
    if read_only is not None:
        found.append(read_only)
    try:
        room.check(0)
    except BoltsealError as error:
        found.append(error.message)
    return Readiness(tuple(blockers), tuple(found))
