"""The state that a monitor stores for every tag of a ledger, in about a hundred bytes each.

    slot     16 bytes  hash of `repository:tag`
              8 bytes  index of its last entry
             16 bytes  hash of the digest that it resolves to, zeros for none
             16 bytes  hash of the digest that it is sealed to, zeros for none

Names and digests are hashed with a secret key of this monitor: hashes this short could otherwise be made to collide by
anyone who can push. The slots are in 256 hash tables with linear probing, chosen by the first byte of the hash, so that
one table at a time grows. A table is filled between 40 and 65 percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

HASH_BYTES: Final = 16
NOTHING: Final = bytes(HASH_BYTES)
_SLOT: Final = Struct("<16sq16s16s")
SLOT_BYTES: Final = _SLOT.size
TABLES: Final = 256
_SMALLEST: Final = 8


class MonitoredTag(NamedTuple):
    """The state of a tag. `last`: index of its last entry. `digest` and `bound`: hashes, NOTHING for none."""

    last: int
    digest: bytes
    bound: bytes


class MonitoredTags:
    """The hash tables. `secret`: the key of all hashes."""

    def __init__(self, secret: bytes, tables: Sequence[bytearray] = (), counts: Sequence[int] = ()) -> None:
        self._base = blake2b(key=secret, digest_size=HASH_BYTES)
        self._tables = list(tables) or [bytearray(_SMALLEST * SLOT_BYTES) for _ in range(TABLES)]
        self._counts = list(counts) or [0] * TABLES
        self._found, self._at = b"", 0

    def hash(self, text: str) -> bytes:
        """Return the hash of a tag or digest; NOTHING for ""."""
        if not text:
            return NOTHING
        running = self._base.copy()
        running.update(text.encode())
        return running.digest()

    def find(self, name: bytes) -> MonitoredTag | None:
        """Return the state of the tag with this hash, or None."""
        table = self._tables[name[0]]
        at = self._at = _place(table, name)
        self._found = name
        return MonitoredTag(*_SLOT.unpack_from(table, at)[1:]) if table[at : at + HASH_BYTES] == name else None

    def put(self, name: bytes, last: int, digest: bytes, bound: bytes) -> None:
        """Set the state of a tag."""
        number = name[0]
        table = self._tables[number]
        at = self._at if name == self._found else _place(table, name)  # usually the tag of the last `find`
        if table[at : at + HASH_BYTES] != name:
            self._counts[number] += 1
            if self._counts[number] * SLOT_BYTES * 100 > len(table) * 65:
                table = self._tables[number] = _larger(table)
                at = _place(table, name)
        self._found = b""
        _SLOT.pack_into(table, at, name, last, digest, bound)

    @property
    def counts(self) -> Sequence[int]:
        """Return the number of tags in each table."""
        return tuple(self._counts)

    @property
    def tables(self) -> Sequence[bytearray]:
        """Return the tables, as in memory and in a file."""
        return self._tables

    @property
    def size_bytes(self) -> int:
        """Return the size of all tables, in memory and in a file."""
        return sum(map(len, self._tables))

    def __len__(self) -> int:
        return sum(self._counts)


def _place(table: bytearray, name: bytes) -> int:
    """Return the offset of a tag's slot, or of the empty slot for it. An empty slot is all zeros; there is always one."""
    size = len(table)
    at = int.from_bytes(name[1:9], "little") % (size // SLOT_BYTES) * SLOT_BYTES
    while (held := table[at : at + HASH_BYTES]) != NOTHING and held != name:
        at += SLOT_BYTES
        if at == size:
            at = 0
    return at


def _larger(table: bytearray) -> bytearray:
    """Return the same slots in a table 1.7 times as large."""
    slots = len(table) // SLOT_BYTES
    larger = bytearray(slots * 17 // 10 * SLOT_BYTES)
    for at in range(0, len(table), SLOT_BYTES):
        slot = bytes(table[at : at + SLOT_BYTES])
        if slot[:HASH_BYTES] != NOTHING:
            to = _place(larger, slot[:HASH_BYTES])
            larger[to : to + SLOT_BYTES] = slot
    return larger
