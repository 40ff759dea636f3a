"""Garbage collection: delete unreferenced blobs, unreferenced manifest bytes and abandoned upload sessions.

Deleted are

- the bytes of a blob that no row of any repository refers to, if they were stored more than 24 hours ago and the last such
  row was removed more than an hour ago: a push between its bytes and its row, and a pull that has begun, are not affected;
- manifest bytes that no repository refers to: they were added and removed together with rows, so no request needs them;
- upload sessions that were not written to for 24 hours, and rows of sessions whose bytes are gone;
- the bytes of blobs that a purge left because its process ended, or the store failed: at once.

`correct_usage` corrects the running totals of users where they are not the sums of the rows.

Which blobs are unreferenced is decided in a snapshot; the bytes are deleted after it, outside every transaction. That is
safe because a row for bytes that no row refers to is added only after the bytes were stored anew, and `BlobMaintenance.delete`
deletes only the bytes that were looked at. A dry run reads the same snapshots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from boltseal.errors import BoltsealError, Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.protocol import (
    BlobMaintenance,
    StoreBroken,
    StoredBlob,
    UploadCleanup,
    UploadId,
    UploadKey,
)
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.metadata import unreferenced, upload_table, usage
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.upload_table import UploadRow

Row = TypeVar("Row")

UNNAMED_FOR_US: Final = 24 * 3600 * 1_000_000
RELEASED_FOR_US: Final = 3600 * 1_000_000
ABANDONED_FOR_US: Final = upload_table.KEPT_FOR_US
WITHOUT_BYTES_FOR_US: Final = 3600 * 1_000_000
TOTALS_LEASE: Final = "totals"
BATCH: Final = 32
ROWS_AT_ONCE: Final = 500
"""Rows that one transaction removes: all other writes wait for it."""
_END_OF_TIME_US: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing that goes, or would go. `what`: "blob", "manifest" or "upload"."""

    what: str
    name: str
    size_bytes: int
    reason: str


def collect(
    database: Metadata, blobs: BlobMaintenance, uploads: UploadCleanup, now_us: int, *, dry_run: bool
) -> Iterator[GarbageItem]:
    """Delete unreferenced data, and yield each item as it is deleted; with `dry_run` only yield it. Blocks.

    Raises: StoreBroken, Unavailable: after the items that were deleted; the rest is left for the next run.
    """
    waiting = blobs.walk()
    while batch := list(islice(waiting, BATCH)):
        yield from _delete(
            database, blobs, database.read_and_wait(partial(_unreferenced, batch, now_us)), now_us, dry_run=dry_run
        )
    for some in batches(database.read_and_wait(unreferenced.unreferenced_contents), ROWS_AT_ONCE):
        unnamed = (
            some if dry_run else database.write_and_wait(partial(unreferenced.remove_unreferenced_contents, some=some))
        )
        yield from (
            GarbageItem("manifest", canonical, size, "no repository refers to it") for canonical, size in unnamed
        )
    if not dry_run:
        yield from finish_purges(database, blobs)
    yield from collect_uploads(database, uploads, now_us, dry_run=dry_run)
    if not dry_run:
        _forget_released(database, blobs, now_us)


def correct_usage(database: Metadata, leases: Leases) -> None:
    """Correct the running totals of users that are not the sums of the rows. Blocks.

    A correction is a difference, so it is right only once: the lease keeps another process from adding it too. While another
    process has it, nothing is done.
    """
    if not database.read_and_wait(usage.wrong_totals):
        return
    lease = leases.acquire(TOTALS_LEASE)
    if lease is None:
        return
    try:
        wrong = database.read_and_wait(
            usage.wrong_totals
        )  # again: another process may have corrected them before the lease
        if wrong:
            database.write_and_wait(partial(usage.correct_totals, wrong=wrong))
    finally:
        lease.release()


def collect_uploads(
    database: Metadata, uploads: UploadCleanup, now_us: int, *, dry_run: bool = False
) -> Iterator[GarbageItem]:
    """Delete abandoned upload sessions, as a running server does. Blocks."""
    older_than_us = now_us - ABANDONED_FOR_US
    for upload in uploads.abandoned(older_than_us):
        if dry_run or uploads.discard(upload, older_than_us):
            yield GarbageItem(
                "upload", upload.name, upload.size, f"not written to for {_hours(now_us - upload.mtime_us)}"
            )

    if not dry_run:
        _tidy_upload_rows(database, uploads, now_us)


def finish_purges(database: Metadata, blobs: BlobMaintenance) -> Iterator[GarbageItem]:
    """Delete the bytes that purges left, as a running server does, and yield each blob that is deleted. Blocks.

    A blob that the store fails to delete again is left for the next time.
    """
    for text in database.read_and_wait(unreferenced.purged):
        try:
            # In this order, as a purge does: an upload that stored the bytes before `release_again` gets no row for them.
            stored = blobs.look(Digest.parse(text))
            is_unreferenced = stored is not None and database.write_and_wait(
                partial(unreferenced.release_again, digest=text)
            )
            deleted = stored is not None and is_unreferenced and blobs.delete(stored)
        except (StoreBroken, Invalid):  # `fsck` reports a digest that cannot be parsed
            continue
        database.write_and_wait(partial(unreferenced.forget_purged, digests=[text]))
        if stored is not None and deleted:
            yield GarbageItem("blob", text, stored.size, "it was purged")


