"""Garbage collection: delete unreferenced blobs, unreferenced manifest bytes and abandoned upload sessions.

`collect` reads a queue (`metadata.blob_reviews`), which deletes and uploads fill. So it costs what has changed, however much is
stored. Deleted are

- a repository's row of a blob to which no manifest of the repository refers, a day after it was pushed or mounted, or after
  the last such manifest was deleted. What the mirror fetched is left to its retention;
- the bytes of a blob that no row of any repository refers to, if they were stored more than 24 hours ago and the last such
  row was removed more than an hour ago: a push between its bytes and its row, and a pull that has begun, are not affected;
- upload sessions that were not written to for 24 hours, and rows of sessions whose bytes are gone;
- the bytes of blobs that a purge left because its process ended, or the store failed: at once.

`full_collection` compares everything with everything instead, and so finds what is in no queue.

Each review is decided again in the transaction that removes the row. Bytes are deleted after a transaction, outside every other one:
it changes the time of the last removal (`unreferenced.release_again`), so that an upload which stored the same bytes before
gets no row for them; and `BlobMaintenance.delete` deletes only the bytes that were looked at. A dry run only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
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
from boltseal.server.storage.metadata import blob_reviews, queries, unreferenced, upload_table, usage
from boltseal.server.storage.metadata.blob_reviews import BYTES, RELEASED_FOR_US, DueReview, Review
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.upload_table import UploadRow

Row = TypeVar("Row")

UNNAMED_FOR_US: Final = 24 * 3600 * 1_000_000
ABANDONED_FOR_US: Final = upload_table.KEPT_FOR_US
NOTED_FOR_US: Final = 30 * 24 * 3600 * 1_000_000
"""How long it is known when the last row of deleted bytes was removed: an upload that was stopped before its row gets none."""
WITHOUT_BYTES_FOR_US: Final = 3600 * 1_000_000
TOTALS_LEASE: Final = "totals"
BATCH: Final = 32
REVIEWS_AT_ONCE: Final = 500
ROWS_AT_ONCE: Final = 500
"""Rows that one transaction removes: all other writes wait for it."""
BLOB_ROWS_AT_ONCE: Final = 50
"""Rows of blobs that one transaction removes: each takes several statements."""
_END_OF_TIME_US: Final = 2**63 - 1
UNUSED: Final = "no image of the repository needs it"


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing that goes, or would go. `what`: "blob", "repository-blob", "manifest", "upload" or "object".

    A repository-blob is the row of a repository; the bytes are another item, when no repository has a row any more.
    """

    what: str
    name: str
    size_bytes: int
    reason: str

    @property
    def freed_bytes(self) -> int:
        """How many bytes the store has less without it."""
        return 0 if self.what == "repository-blob" else self.size_bytes


def collect(
    database: Metadata, blobs: BlobMaintenance, uploads: UploadCleanup, now_us: int, *, dry_run: bool
) -> Iterator[GarbageItem]:
    """Delete what is due, and yield each item as it is deleted; with `dry_run` only yield it. Blocks.

    Raises: StoreBroken, Unavailable: after the items that were deleted; the rest is left for the next run.
    """
    yield from collect_reviewed(database, blobs, now_us, dry_run=dry_run)
    if not dry_run:
        yield from finish_purges(database, blobs)
    yield from collect_uploads(database, uploads, now_us, dry_run=dry_run)


def collect_reviewed(
    database: Metadata, blobs: BlobMaintenance, now_us: int, *, dry_run: bool = False
) -> Iterator[GarbageItem]:
    """Do the reviews that are due, as a running server does. Blocks."""
    after: Review | None = None
    while due := database.read_and_wait(partial(blob_reviews.due, now_us=now_us, after=after, limit=REVIEWS_AT_ONCE)):
        after = due[-1].review
        of_rows = [each for each in due if each.review.repository_id != BYTES]
        of_bytes = [each for each in due if each.review.repository_id == BYTES and not each.is_needed]
        yield from _unused_rows(
            database, [each for each in of_rows if each.size is not None and not each.is_needed], dry_run=dry_run
        )
        yield from _unreferenced_bytes(database, blobs, of_bytes, now_us, dry_run=dry_run)
        if not dry_run:
            gone = (each for each in of_rows if each.size is None and not each.is_needed)
            done = [each.review for each in (*gone, *(each for each in due if each.is_needed))]
            _in_batches(database, done, _conclude)


def _conclude(tx: UnitOfWork, review: Review) -> None:
    """Remove a review of what is needed, or has no row any more."""
    if blob_reviews.take(tx, review) and review.repository_id == BYTES:
        unreferenced.forget_released(tx, review.digest, before_us=tx.now_us - RELEASED_FOR_US)


