"""The ledger's entries in the database: appended by the transaction that moves a tag, never changed.

The head row is the lock: an index is taken by raising its `size`, so indices are gapless whatever is rolled back
(a database sequence would leave gaps). Tree, checkpoints and proofs are built from these lines elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from boltseal.storage import sqlite
from boltseal.storage.schema import entry, ledger_head

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from sqlalchemy import Connection

    from boltseal.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Head:
    """Where the ledger stands: the next index, the time of the last entry, its name, the rules last recorded."""

    size: int
    last_time_us: int
    origin: str
    rules: str


# Every push waits for these three, and for nothing that compiles them anew each time: plain statements of the driver.
_HEAD = "SELECT size, last_time_us, origin, rules FROM ledger_head"
_RAISE = "UPDATE ledger_head SET size = ?, last_time_us = ?"
_APPEND = "INSERT INTO entry (idx, time_us, kind, repository, tag, line) VALUES (?, ?, ?, ?, ?, ?)"


def head(tx: Transaction) -> Head | None:
    """The head row, which nobody else changes until the end of the transaction. None: this ledger was not started yet."""
    row = sqlite.driver(tx.connection).execute(_HEAD).fetchone()
    return None if row is None else Head(*row)


def start(tx: Transaction, origin: str) -> Head:
    """Make the head row of a ledger that was not started yet."""
    tx.connection.execute(insert(ledger_head).values(id=1, size=0, last_time_us=0, origin=origin, rules=""))
    return Head(0, 0, origin, "")


def append(tx: Transaction, index: int, *, time_us: int, kind: str, repository: str, tag: str, line: bytes) -> None:
    """Write the entry `index` (the head's size) and raise the head. `line` is stored as it is, for ever."""
    execute = sqlite.driver(tx.connection).execute
    execute(_APPEND, (index, time_us, kind, str(repository), str(tag), line))
    execute(_RAISE, (index + 1, time_us))


def set_rules(tx: Transaction, rules: str) -> None:
    """Remember which rules the ledger last recorded."""
    tx.connection.execute(update(ledger_head).values(rules=rules))


def set_origin(tx: Transaction, origin: str) -> None:
    """Call the ledger by another name from the next entry on."""
    tx.connection.execute(update(ledger_head).values(origin=origin))


def lines(
    connection: Connection, start_index: int = 0, batch: int = 1000, until: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Every entry from `start_index` on, in order, as (index, line); read in batches, so memory stays flat.

    `until`: the index before which to stop, None for all of them.
    """
    query = select(entry.c.idx, entry.c.line).order_by(entry.c.idx)
    if until is not None:
        query = query.where(entry.c.idx < until)
    while True:
        rows = connection.execute(query.where(entry.c.idx >= start_index).limit(batch)).all()
        yield from rows
        if len(rows) < batch:
            return
        start_index = rows[-1][0] + 1


def of_repository(
    connection: Connection,
    repository: str,
    tag: str | None,
    *,
    after: int,
    limit: int,
    until: int,
    kinds: Collection[str] | None = None,
) -> list[tuple[int, bytes]]:
    """The entries of a repository, or of one of its names, behind the index `after` and before `until`, oldest first.

    `kinds`: of these kinds only.
    """
    query = select(entry.c.idx, entry.c.line).where(
        entry.c.repository == repository, entry.c.idx > after, entry.c.idx < until
    )
    if tag is not None:
        query = query.where(entry.c.tag == tag)
    if kinds is not None:
        query = query.where(entry.c.kind.in_(kinds))
    return [(row[0], row[1]) for row in connection.execute(query.order_by(entry.c.idx).limit(limit))]


def newest_of_name(
    connection: Connection, repository: str, tag: str, kinds: Collection[str], *, before_us: int, since_us: int
) -> Iterator[bytes]:
    """The lines about a name of these kinds, the newest first, strictly between two times (microseconds)."""
    query = (
        select(entry.c.line)
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
    yield from connection.execute(query).scalars()