def _tidy_upload_rows(database: Metadata, uploads: UploadCleanup, now_us: int) -> None:
    """Extend the rows of sessions that are still written to, and remove those whose bytes are gone."""
    rows = database.read_and_wait(upload_table.all_uploads)
    if not rows:
        return
    written_us = {session.name: session.mtime_us for session in uploads.abandoned(_END_OF_TIME_US)}
    gone: list[UploadRow] = []
    extended: list[tuple[str, int]] = []
    for row in rows:
        last_us = written_us.get(_session_name(row))
        if last_us is not None and row.expires_us <= now_us:
            extended.append((row.id, last_us + ABANDONED_FOR_US))
        elif last_us is None and row.begun_us < now_us - WITHOUT_BYTES_FOR_US:
            gone.append(row)

    _in_batches(database, gone, upload_table.remove_abandoned)
    _in_batches(database, extended, lambda tx, row: upload_table.extend(tx, *row))


def _in_batches(database: Metadata, rows: Iterable[Row], change: Callable[[UnitOfWork, Row], None]) -> None:
    """Change some rows in each of several transactions."""

    def job(some: tuple[Row, ...], tx: UnitOfWork) -> None:
        for row in some:
            change(tx, row)

    for some in batches(rows, ROWS_AT_ONCE):
        database.write_and_wait(partial(job, some))


def _session_name(row: UploadRow) -> str:
    """Return the name of the session's bytes in the store; "" for a row that no session can have."""
    try:
        return UploadKey(Repository(row.repository), UploadId(row.id)).name
    except BoltsealError:
        return ""


def collect_released(database: Metadata, blobs: BlobMaintenance, now_us: int) -> int:
    """Delete the bytes of blobs whose last row was removed, without a walk over the store, as a running server does.

    Returns how many blobs were deleted. Blocks.
    """
    waiting = iter(database.read_and_wait(partial(unreferenced.released_before, before_us=now_us - RELEASED_FOR_US)))
    deleted = 0
    while batch := list(islice(waiting, BATCH)):
        stored = [found for digest in batch if (found := blobs.look(Digest.parse(digest))) is not None]
        deletable = database.read_and_wait(partial(_unreferenced, stored, now_us))
        deleted += sum(1 for _ in _delete(database, blobs, deletable, now_us, dry_run=False))
    return deleted


@dataclass(frozen=True, slots=True)
class _Unreferenced:
    """Bytes that may be deleted, and why."""

    stored: StoredBlob
    reason: str


def _unreferenced(batch: Iterable[StoredBlob], now_us: int, snapshot: Snapshot) -> list[_Unreferenced]:
    reasons = ((stored, _reason(snapshot, stored, now_us)) for stored in batch)
    return [_Unreferenced(stored, reason) for stored, reason in reasons if reason is not None]


def _delete(
    database: Metadata, blobs: BlobMaintenance, deletable: Iterable[_Unreferenced], now_us: int, *, dry_run: bool
) -> Iterator[GarbageItem]:
    deleted: list[str] = []
    try:
        for item in deletable:
            stored = item.stored
            if not dry_run:
                if not blobs.delete(stored):  # it was pushed again since
                    continue
                deleted.append(str(stored.digest))
            yield GarbageItem("blob", str(stored.digest), stored.size, item.reason)
    finally:
        if deleted:
            database.write_and_wait(
                partial(unreferenced.forget_released, digests=deleted, before_us=now_us - RELEASED_FOR_US)
            )


def _reason(snapshot: Snapshot, stored: StoredBlob, now_us: int) -> str | None:
    age_us = now_us - stored.mtime_us
    if age_us <= UNNAMED_FOR_US or unreferenced.is_blob_referenced(snapshot, str(stored.digest)):
        return None
    since = unreferenced.released_since(snapshot, str(stored.digest))
    if since is None:
        return f"no repository ever referred to it, and it was stored {_hours(age_us)} ago"
    if now_us - since <= RELEASED_FOR_US:
        return None
    return f"no repository refers to it since {_hours(now_us - since)}"


def _forget_released(database: Metadata, blobs: BlobMaintenance, now_us: int) -> None:
    """Remove the notes on blobs that have a row again, or whose bytes were deleted."""
    before_us = now_us - RELEASED_FOR_US
    old = database.read_and_wait(partial(unreferenced.released_before, before_us=before_us))
    absent = {digest for digest in old if blobs.look(Digest.parse(digest)) is None}
    for some in batches(old, ROWS_AT_ONCE):
        database.write_and_wait(partial(unreferenced.forget_released, digests=some, before_us=before_us, absent=absent))


def _hours(time_us: int) -> str:
    return f"{time_us // 3_600_000_000} h"
