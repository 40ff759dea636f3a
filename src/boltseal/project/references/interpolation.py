"""Texts with variables in them, filled in, and where every piece of the result came from. Pure.

Three dialects: Compose (`$V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+r} ${V+r} $$`, nested), BuildKit's Dockerfiles (the
same but for `$$`; `\\$` is a dollar sign), and GitLab CI (`$V`, `${V}`, `$$`). A reference can be pinned where its
last character comes from (`Filled.last`), if nothing comes after it, whatever the variables are, and if nobody who sets
one of them gets another tag with the same digest behind it (`Filled.steered_by`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from boltseal.errors import quote

MAX_NESTING: Final = 20
MAX_FILLED: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR: Final = re.compile(r":?[-?+]")

Values: TypeAlias = Callable[[str], "str | None"]


class Dialect(Enum):
    """Whose rules a text is filled in by."""

    COMPOSE = "compose"
    DOCKERFILE = "dockerfile"
    GITLAB = "gitlab"


class InterpolationFailed(Exception):  # noqa: N818, RUF100 - never leaves the room: it becomes the `why` of a site
    """A variable that has no value here, or a form that can't be filled in."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of the result: of the text itself, from `at` on, or the whole value of `variable`.

    `within`: the uses of variables that this piece is the value or the default of, each by name and position: whoever sets
    one of them takes it away.
    """

    text: str
    at: int = -1
    variable: str | None = None
    within: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Interpolated:
    """A text with its variables filled in; `pieces` joined are `text`."""

    pieces: tuple[TextPiece, ...]

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def last(self) -> TextPiece | None:
        """The piece that the result ends with, whatever the variables are; None where that is not certain."""
        return self.pieces[-1] if self.pieces and self.pieces[-1].text else None

    def steered_by(self, *, whole: bool = True) -> str | None:
        """A variable that gives part of the tag and does not take its end away: set to something else, it would leave the
        digest of the old tag behind the new one. Not `whole`: the text is part of a reference, and may be all tag.
        """
        if self.last is None:
            return None
        start, at = _tag_start(self.text, whole=whole), 0
        for piece in self.pieces:
            at += len(piece.text)
            others = piece.within - self.last.within
            if at >= start and others:
                return min(others)[0]
        return None


def behind(variable: str) -> str:
    """Why a digest can't stand behind a tag that this variable gives part of."""
    return f"{variable} gives part of its tag: set to something else, it would leave the old digest behind the new tag"


def _tag_start(text: str, *, whole: bool) -> int:
    name = text.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        return name.rfind(":") + 1
    return len(text) if whole else 0


def variables_in(text: str, dialect: Dialect) -> list[str]:
    """The name of every variable that a text uses, each as often as it does, also in parts that are not reached."""
    escaped = re.compile(r"\\." if dialect is Dialect.DOCKERFILE else r"\$\$", re.DOTALL)
    return re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", escaped.sub("  ", text))


def fill(text: str, values: Values, dialect: Dialect, *, strict: bool = True) -> Interpolated:
    """Fill in a text. `strict`: a variable without a value is InterpolationFailed, else it is empty, as Compose has it."""
    pieces, end = _Filler(text, values, dialect, strict=strict).until(0, closing=False, depth=0)
    if end != len(text):
        raise AssertionError("a text is filled in to its end")
    if sum(len(piece.text) for piece in pieces) > MAX_FILLED:  # values that double each other are no text yet
        raise InterpolationFailed(
            f"{quote(text)} comes to more than {MAX_FILLED} characters once its variables are filled in"
        )
    return Interpolated(tuple(pieces))


class _Filler:
    def __init__(self, text: str, values: Values, dialect: Dialect, *, strict: bool) -> None:
        self.text = text
        self.values = values
        self.dialect = dialect
        self.strict = strict

    def until(self, start: int, *, closing: bool, depth: int) -> tuple[list[TextPiece], int]:
        """Pieces from `start` to the end, or to the brace that closes this level; and the position of that."""
        if depth > MAX_NESTING:
            raise InterpolationFailed(f"{quote(self.text)} nests its variables more than {MAX_NESTING} deep")
        pieces: list[TextPiece] = []
        text, at = self.text, start
        while at < len(text):
            char = text[at]
            if closing and char == "}":
                return pieces, at
            if char == "$":
                found, at = self.dollar(at, depth)
                pieces.extend(found)
            elif char == "\\" and self.dialect is Dialect.DOCKERFILE and at + 1 < len(text):
                pieces.append(TextPiece(text[at + 1], at + 1))
                at += 2
            else:
                stop = at + 1
                while stop < len(text) and text[stop] not in "$}\\":
                    stop += 1
                pieces.append(TextPiece(text[at:stop], at))
                at = stop
        if closing:
            raise InterpolationFailed(f"{quote(text)} lacks a closing brace")
        return pieces, at

    def dollar(self, at: int, depth: int) -> tuple[list[TextPiece], int]:
        text = self.text
        following = text[at + 1 : at + 2]
        if following == "$" and self.dialect is not Dialect.DOCKERFILE:
            return [TextPiece("$", at + 1)], at + 2
        braced = following == "{"
        name = _NAME.match(text, at + 1 + braced)
        if name is None:
            if self.dialect is Dialect.COMPOSE or braced:
                raise InterpolationFailed(f"{quote(text)} has a $ that no variable follows")
            return [TextPiece("$", at)], at + 1
        if not braced:
            return [self.value(name[0], at)], name.end()
        if text[name.end() : name.end() + 1] == "}":
            return [self.value(name[0], at)], name.end() + 1
        operator = None if self.dialect is Dialect.GITLAB else _OPERATOR.match(text, name.end())
        if operator is None:
            raise InterpolationFailed(f"{quote(text[at:])} is a form of ${{{name[0]}}} that is not evaluated here")
        pieces, end = self.operated(name[0], operator[0], operator.end(), depth)
        return [replace(piece, within=piece.within | {(name[0], at)}) for piece in pieces], end

    def operated(self, name: str, operator: str, start: int, depth: int) -> tuple[list[TextPiece], int]:
        value = self.values(name)
        there = value is not None and (value != "" or ":" not in operator)
        wanted = there if operator.endswith("+") else not there
        if operator.endswith("?") or not wanted:
            end = self.skip(start, depth)
            if operator.endswith("?") and not there:
                said = self.text[start:end]
                raise InterpolationFailed(f"{name} is not set" + (f": {said}" if said else ""))
            replaced = TextPiece("", variable=name) if operator.endswith("+") else TextPiece(value or "", variable=name)
            return [replaced], end + 1
        pieces, end = self.until(start, closing=True, depth=depth + 1)
        return pieces or [TextPiece("", start)], end + 1

    def skip(self, start: int, depth: int) -> int:
        """The position of the brace that closes a part which is not used."""
        ignorant = _Filler(self.text, lambda _: "x", self.dialect, strict=False)
        try:
            return ignorant.until(start, closing=True, depth=depth + 1)[1]
        except InterpolationFailed as error:
            if (end := self.text.find("}", start)) < 0:
                raise InterpolationFailed(f"{quote(self.text)} lacks a closing brace") from error
            return end

    def value(self, name: str, at: int) -> TextPiece:
        value = self.values(name)
        if value is None and self.strict:
            raise InterpolationFailed(f"{name} is not set")
        return TextPiece(value or "", variable=name, within=frozenset({(name, at)}))
