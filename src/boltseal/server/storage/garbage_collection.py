"""Garbage collection: delete unreferenced blobs, unreferenced manifest bytes and abandoned upload sessions.

`collect` reads a queue (`metadata.blob_reviews`), which deletes and uploads fill. So it costs what has changed, however much is
stored. Deleted are

- a repository's row of a blob to which no manifest of the repository refers, a day after it was pushed or mounted, or after
  the last such manifest was deleted. It is hidden from clients first, and goes an hour later (`metadata.hidden_blobs`). What the
  mirror fetched is left to its retention;
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
from typing import Final, Literal, TypeVar

from boltseal.errors import BoltsealError, Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.concurrent_deletions import delete_at_once
from boltseal.server.storage.blobs.protocol import (
    BlobMaintenance,
    StoreBroken,
    StoredBlob,
    UploadCleanup,
    UploadId,
    UploadKey,
)
from boltseal.server.storage.bucket_owner import refuse_rebuilding
from boltseal.server.storage.collection_part import FROM_THE_FIRST, Part, ReviewPosition
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.metadata import (
    blob_reviews,
    hidden_blobs,
    queries,
    unreferenced,
    upload_table,
    usage,
)
from boltseal.server.storage.metadata.blob_reviews import BYTES, RELEASED_FOR_US, UNUSED_FOR_US, DueReview, Review
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.hidden_blobs import HIDDEN_FOR_US
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.upload_table import UploadRow

Row = TypeVar("Row")

UNNAMED_FOR_US: Final = 24 * 3600 * 1_000_000
ABANDONED_FOR_US: Final = upload_table.KEPT_FOR_US
NOTED_FOR_US: Final = 30 * 24 * 3600 * 1_000_000
"""How long it is known when the last row of deleted bytes was removed: an upload that was stopped before its row gets none."""
WITHOUT_BYTES_FOR_US: Final = 3600 * 1_000_000
TOTALS_LEASE: Final = "totals"
CLEANUP_LEASE: Final = "tidy-up"
"""Held by the one process of a store that collects garbage: for the hourly cleanup, or for a request to the admin API."""
BATCH: Final = 32
REVIEWS_AT_ONCE: Final = 500
ROWS_AT_ONCE: Final = 500
"""Rows that one transaction removes: all other writes wait for it."""
BLOB_ROWS_AT_ONCE: Final = 50
"""Rows of blobs that one transaction removes: each takes several statements."""
_END_OF_TIME_US: Final = 2**63 - 1
RETRIED_AFTER_US: Final = 3600 * 1_000_000
"""How long after a failure of the store a blob is tried again."""
FAILURES_IN_A_ROW: Final = 10
"""After so many failures in a row the store counts as broken, and the run ends."""
UNUSED: Final = "no image of the repository needs it"
HIDDEN: Final = f"{UNUSED}; it is hidden from clients for an hour before it goes"
REPOSITORY_BLOB: Final = "repository-blob"
HIDDEN_BLOB: Final = "hidden-blob"
KEPT: Final = "kept"
FAILED: Final = "failed"
_OTHER_STATUS: Final[Mapping[str, Literal["hidden", "kept", "failed"]]] = {
    HIDDEN_BLOB: "hidden",
    KEPT: "kept",
    FAILED: "failed",
}
"""The status of items that are not removed."""


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """One thing that goes, or would go. `what`: "blob", "manifest", "upload", "object", or

    - `REPOSITORY_BLOB`: the row of a repository; the bytes are another item, when no repository has a row any more;
    - `HIDDEN_BLOB`: the same row, an hour before it goes, when it is hidden from clients;
    - `KEPT`: a mirrored image that stays only because a host runs it, in a dry run;
    - `FAILED`: bytes that the store could not look at or delete, with the reason; they are tried again.
    """

    what: str
    name: str
    size_bytes: int
    reason: str

    @property
    def freed_bytes(self) -> int:
        """How many bytes the store has less without it."""
        return 0 if self.what in (REPOSITORY_BLOB, HIDDEN_BLOB) else self.size_bytes

    @property
    def status(self) -> Literal["removed", "hidden", "kept", "failed"]:
        """What is done with it, or would be."""
        return _OTHER_STATUS.get(self.what, "removed")


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
    database: Metadata,
    blobs: BlobMaintenance,
    now_us: int,
    *,
    dry_run: bool = False,
    start: ReviewPosition = FROM_THE_FIRST,
    part: Part | None = None,
) -> Iterator[GarbageItem]:
    """Do the reviews that are due; those that failed the last time come last. Blocks.

    A blob that the store can't look at or delete is an item with the reason, and is tried again an hour later.
    `start`: the review after which to begin. `part`: return when it ends, and set its `reviewed`; None: do all reviews.

    Raises: StoreBroken: the store failed for `FAILURES_IN_A_ROW` blobs. Unavailable. The rest is left for the next run.
    """
    for failed in (False, True)[start.failed :]:
        after = start.after if failed == start.failed else None
        failures = _Failures()
        page = partial(blob_reviews.due, now_us=now_us, limit=REVIEWS_AT_ONCE, failed=failed)
        while due := database.read_and_wait(partial(page, after=after)):
            after = due[-1].review
            of_rows = [each for each in due if each.review.repository_id != BYTES]
            of_bytes = [each for each in due if each.review.repository_id == BYTES and not each.is_needed]
            unused = [each for each in of_rows if each.size is not None and not each.is_needed]
            yield from _unused_rows(database, unused, now_us, dry_run=dry_run)
            yield from _unreferenced_bytes(database, blobs, of_bytes, now_us, failures, dry_run=dry_run)
            if not dry_run:
                gone = (each for each in of_rows if each.size is None and not each.is_needed)
                _in_batches(database, (*gone, *(each for each in due if each.is_needed)), _conclude)
            if part is not None and part.ends():
                part.reviewed = ReviewPosition(failed, after)
                return


def _conclude(tx: UnitOfWork, each: DueReview) -> None:
    """Remove a review of what is needed, or has no row any more."""
    review = each.review
    if not blob_reviews.take(tx, review):
        return
    if review.repository_id == BYTES:
        unreferenced.forget_released(tx, review.digest, before_us=tx.now_us - RELEASED_FOR_US)
    elif each.hidden_us is not None:  # a server of an earlier version took the manifest that refers to it
        hidden_blobs.keep(tx, review.repository_id, [review.digest])


def _unused_rows(
    database: Metadata, unused: Iterable[DueReview], now_us: int, *, dry_run: bool
) -> Iterator[GarbageItem]:
    """Hide the blobs that their repositories do not need, and remove the rows of those that were hidden long enough."""

    def job(tx: UnitOfWork, some: tuple[DueReview, ...]) -> list[GarbageItem]:
        refuse_rebuilding(tx)  # the manifests that refer to them may not be there yet
        items = (_unused_row(tx, each) for each in some)
        return [item for item in items if item is not None]

    for some in batches(unused, BLOB_ROWS_AT_ONCE):
        if dry_run:
            new = (each for each in some if each.hidden_us is None or _may_go(each.hidden_us, now_us))
            yield from (_item_of_row(each, removable=each.hidden_us is not None) for each in new)
        else:
            yield from database.write_and_wait(partial(job, some=some))


def _unused_row(tx: UnitOfWork, each: DueReview) -> GarbageItem | None:
    """Hide one blob or remove its row, if its repository still does not need it. Returns what was done."""
    digest, repository_id, _ = each.review
    found = blob_reviews.find_unused(tx, repository_id, digest)
    if found is None:
        blob_reviews.take(tx, each.review)
        return None
    removable = _may_go(found.hidden_us, tx.now_us)
    hidden_us = tx.now_us if found.hidden_us is None else found.hidden_us
    due_us = tx.now_us + UNUSED_FOR_US if removable else hidden_us + HIDDEN_FOR_US
    if not blob_reviews.postpone(tx, each.review, due_us, removed_us=tx.now_us if removable else None):
        return None
    if removable:
        queries.remove_blob(tx, repository_id, digest)
        tx.invalidates_caches = True
    elif found.hidden_us is None:
        hidden_blobs.hide(tx, repository_id, digest)
    else:
        return None
    return _item_of_row(each, removable=removable)


def _may_go(hidden_us: int | None, now_us: int) -> bool:
    return hidden_us is not None and hidden_us + HIDDEN_FOR_US <= now_us


def _item_of_row(each: DueReview, *, removable: bool) -> GarbageItem:
    name = f"{each.repository}@{each.review.digest}"
    if removable:
        return GarbageItem(REPOSITORY_BLOB, name, each.size or 0, UNUSED)
    return GarbageItem(HIDDEN_BLOB, name, each.size or 0, HIDDEN)


class _Failures:
    """Counts the failures of the store in a row: a store that does not answer fails for each blob."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def worked(self) -> None:
        """Count from 0 again."""
        self._in_a_row = 0

    def failed(self, error: StoreBroken) -> None:
        """Count one more. Raises the error if the run must end."""
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            raise error


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
        f"no repository has referred to it for {_hours(now_us - since_us)}",
    )


