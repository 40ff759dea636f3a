"""The ledger's Merkle tree in the database: tiles, checkpoints, receipts of rotated keys. No rules.

A tile is stored once, as wide as it is. Every narrower tile is its beginning, so a partial tile of any size that was ever
signed can be read. A full tile is never written again; an attempt violates the primary key. Entry bundles are not stored:
they are the entries (`ledger_store`), cut into pieces. `log` selects the ledger or the log of observations (`schema`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import delete, insert, select

from boltseal.errors import Unavailable
from boltseal.ledger.merkle import HASH_BYTES, cover, fold
from boltseal.ledger.tiles import WIDTH, TileId, Tiles, needed
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Snapshot, UnitOfWork
from boltseal.server.storage.metadata.schema import TABLES

LATEST: Final = "latest"
WITNESSED: Final = "witnessed"


class _Statements(NamedTuple):
    """Plain text for `SqlStatements.plain`: every push waits for these, as in `ledger_store`."""

    head: str
    advance: str
    tile: str
    drop_partial: str
    add_tile: str


@cache
def _statements(log: Log) -> _Statements:
    tile, checkpoint = TABLES[log].tile.name, TABLES[log].checkpoint.name  # constants of the schema
    return _Statements(
        f"SELECT size, note FROM {checkpoint} WHERE name = ?",  # noqa: S608 - see above
        f"UPDATE {checkpoint} SET size = ?, note = ? WHERE name = ? AND size = ?",  # noqa: S608
        f"SELECT hashes FROM {tile} WHERE level = ? AND idx = ?",  # noqa: S608
        f"DELETE FROM {tile} WHERE level = ? AND idx = ? AND length(hashes) < ?",  # noqa: S608
        f"INSERT INTO {tile} (level, idx, hashes) VALUES (?, ?, ?)",  # noqa: S608
    )


class SignedHead(NamedTuple):
    """A stored checkpoint: the number of entries, and the signed note, whose signatures are not verified."""

    size: int
    note: bytes


def head(snapshot: Snapshot, name: str = LATEST, log: Log = LEDGER) -> SignedHead | None:
    """Return the checkpoint that was signed last, or with WITNESSED the one that a witness cosigned last; None without one."""
    row = snapshot.sql.plain(_statements(log).head, (name,)).fetchone()
    return None if row is None else SignedHead(*row)


def put_head(tx: UnitOfWork, name: str, new: SignedHead, log: Log = LEDGER) -> None:
    """Replace the checkpoint of this name."""
    tx.sql.connection.execute(delete(TABLES[log].checkpoint).where(TABLES[log].checkpoint.c.name == name))
    tx.sql.connection.execute(insert(TABLES[log].checkpoint).values(name=name, size=new.size, note=new.note))


def tiles(snapshot: Snapshot, wanted: Iterable[TileId], log: Log = LEDGER) -> dict[TileId, bytes]:
    """Return the stored ones of the wanted tiles, each exactly as wide as wanted."""
    found = {}
    for tile in wanted:
        row = snapshot.sql.plain(_statements(log).tile, (tile.level, tile.index)).fetchone()
        if row is not None and len(row[0]) >= tile.width * HASH_BYTES:
            found[tile] = row[0][: tile.width * HASH_BYTES]
    return found


def root(snapshot: Snapshot, size: int, of: int, log: Log = LEDGER) -> bytes:
    """Return the root over the first `size` entries of a stored tree of `of` entries. TileInvalid when tiles are missing."""
    nodes = cover(0, size)
    held = Tiles(of, tiles(snapshot, needed([nodes], of), log))
    return fold([held.node(one) for one in nodes])


def add_tiles(
    tx: UnitOfWork, from_size: int, written: Mapping[TileId, bytes], new: SignedHead, log: Log = LEDGER
) -> None:
    """Write new and wider tiles and the checkpoint over them.

    Raises: Unavailable: the tree does not have `from_size` entries any more.
    """
    if from_size == 0 and head(tx, log=log) is None:
        tx.sql.connection.execute(insert(TABLES[log].checkpoint).values(name=LATEST, size=0, note=b""))
    statements = _statements(log)
    execute = tx.sql.plain
    if execute(statements.advance, (new.size, new.note, LATEST, from_size)).rowcount != 1:
        raise Unavailable("another process has signed the ledger meanwhile")
    for tile, hashes in written.items():
        execute(statements.drop_partial, (tile.level, tile.index, WIDTH * HASH_BYTES))
        execute(statements.add_tile, (tile.level, tile.index, hashes))


def remove_tree(tx: UnitOfWork, log: Log = LEDGER) -> None:
    """Remove tree, checkpoints and receipts: a new origin signs its own from the first entry on."""
    for table in (TABLES[log].tile, TABLES[log].checkpoint, TABLES[log].rotation):
        tx.sql.connection.execute(delete(table))


def add_rotation(tx: UnitOfWork, index: int, receipt: bytes, log: Log = LEDGER) -> None:
    """Store the receipt of the entry that names the next key."""
    tx.sql.connection.execute(insert(TABLES[log].rotation).values(idx=index, receipt=receipt))


def rotations(snapshot: Snapshot, log: Log = LEDGER) -> list[bytes]:
    """Return the receipts of all key rotations, oldest first."""
    return list(
        snapshot.sql.connection.execute(
            select(TABLES[log].rotation.c.receipt).order_by(TABLES[log].rotation.c.idx)
        ).scalars()
    )
