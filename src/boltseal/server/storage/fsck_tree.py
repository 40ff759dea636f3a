"""Is the ledger's tree the one over its entries, and is what was signed the head of it? Part of step 2 of `fsck`.

The tree is grown anew from the entries, a batch at a time, and each tile that comes out is compared with the stored one;
the root at the stored head's size, and at the mark's, must be the ones that were signed. A key that is missing is
something that can't be looked at, not something that differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint_unverified
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import parse_note_unverified
from boltseal.ledger.tiles import WIDTH, TileId, grow
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.schema import LEDGER, Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boltseal.server.storage.findings import FindingCollector
    from boltseal.server.storage.ledger_key import LedgerKeys
    from boltseal.server.storage.metadata.protocol import Snapshot

BATCH: Final = 16 * WIDTH


class TreeCheck:
    """Takes the entries in order, then says what is wrong with the tree over them."""

    def __init__(self, snapshot: Snapshot, keys: LedgerKeys | None, notes: FindingCollector, log: Log = LEDGER) -> None:
        self._snapshot = snapshot
        self._log = log
        self._name = log.name
        self._notes = notes
        self._leaves: list[bytes] = []
        self._size = 0
        self._edge: Mapping[TileId, bytes] = {}
        self._stored = ledger_tree.head(snapshot, log=log)
        self._roots: dict[int, bytes | None] = {}
        self._promised = self._read_promises(keys)
        for checkpoint in self._promised.values():
            self._roots[checkpoint.size] = None

    def take(self, line: bytes) -> None:
        """The next entry."""
        self._leaves.append(leaf_hash(line))
        at = self._size + len(self._leaves)
        if len(self._leaves) == BATCH or at in self._roots:
            self._grow()
            if at in self._roots:
                self._compare_edge(at)

    def finish(self) -> None:
        """All entries were taken: hold what was signed against them."""
        if self._leaves:
            self._grow()
        for who, checkpoint in self._promised.items():
            if checkpoint.size == 0:
                continue
            if checkpoint.size > self._size:
                self._notes.differs(self._name, f"{who} is over {checkpoint.size} entries; {self._size} are here")
            elif self._roots[checkpoint.size] != checkpoint.root:
                self._notes.differs(
                    self._name, f"the first {checkpoint.size} entries are not the ones that {who} is over"
                )

    def _grow(self) -> None:
        grown = grow(self._size, self._edge, self._leaves)
        signed = 0 if self._stored is None else self._stored.size
        full = [tile for tile in grown.tiles if tile.width == WIDTH and _end(tile) <= signed]
        stored = ledger_tree.tiles(self._snapshot, full, self._log)
        for tile in full:
            self._compare(tile, grown.tiles[tile], stored.get(tile))
        self._size, self._edge, self._leaves = grown.size, grown.edge, []
        if grown.size in self._roots:
            self._roots[grown.size] = grown.root

    def _compare_edge(self, at: int) -> None:
        """The partial tiles of the stored tree, when the entries are at its size."""
        if self._stored is None or at != self._stored.size:
            return
        stored = ledger_tree.tiles(self._snapshot, self._edge, self._log)
        for tile, hashes in self._edge.items():
            self._compare(tile, hashes, stored.get(tile))

    def _compare(self, tile: TileId, must: bytes, stored: bytes | None) -> None:
        if stored is None:
            self._notes.differs(self._name, f"{tile.path()} of its tree is missing")
        elif stored != must:
            self._notes.differs(self._name, f"{tile.path()} of its tree is not over the entries that are here")

    def _read_promises(self, keys: LedgerKeys | None) -> dict[str, Checkpoint]:
        """What was signed: the stored head, and the mark."""
        promised = {}
        try:
            key = None if keys is None else keys.key()
            mark = None if keys is None else keys.mark()
            if self._stored is not None:
                if keys is not None and key is None:
                    self._notes.unknown(self._name, "its key is not there, so nobody can say who signed its head")
                promised["the signed head"] = (
                    open_checkpoint(self._stored.note, key.verifier).checkpoint
                    if key is not None
                    else parse_checkpoint_unverified(parse_note_unverified(self._stored.note).text)
                )
                if promised["the signed head"].size != self._stored.size:
                    self._notes.differs(self._name, "its stored head is not of the size that stands beside it")
            if mark is not None and key is not None:
                promised["the high-water mark"] = open_checkpoint(mark, key.verifier).checkpoint
        except Invalid as error:
            self._notes.differs(self._name, f"what was signed of it does not hold: {error.message}")
        except BoltsealError as error:
            self._notes.unknown(self._name, error.message)
        return promised


def _end(tile: TileId) -> int:
    """How many entries the tree must have for this tile to be there."""
    return (tile.index * WIDTH + tile.width) << (8 * tile.level)
