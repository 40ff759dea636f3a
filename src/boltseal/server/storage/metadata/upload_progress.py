"""How far an upload to an object store is, and which request may continue it. No rules.

A request that writes to a session is its writer: the row names it by a random text, which is also the key of the object
that the request will write. Every change of the row compares that text. So a request that lost its session, for example
because its process was stopped for a while, changes nothing. The text is in the row before the object is written; it
moves from here to the session's parts, from there to a blob's keys, and is never written again once it is gone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.blob_keys import REPLACED_FOR_US, ObjectPart
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

WRITER_FOR_US: Final = 20 * 1_000_000
"""How long a request is the writer of its session without being extended."""

STALLED_FOR_US: Final = 12 * 3600 * 1_000_000
"""After so long without an extension a request is not the writer any more: what it wrote may soon be deleted as unnamed."""


class ProgressRow(NamedTuple):
    """A session. `digest`: of its bytes so far, None if it is not known. Times in microseconds since the epoch."""

    name: str
    size: int
    digest: str | None
    changed_us: int
    writer: str | None
    writer_until_us: int


_COLUMNS: Final = "name, size, digest, changed_us, writer, writer_until_us"
_FIND: Final = f"SELECT {_COLUMNS} FROM upload_progress WHERE name = ?"  # noqa: S608 - a constant
_PARTS: Final = "SELECT key, size FROM upload_part WHERE name = ? ORDER BY position"
_ADD: Final = """
INSERT INTO upload_progress (name, size, digest, changed_us, writer, writer_until_us) VALUES (?, 0, NULL, ?, NULL, 0)
ON CONFLICT (name) DO NOTHING
"""
_CLAIM: Final = """
UPDATE upload_progress SET writer = ?, writer_until_us = ? WHERE name = ? AND (writer IS NULL OR writer_until_us <= ?)
"""
_EXTEND: Final = """
UPDATE upload_progress SET writer_until_us = ? WHERE name = ? AND writer = ? AND writer_until_us >= ?
"""
_RELEASE: Final = "UPDATE upload_progress SET writer = NULL, writer_until_us = 0 WHERE name = ? AND writer = ?"
_ADVANCE: Final = """
UPDATE upload_progress SET size = size + ?, digest = ?, changed_us = ?, writer = ?, writer_until_us = ?
WHERE name = ? AND writer = ?
"""
_COUNT: Final = "SELECT COUNT(*) FROM upload_progress"
_NEXT: Final = "SELECT COUNT(*) FROM upload_part WHERE name = ?"
_ADD_PART: Final = "INSERT INTO upload_part (name, position, key, size) VALUES (?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM upload_progress WHERE name = ?"
_REMOVE_PARTS: Final = "DELETE FROM upload_part WHERE name = ?"
_ABANDONED: Final = f"""
SELECT {_COLUMNS} FROM upload_progress WHERE changed_us < ? AND name > ? ORDER BY name LIMIT ?
"""  # noqa: S608 - a constant


def find(snapshot: Snapshot, name: str) -> ProgressRow | None:
    """Return a session, None if there is none of this name."""
    row = snapshot.sql.plain(_FIND, (name,)).fetchone()
    return None if row is None else ProgressRow(*row)


def parts_of(snapshot: Snapshot, name: str) -> list[ObjectPart]:
    """Return the objects of a session in order."""
    return [ObjectPart(*row) for row in snapshot.sql.plain(_PARTS, (name,)).fetchall()]


def count(snapshot: Snapshot) -> int:
    """Return how many sessions there are."""
    return int(snapshot.sql.plain(_COUNT).fetchone()[0])


def add(tx: UnitOfWork, name: str) -> None:
    """Begin an empty session; an existing one is left as it is."""
    tx.sql.plain(_ADD, (name, tx.now_us))


def claim(tx: UnitOfWork, name: str, writer: str) -> ProgressRow | None:
    """Make a request the writer of a session. Return the session's row, as it was if another request is the writer."""
    tx.sql.plain(_CLAIM, (writer, tx.now_us + WRITER_FOR_US, name, tx.now_us))
    return find(tx, name)


def extend(tx: UnitOfWork, name: str, writer: str) -> bool:
    """Keep a session for its writer. False if it has another one, or ended, or the writer did not extend it for hours."""
    values = (tx.now_us + WRITER_FOR_US, name, writer, tx.now_us - STALLED_FOR_US)
    return tx.sql.plain(_EXTEND, values).rowcount == 1


def release(tx: UnitOfWork, name: str, writer: str) -> None:
    """Let others write to a session. Does nothing if it has another writer, or ended."""
    tx.sql.plain(_RELEASE, (name, writer))


def advance(tx: UnitOfWork, name: str, writer: str, size: int, digest: str | None, next_writer: str) -> bool:
    """Append the object of a writer, which goes on as `next_writer`. False, and nothing done, if it is not the writer."""
    values = (size, digest, tx.now_us, next_writer, tx.now_us + WRITER_FOR_US, name, writer)
    if not extend(tx, name, writer) or tx.sql.plain(_ADVANCE, values).rowcount != 1:
        return False
    position = tx.sql.plain(_NEXT, (name,)).fetchone()[0]
    tx.sql.plain(_ADD_PART, (name, position, writer, size))
    return True


def end(tx: UnitOfWork, name: str) -> None:
    """End a session whose objects now belong to a blob."""
    tx.sql.plain(_REMOVE_PARTS, (name,))
    tx.sql.plain(_REMOVE, (name,))


def drop(tx: UnitOfWork, name: str) -> bool:
    """End a session and mark its objects dead. False if there is none."""
    dead = [part.key for part in parts_of(tx, name)]
    tx.sql.plain(_REMOVE_PARTS, (name,))
    if tx.sql.plain(_REMOVE, (name,)).rowcount != 1:
        return False
    blob_keys.mark_dead(tx, dead, tx.now_us + REPLACED_FOR_US)
    return True


def drop_abandoned(tx: UnitOfWork, name: str, older_than_us: int) -> bool:
    """End a session as `drop` does, unless a request writes to it, or it was written to since a time."""
    row = find(tx, name)
    in_use = row is not None and row.writer is not None and row.writer_until_us > tx.now_us
    return row is not None and not in_use and row.changed_us < older_than_us and drop(tx, name)


def changed_before(snapshot: Snapshot, before_us: int, after: str, limit: int) -> list[ProgressRow]:
    """Return some sessions last written before a time, by name, those after `after`."""
    return [ProgressRow(*row) for row in snapshot.sql.plain(_ABANDONED, (before_us, after, limit)).fetchall()]


def forget_writers(tx: UnitOfWork, keys: list[str], before_us: int) -> None:
    """Take their session from writers whose time was over before `before_us`, so that their objects can't be named any more."""
    for key in keys:
        tx.sql.plain(
            "UPDATE upload_progress SET writer = NULL, writer_until_us = 0 WHERE writer = ? AND writer_until_us < ?",
            (key, before_us),
        )
