"""Takes away what nothing needs: bytes that no repository names, and uploads that nobody goes on with.

What goes, and when:

- the bytes of a blob that no row of any repository names, when they were stored more than 24 hours ago and the last row
  that named them went more than an hour ago: a push between its bytes and its row, and a pull that has begun, are safe;
- an upload session that nobody wrote to for 24 hours.

Each decision is made inside a write transaction, which no push can commit beside: what is unlinked has no row and can't
get one meanwhile (`registry.uploads` asks for the bytes in the transaction that writes the row). Few per transaction, so
pushes do not wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select

from boltseal.storage import metadata
from boltseal.storage.schema import released

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from boltseal.storage.blobs import BlobStore, StoredBlob
    from boltseal.storage.database import Database, Transaction

UNNAMED_FOR_US: Final = 24 * 3600 * 1_000_000
RELEASED_FOR_US: Final = 3600 * 1_000_000
ABANDONED_FOR_US: Final = 24 * 3600 * 1_000_000
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that goes, or would go. `what`: "blob" or "upload"."""

    what: str
    name: str
    size_bytes: int
    reason: str


def collect(database: Database, blobs: BlobStore, now_us: int, *, dry_run: bool) -> Iterator[Item]:
    """Take away, one by one, what nothing needs; with `dry_run` only say what would go."""
    waiting = blobs.walk()
    while batch := list(islice(waiting, BATCH)):
        yield from database.write_and_wait(_batch(blobs, batch, now_us, dry_run=dry_run))
    yield from collect_uploads(blobs, now_us, dry_run=dry_run)


def collect_uploads(blobs: BlobStore, now_us: int, *, dry_run: bool = False) -> Iterator[Item]:
    """Only the abandoned uploads; what a running server does by itself."""
    older_than_us = now_us - ABANDONED_FOR_US
    for upload in blobs.abandoned(older_than_us):
        if dry_run or blobs.discard(upload, older_than_us):
            yield Item("upload", upload.name, upload.size, f"nobody wrote to it for {_hours(now_us - upload.mtime_us)}")


def _batch(
    blobs: BlobStore, batch: list[StoredBlob], now_us: int, *, dry_run: bool
) -> Callable[[Transaction], list[Item]]:
    def job(tx: Transaction) -> list[Item]:
        gone = []
        for stored in batch:
            reason = _reason(tx, stored, now_us)
            if reason is None:
                continue
            gone.append(Item("blob", str(stored.digest), stored.size, reason))
            if not dry_run:
                blobs.remove(stored.digest)
                tx.connection.execute(delete(released).where(released.c.digest == str(stored.digest)))
        return gone

    return job


def _reason(tx: Transaction, stored: StoredBlob, now_us: int) -> str | None:
    age_us = now_us - stored.mtime_us
    if age_us < UNNAMED_FOR_US or metadata.blob_named(tx, str(stored.digest)):
        return None
    since = tx.connection.execute(
        select(released.c.released_us).where(released.c.digest == str(stored.digest))
    ).scalar_one_or_none()
    if since is None:
        return f"no repository ever named it, and it was stored {_hours(age_us)} ago"
    if now_us - since < RELEASED_FOR_US:
        return None
    return f"no repository names it since {_hours(now_us - since)}"


def _hours(time_us: int) -> str:
    return f"{time_us // 3_600_000_000} h"
