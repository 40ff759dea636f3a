"""Deliver events: each is written to an outbox, and sent to every receiver until the receiver accepts it.

`Dispatcher.notify` never waits. A process moves its events from memory to the outbox within a moment. One process at a
time of a store delivers from there, each receiver in a task of its own, so that a dead one does not delay others. A
delivery is tried a few times at once, then again after 30 seconds, a minute, and so on up to an hour, for a week.
Entries of a log (`Feed`) become events by a cursor, and so survive a crash.

The number of waiting events is bounded everywhere: in memory, in the outbox, on the wire.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, Protocol

import stamina
import structlog

from boltseal.errors import BoltsealError
from boltseal.events import Event, EventInvalid, EventKind, cloud_event, parse_cloud_event
from boltseal.notify.apprise_receiver import AppriseReceiver
from boltseal.notify.outbox import MAX_AGE_US, Deliveries, DueEvent, LogCursor, Outbox, Posting
from boltseal.notify.webhook import NotDelivered, Webhook

MAX_IN_MEMORY: Final = 2000
LOW_PRIORITY: Final = frozenset({EventKind.TAG_REFUSED})
"""Events that anyone who may push can cause at will: they get no more than half of the space in memory."""
ROUND_S: Final = 1.0
IMMEDIATE_TRIES: Final = 3
FIRST_PAUSE_US: Final = 30_000_000
LONGEST_PAUSE_US: Final = 3_600_000_000
MAX_FAILURES: Final = 3
"""Failed events in a row after which a receiver's remaining events are postponed."""
EXPIRE_EVERY: Final = 600

_log = structlog.get_logger(__name__)


class Sender(Protocol):
    """Sends events to one receiver."""

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """Send one event with the document `body`. Raises: NotDelivered."""

    async def aclose(self) -> None:
        """Close connections."""


