"""Find tags that are newer versions of a tag: same form, same suffix, higher numbers. Pure.

`1.25.3-alpine` and `1.26.0-alpine` are versions of one line. `1.26.0`, `1.26-alpine` and `1.26.0-rc1` belong to other lines:
another variant, another precision, another stage. A tag that does not begin with numbers is not a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from boltseal.oci.reference import Tag

_VERSION: Final = re.compile(r"(?P<lead>[vV]?)(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,3})(?P<suffix>.*)", re.ASCII)
_STAMP: Final = 10_000_000
"""A first number of at least this value is a date or a build number, not a version."""


class Version(NamedTuple):
    """A parsed version. Versions are comparable if their `line` is equal."""

    numbers: tuple[int, ...]
    line: tuple[str, str, int]


class Newer(NamedTuple):
    """The newest version with the same first number, and the newest of all; None without a newer one."""

    same_major: Tag | None
    any_major: Tag | None


def version_of(tag: Tag) -> Version | None:
    """Parse a tag as a version; None when it is not one."""
    found = _VERSION.fullmatch(tag)
    if found is None:
        return None
    suffix = found["suffix"]
    if suffix and suffix[0] not in "-_":
        return None  # `1.2.3.4.5`, `16bullseye`
    numbers = tuple(int(each) for each in found["numbers"].split("."))
    if numbers[0] >= _STAMP:
        return None
    return Version(numbers, (found["lead"], suffix, len(numbers)))


def newer(tag: Tag, tags: Iterable[Tag]) -> Newer:
    """Return the newest versions after `tag` in its line."""
    now = version_of(tag)
    if now is None:
        return Newer(None, None)
    versions = [
        (found.numbers, each)
        for each in tags
        if (found := version_of(each)) is not None and found.line == now.line and found.numbers > now.numbers
    ]
    same = [pair for pair in versions if pair[0][0] == now.numbers[0]]
    return Newer(max(same)[1] if same else None, max(versions)[1] if versions else None)
