"""Reader of bbolt files, in which containerd keeps its metadata. Files are opened read-only and not locked.

    page 0, page 1     meta: magic, version, page size, root bucket's page, ..., transaction, checksum (FNV-1a of 56 bytes)
    other pages        {u64 id, u16 flags, u16 count, u32 overflow} and then elements
    branch (1)         {u32 pos, u32 ksize, u64 page}: pos counts from the element
    leaf (2)           {u32 flags, u32 pos, u32 ksize, u32 vsize}: flag 1 is a bucket, whose value is {u64 root, u64 seq};
                       root 0: the bucket's only page follows in the value

A writer never modifies pages of the last transaction: as long as the newer meta page is unchanged, what was read is
consistent (`consistent`). The file is not trusted: pages and depth are bounded, a page is read once per bucket and at
most MAX_READINGS times in all, and elements of a page may not overlap. So the amount read is at most a few times the
file size.

bbolt finds a key by binary search, through the first keys in branches. So a key that is out of order, occurs twice, or is on
another page than its branch says, would be read here but not by containerd. Such a file is malformed (as for `bbolt check`).
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from boltseal.engines.safe_open import StoreMalformed

MAX_DEPTH: Final = 24
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
"""Values are a few kilobytes long."""
MAX_BRANCH_BYTES: Final = 1024 * 1024
MAX_READINGS: Final = 8
"""How often one page may be read: in a well-formed file a page belongs to one bucket."""
_MAGIC: Final = 0xED0CDAED
_PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
_META_PLACES: Final = (0, *(1024 << shift for shift in range(15)))
"""Where bbolt looks for an intact meta page, in this order, to learn the page size."""
_META: Final = struct.Struct("<IIIIQQQQQQ")
_PAGE: Final = struct.Struct("<QHHI")
_BRANCH: Final = struct.Struct("<IIQ")
_LEAF: Final = struct.Struct("<IIII")
_BUCKET: Final = struct.Struct("<QQ")
_IS_BUCKET: Final = 1
_IS_BRANCH: Final = 1
_IS_LEAF: Final = 2


class BboltFile:
    """An open file. Its buckets are valid until the file is closed. Every method may raise StoreMalformed."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self._size = os.fstat(fd).st_size
        self._readings: Counter[int] = Counter()
        self._page_size, self.transaction, root = self._meta()
        self.root = Bucket(self, root, None)

    def consistent(self) -> bool:
        """Return whether nothing was written since the file was opened."""
        return self._meta()[1] == self.transaction

    def _meta(self) -> tuple[int, int, int]:
        """Return page size, transaction and root of the newest intact meta page."""
        page_size = next((found[0] for at in _META_PLACES if (found := self._meta_at(at))), 0)
        both = [found for at in (0, page_size) if (found := self._meta_at(at))]
        if page_size not in _PAGE_SIZES or any(found[0] != page_size for found in both) or not both:
            raise StoreMalformed(f"{self.name} is not a bolt file, or both its meta pages are damaged")
        return max(both, key=lambda meta: meta[1])

    def _meta_at(self, at: int) -> tuple[int, int, int] | None:
        """Return page size, transaction and root of the meta page at a place, None if it is not intact."""
        raw = os.pread(self._fd, _META.size, at + _PAGE.size)
        if len(raw) < _META.size:
            return None
        magic, version, page_size, _, root, _, _, _, transaction, checksum = _META.unpack(raw)
        if magic != _MAGIC or version != 2 or checksum != _fnv1a(raw[:56]):
            return None
        return page_size, transaction, root

    def page(self, number: int) -> bytes:
        """Return a page with its overflow pages."""
        at = number * self._page_size
        head = os.pread(self._fd, _PAGE.size, at) if 0 < at <= self._size - _PAGE.size else b""
        if len(head) < _PAGE.size:
            raise StoreMalformed(f"{self.name} names page {number}, which is not in it")
        id_, flags, _, overflow = _PAGE.unpack(head)
        size = (overflow + 1) * self._page_size
        limit = MAX_BRANCH_BYTES if flags & _IS_BRANCH else MAX_PAGE_BYTES
        if id_ != number or at + size > self._size or size > limit:
            raise StoreMalformed(f"{self.name}: page {number} is damaged")
        self._readings[number] += 1
        if self._readings[number] > MAX_READINGS:
            raise StoreMalformed(f"{self.name}: page {number} belongs to several buckets")
        return os.pread(self._fd, size, at)


