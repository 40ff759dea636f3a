"""The ledger's entries in the database: added by the transaction that moves a tag, never changed.

The head row is the lock: an index is taken by raising its `size`, so indices have no gaps whatever is rolled back (a
database sequence would leave gaps). Tree, checkpoints and proofs are built from these lines in `registry.integrator`.
`log` selects the ledger or the log of observations (`schema`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sqlalchemy import insert, select, update

from boltseal.errors import Unavailable
from boltseal.ledger.entry import Entry, IndexedLine
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import TABLES


class DatabaseSetBack(Unavailable):
    """The database has fewer entries than this process has seen: it is an old copy, or one that lost commits."""


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """The head row: the next index, the time of the last entry, the log's origin, the rules recorded last."""

    size: int
    last_time_us: int
    origin: str
    rules: str


class _Statements(NamedTuple):
    """Plain text for `SqlStatements.plain`: every push waits for these three."""

    head: str
    advance: str
    append: str


@cache
def _statements(log: Log) -> _Statements:
    entries, head_ = TABLES[log].entry.name, TABLES[log].head.name  # constants of the schema
    return _Statements(
        f"SELECT size, last_time_us, origin, rules FROM {head_}",  # noqa: S608 - see above
        f"UPDATE {head_} SET size = ?, last_time_us = ? WHERE size = ?",  # noqa: S608
        f"INSERT INTO {entries} (idx, time_us, kind, repository, tag, line) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
    )


def head(snapshot: Snapshot, log: Log = LEDGER) -> LedgerHead | None:
    """Return the head row of a log, None when the log was not started yet."""
    row = snapshot.sql.plain(_statements(log).head).fetchone()
    return None if row is None else LedgerHead(*row)


def size(snapshot: Snapshot, log: Log = LEDGER) -> int:
    """Return how many entries a log has, 0 when it was not started yet."""
    found = head(snapshot, log)
    return 0 if found is None else found.size


def lock_head(tx: UnitOfWork, log: Log = LEDGER) -> LedgerHead | None:
    """Return the head row of a log as `head` does, and lock it to the end of the transaction.

    Raises: DatabaseSetBack: this process has committed or seen more entries.
    """
    row = tx.sql.plain(_statements(log).head + tx.sql.for_update).fetchone()
    size, known = 0 if row is None else row[0], tx.sizes.get(log.name, 0)
    if size < known:
        raise DatabaseSetBack(
            f"the {log.name} has {size} entries in the database, and this server has seen {known}: the database was set back, so "
            "nothing is written; restore the newest state, or see `boltseal ledger recover`, and restart the server"
        )
    tx.sizes[log.name] = size
    return None if row is None else LedgerHead(*row)


def start(tx: UnitOfWork, origin: str, log: Log = LEDGER) -> LedgerHead:
    """Write the head row of a log that was not started yet."""
    tx.sql.connection.execute(insert(TABLES[log].head).values(id=1, size=0, last_time_us=0, origin=origin, rules=""))
    return LedgerHead(0, 0, origin, "")


def append(
    tx: UnitOfWork,
    index: int,
    *,
    time_us: int,
    kind: str,
    repository: str,
    tag: str,
    line: bytes,
    log: Log = LEDGER,
) -> None:
    """Add the entry `index`, which is the size in the head that `lock_head` returned, and advance the head.

    `line` is stored byte for byte. AssertionError when the head has another size: it was not locked.
    """
    statements = _statements(log)
    tx.sql.plain(statements.append, (index, time_us, kind, str(repository), str(tag), line))
    if tx.sql.plain(statements.advance, (index + 1, time_us, index)).rowcount != 1:
        raise AssertionError(f"entry {index} is not the next one of {log.name}")
    tx.sizes[log.name] = index + 1


def append_entry(tx: UnitOfWork, index: int, entry: Entry, line: bytes, log: Log = LEDGER) -> None:
    """Add the entry `index` as `append` does. `line`: its bytes."""
    append(
        tx,
        index,
        time_us=entry.time_us,
        kind=entry.kind,
        repository=entry.repository,
        tag=entry.tag,
        line=line,
        log=log,
    )


def set_rules(tx: UnitOfWork, rules: str) -> None:
    """Record which rules the ledger recorded last."""
    tx.sql.connection.execute(update(TABLES[LEDGER].head).values(rules=rules))


def set_origin(tx: UnitOfWork, origin: str, log: Log = LEDGER) -> None:
    """Set the origin of a log, from the next entry on."""
    tx.sql.connection.execute(update(TABLES[log].head).values(origin=origin))


