"""The outbox file of client commands: private, never another file, created by the first write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.notify.outbox import LogCursor, OutboxUnusable, Posting
from boltseal.notify.outbox_file import FileOutbox

BODY = b"{}"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[FileOutbox]:
    made = FileOutbox(tmp_path / "outbox.db")
    yield made
    made.close()


def test_the_file_is_private(outbox: FileOutbox) -> None:
    """Other users can't read the outbox file, which may have names of private images."""
    outbox.put([Posting("1", 1, BODY, ("a",))])

    assert outbox.path.stat().st_mode & 0o777 == 0o600


def test_the_whole_content_is_read_for_a_move(outbox: FileOutbox) -> None:
    """The whole outbox is read for a move: each receiver's events with attempts, and cursors; nothing if there is no
    file."""
    empty = outbox.contents()
    outbox.put([Posting("1", 5, BODY, ("a", "b"), minor=True)], LogCursor("ledger", 7))
    deliveries = outbox.claim()
    assert deliveries is not None
    deliveries.postpone("b", "1", 50)
    events, cursors = outbox.contents()

    assert empty == ([], {})
    assert sorted(events) == [("a", "1", 5, 1, BODY, 0, 0), ("b", "1", 5, 1, BODY, 1, 50)]
    assert cursors == {"ledger": 7}


def test_another_file_is_refused(outbox: FileOutbox) -> None:
    """A file that is no outbox is refused and not overwritten."""
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
        outbox.waiting()


def test_a_missing_folder_is_reported_and_reading_creates_nothing(tmp_path: Path) -> None:
    """An unwritable folder is reported in one line, and reading creates no file."""
    nowhere = FileOutbox(tmp_path / "no" / "outbox.db")

    assert (nowhere.waiting(), nowhere.contents()) == ({}, ([], {}))
    with pytest.raises(OutboxUnusable, match="folder does not exist"):
        nowhere.put([Posting("1", 1, BODY, ("a",))])
    with pytest.raises(OutboxUnusable):
        nowhere.claim()
