"""The part of `admin fsck` step 2 that checks the ledger's tree: is it over the entries, and is its root what was signed?

The tree is built again from the entries, a batch at a time, and each tile is compared with the stored one. The root at the
size of the stored checkpoint, and at that of the mark, must be the signed one. A missing key is an unknown finding, not one
that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified, open_checkpoint
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.tiles import WIDTH, TileId, grow
from boltseal.server.storage.findings import FindingCollector
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.protocol import LEDGER, Log, Snapshot

BATCH: Final = 16 * WIDTH


class TreeCheck:
    """Takes the entries in order, then reports what is wrong with the tree over them."""

    def __init__(
        self, snapshot: Snapshot, keys: LedgerKeys | None, findings: FindingCollector, log: Log = LEDGER
    ) -> None:
        self._snapshot = snapshot
        self._log = log
        self._name = log.name
        self._findings = findings
        self._leaves: list[bytes] = []
        self._size = 0
        self._edge: Mapping[TileId, bytes] = {}
        self._stored = ledger_tree.head(snapshot, log=log)
        self._roots: dict[int, bytes | None] = {}
        self._promised = self._read_promises(keys)
        for checkpoint in self._promised.values():
            self._roots[checkpoint.size] = None

    def take(self, line: bytes) -> None:
        """Take the next entry."""
        self._leaves.append(leaf_hash(line))
        at = self._size + len(self._leaves)
        if len(self._leaves) == BATCH or at in self._roots:
            self._grow()
            if at in self._roots:
                self._compare_edge(at)

    def finish(self) -> None:
        """Compare what was signed with the entries, after all of them were taken."""
        if self._leaves:
            self._grow()
        for who, checkpoint in self._promised.items():
            if checkpoint.size == 0:
                continue
            if checkpoint.size > self._size:
                self._findings.differs(
                    self._name, f"{who} is over {checkpoint.size} entries; the store has {self._size}"
                )
            elif self._roots[checkpoint.size] != checkpoint.root:
                self._findings.differs(
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
        """Compare the partial tiles of the stored tree, when the entries are at its size."""
        if self._stored is None or at != self._stored.size:
            return
        stored = ledger_tree.tiles(self._snapshot, self._edge, self._log)
        for tile, hashes in self._edge.items():
            self._compare(tile, hashes, stored.get(tile))

    def _compare(self, tile: TileId, must: bytes, stored: bytes | None) -> None:
        if stored is None:
            self._findings.differs(self._name, f"{tile.path()} of its tree is missing")
        elif stored != must:
            self._findings.differs(self._name, f"{tile.path()} of its tree is not over these entries")

    def _read_promises(self, keys: LedgerKeys | None) -> dict[str, Checkpoint]:
        """Return what was signed: the stored checkpoint, and the mark."""
        promised = {}
        try:
            key = None if keys is None else keys.key()
            mark = None if keys is None else keys.mark()
            if self._stored is not None:
                if keys is not None and key is None:
                    self._findings.unknown(
                        self._name, "its key is missing, so the signature of its checkpoint can't be verified"
                    )
                promised["the checkpoint"] = (
                    open_checkpoint(self._stored.note, key.verifier).checkpoint
                    if key is not None
                    else checkpoint_of_note_unverified(self._stored.note)
                )
                if promised["the checkpoint"].size != self._stored.size:
                    self._findings.differs(self._name, "its stored checkpoint has another size than its column")
            if mark is not None and key is not None:
                promised["the high-water mark"] = open_checkpoint(mark, key.verifier).checkpoint
        except Invalid as error:
            self._findings.differs(self._name, f"what was signed of it is not valid: {error.message}")
        except BoltsealError as error:
            self._findings.unknown(self._name, error.message)
        return promised


def _end(tile: TileId) -> int:
    """Return how many entries the tree must have for this tile to exist."""
    return (tile.index * WIDTH + tile.width) << (8 * tile.level)
