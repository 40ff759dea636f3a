"""What every outbox promises (`boltseal.notify.outbox`): durable, bounded, emptied by delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from boltseal.notify.outbox import MAX_AGE_US, MAX_WAITING, Deliveries, LogCursor, Outbox, Posting
from boltseal.notify.outbox_file import FileOutbox
from boltseal.server.notifications.database_outbox import DatabaseOutbox
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings

BODY = b"{}"
Opener = Callable[..., Outbox]


@pytest.fixture(params=["file", "sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def open_outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Open the outbox of this test; a second object acts as another process."""
    storage = StorageSettings()
    if request.param == "postgres":
        storage = StorageSettings(database=DatabaseUrl(request.getfixturevalue("new_database")()))
    with ExitStack() as opened:

        def open_(max_waiting: int = MAX_WAITING) -> Outbox:
            if request.param == "file":
                return opened.enter_context(closing(FileOutbox(tmp_path / "outbox.db", max_waiting)))
            data = tmp_path / "data"
            metadata_factory.prepare_metadata(data, storage)
            database = metadata_factory.open_metadata(data, storage, lambda: 1)
            opened.enter_context(closing(database))
            return opened.enter_context(closing(DatabaseOutbox(database, FileLeases(data), max_waiting)))

        yield open_


@pytest.fixture
def outbox(open_outbox: Opener) -> Outbox:
    return open_outbox()


def claimed(outbox: Outbox) -> Deliveries:
    """Return the events to deliver, which no other object of the test has claimed."""
    deliveries = outbox.claim()
    assert deliveries is not None
    return deliveries


def ids(outbox: Outbox, receiver: str, now_us: int = 10**12) -> list[str]:
    """Return the events that are due for a receiver."""
    return [each.id for each in claimed(outbox).due(receiver, now_us)]


def test_an_event_waits_for_each_receiver_until_it_is_delivered(outbox: Outbox) -> None:
    """Events wait for each receiver in order of time; an event that is put twice is stored once."""
    outbox.put([Posting("2", 2, BODY, ("a", "b")), Posting("1", 1, BODY, ("a",))])
    outbox.put([Posting("2", 2, BODY, ("a", "b"))])
    both = ids(outbox, "a"), ids(outbox, "b")
    claimed(outbox).delivered("a", "1")
    claimed(outbox).postpone("b", "2", 50)

    assert both == (["1", "2"], ["2"])
    assert (ids(outbox, "a"), ids(outbox, "b", 49), ids(outbox, "b", 50)) == (["2"], [], ["2"])
    assert claimed(outbox).due("b", 50)[0].tries == 1
    assert outbox.waiting() == {"a": 1, "b": 1}


def test_stored_events_are_there_for_the_next_process(outbox: Outbox, open_outbox: Opener) -> None:
    """The next process finds stored events and cursors; a log without a cursor has none."""
    outbox.put([Posting("1", 1, BODY, ("a",))], LogCursor("ledger", 7))
    outbox.close()
    again = open_outbox()

    assert (ids(again, "a"), again.begin("ledger", 9), again.begin("other", 2)) == (["1"], 7, 2)


def test_a_log_is_begun_once(outbox: Outbox, open_outbox: Opener) -> None:
    """A second process that starts later begins at the stored cursor and skips no entry."""
    first = outbox.begin("ledger", 3)
    second = open_outbox().begin("ledger", 9)

    assert (first, second, outbox.begin("ledger", 12)) == (3, 3, 3)


def test_events_and_cursor_are_written_atomically(outbox: Outbox) -> None:
    """Events and cursor are one write, so that a failure can't lose or duplicate an event."""

    def fails() -> Iterator[Posting]:
        yield Posting("1", 1, BODY, ("a",))
        raise RuntimeError

    outbox.put([], LogCursor("ledger", 3))
    with pytest.raises(RuntimeError):
        outbox.put(fails(), LogCursor("ledger", 4))

    assert (ids(outbox, "a"), outbox.begin("ledger", 9)) == ([], 3)


def test_one_process_at_a_time_delivers(outbox: Outbox, open_outbox: Opener) -> None:
    """A second process delivers only after the first has ended."""
    other = open_outbox()
    claims = [outbox.claim(), outbox.claim(), other.claim()]
    outbox.close()
    claims.append(other.claim())

    assert [claim is not None for claim in claims] == [True, True, False, True]


def test_minor_events_are_dropped_first(open_outbox: Opener) -> None:
    """When the outbox is full, minor events are dropped first, then the oldest."""
    outbox = open_outbox(3)
    outbox.put([Posting("alarm", 1, BODY, ("a",))])
    dropped = outbox.put([Posting(f"refused {n}", 10 + n, BODY, ("a",), minor=True) for n in range(50)])
    after_the_flood = ids(outbox, "a")
    outbox.put([Posting(f"move {n}", 100 + n, BODY, ("a",)) for n in range(3)])
    after_the_moves = ids(outbox, "a")

    assert dropped == 48
    assert after_the_flood == ["alarm", "refused 48", "refused 49"]
    assert after_the_moves == ["move 0", "move 1", "move 2"]


def test_expired_events_and_removed_receivers_are_deleted(outbox: Outbox) -> None:
    """Events are deleted after a week, or when their receiver is no longer configured."""
    outbox.put([Posting("1", 1, BODY, ("a", "gone")), Posting("2", MAX_AGE_US, BODY, ("a",))])
    given_up = claimed(outbox).expire(MAX_AGE_US + 2, ["a"])

    assert given_up == 2
    assert ids(outbox, "a") == ["2"]
