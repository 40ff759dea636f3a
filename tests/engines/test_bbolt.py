"""Reading bbolt files, also hostile ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from boltseal.engines.bbolt import BboltFile, Bucket, uvarint
from boltseal.engines.safe_open import StoreMalformed

PAGE = 4096


def meta(root: int, transaction: int, page: int = PAGE) -> bytes:
    fields = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page, 0, root, 0, 2, 9, transaction)
    value = 0xCBF29CE484222325
    for byte in fields:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return struct.pack("<QHHI", transaction % 2, 4, 0, 0) + fields + struct.pack("<Q", value)


def leaf(number: int, items: list[tuple[int, bytes, bytes]]) -> bytes:
    """Return a leaf page; the first value of each item is 1 for a bucket."""
    heads, data = b"", b""
    for index, (kind, key, value) in enumerate(items):
        pos = 16 * (len(items) - index) + len(data)
        heads += struct.pack("<IIII", kind, pos, len(key), len(value))
        data += key + value
    return struct.pack("<QHHI", number, 2, len(items), 0) + heads + data


def branch(number: int, children: list[tuple[bytes, int]]) -> bytes:
    """Return a branch page. `children`: the first key and the number of each page."""
    heads, keys = b"", b""
    for index, (key, child) in enumerate(children):
        heads += struct.pack("<IIQ", 16 * (len(children) - index) + len(keys), len(key), child)
        keys += key
    return struct.pack("<QHHI", number, 1, len(children), 0) + heads + keys


def inline(items: list[tuple[int, bytes, bytes]]) -> bytes:
    """Return the value of a bucket that is stored inline."""
    return struct.pack("<QQ", 0, 0) + leaf(0, items)


def file(path: Path, *pages: bytes, metas: tuple[bytes, bytes] = (meta(3, 4), meta(3, 5))) -> BboltFile:
    """Open a file of these pages, from page 3 on."""
    whole = [*metas, b"", *pages]
    path.write_bytes(b"".join(page.ljust(PAGE, b"\0") for page in whole))
    return _opened(path)


def _opened(path: Path) -> BboltFile:
    return BboltFile(os.open(path, os.O_RDONLY), "test.db")


def everything(bucket: Bucket) -> dict[bytes, object]:
    return {
        key: everything(value) if isinstance(value, Bucket) else value for key, value in bucket.items()
    }  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


def test_nested_buckets_are_read(path: Path) -> None:
    """Nested buckets are read inline, and on their own pages through branches."""
    pages = (
        branch(3, [(b"a", 4), (b"b", 5)]),
        leaf(4, [(0, b"a", b"1")]),
        leaf(5, [(1, b"b", struct.pack("<QQ", 6, 0))]),
    )
    bolt = file(path, *pages, leaf(6, [(1, b"c", inline([(0, b"d", b"2")]))]))

    assert everything(bolt.root) == {b"a": b"1", b"b": {b"c": {b"d": b"2"}}}
    assert bolt.root.below(b"b", b"c") is not None
    assert bolt.root.below(b"b", b"x") is None


def test_the_newer_meta_page_is_used(path: Path) -> None:
    """Of the two meta pages, the one of the newer transaction is used."""
    bolt = file(path, leaf(3, []), leaf(4, [(0, b"new", b"1")]), metas=(meta(4, 9), meta(3, 8)))

    assert everything(bolt.root) == {b"new": b"1"}


def test_a_damaged_meta_page_is_skipped(path: Path) -> None:
    """A meta page that an interrupted write damaged is skipped; the other is intact."""
    bolt = file(path, leaf(3, []), leaf(4, [(0, b"old", b"1")]), metas=(meta(3, 9)[:-1] + b"\1", meta(4, 8)))

    assert everything(bolt.root) == {b"old": b"1"}


def test_a_meta_page_at_the_place_of_another_page_size_is_ignored(path: Path) -> None:
    """A newer meta page where it would be with another page size is no part of the file, as for bbolt."""
    file(path, leaf(3, [(0, b"a", b"1")]))
    with path.open("r+b") as changed:
        changed.seek(8192)
        changed.write(meta(2, 99, 8192))
        changed.seek(16384)
        changed.write(leaf(2, [(0, b"a", b"2")]).ljust(8192, b"\0"))

    assert everything(_opened(path).root) == {b"a": b"1"}


def test_a_meta_page_with_two_page_sizes_is_refused(path: Path) -> None:
    """Two meta pages that name different page sizes are no bolt file."""
    with pytest.raises(StoreMalformed, match="not a bolt file"):
        file(path, leaf(3, []), metas=(meta(3, 4), meta(3, 5, 8192)))


def test_a_name_is_not_found_before_the_keys_after_it_are_checked(path: Path) -> None:
    """A bucket is found only in a page whose keys are all in order, those after it too."""
    bolt = file(path, leaf(3, [(1, b"a", inline([])), (0, b"c", b"1"), (0, b"b", b"2")]))

    with pytest.raises(StoreMalformed, match="out of order"):
        bolt.root.below(b"a")


def test_a_concurrent_write_is_detected(path: Path) -> None:
    """A write during the read is an error, because the pages may be of two transactions."""
    bolt = file(path, leaf(3, []))
    before = bolt.consistent()
    with path.open("r+b") as changed:
        changed.write(meta(3, 6))

    assert before
    assert not bolt.consistent()


@pytest.mark.parametrize(
    "pages",
    [
        (branch(3, [(b"a", 3)]),),
        (branch(3, [(b"a", 4)]), branch(4, [(b"a", 3)])),
        (branch(3, [(b"a", 77)]),),
        (branch(3, [(b"a", 2**63)]),),
        (leaf(4, []),),
        (struct.pack("<QHHI", 3, 2, 65535, 0),),
        (struct.pack("<QHHI", 3, 2, 1, 0) + struct.pack("<IIII", 0, 2**31, 5, 5),),
        (struct.pack("<QHHI", 3, 2, 1, 2**31),),
        (struct.pack("<QHHI", 3, 64, 1, 0),),
        (leaf(3, [(1, b"b", b"short")]),),
        (leaf(3, [(0, b"b", b"1"), (0, b"a", b"2")]),),
        (leaf(3, [(0, b"a", b"1"), (0, b"a", b"2")]),),
        (branch(3, [(b"a", 4), (b"b", 5)]), leaf(4, [(0, b"a", b"1")]), leaf(5, [(0, b"a", b"2")])),
        (branch(3, [(b"a", 4), (b"b", 5)]), leaf(4, [(0, b"c", b"1")]), leaf(5, [(0, b"b", b"2")])),
        (branch(3, [(b"b", 4), (b"a", 5)]), leaf(4, [(0, b"b", b"1")]), leaf(5, [(0, b"a", b"2")])),
        (branch(3, [(b"a", 4), (b"a", 5)]), leaf(4, []), leaf(5, [(0, b"a", b"2")])),
        (branch(3, [(b"a", 4), (b"m", 6)]), branch(4, [(b"a", 5)]), leaf(5, [(0, b"n", b"1")]), leaf(6, [(0, b"m", b"2")])),
        (leaf(3, [(0, b"a", b"1")]).replace(b"\x02\0", b"\x03\0", 1),),
    ],
    ids=[
        "a-page-in-itself", "a-circle", "no-such-page", "far-away", "another-page", "more-elements-than-fit",
        "an-element-outside", "an-overflow-without-end", "an-unknown-kind", "half-a-bucket",
        "unsorted", "a-key-twice", "a-key-below-its-branch", "a-key-above-its-branch", "an-unsorted-branch", "a-branch-key-twice",
        "a-key-above-the-upper-branch", "a-branch-and-a-leaf",
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(path: Path, pages: tuple[bytes, ...]) -> None:
    """A hostile file is refused in bounded time."""
    bolt = file(path, *pages)

    with pytest.raises(StoreMalformed):
        everything(bolt.root)


@pytest.mark.parametrize("raw", [b"", b"x" * 100, b"\0" * 3 * PAGE])
def test_another_file_is_refused(path: Path, raw: bytes) -> None:
    """A file that is no bbolt database is refused with a message."""
    path.write_bytes(raw)

    with pytest.raises(StoreMalformed, match="not a bolt file"):
        _opened(path)


def test_go_varints_are_decoded() -> None:
    """Go's varints are decoded, seven bits per byte."""
    assert [uvarint(each) for each in (b"\x05", b"\xac\x02")] == [5, 300]
    with pytest.raises(StoreMalformed):
        uvarint(b"\xff" * 20)


