"""Running totals of what each user's pushes added, corrected by every transaction that adds or removes a row.

    size          bytes of the blobs and manifests that the user's pushes added, counted in every repository: a blob that
                  is mounted or pushed to a second repository counts twice; a hidden blob (`hidden_blobs`) does not count
    repositories  those that the user's pushes created; repositories are never removed, so this never decreases

Rows of data format 1 count for no user, except manifests, which always recorded who pushed them. `policy.quotas` limits the
totals; `admin fsck` checks that they are the sums of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import bindparam, func, insert, inspect, select, union_all, update
from sqlalchemy import literal as value

from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import blob, manifest, repository, usage


class BlobTotals(NamedTuple):
    """`blobs`: stored blobs, each once. `repository_bytes`: a blob of two repositories counts twice."""

    blobs: int
    repository_bytes: int


class UserUsage(NamedTuple):
    """Bytes added and repositories created by the pushes of a user."""

    size_bytes: int = 0
    repositories: int = 0


_HELD = select(usage.c.size, usage.c.repositories).where(usage.c.holder == bindparam("by"))
_ADD = (
    update(usage)
    .where(usage.c.holder == bindparam("by"))
    .values(size=usage.c.size + bindparam("more"), repositories=usage.c.repositories + bindparam("made"))
)


def blob_totals(snapshot: Snapshot) -> BlobTotals:
    """Return the totals of all blobs. Reads all rows; the bytes of each once would need a sort, which takes much longer."""
    count = select(func.count(blob.c.digest.distinct()))
    size = select(func.coalesce(func.sum(blob.c.size), 0))
    connection = snapshot.sql.connection
    return BlobTotals(int(connection.execute(count).scalar_one()), int(connection.execute(size).scalar_one()))


def total_of(snapshot: Snapshot, user: str) -> UserUsage:
    """Return the running total of a user."""
    row = snapshot.sql.connection.execute(_HELD, {"by": user}).one_or_none()
    return UserUsage() if row is None else UserUsage(*row)


def add(tx: UnitOfWork, user: str | None, size_bytes: int, repositories: int = 0) -> None:
    """Add to a user's total, or subtract with negative numbers. None: no user."""
    if user is None:
        return
    more = {"by": user, "more": size_bytes, "made": repositories}
    if not tx.sql.connection.execute(_ADD, more).rowcount:
        tx.sql.connection.execute(insert(usage).values(holder=user, size=size_bytes, repositories=repositories))


def sums_of_rows(snapshot: Snapshot) -> dict[str, UserUsage]:
    """Return what the totals must be. Reads all rows."""
    blobs = select(blob.c.added_by.label("by"), func.sum(blob.c.size).label("size"), value(0).label("made"))
    columns = {each["name"] for each in inspect(snapshot.sql.connection).get_columns(blob.name)}
    if blob.c.hidden_us.name in columns:  # a check also reads data of before format 11, where no blob is hidden
        blobs = blobs.where(blob.c.hidden_us.is_(None))
    manifests = select(manifest.c.pushed_by, func.sum(manifest.c.size), value(0))
    made = select(repository.c.created_by, value(0), func.count())
    every = union_all(
        blobs.group_by(blob.c.added_by),
        manifests.group_by(manifest.c.pushed_by),
        made.group_by(repository.c.created_by),
    ).subquery()
    sums = select(every.c.by, func.sum(every.c.size), func.sum(every.c.made)).where(every.c.by.is_not(None))
    return {
        by: UserUsage(int(size), int(count))
        for by, size, count in snapshot.sql.connection.execute(sums.group_by(every.c.by)).all()
    }


def wrong_totals(snapshot: Snapshot) -> dict[str, tuple[UserUsage, UserUsage]]:
    """Return the users whose total is not the sum of the rows, as (total, sum of the rows)."""
    recorded = {
        row.holder: UserUsage(row.size, row.repositories)
        for row in snapshot.sql.connection.execute(select(usage)).all()
    }
    must = sums_of_rows(snapshot)
    pairs = {
        user: (recorded.get(user, UserUsage()), must.get(user, UserUsage())) for user in recorded.keys() | must.keys()
    }
    return {user: (total, rows) for user, (total, rows) in sorted(pairs.items()) if total != rows}


def correct_totals(tx: UnitOfWork, wrong: Mapping[str, tuple[UserUsage, UserUsage]]) -> None:
    """Add to every total what it lacks, as `wrong_totals` found it in a snapshot.

    A difference stays the same while others write, since each transaction changes rows and total by the same amount. So the
    sums, for which all rows are read, are not part of the transaction. The caller holds the lease of corrections from the
    snapshot to the commit.
    """
    for user, (total, rows) in wrong.items():
        add(tx, user, rows.size_bytes - total.size_bytes, rows.repositories - total.repositories)
