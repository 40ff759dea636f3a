"""Compare versions of Debian packages (Debian policy 5.6.12). Pure.

    [epoch:]upstream[-revision]    compared in this order; of equal beginnings `~` comes before the end, then letters, then others

Texts are compared as they are: an invalid version gets some place in the order, and never an error.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Final, TypeAlias

_Piece: TypeAlias = tuple[tuple[tuple[int, int], ...], tuple[int, str]]
_END: Final = (1, 0)
"""The end of a text without digits: after `~`, and before every other character."""
_EMPTY: Final[_Piece] = ((_END,), (0, ""))
_pieces: Final = re.compile(r"([^0-9]*)([0-9]*)", re.ASCII).findall


def is_older(version: str, other: str) -> bool:
    """Return whether a version comes before another one."""
    for own, theirs in zip(_parts(version), _parts(other), strict=True):
        for piece, opposite in zip_longest(own, theirs, fillvalue=_EMPTY):
            if piece != opposite:
                return piece < opposite
    return False


def _parts(version: str) -> tuple[list[_Piece], list[_Piece], list[_Piece]]:
    epoch, colon, rest = version.partition(":")
    upstream, dash, revision = (rest if colon else version).rpartition("-")
    return _key(epoch if colon else ""), _key(upstream if dash else revision), _key(revision if dash else "")


def _key(text: str) -> list[_Piece]:
    """Return a text as pieces that are ordered as dpkg does: characters without digits, and the number after them."""
    return [((*map(_rank, letters), _END), _number(digits)) for letters, digits in _pieces(text) if letters or digits]


def _rank(character: str) -> tuple[int, int]:
    return (0 if character == "~" else 2 if character.isascii() and character.isalpha() else 3), ord(character)


def _number(digits: str) -> tuple[int, str]:
    """Return what is ordered as the number is; `int` refuses thousands of digits."""
    digits = digits.lstrip("0")
    return len(digits), digits