def lines(
    snapshot: Snapshot, start_index: int = 0, batch: int = 1000, until: int | None = None, log: Log = LEDGER
) -> Iterator[IndexedLine]:
    """Yield the entries from `start_index` on, in order. Reads in batches, so memory use stays constant.

    `until`: the index before which to stop, None for all entries.
    """
    entry = TABLES[log].entry
    query = select(entry.c.idx, entry.c.line).order_by(entry.c.idx)
    if until is not None:
        query = query.where(entry.c.idx < until)
    while True:
        rows = snapshot.sql.connection.execute(query.where(entry.c.idx >= start_index).limit(batch)).all()
        yield from (IndexedLine(*row) for row in rows)
        if len(rows) < batch:
            return
        start_index = rows[-1][0] + 1


def newest_lines(snapshot: Snapshot, before: int, limit: int, kinds: Collection[str]) -> list[IndexedLine]:
    """Return those of the `limit` entries of the ledger before an index that have one of these kinds, the newest first."""
    entry = TABLES[LEDGER].entry
    query = select(entry.c.idx, entry.c.line).where(
        entry.c.idx < before, entry.c.idx >= before - limit, entry.c.kind.in_(kinds)
    )
    return [IndexedLine(*row) for row in snapshot.sql.connection.execute(query.order_by(entry.c.idx.desc()))]


def entries_of(
    snapshot: Snapshot,
    repository: str,
    tag: str | None,
    *,
    after: int,
    limit: int,
    until: int,
    kinds: Collection[str] | None = None,
    log: Log = LEDGER,
    newest_first: bool = False,
) -> list[IndexedLine]:
    """Return entries of a repository, or of one of its tags, after the index `after` and before `until`, oldest first.

    `kinds`: only of these kinds. `newest_first`: the last ones of the range, in the opposite order.
    """
    entry = TABLES[log].entry
    query = select(entry.c.idx, entry.c.line).where(
        entry.c.repository == repository, entry.c.idx > after, entry.c.idx < until
    )
    if tag is not None:
        query = query.where(entry.c.tag == tag)
    if kinds is not None:
        query = query.where(entry.c.kind.in_(kinds))
    order = entry.c.idx.desc() if newest_first else entry.c.idx
    return [IndexedLine(*row) for row in snapshot.sql.connection.execute(query.order_by(order).limit(limit))]


def changes_of_tag(
    snapshot: Snapshot, repository: str, tag: str, kinds: Collection[str], *, until: int, log: Log = LEDGER
) -> Iterator[IndexedLine]:
    """Yield the entries of a tag of these kinds before the index `until`, newest first."""
    entry = TABLES[log].entry
    query = (
        select(entry.c.idx, entry.c.line)
        .where(entry.c.repository == repository, entry.c.tag == tag, entry.c.kind.in_(kinds), entry.c.idx < until)
        .order_by(entry.c.idx.desc())
        .execution_options(yield_per=200)
    )
    with snapshot.sql.connection.execute(query) as rows:  # closes PostgreSQL's cursor when the caller stops early
        yield from (IndexedLine(*row) for row in rows)


def last_index(snapshot: Snapshot, repository: str, tag: str, kinds: Collection[str], log: Log = LEDGER) -> int:
    """Return the index of the last entry of a tag of one of these kinds, -1 without one."""
    entry = TABLES[log].entry
    query = select(entry.c.idx).where(entry.c.repository == repository, entry.c.tag == tag, entry.c.kind.in_(kinds))
    found: int | None = snapshot.sql.connection.execute(query.order_by(entry.c.idx.desc()).limit(1)).scalar()
    return -1 if found is None else found


def newest_entries(
    snapshot: Snapshot,
    repository: str,
    tag: str,
    kinds: Collection[str],
    *,
    before_us: int,
    since_us: int,
    before: int | None = None,
    log: Log = LEDGER,
) -> Iterator[IndexedLine]:
    """Yield the entries of a tag of these kinds, newest first, strictly between two times in microseconds.

    `before`: only those before this index, which is found without reading those behind it, as a time is not.
    """
    entry = TABLES[log].entry
    query = (
        select(entry.c.idx, entry.c.line)
        .where(
            entry.c.repository == repository,
            entry.c.tag == tag,
            entry.c.kind.in_(kinds),
            entry.c.time_us < before_us,
            entry.c.time_us > since_us,
        )
        .order_by(entry.c.idx.desc())
        .execution_options(yield_per=200)
    )
    if before is not None:
        query = query.where(entry.c.idx < before)
    with snapshot.sql.connection.execute(query) as rows:  # closes PostgreSQL's cursor when the caller stops early
        yield from (IndexedLine(*row) for row in rows)
