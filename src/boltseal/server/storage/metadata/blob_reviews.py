"""The queue of garbage collection: blobs that are looked at again from a time on. No rules.

The transactions that add a blob or remove what referred to it add a review, so that no collection has to go through all blobs:

    a repository got a blob (upload, mount)         review of the repository's blob a day later
    an image of a repository was deleted            review of the blobs that it refers to in the repository a day later
    a push through the push proxy began             review of its config and layers in the repository a day later
    a repository's unused blob was hidden           review of the repository's blob when it may be removed (`hidden_blobs`)
    it was removed                                  the review stays for a day, so that pushes that refer to it are refused
    the last repository lost a blob                 review of the bytes an hour later
    bytes were stored (object store), or stored
    without a repository's row (refused push)       review of the bytes a day later

A review is of one repository's row, or of the bytes (`BYTES` as repository). `garbage_collection` decides, and removes the review in
the transaction that decides, unless it was set to another time meanwhile. A blob has at most one review of each kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

BYTES: Final = 0
"""In place of a repository: the bytes of a blob, which belong to all repositories."""

UNUSED_FOR_US: Final = 24 * 3600 * 1_000_000
"""How long a repository keeps a blob that none of its manifests refers to, after the push, mount or delete that left it so."""

RELEASED_FOR_US: Final = 3600 * 1_000_000
"""How long bytes are kept after the last row that referred to them was removed: pulls that have begun read them."""


class Review(NamedTuple):
    """One review. `repository_id`: `BYTES`, or a repository. `due_us`: microseconds since the epoch."""

    digest: str
    repository_id: int
    due_us: int


class DueReview(NamedTuple):
    """A review that is due, with what the rows say now.

    `repository`, `size`: of the repository's row of the blob; None if there is none, and for `BYTES`. `hidden_us`: since when
    the blob is hidden from clients, None if it is not.
    `is_needed`: a manifest of the repository refers to the blob, or the mirror's retention decides about it; for `BYTES`, a
    repository has the blob.
    """

    review: Review
    repository: str | None
    size: int | None
    hidden_us: int | None
    is_needed: bool


class UnusedBlob(NamedTuple):
    """A blob that its repository does not need. `hidden_us`: since when it is hidden from clients, None if it is not."""

    hidden_us: int | None


class FailedReview(NamedTuple):
    """A blob whose bytes could not be deleted, and why."""

    digest: str
    problem: str


_BEFORE_ALL: Final = Review("", -1, -1)

_ADD: Final = """
INSERT INTO blob_review (digest, repository_id, due_us) VALUES (?, ?, ?)
ON CONFLICT (digest, repository_id) DO UPDATE SET due_us = excluded.due_us, removed_us = NULL, problem = NULL
"""
_ADD_PARTS: Final = """
INSERT INTO blob_review (digest, repository_id, due_us)
SELECT DISTINCT child, repository_id, CAST(? AS BIGINT) FROM link
WHERE repository_id = ? AND parent IN ({})
    AND EXISTS (SELECT 1 FROM blob WHERE blob.repository_id = link.repository_id AND blob.digest = link.child)
ON CONFLICT (digest, repository_id) DO UPDATE SET due_us = excluded.due_us, problem = NULL
"""
_ADD_RELEASED: Final = f"""
INSERT INTO blob_review (digest, repository_id, due_us)
SELECT digest, {BYTES}, released_us + {RELEASED_FOR_US} FROM released WHERE digest IN ({{}})
ON CONFLICT (digest, repository_id) DO UPDATE SET due_us = excluded.due_us, problem = NULL
"""  # noqa: S608 - constants
_ADD_FOUND: Final = f"""
INSERT INTO blob_review (digest, repository_id, due_us) VALUES (?, ?, ?)
ON CONFLICT (digest, repository_id) DO UPDATE SET due_us = excluded.due_us
WHERE blob_review.repository_id = {BYTES} AND blob_review.due_us > excluded.due_us
"""  # noqa: S608 - constants
_REMOVE: Final = "DELETE FROM blob_review WHERE digest = ? AND repository_id = ? AND due_us = ?"
_MOVE: Final = """
UPDATE blob_review SET due_us = ?, removed_us = ?, problem = ? WHERE digest = ? AND repository_id = ? AND due_us = ?
"""
_IS_KEPT: Final = f"""
(EXISTS (SELECT 1 FROM link WHERE link.repository_id = b.repository_id AND link.child = b.digest)
 OR (b.added_by IS NOT NULL AND SUBSTR(b.added_by, 1, {len(MIRROR_ACTOR)}) = '{MIRROR_ACTOR}'))
"""  # noqa: S608 - constants
_DUE: Final = f"""
SELECT v.digest, v.repository_id, v.due_us, r.name, b.size, b.hidden_us,
    CASE WHEN v.repository_id = {BYTES} THEN EXISTS (SELECT 1 FROM blob o WHERE o.digest = v.digest) ELSE {_IS_KEPT} END
