"""Tiles: any steps of growth give equal files, full tiles never change, and proofs can be built from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.ledger.merkle import MerkleNode, consistency_path, inclusion_path, leaf_hash, prove
from boltseal.ledger.tiles import (
    BundleId,
    Grown,
    TileId,
    TileInvalid,
    Tiles,
    edge,
    encode_bundle,
    grow,
    needed,
    parse_bundle,
    parse_path,
    tile_of,
)
from tests.ledger import tree_oracle

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tlog.json").read_text())
ENTRIES = [b"e%d" % index for index in range(1000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
EMPTY = Grown(0, b"", {}, {})


def grown(tree: Grown, to: int, leaves: list[bytes] = LEAVES) -> Grown:
    return grow(tree.size, tree.edge, leaves[tree.size : to])


@given(st.lists(st.integers(0, 700), min_size=1, max_size=6).map(sorted))
@settings(max_examples=settings().max_examples * 3 // 10)
def test_any_steps_lead_to_the_same_tree(stops: list[int]) -> None:
    """In any steps of growth, the root is that of the definition, and a full tile is never rewritten."""
    tree, written = EMPTY, dict[TileId, bytes]()
    for stop in stops:
        tree = grown(tree, stop)
        for tile, data in tree.tiles.items():
            assert written.setdefault(tile, data) == data
            assert len(data) == tile.width * 32
        assert tree.root == tree_oracle.mth(ENTRIES[:stop])
        assert set(tree.edge) == set(edge(stop))

    assert tree.size == stops[-1]


@given(st.integers(1, 1000), st.data())
@settings(max_examples=settings().max_examples * 4 // 10)
def test_a_proof_reads_exactly_the_tiles_that_it_needs(size: int, data: st.DataObject) -> None:
    """A proof reads exactly the announced tiles, and equals that of the definition."""
    tree = grown(EMPTY, size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    for path, proof in [
        (inclusion_path(index, size), tree_oracle.path(index, ENTRIES[:size])),
        (consistency_path(old, size), tree_oracle.proof(old, ENTRIES[:size])),
    ]:
        held = {tile: tree.tiles[tile] for tile in needed(path, size)}

        assert list(prove(path, Tiles(size, held).node)) == proof


def test_a_tree_of_seventy_thousand_entries_has_the_tiles_that_the_specification_counts() -> None:
    """tlog-tiles: 273 full level 0 tiles, one partial of width 112, one full level 1, one of width 17, one level 2 of 1."""
    hashes = [index.to_bytes(32) for index in range(70_000)]
    tiles = sorted(grow(0, {}, hashes).tiles)

    assert [tile for tile in tiles if tile.level == 0] == [
        *(TileId(0, index) for index in range(273)),
        TileId(0, 273, 112),
    ]
    assert [tile for tile in tiles if tile.level] == [TileId(1, 0), TileId(1, 1, 17), TileId(2, 0, 1)]
    assert edge(70_000) == (TileId(0, 273, 112), TileId(1, 1, 17), TileId(2, 0, 1))


def test_a_tree_of_256_entries_has_a_full_tile_and_one_hash_above_it() -> None:
    """tlog-tiles: a tree of size 256 has a full level 0 tile and a partial level 1 tile of width 1."""

    assert sorted(grown(EMPTY, 256).tiles) == [TileId(0, 0), TileId(1, 0, 1)]
    assert edge(256) == (TileId(1, 0, 1),)
    assert edge(0) == ()


def test_growing_by_nothing_changes_nothing() -> None:
    """Growing by no entries writes no tiles and keeps the root."""
    tree = grown(EMPTY, 300)
    same = grown(tree, 300)

    assert (same.root, same.tiles, same.edge) == (tree.root, {}, tree.edge)


@pytest.mark.parametrize("tile", edge(300))
def test_a_tree_is_not_grown_from_a_missing_or_cut_tile(tile: TileId) -> None:
    """From a missing or truncated tile no root is computed, so none is signed."""
    tree = grown(EMPTY, 300)
    missing = {other: data for other, data in tree.edge.items() if other != tile}
    for held in (missing, {**tree.edge, tile: tree.edge[tile][:-1]}):
        for leaves in ([], [LEAVES[300]]):
            with pytest.raises(TileInvalid, match=rf"^{tile.path()} must have {tile.width} hashes, but it "):
                grow(300, held, leaves)


def test_a_node_that_is_not_complete_is_in_no_tile() -> None:
    """Asking for an incomplete node is an error."""

    assert tile_of(MerkleNode(3, 36), 300) == TileId(0, 1, 44)
    with pytest.raises(TileInvalid, match=r"^a tree of 300 entries has no complete node 37 of level 3$"):
        tile_of(MerkleNode(3, 37), 300)


def test_paths_are_those_of_gos_tlog() -> None:
    """Tile paths equal those of Go's tlog package, except for the height, which C2SP leaves out."""
    for vector in VECTORS["places"]:
        tile = TileId(vector["Level"], vector["Index"], vector["Width"])

        assert tile.path() == vector["Path"]
        assert parse_path(vector["Path"]) == tile


