"""What each user holds, as running totals, kept by the transactions that add and take away.

    size          bytes of the blobs and manifests that the user's pushes added to repositories, in every repository of
                  its own: a blob that is mounted or pushed to a second repository counts there again
    repositories  those that the user's pushes made; their names stay, so this never goes down

What was there before this was written down (data format 1) counts for nobody, save manifests, which always said who
pushed them. What may be held is `policy.quotas`; that the totals are the sums of the rows is looked at by `fsck`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, union_all, update
from sqlalchemy import literal as value

from boltseal.server.storage.metadata.schema import blob, manifest, repository, usage

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork


class UserUsage(NamedTuple):
    """What a user holds: bytes, and repositories made."""

    size_bytes: int = 0
    repositories: int = 0


_HELD = select(usage.c.size, usage.c.repositories).where(usage.c.holder == bindparam("by"))
_ADD = (
    update(usage)
    .where(usage.c.holder == bindparam("by"))
    .values(size=usage.c.size + bindparam("more"), repositories=usage.c.repositories + bindparam("made"))
)


def held(snapshot: Snapshot, user: str) -> UserUsage:
    """The running total of a user."""
    row = snapshot.sql.connection.execute(_HELD, {"by": user}).one_or_none()
    return UserUsage() if row is None else UserUsage(*row)


def add(tx: UnitOfWork, user: str | None, size_bytes: int, repositories: int = 0) -> None:
    """Count something for a user, or with less than nothing take it off again. None: it is nobody's."""
    if user is None:
        return
    more = {"by": user, "more": size_bytes, "made": repositories}
    if not tx.sql.connection.execute(_ADD, more).rowcount:
        tx.sql.connection.execute(insert(usage).values(holder=user, size=size_bytes, repositories=repositories))


def derived(snapshot: Snapshot) -> dict[str, UserUsage]:
    """What the totals must be, from the rows: reads all of them."""
    blobs = select(blob.c.added_by.label("by"), func.sum(blob.c.size).label("size"), value(0).label("made"))
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


def wrong(snapshot: Snapshot) -> dict[str, tuple[UserUsage, UserUsage]]:
    """The users whose total is not what the rows say, as (total, sum of the rows)."""
    said = {
        row.holder: UserUsage(row.size, row.repositories)
        for row in snapshot.sql.connection.execute(select(usage)).all()
    }
    must = derived(snapshot)
    pairs = {user: (said.get(user, UserUsage()), must.get(user, UserUsage())) for user in said.keys() | must.keys()}
    return {user: (total, rows) for user, (total, rows) in sorted(pairs.items()) if total != rows}


def mend(tx: UnitOfWork) -> None:
    """Make every total what the rows say."""
    for user, (_, rows) in wrong(tx).items():
        tx.sql.connection.execute(delete(usage).where(usage.c.holder == user))
        add(tx, user, *rows)
