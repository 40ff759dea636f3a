"""Delivery of events: at least once, and no receiver delays another."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boltseal.events import Event, EventInvalid, EventKind, QuotaLow, TagMoved, TagRefused, UpstreamDown
from boltseal.notify import dispatch
from boltseal.notify.dispatch import Dispatcher, FeedPage, OutgoingEvent, Receiver, WebhookSender
from boltseal.notify.outbox_file import FileOutbox
from boltseal.notify.webhook import Webhook
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.notify.outbox_state import undelivered, until_feed_read, until_undelivered
from tests.notify.receivers import ENDLESS, HANGS, OK, answer, inbox
from tests.polling import until

pytestmark = pytest.mark.usefixtures("two_attempts")

REF = Reference.parse("localhost:5000/shop/app:1.4.2")
MOVED = TagMoved(REF, Digest.of(b"a"), Digest.of(b"b"), True, "test")
KEY = "0123456789abcdef"
LOW = QuotaLow("docker.io", 3, 100, 21600)


def to(
    url: str, name: str = "a", events: frozenset[EventKind] = frozenset(EventKind), within_s: float = 5.0
) -> Receiver:
    return Receiver(name, events, WebhookSender(lambda: Webhook(url, secret=KEY, within_s=within_s)))


def clock_us() -> int:
    return time.time_ns() // 1000


def made(path: Path, *receivers: Receiver, feed: dispatch.Feed | None = None) -> Dispatcher:
    return Dispatcher(
        FileOutbox(path / "outbox.db"),
        receivers,
        "https://registry.example.com",
        clock_us,
        () if feed is None else (feed,),
    )


@contextmanager
def running(dispatcher: Dispatcher) -> Iterator[None]:
    """Run the dispatcher in a thread of its own, as in a server."""
    thread = threading.Thread(target=lambda: asyncio.run(dispatcher.run()))
    thread.start()
    try:
        yield
    finally:
        dispatcher.end()
        thread.join(20)


async def test_an_event_arrives_as_a_cloudevent_once(tmp_path: Path) -> None:
    """An event arrives once in structured mode, with id, source and type, and then leaves the outbox."""
    async with inbox() as box:
        dispatcher = made(tmp_path, to(box.url))
        with running(dispatcher):
            dispatcher.notify(MOVED)
            dispatcher.notify(LOW)
            await box.until(2)
            await until_undelivered(tmp_path, {})
        moved, low = box.events

    assert (moved["specversion"], moved["type"], moved["subject"]) == ("1.0", "boltseal.tag.moved.v1", str(REF))
    assert (moved["source"], moved["data"]["release"]) == ("https://registry.example.com", True)
    assert low["type"] == "boltseal.quota.low.v1"
    assert moved["id"] != low["id"]
    assert box.header(0, "webhook-id") == moved["id"]


async def test_each_receiver_gets_its_events(tmp_path: Path) -> None:
    """Each receiver gets the events it is configured for, and unwanted events are not stored."""
    async with inbox() as all_, inbox() as some:
        dispatcher = made(tmp_path, to(all_.url), to(some.url, "b", frozenset({EventKind.QUOTA_LOW})))
        with running(dispatcher):
            dispatcher.notify(MOVED)
            dispatcher.notify(LOW)
            await all_.until(2)
            await some.until(1)

    assert [one["type"] for one in some.events] == ["boltseal.quota.low.v1"]


@pytest.mark.parametrize("dead", [HANGS, answer("500 No"), answer("302 Found", "location: http://127.0.0.1:1/\r\n")])
@pytest.mark.slow
async def test_a_dead_receiver_delays_no_other(tmp_path: Path, dead: bytes) -> None:
    """Events of an unreachable receiver wait, longer each time, and other receivers get theirs."""
    async with inbox(dead) as bad, inbox() as good:
        dispatcher = made(tmp_path, to(bad.url, "bad", within_s=0.5), to(good.url, "good"))
        with running(dispatcher):
            for _ in range(5):
                dispatcher.notify(MOVED)
            await good.until(5)
            await bad.until(1)
            await until_undelivered(tmp_path, {"bad": 5})
            troubles = await until(lambda: dispatcher.troubles, "the failed delivery is reported")
        later = made(tmp_path, to(bad.url, "bad"))
        bad.answers = [OK]
        dispatcher = Dispatcher(
            FileOutbox(tmp_path / "outbox.db"),
            [to(bad.url, "bad")],
            "urn:x",
            lambda: clock_us() + 10 * dispatch.LONGEST_PAUSE_US,
        )
        left = await dispatcher.deliver_now(10)

    assert "delivery to bad failed and is retried" in troubles[0]
    assert left == {}
    assert later.troubles == ()


async def test_an_endless_answer_counts_as_delivered(tmp_path: Path) -> None:
    """An endless answer with a successful status counts as delivered, and the rest is not read."""
    async with inbox(ENDLESS) as box:
        dispatcher = made(tmp_path, to(box.url))
        dispatcher.put([OutgoingEvent("1", clock_us(), MOVED)])
        left = await dispatcher.deliver_now(10)

    assert (left, len(box.bodies)) == ({}, 1)


async def test_notify_never_waits_and_is_bounded(tmp_path: Path) -> None:
    """`notify` never blocks; refusals, which any client with push rights can cause, get half of the space."""
    dispatcher = made(tmp_path, to("http://127.0.0.1:1/"))
    refused = TagRefused(REF, "push", None, "mallory", "sealed")
    for _ in range(5 * dispatch.MAX_IN_MEMORY):
        dispatcher.notify(refused)
    queued = len(dispatcher._in_memory)
    dispatcher.notify(MOVED)

    assert queued == dispatch.MAX_IN_MEMORY // 2
    assert dispatcher._in_memory[-1].event is MOVED
    assert not (tmp_path / "outbox.db").exists()


async def test_queued_events_are_on_disk_at_the_end(tmp_path: Path) -> None:
    """Events that are queued when the process ends are on disk, and the next process delivers them."""
    dispatcher = made(tmp_path, to("http://127.0.0.1:1/"))
    with running(dispatcher):
        await asyncio.sleep(0.1)  # the dispatcher waits for events then, which it does not report
        dispatcher.notify(MOVED)

    assert undelivered(tmp_path) == {"a": 1}


@pytest.mark.slow
async def test_an_unwritable_outbox_loses_nothing_while_the_process_runs(tmp_path: Path) -> None:
    """If the outbox can't be written, events stay in memory, and writing is retried and reported."""
    folder = tmp_path / "data"
    async with inbox() as box:
        dispatcher = made(folder, to(box.url))
        with running(dispatcher):
            dispatcher.notify(MOVED)
            troubles = await until(lambda: dispatcher.troubles, "the unwritable outbox is reported")
            folder.mkdir()
            await box.until(1)

    assert "notifications can't be delivered" in troubles[0]