class WebhookSender:
    """Sends events to a webhook."""

    def __init__(self, make: Callable[[], Webhook]) -> None:
        self._make = make
        self._webhook: Webhook | None = None

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """Send one event. The client is created here, in the event loop that uses it. Raises: NotDelivered."""
        self._webhook = self._webhook or self._make()
        await self._webhook.send(id_, body, now_us // 1_000_000)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._webhook is not None:
            await self._webhook.aclose()
            self._webhook = None


class AppriseSender:
    """Sends the sentences of events through Apprise."""

    def __init__(self, receiver: AppriseReceiver) -> None:
        self._receiver = receiver

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """Send one event's sentence. Raises: NotDelivered."""
        event = parse_cloud_event(body)
        kind = event.type.removeprefix("boltseal.").removesuffix(".v1")
        await self._receiver.send([(f"boltseal: {kind}", str(event.data.get("text", event.subject)))])

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver of some kinds of events. `name`: used in messages and in the outbox."""

    name: str
    events: frozenset[EventKind]
    sender: Sender


class OutgoingEvent(NamedTuple):
    """An event to deliver. `id`: unique per event, equal in every delivery."""

    id: str
    at_us: int
    event: Event


class FeedPage(NamedTuple):
    """The events of some entries of a log. `next`: the index of the next entry."""

    events: Sequence[OutgoingEvent]
    next: int


class Feed(Protocol):
    """A log whose entries become events."""

    @property
    def name(self) -> str:
        """Return the name under which the cursor is stored."""

    def size(self) -> int:
        """Return the number of entries."""

    def read(self, start: int) -> FeedPage:
        """Return the events of some entries from `start` on."""


class Dispatcher:
    """The dispatcher of one process. `notify` may be called from any thread, the other methods from one.

    `source`: the sender, a URI reference.
    """

    def __init__(
        self,
        outbox: Outbox,
        receivers: Iterable[Receiver],
        source: str,
        clock_us: Callable[[], int],
        feeds: Sequence[Feed] = (),
        *,
        quiet: bool = False,
    ) -> None:
        """Create a dispatcher. `quiet`: log nothing; the caller reports `troubles`."""
        self._outbox = outbox
        self._receivers = {each.name: each for each in receivers}
        self._source = source
        self._clock_us = clock_us
        self._feeds = tuple(feeds)
        self._log = structlog.wrap_logger(None, processors=[_dropped]) if quiet else _log
        self._in_memory: deque[OutgoingEvent] = deque()
        self._lost = 0
        self._work = threading.Event()
        self._ending = threading.Event()
        self._delivering: dict[str, asyncio.Task[None]] = {}
        self._unrecorded: dict[str, str] = {}
        """By receiver: the event that it accepted while the outbox could not be written."""
        self._trouble: dict[str, str] = {}
        self._rounds = 0

    @property
    def troubles(self) -> tuple[str, ...]:
        """Return one sentence for each receiver that can't be reached at present."""
        return tuple(self._trouble.values())

    def notify(self, event: Event) -> None:
        """Queue an event for delivery. Never waits or fails."""
        if len(self._in_memory) >= MAX_IN_MEMORY // (2 if event.kind in LOW_PRIORITY else 1):
            self._lost += 1
            return
        self._in_memory.append(OutgoingEvent(uuid.uuid4().hex, self._clock_us(), event))
        self._work.set()

    def put(self, events: Iterable[OutgoingEvent]) -> None:
        """Write events to the outbox; durable when it returns. Raises: Unavailable, Full."""
        self._put(events, None)

    def begin(self) -> None:
        """Deliver log entries from now on, however late `run` starts. Call it before `run`, from any thread."""
        try:
            for feed in self._feeds:
                self._outbox.begin(feed.name, feed.size())
        except BoltsealError as error:
            self._set_trouble("", f"notifications can't be delivered: {error.message}")
        finally:
            self._outbox.close()

    async def run(self) -> None:
        """Write and deliver events until `end`."""
        try:
            while not self._ending.is_set():
                try:
                    self._round()
                except BoltsealError as error:
                    self._set_trouble("", f"notifications can't be delivered: {error.message}")
                except Exception:  # noqa: BLE001 - outermost handler of this thread, which must not end
                    self._log.exception("notification round failed: internal error")
                await asyncio.to_thread(self._work.wait, ROUND_S)
                self._work.clear()
        finally:
            await self._close()

    def end(self) -> None:
        """End `run`: queued events are written to the outbox, running deliveries are cancelled."""
        self._ending.set()
        self._work.set()

    async def deliver_now(self, within_s: float) -> dict[str, int]:
        """Deliver what is due, for at most `within_s`. Return the number of waiting events by receiver.

        Raises: Unavailable, Full.
        """
        try:
            deliveries = self._outbox.claim()
            if deliveries is not None:
                deliveries.expire(self._clock_us(), self._receivers)
                self._start_deliveries(deliveries)
                await asyncio.wait(self._delivering.values(), timeout=within_s) if self._delivering else None
            return self._outbox.waiting()
        finally:
            await self._close()

    async def _close(self) -> None:
        for task in self._delivering.values():
            task.cancel()
        await asyncio.gather(*self._delivering.values(), return_exceptions=True)
        try:
            self._write_pending()
        except BoltsealError as error:
            self._log.error("events lost: outbox not writable", number=len(self._in_memory), reason=error.message)
        for receiver in self._receivers.values():
            await receiver.sender.aclose()
        self._outbox.close()

    def _round(self) -> None:
        self._write_pending()
        deliveries = self._outbox.claim()
        if deliveries is None:  # another process delivers, and has its own troubles
            for name in [*self._trouble]:
                self._clear_trouble(name)
            return
        if self._rounds % EXPIRE_EVERY == 0:
            gone = deliveries.expire(self._clock_us(), self._receivers)
            if gone:
                self._log.warning("events dropped: expired or receiver removed", number=gone)
        self._rounds += 1
        for feed in self._feeds:
            self._read(feed)
        self._start_deliveries(deliveries)
        self._clear_trouble("")

    def _write_pending(self) -> None:
        """Move the queued events to the outbox; they leave memory only when they are on disk."""
        events = list(self._in_memory)
        if events:
            self._put(events, None)
            for _ in events:
                self._in_memory.popleft()
        if self._lost:
            self._log.error("events lost: queue in memory full", number=self._lost)
            self._lost = 0

    def _read(self, feed: Feed) -> None:
        at = self._outbox.begin(feed.name, feed.size())  # again, if it failed: older entries are no news
        size = feed.size()
        if at > size:  # entries were given up as lost
            self._put((), LogCursor(feed.name, size))
            return
        too_old_us = self._clock_us() - MAX_AGE_US  # such as events from a time without receivers
        while at < size:
            events, at = feed.read(at)
            self._put((event for event in events if event.at_us >= too_old_us), LogCursor(feed.name, at))

    def _put(self, events: Iterable[OutgoingEvent], cursor: LogCursor | None) -> None:
        postings = [posting for event in events if (posting := self._posting(event)) is not None]
        if postings or cursor is not None:
            dropped = self._outbox.put(postings, cursor)
            if dropped:
                self._log.error("events dropped: outbox full", number=dropped)

    def _posting(self, outgoing: OutgoingEvent) -> Posting | None:
        wanted = tuple(each.name for each in self._receivers.values() if outgoing.event.kind in each.events)
        if not wanted:
            return None
        try:
            body = cloud_event(outgoing.event, id_=outgoing.id, source=self._source, time_us=outgoing.at_us)
        except EventInvalid as error:
            self._log.error("event not deliverable: internal error", reason=error.message)
            return None
        return Posting(outgoing.id, outgoing.at_us, body, wanted, outgoing.event.kind in LOW_PRIORITY)

    def _start_deliveries(self, deliveries: Deliveries) -> None:
        for receiver in self._receivers.values():
            running = self._delivering.get(receiver.name)
            if running is not None and not running.done():
                continue
            due = deliveries.due(receiver.name, self._clock_us())
            if due:
                self._delivering[receiver.name] = asyncio.create_task(self._deliver(deliveries, receiver, due))

    async def _deliver(self, deliveries: Deliveries, receiver: Receiver, due: Sequence[DueEvent]) -> None:
        """Deliver a receiver's due events until it fails MAX_FAILURES times in a row."""
        failures = 0
        try:
            while due and failures < MAX_FAILURES:
                for event in due:
                    failures = 0 if await self._deliver_one(deliveries, receiver, event) else failures + 1
                    if failures >= MAX_FAILURES:
                        break
                due = deliveries.due(receiver.name, self._clock_us())
        except BoltsealError as error:
            self._set_trouble(receiver.name, f"delivery to {receiver.name} failed: {error.message}")

    async def _deliver_one(self, deliveries: Deliveries, receiver: Receiver, event: DueEvent) -> bool:
        try:
            async for attempt in stamina.retry_context(
                on=_at_once, attempts=IMMEDIATE_TRIES, wait_initial=0.5, wait_max=5.0, timeout=60.0
            ):
                with attempt:
                    if self._unrecorded.get(receiver.name) != event.id:
                        await receiver.sender.deliver(event.id, event.body, self._clock_us())
        except NotDelivered as error:
            self._postpone(deliveries, receiver, event)
            self._set_trouble(receiver.name, f"delivery to {receiver.name} failed and is retried: {error.message}")
            return False
        except EventInvalid as error:
            self._log.error("event dropped: malformed", id=event.id, reason=error.message)
        except Exception:  # noqa: BLE001 - outermost handler around a library: other events must still be delivered
            self._postpone(deliveries, receiver, event)
            self._log.exception("delivery failed: internal error", receiver=receiver.name)
            return False
        self._unrecorded[receiver.name] = event.id
        deliveries.delivered(receiver.name, event.id)
        del self._unrecorded[receiver.name]
        self._clear_trouble(receiver.name)
        return True

    def _postpone(self, deliveries: Deliveries, receiver: Receiver, event: DueEvent) -> None:
        pause_us = min(FIRST_PAUSE_US * 2 ** min(event.tries, 20), LONGEST_PAUSE_US)
        deliveries.postpone(receiver.name, event.id, self._clock_us() + pause_us)

    def _set_trouble(self, name: str, reason: str) -> None:
        if self._trouble.get(name) != reason:
            self._log.warning("notification postponed", receiver=name or None, reason=reason)
        self._trouble[name] = reason

    def _clear_trouble(self, name: str) -> None:
        if self._trouble.pop(name, None) is not None:
            self._log.info("notifications delivered again", receiver=name or None)


def _dropped(*_: object) -> NoReturn:
    raise structlog.DropEvent


def _at_once(error: Exception) -> bool:
    return isinstance(error, NotDelivered) and error.retry_now
