"""Takes away what nothing needs: bytes that no repository names, and uploads that nobody goes on with.

What goes, and when:

- the bytes of a blob that no row of any repository names, when they were stored more than 24 hours ago and the last row
  that named them went more than an hour ago: a push between its bytes and its row, and a pull that has begun, are safe;
- manifest bytes that no repository names: they came and went with their rows, so nobody can be about to need them;
- an upload session that nobody wrote to for 24 hours.

The running totals of users are counted again where they are not the sums of the rows.

Each decision is made inside a write transaction, which no push can commit beside: what is unlinked has no row and can't
get one meanwhile (`server.registry.uploads` asks for the bytes in the transaction that writes the row). Few per transaction, so
pushes do not wait. A dry run decides the same in a read transaction, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, exists, func, select

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.server.storage.metadata import queries, usage
from boltseal.server.storage.metadata.database import Transaction
from boltseal.server.storage.metadata.schema import content, manifest, released

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boltseal.server.storage.blobs.protocol import BlobStore, StoredBlob
    from boltseal.server.storage.metadata.database import Database

UNNAMED_FOR_US: Final = 24 * 3600 * 1_000_000
RELEASED_FOR_US: Final = 3600 * 1_000_000
ABANDONED_FOR_US: Final = 24 * 3600 * 1_000_000
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing that goes, or would go. `what`: "blob", "manifest" or "upload"."""

    what: str
    name: str
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Done:
    """What one transaction took away, and what kept it from going on."""

    items: list[GarbageItem]
    stopped_by: BoltsealError | None = None


Job = Callable[[Transaction], _Done]


def collect(database: Database, blobs: BlobStore, now_us: int, *, dry_run: bool) -> Iterator[GarbageItem]:
    """Take away, one by one, what nothing needs; with `dry_run` only say what would go.

    What went was given out before an error (StoreBroken, Unavailable) is raised; the rest stays for the next time.
    """

    def run(job: Job) -> Iterator[GarbageItem]:
        if dry_run:
            done = database.read_and_wait(lambda connection: job(Transaction(connection, now_us)))
        else:
            done = database.write_and_wait(job)
        yield from done.items
        if done.stopped_by is not None:
            raise done.stopped_by

    waiting = blobs.walk()
    while batch := list(islice(waiting, BATCH)):
        yield from run(_blobs(blobs, batch, now_us, dry_run=dry_run))
    yield from run(_manifests(dry_run=dry_run))
    yield from collect_uploads(blobs, now_us, dry_run=dry_run)
    if not dry_run:
        database.write_and_wait(_forget_released(blobs, now_us))
        if database.read_and_wait(usage.wrong):
            database.write_and_wait(usage.mend)


def collect_uploads(blobs: BlobStore, now_us: int, *, dry_run: bool = False) -> Iterator[GarbageItem]:
    """Only the abandoned uploads; what a running server does by itself."""
    older_than_us = now_us - ABANDONED_FOR_US
    for upload in blobs.abandoned(older_than_us):
        if dry_run or blobs.discard(upload, older_than_us):
            yield GarbageItem(
                "upload", upload.name, upload.size, f"nobody wrote to it for {_hours(now_us - upload.mtime_us)}"
            )


def collect_released(database: Database, blobs: BlobStore, now_us: int) -> int:
    """Only the bytes that rows named and none does any more, by the same rules and without a walk: for a running server.

    How many blobs went.
    """

    def job(some: list[str], tx: Transaction) -> int:
        gone = 0
        for digest in some:
            since = queries.released_since(tx, digest)
            if since is None or now_us - since <= RELEASED_FOR_US or queries.blob_named(tx, digest):
                continue
            if blobs.remove(Digest.parse(digest), now_us - UNNAMED_FOR_US):
                tx.connection.execute(delete(released).where(released.c.digest == digest))
                gone += 1
        return gone

    waiting = iter(
        database.read_and_wait(lambda connection: queries.released_before(connection, now_us - RELEASED_FOR_US))
    )
    gone = 0
    while batch := list(islice(waiting, BATCH)):
        gone += database.write_and_wait(partial(job, batch))
    return gone


def _blobs(blobs: BlobStore, batch: list[StoredBlob], now_us: int, *, dry_run: bool) -> Job:
    def job(tx: Transaction) -> _Done:
        items: list[GarbageItem] = []
        for stored in batch:
            reason = _reason(tx, stored, now_us)
            if reason is None:
                continue
            if not dry_run:
                try:
                    # The file's time is looked at again: it may have been pushed anew since the walk met it.
                    if not blobs.remove(stored.digest, now_us - UNNAMED_FOR_US):
                        continue
                except BoltsealError as error:
                    return _Done(items, error)
                tx.connection.execute(delete(released).where(released.c.digest == str(stored.digest)))
            items.append(GarbageItem("blob", str(stored.digest), stored.size, reason))
        return _Done(items)

    return job


def _reason(tx: Transaction, stored: StoredBlob, now_us: int) -> str | None:
    age_us = now_us - stored.mtime_us
    if age_us <= UNNAMED_FOR_US or queries.blob_named(tx, str(stored.digest)):
        return None
    since = queries.released_since(tx, str(stored.digest))
    if since is None:
        return f"no repository ever named it, and it was stored {_hours(age_us)} ago"
    if now_us - since <= RELEASED_FOR_US:
        return None
    return f"no repository names it since {_hours(now_us - since)}"


def _manifests(*, dry_run: bool) -> Job:
    unnamed = ~exists().where(manifest.c.canonical == content.c.canonical)

    def job(tx: Transaction) -> _Done:
        found = tx.connection.execute(
            select(content.c.canonical, func.length(content.c.raw)).where(unnamed).order_by(content.c.canonical)
        ).all()
        if found and not dry_run:
            tx.connection.execute(delete(content).where(unnamed))
        return _Done([GarbageItem("manifest", canonical, size, "no repository names it") for canonical, size in found])

    return job


def _forget_released(blobs: BlobStore, now_us: int) -> Callable[[Transaction], None]:
    """Notes on blobs that are named again, or whose bytes are long gone, serve nobody any more."""

    def job(tx: Transaction) -> None:
        old = select(released.c.digest).where(released.c.released_us < now_us - RELEASED_FOR_US)
        for digest in tx.connection.execute(old).scalars().all():
            if queries.blob_named(tx, digest) or not blobs.present(Digest.parse(digest)):
                tx.connection.execute(delete(released).where(released.c.digest == digest))

    return job


def _hours(time_us: int) -> str:
    return f"{time_us // 3_600_000_000} h"