def _unused_rows(database: Metadata, unused: Iterable[DueReview], *, dry_run: bool) -> Iterator[GarbageItem]:
    """Remove the rows of blobs that their repositories do not need, if they still do not."""

    def job(tx: UnitOfWork, some: tuple[DueReview, ...]) -> list[DueReview]:
        removed = []
        for each in some:
            digest, repository_id, _ = each.review
            if blob_reviews.take(tx, each.review) and blob_reviews.is_unused(tx, repository_id, digest):
                queries.remove_blob(tx, repository_id, digest)
                removed.append(each)
        tx.invalidates_caches = bool(removed)
        return removed

    for some in batches(unused, BLOB_ROWS_AT_ONCE):
        gone = some if dry_run else database.write_and_wait(partial(job, some=some))
        for each in gone:
            yield GarbageItem("repository-blob", f"{each.repository}@{each.review.digest}", each.size or 0, UNUSED)


@dataclass(frozen=True, slots=True)
class Unreferenced:
    """The bytes of a blob that no row refers to. `stored` None: there are none. `ready_us`: from when on they may be deleted."""

    stored: StoredBlob | None
    ready_us: int
    reason: str


def unreferenced_bytes(snapshot: Snapshot, digest: str, stored: StoredBlob | None, now_us: int) -> Unreferenced:
    """Return what garbage collection does with the bytes of a blob to which no row refers."""
    since_us = unreferenced.released_since(snapshot, digest)
    if stored is None:  # the time of the release is compared by uploads that had begun before it
        return Unreferenced(None, 0 if since_us is None else since_us + NOTED_FOR_US, "")
    ready_us = stored.mtime_us + UNNAMED_FOR_US
    if since_us is None:
        return Unreferenced(
            stored,
            ready_us,
            f"no repository ever referred to it, and it was stored {_hours(now_us - stored.mtime_us)} ago",
        )
    return Unreferenced(
        stored,
        max(ready_us, since_us + RELEASED_FOR_US),
        f"no repository refers to it since {_hours(now_us - since_us)}",
    )


def _unreferenced_bytes(
    database: Metadata, blobs: BlobMaintenance, due: Iterable[DueReview], now_us: int, *, dry_run: bool
) -> Iterator[GarbageItem]:
    for some in batches(due, BATCH):
        stored = {each.review: _recorded(blobs, each.review.digest) for each in some}
        found = database.read_and_wait(partial(_decide, stored=stored, now_us=now_us))
        deletable = {each: why for each, why in found.items() if why.stored is not None and why.ready_us <= now_us}
        if dry_run:
            yield from items_of(deletable.values(), now_us)
            continue
        early = {each: why for each, why in found.items() if each not in deletable}
        if early:
            database.write_and_wait(partial(_postpone_or_forget, early=early, now_us=now_us))
        yield from _delete(database, blobs, deletable, now_us)


def _recorded(blobs: BlobMaintenance, digest: str) -> StoredBlob | None:
    try:
        return blobs.recorded(Digest.parse(digest))
    except Invalid:  # of a row that was written by hand; `fsck` reports it
        return None


def _decide(snapshot: Snapshot, stored: Mapping[Review, StoredBlob | None], now_us: int) -> dict[Review, Unreferenced]:
    return {each: unreferenced_bytes(snapshot, each.digest, found, now_us) for each, found in stored.items()}


def _postpone_or_forget(tx: UnitOfWork, early: Mapping[Review, Unreferenced], now_us: int) -> None:
    """Set reviews to the time at which the bytes may be deleted; where there are none, end them with the note of the release."""
    for review, each in early.items():
        if each.ready_us > now_us:
            blob_reviews.postpone(tx, review, each.ready_us)
        elif blob_reviews.take(tx, review):
            unreferenced.forget_released(tx, review.digest, before_us=each.ready_us - NOTED_FOR_US + 1)


def _delete(
    database: Metadata, blobs: BlobMaintenance, deletable: Mapping[Review, Unreferenced], now_us: int
) -> Iterator[GarbageItem]:
    """Delete bytes, and yield those that were not pushed again. The note of the release is kept for a while."""

    def still_unreferenced(tx: UnitOfWork) -> list[Review]:
        return [review for review in deletable if unreferenced.release_again(tx, review.digest)]

    def review_later(tx: UnitOfWork) -> None:
        for review in done:
            blob_reviews.postpone(tx, review, tx.now_us + UNNAMED_FOR_US)

    done: list[Review] = []
    if not deletable:
        return
    try:
        for review in database.write_and_wait(still_unreferenced):
            stored = deletable[review].stored
            deleted = stored is not None and blobs.delete(stored)
            done.append(review)
            if deleted:
                yield from items_of([deletable[review]], now_us)
    finally:
        if done:
            database.write_and_wait(review_later)


def items_of(found: Iterable[Unreferenced], now_us: int) -> Iterator[GarbageItem]:
    """Yield the items of bytes that are stored and may be deleted now."""
    for each in found:
        if each.stored is not None and each.ready_us <= now_us:
            yield GarbageItem("blob", str(each.stored.digest), each.stored.size, each.reason)


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


def _hours(time_us: int) -> str:
    return f"{time_us // 3_600_000_000} h"