def _unreferenced_bytes(
    database: Metadata,
    blobs: BlobMaintenance,
    due: Iterable[DueReview],
    now_us: int,
    failures: _Failures,
    *,
    dry_run: bool,
) -> Iterator[GarbageItem]:
    for some in batches(due, BATCH):
        stored: dict[Review, StoredBlob | None] = {}
        for each in some:
            try:
                stored[each.review] = _recorded(blobs, each.review.digest)
            except StoreBroken as error:
                yield from _failed(database, each.review, error, failures, dry_run=dry_run)
        found = database.read_and_wait(partial(_decide, stored=stored, now_us=now_us))
        deletable = {each: why for each, why in found.items() if why.stored is not None and why.ready_us <= now_us}
        if dry_run:
            yield from items_of(deletable.values(), now_us)
            continue
        early = {each: why for each, why in found.items() if each not in deletable}
        if early:
            database.write_and_wait(partial(_postpone_or_forget, early=early, now_us=now_us))
        yield from _delete(database, blobs, deletable, now_us, failures)


def _failed(
    database: Metadata, review: Review, error: StoreBroken, failures: _Failures, *, dry_run: bool = False
) -> Iterator[GarbageItem]:
    """Postpone the review of bytes for which the store failed, with the reason. Raises: StoreBroken."""
    if not dry_run:
        database.write_and_wait(
            lambda tx: blob_reviews.postpone(tx, review, tx.now_us + RETRIED_AFTER_US, problem=error.message)
        )
    yield GarbageItem(FAILED, review.digest, 0, error.message)
    failures.failed(error)