FROM blob_review v LEFT JOIN blob b ON b.repository_id = v.repository_id AND b.digest = v.digest
LEFT JOIN repository r ON r.id = b.repository_id
WHERE v.due_us <= ? AND (v.due_us, v.digest, v.repository_id) > (?, ?, ?) AND v.problem IS {{}}
ORDER BY v.due_us, v.digest, v.repository_id LIMIT ?
"""  # noqa: S608 - constants
_UNUSED: Final = f"""
SELECT b.hidden_us FROM blob b WHERE b.repository_id = ? AND b.digest = ? AND NOT {_IS_KEPT}
"""  # noqa: S608 - constants
_FAILED: Final = "SELECT digest, problem FROM blob_review WHERE problem IS NOT NULL ORDER BY digest"
_COUNT_FAILED: Final = "SELECT count(*) FROM blob_review WHERE problem IS NOT NULL"
_BLOBS_AFTER: Final = f"""
SELECT b.repository_id, b.digest, b.size, r.name,
    b.added_us < ? AND NOT {_IS_KEPT} AND NOT EXISTS (
        SELECT 1 FROM blob_review v WHERE v.digest = b.digest AND v.repository_id = b.repository_id AND v.due_us > ?)
FROM blob b JOIN repository r ON r.id = b.repository_id
WHERE (b.repository_id, b.digest) > (?, ?) ORDER BY b.repository_id, b.digest LIMIT ?
"""  # noqa: S608 - constants


class RepositoryBlob(NamedTuple):
    """A blob of a repository. `is_unused`: the repository does not need it, and its review is due or missing."""

    repository_id: int
    digest: str
    size: int
    repository: str
    is_unused: bool


def add(tx: UnitOfWork, digest: str, repository_id: int, after_us: int) -> None:
    """Review a blob so long after now, and not at the time that was wanted before: bytes that came back are not those of then."""
    tx.sql.plain(_ADD, (digest, repository_id, tx.now_us + after_us))


def add_parts(tx: UnitOfWork, repository_id: int, manifests: Sequence[str]) -> None:
    """Review the blobs to which manifests refer, whose links are about to be removed. At most `batches.IN_AT_ONCE` manifests."""
    statement = _ADD_PARTS.format(", ".join("?" * len(manifests)))
    tx.sql.plain(statement, (tx.now_us + UNUSED_FOR_US, repository_id, *manifests))


def add_released(tx: UnitOfWork, digests: Sequence[str]) -> None:
    """Review the bytes of blobs whose last row was just removed. At most `batches.IN_AT_ONCE` blobs."""
    tx.sql.plain(_ADD_RELEASED.format(", ".join("?" * len(digests))), digests)


def add_found(tx: UnitOfWork, reviews: Iterable[Review]) -> None:
    """Add reviews that a comparison wants. Of a repository's blob a review that is there stays; of bytes the earlier one counts.

    A review of bytes that comes too early is postponed. One of a repository's blob removes it, so an image that was deleted
    since the comparison keeps its day.
    """
    for review in reviews:
        tx.sql.plain(_ADD_FOUND, review)


def take(tx: UnitOfWork, review: Review) -> bool:
    """Remove a review if its time was not changed meanwhile. Returns whether."""
    return tx.sql.plain(_REMOVE, review).rowcount == 1


def postpone(
    tx: UnitOfWork, review: Review, due_us: int, *, removed_us: int | None = None, problem: str | None = None
) -> bool:
    """Set a review to a later time, unless its time was changed meanwhile. Returns whether it was set.

    `removed_us`: when the repository lost the blob to garbage collection. `problem`: why the bytes could not be deleted.
    """
    return tx.sql.plain(_MOVE, (due_us, removed_us, problem, *review)).rowcount == 1


def due(snapshot: Snapshot, now_us: int, after: Review | None, limit: int, *, failed: bool) -> list[DueReview]:
    """Return some reviews that are due at a time, in order, those after `after`. `failed`: those that failed the last time."""
    last = after or _BEFORE_ALL
    values = (now_us, last.due_us, last.digest, last.repository_id, limit)
    rows = snapshot.sql.plain(_DUE.format("NOT NULL" if failed else "NULL"), values).fetchall()
    return [DueReview(Review(*row[:3]), row[3], row[4], row[5], bool(row[6])) for row in rows]


def find_unused(snapshot: Snapshot, repository_id: int, digest: str) -> UnusedBlob | None:
    """Return a blob of a repository to which no manifest of it refers, and that no retention decides about; None for others."""
    row = snapshot.sql.plain(_UNUSED, (repository_id, digest)).fetchone()
    return None if row is None else UnusedBlob(row[0])


def failed(snapshot: Snapshot) -> list[FailedReview]:
    """Return the blobs whose bytes could not be deleted the last time, in order."""
    return [FailedReview(*row) for row in snapshot.sql.plain(_FAILED).fetchall()]


def count_failed(snapshot: Snapshot) -> int:
    """Return how many blobs `failed` returns."""
    return int(snapshot.sql.plain(_COUNT_FAILED).fetchone()[0])


def blobs_after(snapshot: Snapshot, after: tuple[int, str], now_us: int, limit: int) -> list[RepositoryBlob]:
    """Return some blobs of all repositories, those after a key: for a full collection."""
    values = (now_us - UNUSED_FOR_US, now_us, *after, limit)
    rows = snapshot.sql.plain(_BLOBS_AFTER, values).fetchall()
    return [RepositoryBlob(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows]
