"""Orders the tags of a repository by version for people to read, and groups them into version lines. Pure.

    1.4.2, 1.4.1, 1.4.0-rc1, v1.4   are of the line 1.4
    16                              is of the line 16
    latest, main, a1b2c3d, 20261130 have no version line

`policy.version_order` has the order by which commands choose a newer version; it compares only tags of one shape, and this module
gives every tag a place.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NO_LINE: Final = ""

# A number of more digits is a date, a build number or a part of a hash.
_version = re.compile(r"v?(\d{1,6}(?:\.\d{1,6})*)(?![\w.])(.*)", re.ASCII | re.DOTALL).fullmatch
_alone = re.compile(r"\d{5,}", re.ASCII).fullmatch
_parts = re.compile(r"\d{1,18}|\D+", re.ASCII).findall


class VersionKey(NamedTuple):
    """Where a tag stands among others: a higher key is a newer version. No two tags have the same key."""

    has_line: bool
    numbers: tuple[int, ...]
    is_plain: bool
    rest: tuple[tuple[int, int, str], ...]
    tag: str

    @property
    def line(self) -> str:
        """The version line: the first two numbers, `NO_LINE` without a version."""
        return ".".join(map(str, self.numbers[:2])) if self.has_line else NO_LINE


def version_key(tag: str) -> VersionKey:
    """Return the place of a tag. `1.4.2` is newer than `1.4.2-rc1`, and `1.4.10` than `1.4.9`."""
    found = None if _alone(tag) else _version(tag)
    if found is None:
        return VersionKey(False, (), True, _natural(tag), tag)
    numbers = tuple(int(number) for number in found[1].split("."))
    return VersionKey(True, numbers, not found[2], _natural(found[2]), tag)


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a text in parts that compare as people read them: numbers by their value, below any other part."""
    return tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in _parts(text))
