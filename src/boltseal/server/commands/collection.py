"""Garbage collection of a running server in parts, for the admin API, and of a data folder, for `boltseal admin gc`.

A part ends after a number of items or seconds, and returns where the next one begins. So a request is short, any server of the
registry continues, and nothing is stored between requests: what is left to do is in the database. One process of a store works at a
time; the hourly cleanup takes the same lease. The stages, in this order:

    mirrored   images that the terms of their upstream no longer keep; a dry run continues after `number` items
    blobs      the due reviews of blobs (`storage.garbage_collection`), after `reviewed`
    purged     bytes that a purge left
    uploads    abandoned upload sessions; a dry run continues after `number` items
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

from boltseal.commands.collection import CollectedItem, CollectionProgress
from boltseal.errors import Unavailable
from boltseal.server.auth.actor import Actor
from boltseal.server.mirror.retention import retain
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.collection_part import FROM_THE_FIRST, Part, ReviewPosition
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.garbage_collection import (
    CLEANUP_LEASE,
    GarbageItem,
    collect_reviewed,
    collect_uploads,
    finish_purges,
)
from boltseal.server.storage.metadata import audit_table
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.worker_threads import finish_in_thread
from boltseal.server.store_factory import collect_store, refuse_collection

Stage = Literal["mirrored", "blobs", "purged", "uploads"]

_FOLLOWING: Final[dict[Stage, Stage | None]] = {
    "mirrored": "blobs",
    "blobs": "purged",
    "purged": "uploads",
    "uploads": None,
}


class CollectionRuns(Unavailable):
    """Another request or the hourly cleanup has the lease."""


@dataclass(frozen=True, slots=True)
class CollectionPosition:
    """Where a part begins: at a stage, and in it after `number` items, or after a review."""

    stage: Stage = "mirrored"
    number: int = 0
    reviewed: ReviewPosition = FROM_THE_FIRST


@dataclass(slots=True)
class CollectedPart:
    """What one part deleted, or would. `following`: where the next one begins; None: everything was done."""

    items: list[GarbageItem] = field(default_factory=list)
    following: CollectionPosition | None = None


class ServedCollection:
    """Collects in the store of a running server."""

    def __init__(self, store: OpenStore, leases: Leases, settings: Settings) -> None:
        self._store = store
        self._leases = leases
        self._settings = settings

    async def part(self, actor: Actor, start: CollectionPosition, limit: int, *, dry_run: bool) -> CollectedPart:
        """Delete about `limit` items; with `dry_run` only return them. Each part is recorded in the audit log before it deletes anything.

        Raises: CollectionRuns, StoreBroken, Unavailable, Full, RebuildUnfinished, LedgerFrozen, ClockStepped.
        """
        return await finish_in_thread(self._part, actor, start, limit, dry_run)

    def _part(self, actor: Actor, start: CollectionPosition, limit: int, dry_run: bool) -> CollectedPart:
        database = self._store.database
        now_us = database.now_us()
        if dry_run:
            return self._collect(start, now_us, limit, dry_run=True)
        refuse_collection(self._store, now_us)
        lease = self._leases.acquire(CLEANUP_LEASE)
        if lease is None:
            raise CollectionRuns(
                "garbage collection runs already, for another request or as the hourly cleanup; try again in a minute"
            )
        try:
            with fenced(database, lease):
                database.write_and_wait(lambda tx: audit_table.record(tx, actor.recorded, "gc.run", start.stage))
                return self._collect(start, now_us, limit, dry_run=False)
        finally:
            lease.release()

    def _collect(self, start: CollectionPosition, now_us: int, limit: int, *, dry_run: bool) -> CollectedPart:
        """Do the stages from a position on until the part ends.

        If the store fails after something was deleted, this returns the items until then, and the next part begins at the same stage.
        """
        part, done = Part(limit), CollectedPart()
        position: CollectionPosition | None = start
        while position is not None:
            try:
                for item in self._stage(position, now_us, part, dry_run=dry_run):
                    done.items.append(item)
                    part.count += 1
                    if _is_one_by_one(position.stage, dry_run=dry_run) and part.ends():
                        break
            except (StoreBroken, Unavailable):
                if dry_run or all(item.status == "failed" for item in done.items):
                    raise
                done.following = position
                return done
            if part.ended:
                done.following = _continued(position, part, len(done.items), dry_run=dry_run)
                return done
            following = _FOLLOWING[position.stage]
            position = None if following is None else CollectionPosition(following)
        return done

    def _stage(self, start: CollectionPosition, now_us: int, part: Part, *, dry_run: bool) -> Iterator[GarbageItem]:
        database, blobs = self._store.database, self._store.blobs
        passed = start.number if dry_run else 0
        match start.stage:
            case "mirrored":
                found = retain(database, self._settings.upstreams, now_us, dry_run=dry_run, part=part)
                return islice(found, passed, None)
            case "blobs":
                return collect_reviewed(
                    database, blobs.maintenance, now_us, dry_run=dry_run, start=start.reviewed, part=part
                )
            case "purged":
                return iter(()) if dry_run else finish_purges(database, blobs.maintenance)
            case "uploads":
                found = collect_uploads(database, blobs.upload_cleanup, now_us, dry_run=dry_run)
                return islice(found, passed, None)


def _is_one_by_one(stage: Stage, *, dry_run: bool) -> bool:
    """Return whether the work may stop after any item: everything that was done has been yielded."""
    return stage in ("purged", "uploads") or (dry_run and stage == "mirrored")


def _continued(start: CollectionPosition, part: Part, count: int, *, dry_run: bool) -> CollectionPosition:
    """Return where the next part begins. `count`: the items of this part, which only a dry run has to pass over again."""
    if start.stage == "blobs":
        return CollectionPosition("blobs", reviewed=part.reviewed)
    return CollectionPosition(start.stage, start.number + count if dry_run else 0)


class LocalCollection:
    """`GarbageCollection` of one data folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self, *, dry_run: bool, full: bool, progress: CollectionProgress) -> Iterator[CollectedItem]:
        """Collect in the data folder."""
        for each in collect_store(self._settings, dry_run=dry_run, full=full, progress=progress):
            yield CollectedItem(each.what, each.name, each.size_bytes, each.reason, each.status, each.freed_bytes)
