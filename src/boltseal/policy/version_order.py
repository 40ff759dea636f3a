"""Find tags that are newer versions of a tag: same form, same suffix, higher numbers. Pure.

`1.25.3-alpine` and `1.26.0-alpine` are versions of one line. `1.26.0`, `1.26-alpine` and `1.26.0-rc1` belong to other lines:
another variant, another precision, another stage. A tag that does not begin with numbers is not a version.

A revision (`policy.tag_revisions`) is of the line of its version, after it and before the next: `1.25.3`, `1.25.3.1`,
`1.25.3.2`, `1.25.4`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.oci.reference import Tag
from boltseal.policy.tag_revisions import DOT, STAMP

_VERSION: Final = re.compile(r"(?P<lead>[vV]?)(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,4})(?P<suffix>.*)", re.ASCII)


class Version(NamedTuple):
    """A parsed version. Versions are comparable if their `line` is equal."""

    numbers: tuple[int, ...]
    line: tuple[str, str, int]


class VersionStep(StrEnum):
    """How far a newer version is away, the smallest step first."""

    REVISION = "revision"
    """A rebuild of the same version."""
    PATCH = "patch"
    MINOR = "minor"
    MAJOR = "major"


_STEPS: Final = tuple(VersionStep)
_PARTS: Final = 3


def version_of(tag: Tag, separator: str = DOT) -> Version | None:
    """Parse a tag as a version; None when it is not one. `separator`: between a version and the number of its revision."""
    found = _VERSION.fullmatch(tag)
    if found is None:
        return None
    suffix, revision = found["suffix"], 0
    numbers = tuple(int(each) for each in found["numbers"].split("."))
    if separator != DOT and (
        rebuilt := re.fullmatch(rf"{separator}([1-9][0-9]{{0,5}})((?:[-_].*)?)", suffix, re.ASCII)
    ):
        revision, suffix = int(rebuilt[1]), rebuilt[2]
        numbers += (0,) * (_PARTS - len(numbers)) + (revision,)
    if suffix and suffix[0] not in "-_":
        return None  # `1.2.3.4.5.6`, `16bullseye`
    if numbers[0] >= STAMP:
        return None
    return Version(numbers, (found["lead"], suffix, min(len(numbers), _PARTS)))


def step_between(old: Version, new: Version) -> VersionStep:
    """Return the step from a version to a later one of its line."""
    same = 0
    while same < _PARTS and old.numbers[same : same + 1] == new.numbers[same : same + 1]:
        same += 1
    return _STEPS[_PARTS - same]


def newest_within(tag: Tag, tags: Iterable[Tag], policy: VersionStep, separator: str = DOT) -> Tag | None:
    """Return the newest version after `tag` in its line that is at most this step away; None without one."""
    now = version_of(tag, separator)
    if now is None:
        return None
    versions = [
        (found.numbers, each)
        for each in tags
        if (found := version_of(each, separator)) is not None
        and found.line == now.line
        and found.numbers > now.numbers
        and _STEPS.index(step_between(now, found)) <= _STEPS.index(policy)
    ]
    return max(versions)[1] if versions else None