@given(
    st.one_of(
        st.builds(TileId, st.integers(0, 63), st.integers(0, 2**63 - 1), st.integers(1, 256)),
        st.builds(BundleId, st.integers(0, 2**63 - 1), st.integers(1, 256)),
    )
)
def test_a_path_names_one_place(place: TileId | BundleId) -> None:
    """A tile's path is parsed as that tile."""

    assert parse_path(place.path()) == place


@pytest.mark.parametrize(
    "path",
    ["", "tile/0", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/64/000", "tile/0/x000/000", "tile/0/001/000", "tile/0/x001", "tile/0/000.p/0",
     "tile/0/000.p/256", "tile/0/000.p/999", "tile/0/000.p/01", "tile/0/000/", "/tile/0/000", "tile/-1/000", "tile/entries/x1/000", "tile/data/000",
     "tile/0/000.p/1\n", "tile/0/x009/x999/x999/x999/x999/x999/999", "tile/0/" + "x001/" * 5000 + "000", "tile/0/\u0660\u0660\u0660"],
)  # fmt: skip
def test_no_other_text_is_a_path(path: str) -> None:
    """Only one text is a tile's path, which caches and file trees rely on."""
    with pytest.raises(TileInvalid, match="not the path of a tile"):
        parse_path(path)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_returns_its_entries(entries: list[bytes]) -> None:
    """A bundle gives its entries, each preceded by its length in two bytes."""

    assert parse_bundle(encode_bundle(entries), len(entries)) == tuple(entries)


def test_a_bundle_is_laid_out_as_the_specification_says() -> None:
    """tlog-tiles: a bundle has big-endian uint16 length-prefixed log entries."""

    assert encode_bundle([b"ab", b"", b"c" * 300]) == b"\x00\x02ab\x00\x00\x01\x2c" + b"c" * 300
    assert BundleId(1234067).path() == "tile/entries/x001/x234/067"
    assert BundleId(0, 12).path() == "tile/entries/000.p/12"


def test_an_entry_too_long_for_its_length_field_is_refused() -> None:
    """An entry too long for its length field is refused, since it would be read as something else."""

    assert len(encode_bundle([b"x" * 65_535])) == 65_537
    with pytest.raises(TileInvalid, match="an entry of 65536 bytes"):
        encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "a bundle of 0 entries; expected 2"),
        (b"\x00\x01a", "a bundle of 1 entries; expected 2"),
        (b"\x00\x01a\x00\x01b\x00\x00", "a bundle of 3 entries; expected 2"),
        (b"\x00\x01a\x00", "a bundle that ends inside its entry 1"),
        (b"\x00\x01a\x00\x02b", "a bundle that ends inside its entry 1"),
        (b"\x00", "a bundle that ends inside its entry 0"),
    ],
)
def test_a_bundle_that_is_cut_or_of_another_width_is_refused(raw: bytes, message: str) -> None:
    """A truncated bundle, or one of another width, is refused."""
    with pytest.raises(TileInvalid, match=message):
        parse_bundle(raw, 2)
