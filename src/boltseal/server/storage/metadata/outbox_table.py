"""Tables of the events that receivers have not accepted yet, and of the cursors of the logs. No rules.

`notify.outbox` states what the rows are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update

from boltseal.notify.outbox import DueEvent, LogCursor, Posting, WaitingEvent
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import outbox, outbox_cursor

_COLUMNS: Final = [outbox.c[name] for name in WaitingEvent._fields]


def put(tx: UnitOfWork, postings: Iterable[Posting], max_waiting: int) -> int:
    """Add events that are not there yet. Return how many older ones were dropped, because a receiver had too many."""
    touched = set[str]()
    for posting in postings:
        for receiver in posting.receivers:
            add(tx, WaitingEvent(receiver, posting.id, posting.at_us, posting.minor, posting.body, 0, 0))
            touched.add(receiver)
    return sum(_drop_oldest(tx, receiver, max_waiting) for receiver in sorted(touched))


def add(tx: UnitOfWork, row: WaitingEvent) -> None:
    """Add an event for one receiver, unless it is there."""
    if tx.sql.connection.execute(select(outbox.c.tries).where(*_at(row.receiver, row.event_id))).first() is None:
        tx.sql.connection.execute(insert(outbox).values(**row._asdict()))


def _drop_oldest(tx: UnitOfWork, receiver: str, max_waiting: int) -> int:
    waiting = tx.sql.connection.execute(
        select(func.count()).select_from(outbox).where(outbox.c.receiver == receiver)
    ).scalar_one()
    if waiting <= max_waiting:
        return 0
    order = (outbox.c.minor.desc(), outbox.c.at_us, outbox.c.event_id)
    over = select(outbox.c.event_id).where(outbox.c.receiver == receiver).order_by(*order).limit(waiting - max_waiting)
    gone = tx.sql.connection.execute(over).scalars().all()
    for event_id in gone:
        remove(tx, receiver, event_id)
    return len(gone)


def due(snapshot: Snapshot, receiver: str, now_us: int, limit: int) -> list[DueEvent]:
    """Return the events that are due for a receiver, the oldest first."""
    query = select(outbox.c.event_id, outbox.c.body, outbox.c.tries).where(
        outbox.c.receiver == receiver, outbox.c.next_us <= now_us
    )
    rows = snapshot.sql.connection.execute(query.order_by(outbox.c.at_us, outbox.c.event_id).limit(limit))
    return [DueEvent(*row) for row in rows]


def remove(tx: UnitOfWork, receiver: str, event_id: str) -> None:
    """Remove an event for one receiver."""
    tx.sql.connection.execute(delete(outbox).where(*_at(receiver, event_id)))


def postpone(tx: UnitOfWork, receiver: str, event_id: str, next_us: int) -> None:
    """Count a try, and do not try again before `next_us`."""
    more = {"tries": outbox.c.tries + 1, "next_us": next_us}
    tx.sql.connection.execute(update(outbox).where(*_at(receiver, event_id)).values(**more))


def expire(tx: UnitOfWork, before_us: int, receivers: Iterable[str] | None = None) -> int:
    """Remove events from before a time, and those for other receivers than these. Return how many."""
    old = outbox.c.at_us < before_us
    unwanted = old if receivers is None else or_(old, outbox.c.receiver.not_in(list(receivers)))
    return tx.sql.connection.execute(delete(outbox).where(unwanted)).rowcount


def waiting(snapshot: Snapshot) -> dict[str, int]:
    """Return the number of events by receiver."""
    query = select(outbox.c.receiver, func.count()).group_by(outbox.c.receiver).order_by(outbox.c.receiver)
    return {receiver: int(number) for receiver, number in snapshot.sql.connection.execute(query)}


def all_events(snapshot: Snapshot) -> Iterator[WaitingEvent]:
    """Yield every row."""
    with snapshot.sql.connection.execute(select(*_COLUMNS).execution_options(yield_per=100)) as rows:
        yield from (WaitingEvent(*row) for row in rows)


def cursors(snapshot: Snapshot) -> dict[str, int]:
    """Return up to where each log was read."""
    rows = snapshot.sql.connection.execute(select(outbox_cursor.c.name, outbox_cursor.c.position))
    return {name: int(position) for name, position in rows}


def set_cursor(tx: UnitOfWork, cursor: LogCursor) -> None:
    """Record up to where a log was read."""
    at = update(outbox_cursor).where(outbox_cursor.c.name == cursor.name).values(position=cursor.position)
    if tx.sql.connection.execute(at).rowcount == 0:
        tx.sql.connection.execute(insert(outbox_cursor).values(**cursor._asdict()))


def _at(receiver: str, event_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return outbox.c.receiver == receiver, outbox.c.event_id == event_id
