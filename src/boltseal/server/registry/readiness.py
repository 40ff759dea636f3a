"""Readiness of the registry: what prevents it from serving, and what only prevents writes.

Blockers make it not ready, so that a load balancer sends traffic elsewhere: the database or the object store does not answer, a write waits for
too long, the clock cannot be right (`ledger.clock`), or the ledger is in doubt. Notes leave it ready, because pulls work: it
is read-only by its settings, the disk reserve is reached, the database had no space for a write a moment ago, or a reload failed in whole
or in part.

While PostgreSQL does not answer, but sealed tags and blobs may be sent from caches, that is a note: a load balancer that sent traffic
elsewhere would find no server at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.server.registry.sequencer import LedgerFrozen, check_clock
from boltseal.server.storage.blobs.protocol import StoreUpkeep
from boltseal.server.storage.coordination.outages import is_outage
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.move_fence import DataMoved
from boltseal.server.storage.metadata.protocol import MARK, Metadata

DATABASE_TIMEOUT_S: Final = 5.0
WRITE_WAIT_LIMIT_S: Final = 10.0
"""Twice the time budget of a write: an older one waits for something that does not end."""
NO_SPACE_SHOWN_S: Final = 30.0
"""On a full disk some writes still find space, so a warning is shown for a while after each that did not."""
CLOCK_DIFFERENCE_LIMIT_US: Final = 30 * 1_000_000
"""Between this server and PostgreSQL, whose time is that of entries and expiry."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """`blockers`: why the registry is not ready, one sentence each. `notes`: what else the operator has to know."""

    blockers: tuple[str, ...]
    notes: tuple[str, ...]


def frozen_refusal(database: Metadata, moved: str | None) -> Unavailable | None:
    """Return the error of all writes to data that is being moved or whose ledger is in doubt; None if they are accepted.

    Both are 503: a push succeeds after an operator has mended the ledger, or on the server with the moved data. `moved`: why
    clients have to push elsewhere, None if they need not.
    """
    if moved is not None:
        return DataMoved(moved)
    doubt = database.frozen
    return (
        None
        if doubt is None
        else LedgerFrozen(f"this registry is frozen: it serves pulls and refuses changes: {doubt}")
    )


async def readiness(
    database: Metadata,
    disk_reserve: DiskReserve,
    read_only: str | None,
    notes: tuple[str, ...],
    clock: Callable[[], int],
    write_wait_limit_s: float = WRITE_WAIT_LIMIT_S,
    *,
    upkeep: StoreUpkeep | None = None,
) -> Readiness:
    """Return the readiness now.

    `clock`: of this server. `read_only`: why writes are refused, None where they are not. `upkeep`: of a blob store on another
    machine. `write_wait_limit_s`: how long a write may wait.
    """
    blockers: list[str] = []
    found = list(notes)
    await _add_database(database, clock, blockers, found)
    if upkeep is not None and not is_outage(database.generation):  # it asks the database, too
        trouble = await upkeep.trouble()
        blockers += [] if trouble is None else [trouble]
    blockers += [doubt for name, doubt in database.doubts.items() if name.endswith(MARK)]
    oldest_wait_s = database.write_queue.oldest_wait_s
    if oldest_wait_s > write_wait_limit_s:
        blockers.append(
            f"the oldest write has waited for {oldest_wait_s:.0f} seconds (limit: {write_wait_limit_s:g}); see the log for "
            "writes that took too long"
        )
    if database.frozen is not None and database.closed is None:  # a registry that is moved serves its pulls
        blockers.append(f"the ledger is in doubt, so pushes and deletes are refused: {database.frozen}")
    elif read_only is not None:
        found.append(read_only)
    found += _full_disks(database, disk_reserve)
    return Readiness(tuple(dict.fromkeys(blockers)), tuple(dict.fromkeys(found)))


async def _add_database(database: Metadata, clock: Callable[[], int], blockers: list[str], found: list[str]) -> None:
    """Add what is wrong with the database or its time."""
    try:
        if is_outage(database.generation):
            raise Unavailable("the database does not answer")
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            head, database_us = await database.read(lambda snapshot: (ledger_store.head(snapshot), snapshot.began_us))
        now_us = clock() if database_us is None else database_us
        blockers += _clock_difference(clock(), database_us)
        if head is not None:
            check_clock(head.last_time_us, now_us)
        clock_doubt = database.clock_guard(now_us)
        if clock_doubt is not None:
            blockers.append(clock_doubt)
    except TimeoutError:
        _add_outage(database, f"the database has not answered for {DATABASE_TIMEOUT_S:g} seconds", blockers, found)
    except Unavailable as error:
        _add_outage(database, error.message, blockers, found)
    except BoltsealError as error:
        blockers.append(error.message)


def _add_outage(database: Metadata, reason: str, blockers: list[str], notes: list[str]) -> None:
    """Add that the database does not answer: a note as long as sealed content is served without it, then a blocker."""
    stale = database.generation.stale()
    if stale is None or not stale.left_s:
        blockers.append(reason)
    else:
        notes.append(
            f"{reason}: for {stale.left_s:.0f} more seconds this server serves sealed tags and blobs that it has in memory to "
            "clients whose rights do not depend on the database; everything else is refused (503)"
        )


def _full_disks(database: Metadata, disk_reserve: DiskReserve) -> Iterator[str]:
    """Yield which disk has no space for pushes: that of the database, this server's."""
    if database.no_space_at_s is not None and (ago_s := time.monotonic() - database.no_space_at_s) < NO_SPACE_SHOWN_S:
        yield (
            f"the disk of the registry's database is full: a push or change was refused {ago_s:.0f} seconds ago; free some space"
        )
    try:
        disk_reserve.check(0)
    except BoltsealError as error:
        yield error.message


def _clock_difference(now_us: int, database_us: int | None) -> list[str]:
    """Return why times of this server and of the database do not fit together, if so."""
    difference_us = 0 if database_us is None else now_us - database_us
    if abs(difference_us) <= CLOCK_DIFFERENCE_LIMIT_US:
        return []
    return [
        f"the clock of this server differs from the database's by {difference_us / 1_000_000:+.0f} seconds (limit: "
        f"{CLOCK_DIFFERENCE_LIMIT_US // 1_000_000}): correct it"
    ]