def test_a_shared_page_is_read_a_few_times(path: Path) -> None:
    """A page shared by many buckets is read a few times, since nested sharing would multiply at each level."""
    shared = leaf(4, [(1, b"%02d" % number, struct.pack("<QQ", 4, 0)) for number in range(60)])
    bolt = file(path, leaf(3, [(1, b"a", struct.pack("<QQ", 4, 0))]), shared)

    def count(bucket: Bucket, depth: int) -> int:
        return sum(1 + (count(each, depth - 1) if depth else 0) for _, each in bucket.buckets())

    with pytest.raises(StoreMalformed, match="several buckets"):
        count(bolt.root, 5)


def test_overlapping_elements_are_refused(path: Path) -> None:
    """Overlapping elements are refused, because each would copy the same kilobytes."""
    heads = b"".join(struct.pack("<IIII", 0, 16 * (100 - number), 1, 3000) for number in range(100))
    bolt = file(path, struct.pack("<QHHI", 3, 2, 100, 0) + heads)

    with pytest.raises(StoreMalformed, match="into another element"):
        bolt.root.values()


def test_an_oversized_branch_is_refused(path: Path) -> None:
    """A branch of more than one page is refused, because a path of such branches would be in memory at once."""
    bolt = file(path, struct.pack("<QHHI", 3, 1, 0, 1000))
    os.truncate(path, 1 << 23)

    with pytest.raises(StoreMalformed, match="damaged"):
        everything(_opened(path).root)

    assert bolt.consistent()
