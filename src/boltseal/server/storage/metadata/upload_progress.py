"""How far an upload to an object store is, and which request may continue it. No rules.

A request that writes to a session is its writer: the row names it by a random text, which is also the key of the object
that the request will write. Every change of the row compares that text. So a request that lost its session, for example
because its process was stopped for a while, changes nothing. The text is in the row before the object is written; it
moves from here to the session's parts, from there to a blob's keys, and is never written again once it is gone. Likewise the
key of the index object, which moves to the blob. A key that may have been written, and that goes nowhere, is marked dead in the
transaction that takes it from the row: so each object of the store has a row, and none has to be searched for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.blob_keys import REPLACED_FOR_US, ObjectPart
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

WRITER_FOR_US: Final = 20 * 1_000_000
"""How long a request is the writer of its session without being extended."""

LEFT_FOR_US: Final = 24 * 3600 * 1_000_000
"""How long the objects of a request that lost its session are kept: it may still be writing them."""


class ProgressRow(NamedTuple):
    """A session. `digest`: of its bytes so far, None if it is not known. Times in microseconds since the epoch."""

    name: str
    size: int
    digest: str | None
    changed_us: int
    writer: str | None
    writer_until_us: int
    index_key: str | None


_COLUMNS: Final = "name, size, digest, changed_us, writer, writer_until_us, index_key"
_FIND: Final = f"SELECT {_COLUMNS} FROM upload_progress WHERE name = ?"  # noqa: S608 - a constant
_PARTS: Final = "SELECT key, size FROM upload_part WHERE name = ? ORDER BY position"
_ADD: Final = """
INSERT INTO upload_progress (name, size, digest, changed_us, writer, writer_until_us, index_key)
VALUES (?, 0, NULL, ?, NULL, 0, NULL)
ON CONFLICT (name) DO NOTHING
"""
_CLAIM: Final = "UPDATE upload_progress SET writer = ?, writer_until_us = ?, index_key = ? WHERE name = ?"
_EXTEND: Final = "UPDATE upload_progress SET writer_until_us = ? WHERE name = ? AND writer = ?"
_ANNOUNCE: Final = "UPDATE upload_progress SET index_key = ? WHERE name = ? AND writer = ?"
_RELEASE: Final = """
UPDATE upload_progress SET writer = NULL, writer_until_us = 0, index_key = NULL WHERE name = ? AND writer = ?
"""
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


def find(snapshot: Snapshot, name: str, *, lock: bool = False) -> ProgressRow | None:
    """Return a session, None if there is none of this name. `lock`: in a unit of work, against other writers."""
    row = snapshot.sql.plain(_FIND + (snapshot.sql.for_update if lock else ""), (name,)).fetchone()
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


def claim(tx: UnitOfWork, name: str, writer: str, index_key: str | None = None) -> ProgressRow | None:
    """Make a request the writer of a session. Return the session's row, as it was if another request is the writer.

    `index_key`: of the index object that the request will write.
    """
    row = find(tx, name, lock=True)
    if row is None or (row.writer is not None and row.writer_until_us > tx.now_us):
        return row
    _mark_left(tx, row)
    until_us = tx.now_us + WRITER_FOR_US
    tx.sql.plain(_CLAIM, (writer, until_us, index_key, name))
    return row._replace(writer=writer, writer_until_us=until_us, index_key=index_key)


def extend(tx: UnitOfWork, name: str, writer: str) -> bool:
    """Keep a session for its writer. False if it has another one, or ended."""
    return tx.sql.plain(_EXTEND, (tx.now_us + WRITER_FOR_US, name, writer)).rowcount == 1


def announce_index(tx: UnitOfWork, name: str, writer: str, index_key: str) -> bool:
    """Record another key of the index object that the writer will write. False if it is not the writer."""
    row = find(tx, name, lock=True)
    if row is None or row.writer != writer:
        return False
    if row.index_key is not None:
        blob_keys.mark_dead(tx, [row.index_key], tx.now_us + LEFT_FOR_US)
    return tx.sql.plain(_ANNOUNCE, (index_key, name, writer)).rowcount == 1


def release(tx: UnitOfWork, name: str, writer: str, *, written: Iterable[str] = ()) -> None:
    """Let others write to a session. Does nothing if it has another writer, or ended.

    `written`: keys of the writer's objects that were written, or perhaps were, and are in no other row.
    """
    if tx.sql.plain(_RELEASE, (name, writer)).rowcount == 1:
        blob_keys.mark_dead(tx, written, tx.now_us + LEFT_FOR_US)


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
    row = find(tx, name, lock=True)
    if row is None:
        return False
    blob_keys.mark_dead(tx, [part.key for part in parts_of(tx, name)], tx.now_us + REPLACED_FOR_US)
    _mark_left(tx, row)
    end(tx, name)
    return True


def drop_abandoned(tx: UnitOfWork, name: str, older_than_us: int) -> bool:
    """End a session as `drop` does, unless a request writes to it, or it was written to since a time."""
    row = find(tx, name)
    in_use = row is not None and row.writer is not None and row.writer_until_us > tx.now_us
    return row is not None and not in_use and row.changed_us < older_than_us and drop(tx, name)


def changed_before(snapshot: Snapshot, before_us: int, after: str, limit: int) -> list[ProgressRow]:
    """Return some sessions last written before a time, by name, those after `after`."""
    return [ProgressRow(*row) for row in snapshot.sql.plain(_ABANDONED, (before_us, after, limit)).fetchall()]


def _mark_left(tx: UnitOfWork, row: ProgressRow) -> None:
    """Mark dead the objects that the session's writer may have written: it loses the session now."""
    left = [key for key in (row.writer, row.index_key) if key is not None]
    blob_keys.mark_dead(tx, left, tx.now_us + LEFT_FOR_US)
