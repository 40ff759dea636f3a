"""Receipts of entries, from the tree in the database."""

from __future__ import annotations

from boltseal.ledger.merkle import inclusion_path, prove
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import Tiles, needed
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Snapshot


def receipt_of(snapshot: Snapshot, index: int, size: int, note: bytes, log: Log = LEDGER) -> bytes:
    """Return the receipt of an entry under the checkpoint of `size` entries that `note` signs.

    Raises:
        TileInvalid: tiles are missing.
    """
    path = inclusion_path(index, size)
    node = Tiles(size, ledger_tree.tiles(snapshot, needed(path, size), log)).node
    line = next(iter(ledger_store.lines(snapshot, index, batch=1, log=log)))[1]
    return format_receipt(Receipt(index, prove(path, node), note, line))
