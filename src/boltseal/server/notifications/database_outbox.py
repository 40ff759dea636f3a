"""The `Outbox` of a server: tables of its metadata database, and a lease for the process that delivers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from boltseal.notify.outbox import MAX_AGE_US, MAX_WAITING, DueEvent, LogCursor, Posting
from boltseal.server.storage.coordination.protocol import Lease, Leases
from boltseal.server.storage.metadata import outbox_table
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.protocol import Job, Metadata, UnitOfWork

T = TypeVar("T")

LEASE: Final = "outbox"


class DatabaseDeliveries:
    """`Deliveries` of one store, of the process that has the lease. Each change confirms the lease."""

    def __init__(self, database: Metadata, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    def due(self, receiver: str, now_us: int, limit: int = 100) -> list[DueEvent]:
        """Return the events that are due for a receiver, the oldest first."""
        return self._database.read_and_wait(lambda snapshot: outbox_table.due(snapshot, receiver, now_us, limit))

    def delivered(self, receiver: str, id_: str) -> None:
        """Delete an event that the receiver accepted."""
        self._change(lambda tx: outbox_table.remove(tx, receiver, id_))

    def postpone(self, receiver: str, id_: str, next_us: int) -> None:
        """Retry an event that the receiver did not accept, not before `next_us`."""
        self._change(lambda tx: outbox_table.postpone(tx, receiver, id_, next_us))

    def expire(self, now_us: int, receivers: Iterable[str]) -> int:
        """Delete events that are too old or are for none of these receivers; return how many."""
        known = tuple(receivers)
        return self._change(lambda tx: outbox_table.expire(tx, now_us - MAX_AGE_US, known))

    def _change(self, job: Job[T]) -> T:
        with fenced(self._database, self._lease):
            return self._database.write_and_wait(job)


class DatabaseOutbox:
    """The outbox of one store. `leases`: for this object alone, which closes them."""

    def __init__(self, database: Metadata, leases: Leases, max_waiting: int = MAX_WAITING) -> None:
        self._database = database
        self._leases = leases
        self._max_waiting = max_waiting
        self._lease: Lease | None = None

    def put(self, postings: Iterable[Posting], cursor: LogCursor | None = None) -> int:
        """Write events and cursor in one transaction."""

        def job(tx: UnitOfWork) -> int:
            dropped = outbox_table.put(tx, waiting, self._max_waiting)
            if cursor is not None:
                outbox_table.set_cursor(tx, cursor)
            return dropped

        waiting = tuple(postings)
        if cursor is None or self._lease is None:
            return self._database.write_and_wait(job)
        with fenced(self._database, self._lease):  # only the process that delivers reads logs
            return self._database.write_and_wait(job)

    def begin(self, name: str, at: int) -> int:
        """Return up to where a log was read, and start at this entry if it has no cursor."""

        def job(tx: UnitOfWork) -> int:
            found = outbox_table.cursors(tx).get(name)
            if found is None:
                outbox_table.set_cursor(tx, LogCursor(name, at))
            return at if found is None else found

        found = self._database.read_and_wait(outbox_table.cursors).get(name)
        return self._database.write_and_wait(job) if found is None else found

    def waiting(self) -> dict[str, int]:
        """Return the number of waiting events by receiver."""
        return self._database.read_and_wait(outbox_table.waiting)

    def claim(self) -> DatabaseDeliveries | None:
        """Return the events to deliver if this process has the lease."""
        if self._lease is None or not self._lease.held():
            self._lease = self._leases.acquire(LEASE)
        return None if self._lease is None else DatabaseDeliveries(self._database, self._lease)

    def close(self) -> None:
        """Give the lease back."""
        self._leases.close()
        self._lease = None


def expire_events(database: Metadata, now_us: int) -> int:
    """Delete events that are too old, for a server that delivers none at present. Return how many. Blocks."""
    if not database.read_and_wait(outbox_table.waiting):
        return 0
    return database.write_and_wait(lambda tx: outbox_table.expire(tx, now_us - MAX_AGE_US))


def waiting_events(database: Metadata, receivers: Iterable[str]) -> dict[str, int]:
    """Return the number of undelivered events of each of these receivers. Blocks."""
    waiting = database.read_and_wait(outbox_table.waiting)
    return {name: waiting.get(name, 0) for name in receivers}