class Log:
    """A log of numbers, as a source of events."""

    name = "log"

    def __init__(self) -> None:
        self.entries: list[Event] = []
        self.at_us: list[int] = []

    def size(self) -> int:
        return len(self.entries)

    def read(self, start: int) -> FeedPage:
        found = self.entries[start : start + 2]
        events = [
            OutgoingEvent(f"log/{start + n}", self.at_us[n] if self.at_us else clock_us(), event)
            for n, event in enumerate(found)
        ]
        return FeedPage(events, start + len(found))


@pytest.mark.slow
async def test_a_log_is_delivered_from_its_cursor_each_entry_once(tmp_path: Path) -> None:
    """A log is delivered from its cursor, including entries from between processes, each once under one ID."""
    log = Log()
    log.entries = [LOW] * 100
    async with inbox() as box:
        with running(made(tmp_path, to(box.url), feed=log)):
            await until_feed_read(tmp_path)
            log.entries += [MOVED, LOW, MOVED]
            await box.until(3)
            await until_undelivered(tmp_path, {})  # else the next process delivers the last event again
        log.entries += [MOVED]
        with running(made(tmp_path, to(box.url), feed=log)):
            await box.until(4)
            await asyncio.sleep(1.2)  # longer than a round of deliveries: no event arrives twice

    assert [one["id"] for one in box.events] == ["log/100", "log/101", "log/102", "log/103"]


@pytest.mark.slow
async def test_entries_before_the_first_read_are_delivered(tmp_path: Path) -> None:
    """Entries that a server appends before its first read of the log are delivered."""
    log = Log()
    log.entries = [LOW] * 100
    async with inbox() as box:
        first, second = made(tmp_path, to(box.url), feed=log), made(tmp_path, to(box.url), feed=log)
        first.begin()
        log.entries += [MOVED]
        second.begin()
        log.entries += [LOW]
        with running(second):
            await box.until(2)

    assert [one["id"] for one in box.events] == ["log/100", "log/101"]


async def test_an_unrecorded_start_of_a_log_does_not_stop_the_server(tmp_path: Path) -> None:
    """If a log's start can't be recorded, the server starts, and records it as soon as possible."""
    log, folder = Log(), tmp_path / "data"
    async with inbox() as box:
        dispatcher = made(folder, to(box.url), feed=log)
        dispatcher.begin()
        troubles = dispatcher.troubles
        folder.mkdir()
        with running(dispatcher):
            await until_feed_read(folder)
            log.entries += [MOVED]
            await box.until(1)

    assert "notifications can't be delivered" in troubles[0]


