"""Tiles: store the tree and its entries in files that never change (C2SP tlog-tiles).

    tile/<L>/<N>[.p/<W>]         256 (or, partial, W) hashes of 32 bytes: nodes of level 8*L, from N*256 on
    tile/entries/<N>[.p/<W>]     256 (or W) entries, each after its length in two bytes, big-endian
    N in groups of three digits, all but the last after an x: 1234067 is x001/x234/067

A full tile is final. The last tile of each level is partial until it is full; it is written anew, under another
width, for each size at which a checkpoint is signed. `grow` adds leaves and says which tiles to write; `Tiles` gives
the nodes that a proof needs; `needed` says in which tiles they lie. Reading and writing are the storage's part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from boltseal.errors import Invalid
from boltseal.ledger.merkle import HASH_BYTES, Node, cover, fold

TILE_LEVELS: Final = 8
WIDTH: Final = 1 << TILE_LEVELS
MAX_ENTRY_BYTES: Final = 65_535
MAX_LEVEL: Final = 63
MAX_INDEX: Final = 2**63 - 1

_TILE_BYTES: Final = WIDTH * HASH_BYTES
_is_path = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
).fullmatch


class TileInvalid(Invalid):
    """The bytes are no tile or bundle, or the text is no path to one."""


@dataclass(frozen=True, slots=True, order=True)
class TileId:
    """The position of a tile. `level` counts tiles (8 levels of the tree each); a `width` below 256 is a partial tile."""

    level: int
    index: int
    width: int = WIDTH

    def path(self) -> str:
        """Return the path, relative to the ledger's prefix."""
        return f"tile/{self.level}/{_format_place(self.index, self.width)}"


@dataclass(frozen=True, slots=True, order=True)
class BundleId:
    """The position of a bundle of entries; a `width` below 256 is a partial bundle."""

    index: int
    width: int = WIDTH

    def path(self) -> str:
        """Return the path, relative to the ledger's prefix."""
        return f"tile/entries/{_format_place(self.index, self.width)}"


def parse_path(text: str) -> TileId | BundleId:
    """Parse the path of a tile or bundle. Raises: TileInvalid for every text that `path` does not return."""
    match = _is_path(text)
    if match is None:
        raise TileInvalid("not the path of a tile; expected such as tile/0/x001/067 or tile/entries/000.p/12")
    index = int(match["index"].replace("x", "").replace("/", ""))
    width = WIDTH if match["width"] is None else int(match["width"])
    if index > MAX_INDEX or (match["width"] is not None and width >= WIDTH):
        raise TileInvalid("not the path of a tile: its index or width is too large")
    found: TileId | BundleId
    found = BundleId(index, width) if match["level"] == "entries" else TileId(int(match["level"]), index, width)
    if found.path() != text or (isinstance(found, TileId) and found.level > MAX_LEVEL):
        raise TileInvalid("not the path of a tile: it has another spelling, or its level is above 63")
    return found


def edge(size: int) -> tuple[TileId, ...]:
    """Return the partial tiles of a tree of `size` entries, from the leaves up. They are needed to append entries."""
    tiles = []
    level = 0
    while size >> (TILE_LEVELS * level):
        width = (size >> (TILE_LEVELS * level)) % WIDTH
        if width:
            tiles.append(TileId(level, size >> (TILE_LEVELS * (level + 1)), width))
        level += 1
    return tuple(tiles)


def tile_of(node: Node, size: int) -> TileId:
    """Return the tile that contains a node of a tree of `size` entries, as wide as it is in that tree."""
    if (node.offset + 1) << node.level > size:
        raise TileInvalid(f"a tree of {size} entries has no complete node {node.offset} of level {node.level}")
    level, above = divmod(node.level, TILE_LEVELS)
    index = node.offset >> (TILE_LEVELS - above)
    return TileId(level, index, min((size >> (TILE_LEVELS * level)) - index * WIDTH, WIDTH))


