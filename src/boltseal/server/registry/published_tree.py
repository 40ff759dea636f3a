"""Publishes the tree of a log as objects: tiles and bundles before a size is signed, the checkpoint after it is stored.

The tree in the database is the one that counts; the objects follow it. What is missing between the published checkpoint and the
stored one is written again, also after a process died at any step, or after the object store was configured.

The published checkpoint counts only with a signature of the log's key. Without one, everything is written again, compared with what
is there, and the object is replaced. A signed one of more entries, or of another tree, is never replaced (`PublishedAhead`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

import structlog

from boltseal.errors import Invalid, Unavailable
from boltseal.ledger.checkpoint import Checkpoint, checkpoint_of_note_unverified, open_checkpoint
from boltseal.ledger.merkle import HASH_BYTES
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.tiles import TILE_LEVELS, WIDTH, BundleId, TileId, encode_bundle
from boltseal.server.storage.metadata import ledger_store, ledger_tree
from boltseal.server.storage.metadata.protocol import Log, Metadata, Snapshot
from boltseal.server.storage.object_tiles import ObjectTiles

CHUNK: Final = 64 * WIDTH

_log = structlog.get_logger(__name__)


class PublishedAhead(Unavailable):
    """The published checkpoint is signed with the log's key, but has more entries than were signed here, or others."""

    def __init__(self, published: Checkpoint, size: int) -> None:
        super().__init__(
            f"the published checkpoint of {published.size} entries is signed with this ledger's key, but does not belong to the {size} "
            "that were signed here: this data and its mark are an old copy, or another server signs the same ledger"
        )


class PublishedTree:
    """The objects of one log of a store."""

    def __init__(self, database: Metadata, objects: ObjectTiles, log: Log, chunk: int = CHUNK) -> None:
        """`chunk`: how many entries are read at once, a multiple of 256."""
        self._chunk = chunk
        self._database = database
        self._objects = objects
        self._log = log
        self._note: tuple[str, bytes] | None = None
        """Origin and note of the checkpoint that this process has published last."""
        self._added: tuple[str, int] | None = None
        """Origin and size of the tree whose objects this process has written last."""

    def add(self, origin: str, size: int, grown: Mapping[TileId, bytes], key: VerifierKey) -> None:
        """Write the tiles and bundles of the first `size` entries that may be missing. `grown`: tiles that are not stored yet.

        Raises: TileDiffers, PublishedAhead, TilesUnavailable.
        """
        start = self._published(origin, key)
        while start < size:
            to = min(size, start - start % self._chunk + self._chunk)
            files = self._database.read_and_wait(partial(_files, start, to, grown, self._log))
            self._objects.put(origin, files)
            start = to
        self._added = origin, size

    def has(self, origin: str, note: bytes) -> bool:
        """Return whether this process has published this checkpoint last."""
        return self._note == (origin, note)

    def publish(self, origin: str, note: bytes, key: VerifierKey, is_newest: Callable[[], bool] = lambda: True) -> None:
        """Publish a stored checkpoint, after everything that it covers.

        `is_newest`: asked before an object that proves nothing is replaced: whether no other process has signed since.
        Raises: TileDiffers, PublishedAhead, TilesUnavailable.
        """
        if self.has(origin, note):
            return
        size = _unverified(note).size
        if self._added != (origin, size):
            self.add(origin, size, {}, key)

        own = self._note

        def replaces(found: bytes) -> bool:
            # What this process published needs no second look: the key may be another one since.
            published = _unverified(found) if own == (origin, found) else _verified(found, key)
            if published is None:
                _log.warning("the published checkpoint has no valid signature, so it is replaced", log=self._log.name)
                return is_newest()
            if published.size > size or (published.size == size and published.root != _unverified(note).root):
                raise PublishedAhead(published, size)
            return True

        self._objects.put_checkpoint(origin, note, replaces)
        self._note = origin, note

    def _published(self, origin: str, key: VerifierKey) -> int:
        """Return how many entries are published completely. Raises: PublishedAhead: not all of them are stored and signed here."""
        if self._note is not None and self._note[0] == origin:
            return _unverified(self._note[1]).size
        found = self._objects.checkpoint(origin)
        published = None if found is None else _verified(found, key)
        if published is None:
            return 0
        size, root = self._database.read_and_wait(partial(_stored, published.size, self._log))
        if root != published.root:
            raise PublishedAhead(published, size)
        return published.size


def _stored(at: int, log: Log, snapshot: Snapshot) -> tuple[int, bytes | None]:
    """Return the size of the stored tree, and the root of its first `at` entries; None: it has fewer."""
    head = ledger_tree.head(snapshot, log=log)
    size = 0 if head is None else head.size
    return size, ledger_tree.root(snapshot, at, size, log) if at <= size else None


def _verified(note: bytes, key: VerifierKey) -> Checkpoint | None:
    """Return the checkpoint of a note with a valid signature; None: it has none."""
    try:
        return open_checkpoint(note, key).checkpoint
    except Invalid:
        return None


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


def _unverified(note: bytes) -> Checkpoint:
    """Return the checkpoint of a note that this process has signed, or has verified before."""
    return checkpoint_of_note_unverified(note)
