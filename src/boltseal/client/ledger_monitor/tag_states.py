"""What a monitor remembers of every name that a ledger ever spoke of, in about a hundred bytes each.

    slot     16 bytes  hash of `repository:tag`
              8 bytes  index of its last entry
             16 bytes  hash of the digest that it means, zeros for nothing
             16 bytes  hash of the digest that it is bound to, zeros for none

Names and digests are hashed with a key that the monitor draws once and shows nobody: what is as short as this could
otherwise be made to collide by whoever pushes. Slots lie in 256 tables, chosen by the first byte of the hash, so that
one of them at a time grows; a table is between four and six and a half tenths full, and searched from the place that
its hash says.
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
    """What is remembered of a name. `last`: the index of its last entry. `digest` and `bound` are hashes, NOTHING where there is none."""

    last: int
    digest: bytes
    bound: bytes


class MonitoredTags:
    """The tables. `secret`: the key of all hashes."""

    def __init__(self, secret: bytes, tables: Sequence[bytearray] = (), counts: Sequence[int] = ()) -> None:
        self._base = blake2b(key=secret, digest_size=HASH_BYTES)
        self._tables = list(tables) or [bytearray(_SMALLEST * SLOT_BYTES) for _ in range(TABLES)]
        self._counts = list(counts) or [0] * TABLES
        self._found, self._at = b"", 0

    def hash(self, text: str) -> bytes:
        """The hash of a name or a digest; NOTHING of an empty text."""
        if not text:
            return NOTHING
        running = self._base.copy()
        running.update(text.encode())
        return running.digest()

    def find(self, name: bytes) -> MonitoredTag | None:
        """What is remembered of the name with this hash."""
        table = self._tables[name[0]]
        at = self._at = _place(table, name)
        self._found = name
        return MonitoredTag(*_SLOT.unpack_from(table, at)[1:]) if table[at : at + HASH_BYTES] == name else None

    def put(self, name: bytes, last: int, digest: bytes, bound: bytes) -> None:
        """Remember this of it, in place of what was there."""
        number = name[0]
        table = self._tables[number]
        at = self._at if name == self._found else _place(table, name)  # as a rule it was just looked for
        if table[at : at + HASH_BYTES] != name:
            self._counts[number] += 1
            if self._counts[number] * SLOT_BYTES * 100 > len(table) * 65:
                table = self._tables[number] = _larger(table)
                at = _place(table, name)
        self._found = b""
        _SLOT.pack_into(table, at, name, last, digest, bound)

    @property
    def counts(self) -> Sequence[int]:
        """How many names are in each table."""
        return tuple(self._counts)

    @property
    def tables(self) -> Sequence[bytearray]:
        """The tables as they lie in memory, and in a file."""
        return self._tables

    @property
    def size_bytes(self) -> int:
        """What all of it takes, in memory and in a file."""
        return sum(map(len, self._tables))

    def __len__(self) -> int:
        return sum(self._counts)


def _place(table: bytearray, name: bytes) -> int:
    """Where a name lies, or where it would: an empty slot is all zeros, and there is always one."""
    size = len(table)
    at = int.from_bytes(name[1:9], "little") % (size // SLOT_BYTES) * SLOT_BYTES
    while (held := table[at : at + HASH_BYTES]) != NOTHING and held != name:
        at += SLOT_BYTES
        if at == size:
            at = 0
    return at


def _larger(table: bytearray) -> bytearray:
    """The same names in a table seventeen tenths as large."""
    slots = len(table) // SLOT_BYTES
    larger = bytearray(slots * 17 // 10 * SLOT_BYTES)
    for at in range(0, len(table), SLOT_BYTES):
        slot = bytes(table[at : at + SLOT_BYTES])
        if slot[:HASH_BYTES] != NOTHING:
            to = _place(larger, slot[:HASH_BYTES])
            larger[to : to + SLOT_BYTES] = slot
    return larger
