"""Parse sizes of configurations: a number of bytes, or a text such as `500 MB` or `50 GiB`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from boltseal.errors import Invalid, quote

EXPECTED: Final = 'a size, such as "50 GiB"'

_UNITS: Final[Mapping[str, int]] = {"": 1, "B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}
_is_size = re.compile(r"([0-9]{1,15}) ?([KMGT]?i?B|)", re.ASCII).fullmatch


class SizeInvalid(Invalid):
    """A value that is not a size. The message has no position; the caller adds it."""


def parse_size(value: object) -> int:
    """Return a size in bytes: of a whole number that is not negative, or of a text with one. Raises: SizeInvalid."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _is_size(value) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise SizeInvalid(f"{quote(str(value))}; expected {EXPECTED}")
    return int(match[1]) * _UNITS[match[2]]
