"""The outbox: durable, bounded, emptied by delivery."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.notify.outbox import MAX_AGE_US, Outbox, OutboxUnusable, Posting

BODY = b"{}"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path / "outbox.db")
    yield made
    made.close()


def ids(outbox: Outbox, receiver: str, now_us: int = 10**12) -> list[str]:
    return [each.id for each in outbox.due(receiver, now_us)]


def test_an_event_waits_for_each_receiver_until_it_is_delivered(outbox: Outbox) -> None:
    """In order of time; an event put twice is stored once."""
    outbox.put([Posting("2", 2, BODY, ("a", "b")), Posting("1", 1, BODY, ("a",))])
    outbox.put([Posting("2", 2, BODY, ("a", "b"))])
    both = ids(outbox, "a"), ids(outbox, "b")
    outbox.delivered("a", "1")
    outbox.postpone("b", "2", 50)

    assert both == (["1", "2"], ["2"])
    assert (ids(outbox, "a"), ids(outbox, "b", 49), ids(outbox, "b", 50)) == (["2"], [], ["2"])
    assert outbox.due("b", 50)[0].tries == 1
    assert outbox.waiting() == {"a": 1, "b": 1}


def test_the_outbox_is_durable_and_private(outbox: Outbox) -> None:
    """It may contain names of private images."""
    outbox.put([Posting("1", 1, BODY, ("a",))], ("ledger", 7))
    outbox.close()
    again = Outbox(outbox.path)

    assert (ids(again, "a"), again.cursor("ledger"), again.cursor("other")) == (["1"], 7, None)
    assert outbox.path.stat().st_mode & 0o777 == 0o600
    again.close()


def test_events_and_cursor_are_written_atomically(outbox: Outbox) -> None:
    """A failure in between would lose an event, or deliver it under two IDs."""

    def fails() -> Iterator[Posting]:
        yield Posting("1", 1, BODY, ("a",))
        raise RuntimeError

    outbox.put([], ("ledger", 3))
    with pytest.raises(RuntimeError):
        outbox.put(fails(), ("ledger", 4))

    assert (ids(outbox, "a"), outbox.cursor("ledger")) == ([], 3)


def test_one_process_at_a_time_delivers(outbox: Outbox) -> None:
    """The next one may after the first has ended."""
    other = Outbox(outbox.path)
    first, second = outbox.claim(), other.claim()
    outbox.close()

    assert (first, second, other.claim()) == (True, False, True)
    other.close()


def test_minor_events_are_dropped_first(tmp_path: Path) -> None:
    """A flood of refusals displaces no alarm; otherwise the oldest event is dropped."""
    outbox = Outbox(tmp_path / "outbox.db", max_waiting=3)
    outbox.put([Posting("alarm", 1, BODY, ("a",))])
    dropped = outbox.put([Posting(f"refused {n}", 10 + n, BODY, ("a",), minor=True) for n in range(50)])
    after_the_flood = ids(outbox, "a")
    outbox.put([Posting(f"move {n}", 100 + n, BODY, ("a",)) for n in range(3)])
    after_the_moves = ids(outbox, "a")
    outbox.close()

    assert dropped == 48
    assert after_the_flood == ["alarm", "refused 48", "refused 49"]
    assert after_the_moves == ["move 0", "move 1", "move 2"]


def test_expired_events_and_removed_receivers_are_deleted(outbox: Outbox) -> None:
    """After a week, or when the receiver is not configured any more."""
    outbox.put([Posting("1", 1, BODY, ("a", "gone")), Posting("2", MAX_AGE_US, BODY, ("a",))])
    given_up = outbox.expire(MAX_AGE_US + 2, ["a"])

    assert given_up == 2
    assert ids(outbox, "a") == ["2"]


def test_another_file_is_refused(outbox: Outbox) -> None:
    """Nothing is overwritten."""
    outbox.path.write_bytes(b"something else" * 1000)
    with pytest.raises(OutboxUnusable, match="not a database"):
        outbox.put([Posting("1", 1, BODY, ("a",))])
    with pytest.raises(OutboxUnusable):
        outbox.waiting()
    outbox.path.unlink()
    with sqlite3.connect(outbox.path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(OutboxUnusable, match="version 9"):
        outbox.due("a", 1)


def test_a_missing_folder_is_reported_and_reading_creates_nothing(tmp_path: Path) -> None:
    """With one line."""
    nowhere = Outbox(tmp_path / "no" / "outbox.db")

    assert (nowhere.waiting(), nowhere.due("a", 1), nowhere.cursor("x")) == ({}, [], None)
    with pytest.raises(OutboxUnusable, match="folder does not exist"):
        nowhere.put([Posting("1", 1, BODY, ("a",))])
    with pytest.raises(OutboxUnusable):
        nowhere.claim()