def needed(path: Iterable[Iterable[Node]], size: int) -> frozenset[TileId]:
    """Return the tiles that contain all nodes of a proof in a tree of `size` entries."""
    return frozenset(tile_of(node, size) for part in path for node in part)


class Tiles:
    """The tiles of one tree that the caller has read, and the nodes in them."""

    def __init__(self, size: int, held: Mapping[TileId, bytes]) -> None:
        self._size = size
        self._held = held
        self._computed: dict[Node, bytes] = {}  # the proofs of neighbours have most nodes in common

    def node(self, node: Node) -> bytes:
        """Return the hash of a node. Raises: TileInvalid when its tile is missing or has a wrong length."""
        known = self._computed.get(node)
        if known is not None:
            return known
        tile = tile_of(node, self._size)
        data = self._held.get(tile)
        if data is None or len(data) != tile.width * HASH_BYTES:
            got = "it is missing" if data is None else f"it has {len(data)} bytes"
            raise TileInvalid(f"{tile.path()} must have {tile.width} hashes, but {got}")
        above = node.level % TILE_LEVELS
        start = (node.offset << above) % WIDTH
        computed = self._computed[node] = _root(data[start * HASH_BYTES : (start + (1 << above)) * HASH_BYTES])
        return computed

    def root(self) -> bytes:
        """Return the root hash of the tree; the tiles of `edge` are sufficient."""
        return fold([self.node(node) for node in cover(0, self._size)])


@dataclass(frozen=True, slots=True)
class Grown:
    """A tree after leaves were added: its size and root, and the tiles that are new or wider than before."""

    size: int
    root: bytes
    tiles: Mapping[TileId, bytes]
    edge: Mapping[TileId, bytes]
    """The partial tiles now, changed or not: what the next `grow` needs."""


def grow(size: int, held: Mapping[TileId, bytes], leaves: Sequence[bytes]) -> Grown:
    """Add leaf hashes to a tree of `size` entries. `held` must have the tiles of `edge(size)`."""
    before = Tiles(size, held)
    written: dict[TileId, bytes] = {}
    level, added = 0, b"".join(leaves)
    while added:
        index, width = divmod(size >> (TILE_LEVELS * level), WIDTH)
        if width:
            before.node(Node(TILE_LEVELS * level, index * WIDTH))  # the tile is there and as long as it must be
            added = held[TileId(level, index, width)] + added
        above = []
        for start in range(0, len(added), _TILE_BYTES):
            data = added[start : start + _TILE_BYTES]
            written[TileId(level, index + start // _TILE_BYTES, len(data) // HASH_BYTES)] = data
            if len(data) == _TILE_BYTES:
                above.append(_root(data))
        level, added = level + 1, b"".join(above)
    new_size = size + len(leaves)
    known = {**held, **written}
    new_edge = {tile: known[tile] for tile in edge(new_size) if tile in known}  # one that is missing is found below
    return Grown(new_size, Tiles(new_size, new_edge).root(), written, new_edge)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Format entries as a bundle. Raises: TileInvalid when an entry is too long for its length field."""
    pieces = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileInvalid(f"an entry of {len(entry)} bytes; a bundle holds at most {MAX_ENTRY_BYTES} in one")
        pieces += [len(entry).to_bytes(2), entry]
    return b"".join(pieces)


def parse_bundle(raw: bytes, width: int = WIDTH) -> tuple[bytes, ...]:
    """Parse a bundle of exactly `width` entries. Raises: TileInvalid."""
    entries: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2])
        if at + 2 > len(raw) or end > len(raw):
            raise TileInvalid(f"a bundle that ends inside its entry {len(entries)}")
        entries.append(raw[at + 2 : end])
        at = end
    if len(entries) != width:
        raise TileInvalid(f"a bundle of {len(entries)} entries; expected {width}")
    return tuple(entries)


def _root(hashes: bytes) -> bytes:
    """Return the hash of a full subtree from its leaf hashes; their number is a power of two."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
    return hashes


def _format_place(index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    place = "/".join(reversed(groups))
    return place if width == WIDTH else f"{place}.p/{width}"
