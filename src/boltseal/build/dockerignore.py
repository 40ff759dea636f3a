"""Decide which files of a build context are excluded: `.dockerignore`, by the rules of Docker's pattern matcher. Pure.

    # at the start of a line      a comment
    !pattern                      includes again what an earlier line excluded
    *  ?  [a-z]  [^a-z]  \\c      within one part of a path, as in Go's filepath.Match
    **                            any number of parts, including none
    a/b                           matches b in a, and everything inside it

The last pattern that matches a path, or a folder above it, decides. The time of a match is at most proportional to pattern
length times path length, so that no pattern of a project can block a build.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from boltseal.errors import Invalid, quote

MAX_PATTERNS: Final = 10_000


class IgnoreInvalid(Invalid):
    """A pattern that Docker rejects as well."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a pattern. `takes`: whether it matches a character; `repeats`: it matches any number of characters.

    `skips`: by how many steps matching may advance here without reading a character.
    """

    takes: Callable[[str], bool]
    repeats: bool = False
    skips: tuple[int, ...] = ()


Steps: TypeAlias = tuple[_Step, ...]


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns of a `.dockerignore` in order, each with whether it begins with `!`."""

    patterns: tuple[tuple[Steps, bool], ...] = ()

    @property
    def takes_back(self) -> bool:
        """Whether the context may contain files of an excluded folder, because a pattern begins with `!`."""
        return any(back for _, back in self.patterns)

    def leaves_out(self, path: str, above: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
        """Return whether a path is excluded, and for each pattern whether it matches the path or a folder above it.

        `above`: the second result for the path's folder.
        """
        matched = tuple(
            (bool(above) and above[number]) or _matches(steps, path) for number, (steps, _) in enumerate(self.patterns)
        )
        out = False
        for (_, back), hit in zip(self.patterns, matched, strict=True):
            if hit:
                out = not back
        return out, matched


def parse_ignore(text: str) -> Ignore:
    """Parse a `.dockerignore`. Raises: IgnoreInvalid."""
    found: list[tuple[Steps, bool]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):  # no other character ends a line
        if line.startswith("#") or not line.strip():
            continue
        pattern = line.strip()
        back = pattern.startswith("!")
        pattern = posixpath.normpath(pattern[back:].strip() or ".").lstrip("/")
        if pattern in ("", "."):
            continue
        if len(found) == MAX_PATTERNS:
            raise IgnoreInvalid(f".dockerignore has more than {MAX_PATTERNS} patterns")
        try:
            found.append((tuple(_steps(pattern)), back))
        except ValueError as error:
            raise IgnoreInvalid(f".dockerignore:{number}: {quote(pattern)} is not a pattern: {error}") from error
    return Ignore(tuple(found))


def _steps(pattern: str) -> Iterator[_Step]:
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern[at : at + 1] == "*":
            at += 1
            at += pattern[at : at + 1] == "/"
            whole_parts = at < len(pattern)
            if whole_parts:  # any number of parts, each with its slash; or none of this
                yield _Step(_is_nothing, skips=(1, 3))
            yield _Step(_is_anything, repeats=True, skips=(1,))
            if whole_parts:
                yield _Step("/".__eq__)
        elif char == "*":
            yield _Step(_is_no_slash, repeats=True, skips=(1,))
        elif char == "?":
            yield _Step(_is_no_slash)
        elif char == "[":
            takes, at = _class(pattern, at)
            yield _Step(takes)
        else:
            if char == "\\":
                if at == len(pattern):
                    raise ValueError("it ends in a backslash")
                char = pattern[at]
                at += 1
            yield _Step(char.__eq__)


def _is_nothing(_: str) -> bool:
    return False


def _is_anything(_: str) -> bool:
    return True


def _is_no_slash(char: str) -> bool:
    return char != "/"


def _class(pattern: str, at: int) -> tuple[Callable[[str], bool], int]:
    """Parse the characters of a `[...]` from behind the opening bracket. Return a test for them, and the next position."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while True:
        if at >= len(pattern):
            raise ValueError("a bracket is not closed")
        if pattern[at] == "]" and ranges:
            break
        low, at = _one(pattern, at)
        high = low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            high, at = _one(pattern, at + 1)
        ranges.append((low, high))
    return (lambda char: any(low <= char <= high for low, high in ranges) != negated), at + 1


def _one(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        return pattern[at + 1], at + 2
    return pattern[at], at + 1


def _matches(steps: Steps, path: str) -> bool:
    """Return whether the steps match the whole path. All positions that are possible at a character are followed at once."""
    places = _skipping(steps, {0})
    for char in path:
        reached = {
            place if step.repeats else place + 1
            for place in places
            if place < len(steps) and (step := steps[place]).takes(char)
        }
        if not reached:
            return False
        places = _skipping(steps, reached)
    return len(steps) in places


def _skipping(steps: Steps, places: set[int]) -> set[int]:
    found, open_ = set(places), list(places)
    while open_:
        place = open_.pop()
        further = {place + skip for skip in steps[place].skips} - found if place < len(steps) else set()
        found |= further
        open_ += further
    return found
