"""Which objects have the bytes of a blob, in an object store. No rules.

A key is never used again. It belongs to one upload, then to one blob, and is dead after that: it is marked dead in the
transaction that removes its last row, and its object is deleted later. So a late deletion can't hit a referenced object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata import blob_reviews, object_names
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork

REPLACED_FOR_US: Final = 3600 * 1_000_000
"""How long the objects of a replaced blob are kept, for readers that have begun."""

ANNOUNCED_FOR_US: Final = 24 * 3600 * 1_000_000
"""How long an object may take from its announcement to its deletion; half of it to be named by a row."""


class ObjectPart(NamedTuple):
    """One object of a blob or of an upload."""

    key: str
    size: int


class BlobRow(NamedTuple):
    """A blob: its size, when it was committed (microseconds since the epoch), its version, and its small index object."""

    digest: str
    size: int
    stored_us: int
    version: str
    index_key: str


_BLOB: Final = "SELECT digest, size, stored_us, version, index_key FROM stored_blob WHERE digest = ?"
_KEYS: Final = "SELECT key, size FROM blob_key WHERE digest = ? ORDER BY position"
_REMOVE_BLOB: Final = "DELETE FROM stored_blob WHERE digest = ?"
_REMOVE_KEYS: Final = "DELETE FROM blob_key WHERE digest = ?"
_ADD_BLOB: Final = "INSERT INTO stored_blob (digest, size, stored_us, version, index_key) VALUES (?, ?, ?, ?, ?)"
_ADD_KEY: Final = "INSERT INTO blob_key (digest, position, key, size) VALUES (?, ?, ?, ?)"
_ADD_DEAD: Final = "INSERT INTO dead_key (key, due_us) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
_AFTER: Final = """
SELECT digest, size, stored_us, version, index_key FROM stored_blob WHERE digest > ? ORDER BY digest LIMIT ?
"""
_DUE: Final = "SELECT key FROM dead_key WHERE due_us <= ? ORDER BY due_us LIMIT ?"
_TAKE_ANNOUNCED: Final = "DELETE FROM dead_key WHERE key = ? AND due_us > ?"
_SET_INDEX: Final = "UPDATE stored_blob SET index_key = ? WHERE digest = ?"
_FORGET_DEAD: Final = "DELETE FROM dead_key WHERE key = ?"
_OF_MANY_KEYS: Final = """
SELECT digest FROM blob_key WHERE digest > ? AND position = 1 ORDER BY digest LIMIT ?
"""


def find(snapshot: Snapshot, digest: str) -> BlobRow | None:
    """Return the row of a blob, None if the store does not have it."""
    row = snapshot.sql.plain(_BLOB, (digest,)).fetchone()
    return None if row is None else BlobRow(*row)


def keys_of(snapshot: Snapshot, digest: str) -> list[ObjectPart]:
    """Return the objects of a blob in order; none for an empty or absent blob."""
    return [ObjectPart(*row) for row in snapshot.sql.plain(_KEYS, (digest,)).fetchall()]


def put(tx: UnitOfWork, row: BlobRow, parts: Sequence[ObjectPart]) -> None:
    """Store a blob in place of the one with this digest, whose objects are dead after an hour."""
    _lock(tx, row.digest)
    remove(tx, row.digest, due_us=tx.now_us + REPLACED_FOR_US)
    tx.sql.plain(_ADD_BLOB, row)
    blob_reviews.add(tx, row.digest, blob_reviews.BYTES, blob_reviews.UNUSED_FOR_US)
    for position, part in enumerate(parts):
        tx.sql.plain(_ADD_KEY, (row.digest, position, *part))


def remove(tx: UnitOfWork, digest: str, *, due_us: int) -> list[str]:
    """Remove a blob and mark its objects dead, to be deleted from `due_us` on. Return their keys."""
    row = find(tx, digest)
    if row is None:
        return []
    dead = [part.key for part in keys_of(tx, digest)] + [row.index_key]
    tx.sql.plain(_REMOVE_KEYS, (digest,))
    tx.sql.plain(_REMOVE_BLOB, (digest,))
    mark_dead(tx, dead, due_us)
    return dead


def remove_version(tx: UnitOfWork, digest: str, version: str, *, due_us: int) -> list[str] | None:
    """Remove a blob as `remove` does if it still has this version; None, and nothing done, otherwise."""
    _lock(tx, digest)
    row = find(tx, digest)
    return None if row is None or row.version != version else remove(tx, digest, due_us=due_us)


def announce(tx: UnitOfWork, keys: Iterable[str]) -> None:
    """Record keys before their objects are written: they are dead in a day, unless `take_announced` takes them before."""
    mark_dead(tx, keys, tx.now_us + ANNOUNCED_FOR_US)


def take_announced(tx: UnitOfWork, key: str) -> bool:
    """Let a row of this transaction name an announced key. False: its announcement is half a day old, so no row may name it."""
    return tx.sql.plain(_TAKE_ANNOUNCED, (key, tx.now_us + ANNOUNCED_FOR_US // 2)).rowcount == 1


def replace_keys(tx: UnitOfWork, row: BlobRow, before: Sequence[ObjectPart], part: ObjectPart, index_key: str) -> bool:
    """Let one announced object replace the objects `before` of an unchanged blob. False, and nothing done, if it was changed."""
    _lock(tx, row.digest)
    if find(tx, row.digest) != row or keys_of(tx, row.digest) != list(before):
        return False
    if not all(take_announced(tx, key) for key in (part.key, index_key)):
        raise Unavailable("the objects of a blob were joined too slowly; the next run does it again")
    put(tx, row._replace(index_key=index_key), [part])
    return True


def replace_index(tx: UnitOfWork, row: BlobRow, before: Sequence[ObjectPart], index_key: str) -> bool:
    """Let an announced index object replace that of an unchanged blob. False, and nothing done, if it was changed."""
    _lock(tx, row.digest)
    if find(tx, row.digest) != row or keys_of(tx, row.digest) != list(before):
        return False
    if not take_announced(tx, index_key):
        raise Unavailable("the index object of a blob was written too slowly; the next run does it again")
    tx.sql.plain(_SET_INDEX, (index_key, row.digest))
    mark_dead(tx, [row.index_key], tx.now_us)
    return True


def mark_dead(tx: UnitOfWork, keys: Iterable[str], due_us: int) -> None:
    """Record that objects may be deleted from `due_us` on. No row of a blob or an upload may name them."""
    for key in keys:
        tx.sql.plain(_ADD_DEAD, (key, due_us))


def mark_unnamed_dead(tx: UnitOfWork, keys: Iterable[str]) -> list[str]:
    """Mark those keys dead now that no row names. Return them."""
    unnamed = object_names.unnamed(tx, keys)
    mark_dead(tx, unnamed, tx.now_us)
    return unnamed


def dead(snapshot: Snapshot, now_us: int, limit: int) -> list[str]:
    """Return some keys whose objects may be deleted now."""
    return [str(row[0]) for row in snapshot.sql.plain(_DUE, (now_us, limit)).fetchall()]


def forget_dead(tx: UnitOfWork, keys: Iterable[str]) -> None:
    """Remove the record of objects that are deleted."""
    for key in keys:
        tx.sql.plain(_FORGET_DEAD, (key,))


def blobs_after(snapshot: Snapshot, digest: str, limit: int) -> list[BlobRow]:
    """Return some blobs in the order of digests, those after `digest`."""
    return [BlobRow(*row) for row in snapshot.sql.plain(_AFTER, (digest, limit)).fetchall()]


def of_many_keys(snapshot: Snapshot, after: str, limit: int) -> list[str]:
    """Return some blobs that have more than one object, in the order of digests, those after `after`."""
    return [str(row[0]) for row in snapshot.sql.plain(_OF_MANY_KEYS, (after, limit)).fetchall()]


def _lock(tx: UnitOfWork, digest: str) -> None:
    """Lock the row of a blob, where transactions do not exclude each other anyway."""
    if tx.sql.for_update:
        tx.sql.plain(f"{_BLOB}{tx.sql.for_update}", (digest,)).fetchone()