class Bucket:
    """Sorted keys, each with a value or a nested bucket."""

    def __init__(self, bolt: BboltFile, root: int, inline: bytes | None) -> None:
        self._bolt = bolt
        self._root = root
        self._inline = inline

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield all keys with their values and buckets. The order of keys is known only after the last one."""
        seen: set[int] = set()
        page = self._inline if self._inline is not None else self._bolt.page(self._root)
        yield from self._page(page, seen, 0, (b"", None))

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """Yield the nested buckets."""
        return ((key, value) for key, value in self.items() if isinstance(value, Bucket))

    def below(self, *path: bytes) -> Bucket | None:
        """Return a nested bucket by its path of keys, or None."""
        at: Bucket | None = self
        for name in path:
            if at is None:
                return None
            at = dict(at.buckets()).get(name)
        return at

    def values(self) -> dict[bytes, bytes]:
        """Return the keys that have values."""
        return {key: value for key, value in self.items() if isinstance(value, bytes)}

    def _page(
        self, page: bytes, seen: set[int], depth: int, limits: tuple[bytes, bytes | None]
    ) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield what is on a page and those below it. `limits`: the lowest key that may be there, and the first too high one."""
        number, flags, count, _ = self._header(page)
        if (number in seen and depth) or depth > MAX_DEPTH:
            raise StoreMalformed(f"{self._bolt.name}: pages form a cycle, or are nested too deeply")
        seen.add(number)
        if flags == _IS_BRANCH:
            children = list(self._children(page, count))
            self._check_order([key for key, _ in children], limits)
            for index, (key, child) in enumerate(children):
                if child in seen:
                    raise StoreMalformed(f"{self._bolt.name}: pages form a cycle")
                high = children[index + 1][0] if index + 1 < count else limits[1]
                yield from self._page(self._bolt.page(child), seen, depth + 1, (key, high))
        elif flags == _IS_LEAF:
            elements = list(self._elements(page, count))
            self._check_order([key for key, _, _ in elements], limits)
            for key, is_bucket, value in elements:
                yield key, self._bucket(value) if is_bucket else value
        else:
            raise StoreMalformed(f"{self._bolt.name}: page {number} is neither a branch nor a leaf")

    def _check_order(self, keys: Sequence[bytes], limits: tuple[bytes, bytes | None]) -> None:
        low, high = limits
        is_sorted = all(first < second for first, second in pairwise(keys))
        if keys and (not is_sorted or keys[0] < low or (high is not None and keys[-1] >= high)):
            raise StoreMalformed(
                f"{self._bolt.name}: keys are out of order, so that its engine would not find them all"
            )

    def _children(self, page: bytes, count: int) -> Iterator[tuple[bytes, int]]:
        """Yield the first key and the number of each page below a branch."""
        taken = _PAGE.size
        for index in range(count):
            at = _PAGE.size + index * _BRANCH.size
            pos, key_size, child = self._unpack(_BRANCH, page, at)
            taken += _BRANCH.size + key_size
            self._check_place(page, at + pos + key_size, taken)
            yield page[at + pos : at + pos + key_size], child

    def _elements(self, page: bytes, count: int) -> Iterator[tuple[bytes, bool, bytes]]:
        """Yield the elements of a leaf: key, whether it is a bucket, and value."""
        taken = _PAGE.size
        for index in range(count):
            at = _PAGE.size + index * _LEAF.size
            kind, pos, key_size, value_size = self._unpack(_LEAF, page, at)
            start, end = at + pos, at + pos + key_size + value_size
            taken += _LEAF.size + key_size + value_size
            self._check_place(page, end, taken)
            yield page[start : start + key_size], bool(kind & _IS_BUCKET), page[start + key_size : end]

    def _check_place(self, page: bytes, end: int, taken: int) -> None:
        """Refuse an element that ends beyond the page. `taken`: the size of all elements so far, which may not overlap."""
        if end > len(page) or taken > len(page):
            raise StoreMalformed(f"{self._bolt.name}: an element reaches beyond its page or into another element")

    def _header(self, page: bytes) -> tuple[int, int, int, int]:
        if len(page) < _PAGE.size:
            raise StoreMalformed(f"{self._bolt.name}: truncated page")
        number, flags, count, overflow = _PAGE.unpack_from(page)
        return number, flags, count, overflow

    def _unpack(self, shape: struct.Struct, page: bytes, at: int) -> tuple[int, ...]:
        if at + shape.size > len(page):
            raise StoreMalformed(f"{self._bolt.name}: a page claims more elements than it has")
        return shape.unpack_from(page, at)

    def _bucket(self, value: bytes) -> Bucket:
        if len(value) < _BUCKET.size:
            raise StoreMalformed(f"{self._bolt.name}: truncated bucket")
        root, _ = _BUCKET.unpack_from(value)
        return Bucket(self._bolt, root, value[_BUCKET.size :] if root == 0 else None)


def uvarint(raw: bytes) -> int:
    """Decode Go's unsigned varint. Raises: StoreMalformed."""
    value = 0
    for index, byte in enumerate(raw[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value
    raise StoreMalformed("unterminated varint")


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
