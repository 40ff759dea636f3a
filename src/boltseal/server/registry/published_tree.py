"""Publishes the tree of a log as objects: tiles and bundles before a size is signed, the checkpoint after it is stored.

The tree in the database is the one that counts; the objects follow it. What is missing between the published checkpoint and the
stored one is written again, also after a process died at any step, or after the object store was configured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from boltseal.ledger.checkpoint import parse_checkpoint_unverified
from boltseal.ledger.merkle import HASH_BYTES
from boltseal.ledger.note import parse_note_unverified
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, encode_bundle
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import Log, Metadata, Snapshot
from boltseal.server.storage.object_tiles import ObjectTiles

CHUNK: Final = 64 * WIDTH


class PublishedTree:
    """The objects of one log of a store."""

    def __init__(self, database: Metadata, objects: ObjectTiles, log: Log, chunk: int = CHUNK) -> None:
        """`chunk`: how many entries are read at once, a multiple of 256."""
        self._chunk = chunk
        self._database = database
        self._objects = objects
        self._log = log
        self._note: tuple[str, bytes] | None = None
        """Origin and note of the checkpoint that this process has published or read last."""

    def add(self, origin: str, size: int, grown: Mapping[TileId, bytes]) -> None:
        """Write the tiles and bundles of the first `size` entries that may be missing. `grown`: tiles that are not stored yet.

        Raises: TileDiffers, TilesUnavailable.
        """
        start = self._published(origin)
        while start < size:
            to = min(size, start - start % self._chunk + self._chunk)
            files = self._database.read_and_wait(partial(_files, start, to, grown, self._log))
            self._objects.put(origin, files)
            start = to

    def publish(self, origin: str, note: bytes) -> None:
        """Publish a stored checkpoint, after everything that it covers. Raises: TileDiffers, TilesUnavailable."""
        if self._note == (origin, note):
            return
        self.add(origin, _size(note), {})
        self._objects.put_checkpoint(origin, note)
        self._note = origin, note

    def _published(self, origin: str) -> int:
        if self._note is None or self._note[0] != origin:
            found = self._objects.checkpoint(origin)
            if found is None:
                return 0
            self._note = origin, found
        return _size(self._note[1])


def _files(start: int, to: int, grown: Mapping[TileId, bytes], log: Log, snapshot: Snapshot) -> dict[str, bytes]:
    """Return, by their paths, the tiles and bundles of a tree of `to` entries that one of `start` entries does not have."""
    lines = [line for _, line in ledger_store.lines(snapshot, start - start % WIDTH, until=to, log=log)]
    files = {
        BundleId(index, width).path(): encode_bundle(lines[at : at + width])
        for index, width in _places(start, to)
        for at in [(index - start // WIDTH) * WIDTH]
    }
    wanted, level = list[TileId](), 0
    while to >> (TILE_LEVELS * level):
        places = _places(start >> (TILE_LEVELS * level), to >> (TILE_LEVELS * level))
        wanted += [TileId(level, index, width) for index, width in places]
        level += 1
    held = {(tile.level, tile.index): hashes for tile, hashes in grown.items()}  # as wide as they will be, or wider
    stored = ledger_tree.tiles(snapshot, [tile for tile in wanted if (tile.level, tile.index) not in held], log)
    for tile in wanted:
        hashes = held[tile.level, tile.index] if tile not in stored else stored[tile]
        files[tile.path()] = hashes[: tile.width * HASH_BYTES]
    return files


def _places(start: int, to: int) -> Iterator[tuple[int, int]]:
    """Yield index and width of the tiles that `to` nodes of a level have and `start` nodes have not."""
    if to > start:
        yield from ((index, min(WIDTH, to - index * WIDTH)) for index in range(start // WIDTH, -(-to // WIDTH)))


def _size(note: bytes) -> int:
    return parse_checkpoint_unverified(parse_note_unverified(note).text).size
