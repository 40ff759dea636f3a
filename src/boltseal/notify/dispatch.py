"""From what happens to who is told: events are written down, and each receiver is told until it has taken them.

Whoever raises an event (`tell`) waits for nothing. Of one process the events go, in a moment, to the outbox on the disk;
one process at a time of a store delivers from there, each receiver in a task of its own, so that a dead one holds no
other up. A delivery is tried a few times at once, and then again after 30 seconds, a minute, and so on up to an hour, for
a week. What a log says (`Feed`) becomes events by how far it was read, and so survives whatever ends a process.

How many wait is bounded everywhere: in memory, in the file, at the wire.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

import stamina
import structlog

from boltseal.errors import BoltsealError
from boltseal.events import EventInvalid, EventKind, cloud_event, parse_cloud_event
from boltseal.notify.outbox import MAX_AGE_US, DueEvent, Outbox, Posting
from boltseal.notify.webhook import NotDelivered

if TYPE_CHECKING:
    from boltseal.events import Event
    from boltseal.notify.apprise_receiver import AppriseReceiver
    from boltseal.notify.webhook import Webhook

MAX_IN_MEMORY: Final = 2000
MINOR: Final = frozenset({EventKind.TAG_REFUSED})
"""What anybody who may push can cause as often as they like: it takes no more than half of what may wait."""
EVERY_S: Final = 1.0
TRIES_AT_ONCE: Final = 3
FIRST_PAUSE_US: Final = 30_000_000
LONGEST_PAUSE_US: Final = 3_600_000_000
GIVES_UP_AFTER: Final = 3
"""Events one after the other that a receiver does not take before the others are left for later."""
EXPIRE_EVERY: Final = 600

_log = structlog.get_logger(__name__)


class Sender(Protocol):
    """How one receiver is told."""

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """Tell it of one event, of which `body` is the document. NotDelivered."""

    async def aclose(self) -> None:
        """Let go of connections."""


class ByWebhook:
    """Tells a webhook."""

    def __init__(self, make: Callable[[], Webhook]) -> None:
        self._make = make
        self._webhook: Webhook | None = None

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """A connection is made in the event loop that it is used in. NotDelivered."""
        self._webhook = self._webhook or self._make()
        await self._webhook.send(id_, body, now_us // 1_000_000)

    async def aclose(self) -> None:
        """Let go of it."""
        if self._webhook is not None:
            await self._webhook.aclose()
            self._webhook = None


class ByApprise:
    """Tells people, in the event's sentence."""

    def __init__(self, receiver: AppriseReceiver) -> None:
        self._receiver = receiver

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        """NotDelivered."""
        event = parse_cloud_event(body)
        kind = event.type.removeprefix("boltseal.").removesuffix(".v1")
        await self._receiver.send([(f"boltseal: {kind}", str(event.data.get("text", event.subject)))])

    async def aclose(self) -> None:
        """There is nothing to let go of."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Somebody who is told of some events. `name`: in messages and in the outbox."""

    name: str
    events: frozenset[EventKind]
    sender: Sender


class OutgoingEvent(NamedTuple):
    """An event that is to be told. `id`: one for each, the same however often it is told."""

    id: str
    at_us: int
    event: Event


class Feed(Protocol):
    """A log whose entries are events too."""

    @property
    def name(self) -> str:
        """Under which is kept how far it was read."""

    def size(self) -> int:
        """How many entries it has."""

    def read(self, start: int) -> tuple[Sequence[OutgoingEvent], int]:
        """The events from the entry `start` on, some of them at a time, and where to go on."""


