"""What waits for its receivers: the protocols `Outbox` and `Deliveries`, and their values.

An event is durable when `put` returns, and is deleted when its receiver has accepted it. So each receiver gets each
event at least once; twice, with the same ID, if the process died in between. Any number of processes put events; one at
a time delivers (`claim`). A cursor records up to where a log was read for events, so that each entry becomes one event.

Bounded: at most `MAX_WAITING` events per receiver, none older than `MAX_AGE_US`. Minor events are dropped first, then
the oldest; the caller gets the number. So an attacker who causes a thousand refusals does not displace an alarm.

`tests/contracts/test_outbox.py` checks these promises on every implementation: the file of a client's commands
(`notify.outbox_file`) and the tables of a server (`server.notifications.database_outbox`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from boltseal.errors import Unavailable

MAX_WAITING: Final = 10_000
MAX_AGE_US: Final = 7 * 24 * 3_600_000_000


class OutboxUnusable(Unavailable):
    """The file can't be read or written, or is no outbox of this version."""


class DueEvent(NamedTuple):
    """An event that a receiver has not accepted yet."""

    id: str
    body: bytes
    tries: int


class WaitingEvent(NamedTuple):
    """An event for one receiver, as an outbox stores it. Times in microseconds since the epoch.

    `minor`: as of its posting. It is not retried before `next_us`.
    """

    receiver: str
    event_id: str
    at_us: int
    minor: bool
    body: bytes
    tries: int
    next_us: int


class LogCursor(NamedTuple):
    """Up to which entry a log was read for events."""

    name: str
    position: int


class Posting(NamedTuple):
    """An event for some receivers. `id`: equal in every `put` of the event. `at_us`: when it happened.

    `minor`: of a kind that anyone who may push can cause at will.
    """

    id: str
    at_us: int
    body: bytes
    receivers: tuple[str, ...]
    minor: bool = False


class Deliveries(Protocol):
    """The waiting events for the one process that delivers them, until its outbox is closed.

    Every method may raise Unavailable, and those that write also Full.
    """

    def due(self, receiver: str, now_us: int, limit: int = 100) -> list[DueEvent]:
        """Return the events that are due for a receiver, the oldest first."""
        ...

    def delivered(self, receiver: str, id_: str) -> None:
        """Delete an event that the receiver accepted."""
        ...

    def postpone(self, receiver: str, id_: str, next_us: int) -> None:
        """Retry an event that the receiver did not accept, not before `next_us`."""
        ...

    def expire(self, now_us: int, receivers: Iterable[str]) -> int:
        """Delete events that are too old or are for none of these receivers; return how many."""
        ...


class Outbox(Protocol):
    """The waiting events of one store or one user. Used in one thread at a time; blocks, so not for an event loop.

    Every method but `close` may raise Unavailable, and those that write also Full.
    """

    def put(self, postings: Iterable[Posting], cursor: LogCursor | None = None) -> int:
        """Write events, and the cursor of the log they are from, at once. Return how many older events were dropped.

        An event that is already there, or is put twice, is stored once.
        """
        ...

    def begin(self, name: str, at: int) -> int:
        """Return up to where a log was read. A log without a cursor is read from this entry on, which is stored."""
        ...

    def waiting(self) -> dict[str, int]:
        """Return the number of waiting events by receiver."""
        ...

    def claim(self) -> Deliveries | None:
        """Return the events to deliver, or None while another process has them: one process at a time, until it closes."""
        ...

    def close(self) -> None:
        """Release the claim and what the object holds. Idempotent; the object can be used again."""
        ...
