"""Refused pushes. No rules: `server.registry.refused_pushes` decides which ones are recorded, and how many.

Pushes that were refused alike are one row, with the time of the first and of the last, and their number. The refused manifest
itself is not stored. Lists begin with the newest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select, tuple_

from boltseal.policy.fair_share import fair_share
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.refused_schema import refused_push

SPARE: Final = 20
"""From a full table, one row of so many is deleted at once, so that the next pushes fit."""


class RefusedPush(NamedTuple):
    """A refused push. Two with the same values are refused alike.

    `tag`: "" of a push by digest alone. `pushed`: the digest of its manifest, "" if that was not read. `digest`: what the tag
    resolved to, "" for nothing. `owner`: the user whose limits count. `actor`: as the ledger names it. `address`: the client's.
    `extra`: JSON with the verified claims of a pipeline.
    """

    repository: str
    tag: str
    reason: str
    pushed: str
    digest: str
    owner: str
    actor: str
    address: str
    extra: str

    @property
    def id(self) -> str:
        """The key of its row."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()


class RefusedTimes(NamedTuple):
    """When a push was refused, microseconds since the epoch, and how often. `free`: the tag that was suggested last; "": none."""

    first_us: int
    last_us: int
    times: int
    free: str


class RefusedPushRow(NamedTuple):
    """A stored row."""

    id: str
    push: RefusedPush
    when: RefusedTimes


class Position(NamedTuple):
    """The place of a row in a list: the rows behind it are older. `id`: orders rows of one time."""

    last_us: int
    id: str


class Bounds(NamedTuple):
    """The most rows of one owner, of one repository, and of all."""

    owner: int
    repository: int
    total: int


_NAMES: Final = ("id", *RefusedPush._fields, *RefusedTimes._fields)
_COLUMNS: Final = [refused_push.c[name] for name in _NAMES]
_FIND: Final = "SELECT last_us FROM refused_push WHERE id = ?"
_ADD: Final = """
INSERT INTO refused_push (id, repository, tag, reason, pushed, digest, owner, actor, address, extra, first_us, last_us, times, free)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_REPEAT: Final = """
UPDATE refused_push SET last_us = CASE WHEN last_us < ? THEN ? ELSE last_us END, times = times + ?, free = ? WHERE id = ?
"""
_TRIM_OWNER: Final = """
DELETE FROM refused_push WHERE id IN
(SELECT id FROM refused_push WHERE owner = ? ORDER BY last_us DESC, id DESC LIMIT 10000 OFFSET ?)
"""
# The rows of the owner who has the most go first: each owner's newest one is before everyone's second.
_TRIM_REPOSITORY: Final = """
DELETE FROM refused_push WHERE id IN
(SELECT id FROM
(SELECT id, last_us, row_number() OVER (PARTITION BY owner ORDER BY last_us DESC, id DESC) AS place
FROM refused_push WHERE repository = ?) AS placed
ORDER BY place, last_us DESC, id DESC LIMIT 10000 OFFSET ?)
"""
_IS_OVER: Final = "SELECT 1 FROM refused_push ORDER BY last_us DESC, id DESC LIMIT 1 OFFSET ?"
_OWNERS: Final = "SELECT owner, count(*) FROM refused_push GROUP BY owner ORDER BY owner"
_TRIM_ALL: Final = """
DELETE FROM refused_push WHERE id IN (SELECT id FROM refused_push ORDER BY last_us DESC, id DESC LIMIT 10000 OFFSET ?)
"""
_EXPIRE: Final = "DELETE FROM refused_push WHERE last_us < ?"


def add(tx: UnitOfWork, push: RefusedPush, when: RefusedTimes, *, repeated: bool) -> bool:
    """Record refused pushes, and return whether they made a new row.

    `repeated`: whether an earlier transaction may have recorded the same ones; they are not counted again if it did.
    """
    stored = tx.sql.plain(_FIND, (push.id,)).fetchone()
    if stored is None:
        tx.sql.plain(_ADD, (push.id, *push, *when))
        return True
    more = 0 if repeated and stored[0] >= when.last_us else when.times
    tx.sql.plain(_REPEAT, (when.last_us, when.last_us, more, when.free, push.id))
    return False


def trim(tx: UnitOfWork, added: Collection[RefusedPush], most: Bounds) -> None:
    """Delete the oldest rows beyond the bounds, after rows were added, of the owners who have the most rows.

    This holds for each repository and for the whole table, so no group of owners can push out the rows of another one. From a full
    table a few more rows are deleted (`SPARE`), so that owners are counted once for many new rows.
    """
    for owner in sorted({each.owner for each in added}):
        tx.sql.plain(_TRIM_OWNER, (owner, most.owner))
    for name in sorted({each.repository for each in added}):
        tx.sql.plain(_TRIM_REPOSITORY, (name, most.repository))
    if tx.sql.plain(_IS_OVER, (most.total,)).fetchone() is None:
        return
    owners = [(owner, rows) for owner, rows in tx.sql.plain(_OWNERS).fetchall()]
    share = max(1, fair_share([rows for _, rows in owners], most.total - most.total // SPARE))
    for owner, rows in owners:
        if rows > share:
            tx.sql.plain(_TRIM_OWNER, (owner, share))
    tx.sql.plain(_TRIM_ALL, (most.total,))  # with more owners than places each has one row: delete the oldest of these


def expire(tx: UnitOfWork, before_us: int) -> int:
    """Delete rows whose last push was before a time. Return how many."""
    return tx.sql.plain(_EXPIRE, (before_us,)).rowcount


def of_repository(
    snapshot: Snapshot, repository: str, tag: str, before: Position, since_us: int, limit: int
) -> list[RefusedPushRow]:
    """Return at most `limit` rows of a repository behind a position, the newest first. `tag`: only of this one; "": of all."""
    wanted = [refused_push.c.repository == repository]
    if tag:
        wanted.append(refused_push.c.tag == tag)
    return _page(snapshot, wanted, before, since_us, limit)


def of_all(snapshot: Snapshot, before: Position, since_us: int, limit: int) -> list[RefusedPushRow]:
    """Return at most `limit` rows of all repositories behind a position, the newest first."""
    return _page(snapshot, [], before, since_us, limit)


def _page(
    snapshot: Snapshot, wanted: Sequence[Any], before: Position, since_us: int, limit: int
) -> list[RefusedPushRow]:
    columns = refused_push.c
    query = (
        select(*_COLUMNS)
        .where(*wanted, tuple_(columns.last_us, columns.id) < tuple_(*before), columns.last_us >= since_us)
        .order_by(columns.last_us.desc(), columns.id.desc())
        .limit(limit)
    )
    split = 1 + len(RefusedPush._fields)
    return [
        RefusedPushRow(row[0], RefusedPush(*row[1:split]), RefusedTimes(*row[split:]))
        for row in snapshot.sql.connection.execute(query)
    ]