class Dispatcher:
    """Of one process. `source`: who tells, a URI reference. `tell` may be called from any thread, the rest from one."""

    def __init__(
        self,
        outbox: Path,
        receivers: Iterable[Receiver],
        source: str,
        clock_us: Callable[[], int],
        feeds: Sequence[Feed] = (),
        *,
        quiet: bool = False,
    ) -> None:
        """`quiet`: nothing is logged; whoever calls asks for `troubles` and says them."""
        self._outbox = Outbox(outbox)
        self._receivers = {each.name: each for each in receivers}
        self._source = source
        self._clock_us = clock_us
        self._feeds = tuple(feeds)
        self._log = structlog.wrap_logger(None, processors=[_dropped]) if quiet else _log
        self._told: deque[OutgoingEvent] = deque()
        self._lost = 0
        self._work = threading.Event()
        self._ending = threading.Event()
        self._delivering: dict[str, asyncio.Task[None]] = {}
        self._trouble: dict[str, str] = {}
        self._rounds = 0

    @property
    def troubles(self) -> tuple[str, ...]:
        """Which receivers can't be told at present, and why; one sentence each."""
        return tuple(self._trouble.values())

    def tell(self, event: Event) -> None:
        """It has happened. Waits for nothing, and never fails."""
        if len(self._told) >= MAX_IN_MEMORY // (2 if event.kind in MINOR else 1):
            self._lost += 1
            return
        self._told.append(OutgoingEvent(uuid.uuid4().hex, self._clock_us(), event))
        self._work.set()

    def put(self, told: Iterable[OutgoingEvent]) -> None:
        """Write events down for who is to be told of them; they are on the disk when it returns. OutboxUnusable, Full."""
        self._put(told, None)

    def begin(self) -> None:
        """From now on whatever the logs say is told, however late `run` comes to it. Before it, and in any thread."""
        try:
            for feed in self._feeds:
                self._outbox.begin(feed.name, feed.size())
        except BoltsealError as error:
            self._troubled("", f"nobody can be told: {error.message}")
        finally:
            self._outbox.close()

    async def run(self) -> None:
        """Write down and deliver, until `end`."""
        try:
            while not self._ending.is_set():
                try:
                    self._round()
                except BoltsealError as error:
                    self._troubled("", f"nobody can be told: {error.message}")
                except Exception:  # noqa: BLE001 - the outermost shell of this thread: without it nobody would be told any more
                    self._log.exception("nobody could be told: this is a defect")
                await asyncio.to_thread(self._work.wait, EVERY_S)
                self._work.clear()
        finally:
            await self._close()

    def end(self) -> None:
        """Let `run` end: what is told by now is written down, what is being delivered is broken off."""
        self._ending.set()
        self._work.set()

    async def deliver_now(self, within_s: float) -> dict[str, int]:
        """Deliver what is due, for so long at most; how many events still wait, by receiver. OutboxUnusable, Full."""
        try:
            if self._outbox.claim():
                self._outbox.expire(self._clock_us(), self._receivers)
                self._start_deliveries()
                await asyncio.wait(self._delivering.values(), timeout=within_s) if self._delivering else None
            return self._outbox.waiting()
        finally:
            await self._close()

    async def _close(self) -> None:
        for task in self._delivering.values():
            task.cancel()
        await asyncio.gather(*self._delivering.values(), return_exceptions=True)
        try:
            self._gather()
        except BoltsealError as error:
            self._log.error(
                "events are lost: they could not be written down", number=len(self._told), reason=error.message
            )
        for receiver in self._receivers.values():
            await receiver.sender.aclose()
        self._outbox.close()

    def _round(self) -> None:
        self._gather()
        if not self._outbox.claim():
            return
        if self._rounds % EXPIRE_EVERY == 0:
            gone = self._outbox.expire(self._clock_us(), self._receivers)
            if gone:
                self._log.warning(
                    "events are given up: they waited too long, or for a receiver that is gone", number=gone
                )
        self._rounds += 1
        for feed in self._feeds:
            self._read(feed)
        self._start_deliveries()
        self._mended("")

    def _gather(self) -> None:
        """What was told, to the disk; only then it leaves memory."""
        told = list(self._told)
        if told:
            self._put(told, None)
            for _ in told:
                self._told.popleft()
        if self._lost:
            self._log.error("events are lost: more came than can wait in memory", number=self._lost)
            self._lost = 0

    def _read(self, feed: Feed) -> None:
        at, size = self._outbox.cursor(feed.name), feed.size()
        if (
            at is None or at > size
        ):  # `begin` could not be: nobody wants to hear of years; or entries were given up for lost
            self._put((), (feed.name, size))
            return
        too_old_us = self._clock_us() - MAX_AGE_US  # such as what happened while no receiver was configured
        while at < size:
            told, at = feed.read(at)
            self._put((one for one in told if one.at_us >= too_old_us), (feed.name, at))

    def _put(self, told: Iterable[OutgoingEvent], cursor: tuple[str, int] | None) -> None:
        postings = [posting for one in told if (posting := self._posting(one)) is not None]
        if postings or cursor is not None:
            dropped = self._outbox.put(postings, cursor)
            if dropped:
                self._log.error("events are given up: too many wait", number=dropped)

    def _posting(self, told: OutgoingEvent) -> Posting | None:
        wanted = tuple(each.name for each in self._receivers.values() if told.event.kind in each.events)
        if not wanted:
            return None
        try:
            body = cloud_event(told.event, id_=told.id, source=self._source, time_us=told.at_us)
        except EventInvalid as error:
            self._log.error("an event can't be told: this is a defect", reason=error.message)
            return None
        return Posting(told.id, told.at_us, body, wanted, told.event.kind in MINOR)

    def _start_deliveries(self) -> None:
        for receiver in self._receivers.values():
            running = self._delivering.get(receiver.name)
            if running is not None and not running.done():
                continue
            due = self._outbox.due(receiver.name, self._clock_us())
            if due:
                self._delivering[receiver.name] = asyncio.create_task(self._deliver(receiver, due))

    async def _deliver(self, receiver: Receiver, due: Sequence[DueEvent]) -> None:
        """One receiver's turn: all that is due, or as much as it takes."""
        untaken = 0
        try:
            while due and untaken < GIVES_UP_AFTER:
                for one in due:
                    untaken = 0 if await self._deliver_one(receiver, one) else untaken + 1
                    if untaken >= GIVES_UP_AFTER:
                        break
                due = self._outbox.due(receiver.name, self._clock_us())
        except BoltsealError as error:
            self._troubled(receiver.name, f"{receiver.name} can't be told: {error.message}")

    async def _deliver_one(self, receiver: Receiver, one: DueEvent) -> bool:
        try:
            async for attempt in stamina.retry_context(
                on=_at_once, attempts=TRIES_AT_ONCE, wait_initial=0.5, wait_max=5.0, timeout=60.0
            ):
                with attempt:
                    await receiver.sender.deliver(one.id, one.body, self._clock_us())
        except NotDelivered as error:
            self._put_off(receiver, one)
            self._troubled(receiver.name, f"{receiver.name} was not told, and will be: {error.message}")
            return False
        except EventInvalid as error:
            self._log.error("an event can't be told and is given up", id=one.id, reason=error.message)
        except Exception:  # noqa: BLE001 - the outermost shell around somebody's library: the other events are told
            self._put_off(receiver, one)
            self._log.exception("a receiver could not be told: this is a defect", receiver=receiver.name)
            return False
        self._outbox.taken(receiver.name, one.id)
        self._mended(receiver.name)
        return True

    def _put_off(self, receiver: Receiver, one: DueEvent) -> None:
        pause_us = min(FIRST_PAUSE_US * 2 ** min(one.tries, 20), LONGEST_PAUSE_US)
        self._outbox.put_off(receiver.name, one.id, self._clock_us() + pause_us)

    def _troubled(self, name: str, reason: str) -> None:
        if self._trouble.get(name) != reason:
            self._log.warning("a notification waits", receiver=name or None, reason=reason)
        self._trouble[name] = reason

    def _mended(self, name: str) -> None:
        if self._trouble.pop(name, None) is not None:
            self._log.info("notifications arrive again", receiver=name or None)


def _dropped(*_: object) -> NoReturn:
    raise structlog.DropEvent


def _at_once(error: Exception) -> bool:
    return isinstance(error, NotDelivered) and error.again_at_once
