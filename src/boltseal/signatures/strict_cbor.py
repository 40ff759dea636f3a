"""Parse CBOR that a signer wrote (RFC 8949), so that every reader sees the same values in it. Pure.

Only what a COSE signature needs: integers, byte and text strings, arrays, maps, tags, true, false and null. An encoding that
leaves a reader a choice is refused: lengths that are not the shortest, items of indefinite length, a key twice in a map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from boltseal.signatures.errors import SignatureInvalid

MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 10_000
"""A signature has some dozen. Nothing is verified yet, so any client may have written the document."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag, which says how to read it."""

    number: int
    value: CborValue


CborKey: TypeAlias = int | str
CborValue: TypeAlias = "int | bytes | str | bool | list[CborValue] | dict[CborKey, CborValue] | Tagged | None"


def parse_strict_cbor(raw: bytes, what: str, max_bytes: int) -> CborValue:
    """Parse one item. `what` names the document in errors.

    1. It has at most `max_bytes` bytes.
    2. It is one item of the kinds above, in their shortest form, at most MAX_DEPTH deep, with at most MAX_ITEMS inside.
    3. Keys of maps are integers or texts, and none is there twice.
    4. Nothing follows it.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    if len(raw) > max_bytes:
        raise SignatureInvalid(f"{what} has {len(raw)} bytes; at most {max_bytes} are read")
    # 2 and 3
    reader = _Reader(raw)
    try:
        value = reader.item(0)
    except ValueError as error:
        raise SignatureInvalid(f"{what} is not CBOR that can be read: {error}") from error
    # 4
    if reader.position != len(raw):
        raise SignatureInvalid(f"{what} is followed by {len(raw) - reader.position} more bytes")
    return value


_TAG: Final = 6
"""The highest major type that has a number or length."""
_SIMPLE: Final = {20: False, 21: True, 22: None}


@dataclass(slots=True)
class _Reader:
    raw: bytes
    position: int = 0
    items: int = 0

    def item(self, depth: int) -> CborValue:
        self._check_bounds(depth)
        (initial,) = self._take(1)
        major, low = initial >> 5, initial & 31
        if major > _TAG:
            if low not in _SIMPLE:
                raise ValueError(f"a value of the kind {initial:#04x} is not expected in a signature")
            return _SIMPLE[low]
        number = self._number(low)
        match major:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self._take(number)
            case 3:
                return self._take(number).decode()
            case 4:
                return [self.item(depth + 1) for _ in range(self._count(number))]
            case 5:
                return self._map(self._count(number), depth)
            case _:
                return Tagged(number, self.item(depth + 1))

    def _check_bounds(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        self.items += 1
        if self.items > MAX_ITEMS:
            raise ValueError(f"it has more than {MAX_ITEMS} values")

    def _map(self, count: int, depth: int) -> dict[CborKey, CborValue]:
        found: dict[CborKey, CborValue] = {}
        for _ in range(count):
            key = self.item(depth + 1)
            if isinstance(key, bool) or not isinstance(key, int | str):
                raise ValueError("a key of a map is neither an integer nor a text")
            if key in found:
                raise ValueError("a map has a key twice, so that readers would disagree on it")
            found[key] = self.item(depth + 1)
        return found

    def _number(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise ValueError("an item has no definite length")
        width = 1 << (low - 24)
        number = int.from_bytes(self._take(width))
        if number < (24 if width == 1 else 1 << (4 * width)):
            raise ValueError("a number or length is not in its shortest form")
        return number

    def _count(self, number: int) -> int:
        if number > len(self.raw) - self.position:
            raise ValueError("it ends too early")
        return number

    def _take(self, count: int) -> bytes:
        taken = self.raw[self.position : self.position + count]
        if len(taken) < count:
            raise ValueError("it ends too early")
        self.position += count
        return taken
