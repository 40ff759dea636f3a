"""What of a build's context the builder never sees: `.dockerignore`, by the rules of Docker's pattern matcher. Pure.

    # at the start of a line      a comment
    !pattern                      takes back what an earlier line left out
    *  ?  [a-z]  [^a-z]  \\c      within one part of a path, as Go's filepath.Match has them
    **                            any number of parts, none too
    a/b                           matches b in a, and everything below it

The last pattern that matches a path, or a folder above it, decides. Matching takes time that grows with pattern times
path, whatever the pattern: a checked-out project can't keep a build busy with one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from boltseal.errors import Invalid, quote

MAX_PATTERNS: Final = 10_000


class IgnoreInvalid(Invalid):
    """A pattern that Docker would not take either."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a pattern: `takes` says which character it takes; `repeats`: any number of them.

    `skips`: how many steps further one may go on without taking any.
    """

    takes: Callable[[str], bool]
    repeats: bool = False
    skips: tuple[int, ...] = ()


Steps: TypeAlias = tuple[_Step, ...]


@dataclass(frozen=True, slots=True)
class Ignore:
    """The patterns of a file, in order, each with whether it takes back."""

    patterns: tuple[tuple[Steps, bool], ...] = ()

    @property
    def takes_back(self) -> bool:
        """Whether what lies in a folder that is left out may be in the context all the same."""
        return any(back for _, back in self.patterns)

    def leaves_out(self, path: str, above: Sequence[bool]) -> tuple[bool, tuple[bool, ...]]:
        """Whether a path is left out, and which patterns matched it or a folder above; `above`: that of its folder."""
        matched = tuple(
            (bool(above) and above[number]) or _matches(steps, path) for number, (steps, _) in enumerate(self.patterns)
        )
        out = False
        for (_, back), hit in zip(self.patterns, matched, strict=True):
            if hit:
                out = not back
        return out, matched


def parse_ignore(text: str) -> Ignore:
    """The patterns of a `.dockerignore`. IgnoreInvalid."""
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
            raise IgnoreInvalid(f".dockerignore:{number}: {quote(pattern)} is no pattern: {error}") from error
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
    """The characters between brackets, from behind the opening one; and where the pattern goes on."""
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
    """Whether all of the path is taken by all of the steps: every place that could be reached is followed at once."""
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