async def test_old_entries_of_a_log_are_not_delivered(tmp_path: Path) -> None:
    """Log entries older than a week, as after a year without receivers, are skipped."""
    log = Log()
    async with inbox() as box:
        with running(made(tmp_path, to(box.url), feed=log)):
            await until_feed_read(tmp_path)
        log.entries += [LOW, MOVED]
        log.at_us = [1, clock_us()]
        with running(made(tmp_path, to(box.url), feed=log)):
            await box.until(1)
            await until_feed_read(tmp_path, 2)

    assert [one["type"] for one in box.events] == ["boltseal.tag.moved.v1"]


@pytest.mark.slow
async def test_a_truncated_log_is_continued(tmp_path: Path) -> None:
    """After a log was truncated, its later entries are delivered."""
    log = Log()
    log.entries = [LOW] * 10
    async with inbox() as box:
        with running(made(tmp_path, to(box.url), feed=log)):
            await until_feed_read(tmp_path)
        del log.entries[5:]
        with running(made(tmp_path, to(box.url), feed=log)):
            await until_feed_read(tmp_path, 5)
            log.entries.append(MOVED)
            await box.until(1)

    assert [one["id"] for one in box.events] == ["log/5"]


_TELLER = """
import asyncio, sys, time
from pathlib import Path
from boltseal.notify.outbox_file import FileOutbox
from boltseal.notify.webhook import Webhook
from boltseal.events import EventKind, UpstreamDown
from boltseal.notify.dispatch import WebhookSender, Dispatcher, Receiver, OutgoingEvent
from boltseal.notify.outbox_file import FileOutbox
receiver = Receiver("a", frozenset(EventKind), WebhookSender(lambda: Webhook(sys.argv[2])))
dispatcher = Dispatcher(FileOutbox(Path(sys.argv[1])), [receiver], "urn:test", lambda: time.time_ns() // 1000)
for n in range(int(sys.argv[3]), int(sys.argv[3]) + 50):
    dispatcher.put([OutgoingEvent(f"event-{n}", time.time_ns() // 1000, UpstreamDown("reg", str(n)))])
    print(n, flush=True)
asyncio.run(dispatcher.run())
"""


def _teller(path: Path, url: str, start: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _TELLER, str(path / "outbox.db"), url, str(start)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
async def test_kill_9_at_any_moment_loses_no_event(tmp_path: Path) -> None:
    """After kill -9 the next process delivers the remaining events; a duplicate has the same ID."""
    acknowledged: set[int] = set()
    async with inbox() as box:
        for round_, kill_after in enumerate((5, 20, 50)):
            teller = _teller(tmp_path, box.url, round_ * 50)
            assert teller.stdout is not None
            before = len(box.bodies)
            for _ in range(kill_after):
                acknowledged.add(int(await asyncio.to_thread(teller.stdout.readline)))
            if kill_after == 50:
                await box.until(before + 5)
            teller.send_signal(signal.SIGKILL)
            await asyncio.to_thread(teller.wait)
            teller.stdout.close()
        left = await made(tmp_path, to(box.url)).deliver_now(90)

    assert left == {}
    assert {f"event-{n}" for n in acknowledged} <= {one["id"] for one in box.events}


def test_low_priority_events_are_those_that_anyone_can_cause() -> None:
    """Events that any client can cause have low priority, so that outages and moves are delivered."""
    assert {EventKind.TAG_REFUSED} == dispatch.LOW_PRIORITY
    assert UpstreamDown("reg", "no").kind not in dispatch.LOW_PRIORITY


class Breaks:
    """A sender that has a defect, or gets an invalid event."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    async def deliver(self, id_: str, body: bytes, now_us: int) -> None:
        self.asked += 1
        raise self.error

    async def aclose(self) -> None:
        pass


@pytest.mark.slow
async def test_a_defect_of_one_receiver_affects_no_other(tmp_path: Path) -> None:
    """A defect in one receiver's sender retries its event; a malformed event is dropped and logged."""
    defect, unreadable = Breaks(ZeroDivisionError()), Breaks(EventInvalid("no event"))
    every = frozenset(EventKind)
    async with inbox() as box:
        dispatcher = made(
            tmp_path, Receiver("defect", every, defect), Receiver("unreadable", every, unreadable), to(box.url)
        )
        with running(dispatcher):
            dispatcher.notify(MOVED)
            await box.until(1)
            await until_undelivered(tmp_path, {"defect": 1})
            await asyncio.sleep(2.5)  # two rounds more

    assert (defect.asked, unreadable.asked) == (1, 1)
    assert undelivered(tmp_path) == {"defect": 1}