def _recorded(blobs: BlobMaintenance, digest: str) -> StoredBlob | None:
    try:
        return blobs.look(Digest.parse(digest), by_row=True)
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
    database: Metadata,
    blobs: BlobMaintenance,
    deletable: Mapping[Review, Unreferenced],
    now_us: int,
    failures: _Failures,
) -> Iterator[GarbageItem]:
    """Delete bytes, some at once, and yield those that were not pushed again. The note of the release is kept for a while."""

    def still_unreferenced(tx: UnitOfWork) -> list[Review]:
        refuse_rebuilding(tx)  # repositories have no rows yet for blobs that are there
        return [review for review in deletable if unreferenced.release_again(tx, review.digest)]

    def review_later(tx: UnitOfWork) -> None:
        for review in done:
            blob_reviews.postpone(tx, review, tx.now_us + UNNAMED_FOR_US)

    done: list[Review] = []
    if not deletable:
        return
    try:
        bytes_of = {
            review: stored
            for review in database.write_and_wait(still_unreferenced)
            if (stored := deletable[review].stored) is not None
        }
        for some in batches(bytes_of, blobs.deleted_at_once):
            outcomes = dict(zip(some, delete_at_once(blobs, [bytes_of[each] for each in some]), strict=True))
            done += (review for review, outcome in outcomes.items() if not isinstance(outcome, StoreBroken))
            for review, outcome in outcomes.items():
                if isinstance(outcome, StoreBroken):
                    yield from _failed(database, review, outcome, failures)
                    continue
                failures.worked()
                if outcome:
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
        # Again: another process may have corrected them before the lease.
        wrong = database.read_and_wait(usage.wrong_totals)
        if wrong:
            with fenced(database, lease):
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
