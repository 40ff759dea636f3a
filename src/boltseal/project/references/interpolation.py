"""Fill in the variables of a text and record where each piece of the result came from. Pure.

Three dialects: Compose (`$V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+r} ${V+r} $$`, nested), BuildKit's Dockerfiles (the
Compose forms without `$$`, and `${V#p} ${V##p} ${V%p} ${V%%p} ${V/p/r} ${V//p/r}`; `\\$` is a dollar sign), and GitLab CI (`$V`, `${V}`, `$$`). A reference can be pinned at
the source of its last character (`Interpolated.last`) on two conditions: nothing follows that character whatever the
variables are, and no variable can change the tag and leave the digest in place (`Interpolated.steering_variable`).
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
_LITERAL: Final = r"""[^${}"'\\]*"""
_CHANGE: Final = re.compile(
    rf"(?:(?P<cut>##?|%%?)(?P<part>{_LITERAL})|(?P<replace>//?)(?P<pattern>(?!/){_LITERAL.replace('[^', '[^/')})/(?P<by>{_LITERAL}))}}"
)
MAX_WILDCARDS: Final = 2
MAX_CHANGED: Final = 1000

Values: TypeAlias = Callable[[str], "str | None"]


class Dialect(Enum):
    """The syntax and rules by which variables are filled in."""

    COMPOSE = "compose"
    DOCKERFILE = "dockerfile"
    GITLAB = "gitlab"


class InterpolationFailed(Exception):  # noqa: N818, RUF100 - stays inside the package, where it becomes a `why`
    """A variable without a value, or a form that is not evaluated."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A part of the result: literal text from offset `at`, or the whole value of `variable`.

    `within`: the variable uses (name and offset) whose value or default contains this piece. Setting one of these
    variables replaces the piece. `changed`: a pattern changed the value, so the text is not in the file.
    """

    text: str
    at: int = -1
    variable: str | None = None
    within: frozenset[tuple[str, int]] = frozenset()
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Interpolated:
    """A text with its variables filled in. Its `pieces` joined are `text`."""

    pieces: tuple[TextPiece, ...]

    @property
    def text(self) -> str:
        """The text with all variables replaced."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def last(self) -> TextPiece | None:
        """The piece that ends the result for all values of the variables; None if that is not certain."""
        last = self.pieces[-1] if self.pieces else None
        return None if last is None or not last.text or last.changed else last

    def steering_variable(self, *, whole: bool = True) -> str | None:
        """Return a variable that sets part of the tag and does not replace its end, or None.

        Another value of it would combine a new tag with the old digest. `whole` False: the text is part of a
        reference, and may consist of the tag only.
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


def steering_reason(variable: str) -> str:
    """Return why a digest can't follow a tag that this variable sets in part."""
    return f"{variable} sets part of its tag: another value would combine a new tag with the old digest"


def _tag_start(text: str, *, whole: bool) -> int:
    name = text.partition("@")[0]
    if ":" in name.rpartition("/")[2]:
        return name.rfind(":") + 1
    return len(text) if whole else 0


def variables_in(text: str, dialect: Dialect) -> list[str]:
    """Return the names of all variables in a text, with repetitions, also in parts that are not evaluated."""
    escaped = re.compile(r"\\." if dialect is Dialect.DOCKERFILE else r"\$\$", re.DOTALL)
    return re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", escaped.sub("  ", text))


def fill(text: str, values: Values, dialect: Dialect, *, strict: bool = True) -> Interpolated:
    """Fill in a text's variables. An unset variable raises InterpolationFailed if `strict`, else it is empty."""
    pieces, end = _Filler(text, values, dialect, strict=strict).until(0, closing=False, depth=0)
    if end != len(text):
        raise AssertionError("filling in must reach the end of the text")
    if sum(len(piece.text) for piece in pieces) > MAX_FILLED:  # checked before joining: nested values can double
        raise InterpolationFailed(f"{quote(text)} has more than {MAX_FILLED} characters with its variables filled in")
    return Interpolated(tuple(pieces))


class _Filler:
    def __init__(self, text: str, values: Values, dialect: Dialect, *, strict: bool) -> None:
        self.text = text
        self.values = values
        self.dialect = dialect
        self.strict = strict

    def until(self, start: int, *, closing: bool, depth: int) -> tuple[list[TextPiece], int]:
        """Return the pieces from `start` to the end, or to this level's closing brace, and the position of that."""
        if depth > MAX_NESTING:
            raise InterpolationFailed(f"{quote(self.text)} nests variables more than {MAX_NESTING} deep")
        pieces: list[TextPiece] = []
        text, at = self.text, start
        while at < len(text):
            char = text[at]
            if closing and char == "}":
                return pieces, at
            if char == "$":
                found, at = self.read_variable(at, depth)
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
            raise InterpolationFailed(f"{quote(text)} has no closing brace")
        return pieces, at

    def read_variable(self, at: int, depth: int) -> tuple[list[TextPiece], int]:
        text = self.text
        following = text[at + 1 : at + 2]
        if following == "$" and self.dialect is not Dialect.DOCKERFILE:
            return [TextPiece("$", at + 1)], at + 2
        braced = following == "{"
        name = _NAME.match(text, at + 1 + braced)
        if name is None:
            if self.dialect is Dialect.COMPOSE or braced:
                raise InterpolationFailed(f"{quote(text)} has a $ without a variable name")
            return [TextPiece("$", at)], at + 1
        if not braced:
            return [self.value(name[0], at)], name.end()
        if text[name.end() : name.end() + 1] == "}":
            return [self.value(name[0], at)], name.end() + 1
        changed = _CHANGE.match(text, name.end()) if self.dialect is Dialect.DOCKERFILE else None
        if changed is not None:
            piece = self.value(name[0], at)
            return [replace(piece, text=_changed(piece.text, changed), changed=True)], changed.end()
        operator = None if self.dialect is Dialect.GITLAB else _OPERATOR.match(text, name.end())
        if operator is None:
            raise InterpolationFailed(f"{quote(text[at:])} uses a form of ${{{name[0]}}} that is not evaluated")
        pieces, end = self.apply_operator(name[0], operator[0], operator.end(), depth)
        return [replace(piece, within=piece.within | {(name[0], at)}) for piece in pieces], end

    def apply_operator(self, name: str, operator: str, start: int, depth: int) -> tuple[list[TextPiece], int]:
        value = self.values(name)
        is_set = value is not None and (value != "" or ":" not in operator)
        wanted = is_set if operator.endswith("+") else not is_set
        if operator.endswith("?") or not wanted:
            end = self.skip(start, depth)
            if operator.endswith("?") and not is_set:
                message = self.text[start:end]
                raise InterpolationFailed(f"{name} is not set" + (f": {message}" if message else ""))
            replaced = TextPiece("", variable=name) if operator.endswith("+") else TextPiece(value or "", variable=name)
            return [replaced], end + 1
        pieces, end = self.until(start, closing=True, depth=depth + 1)
        return pieces or [TextPiece("", start)], end + 1

    def skip(self, start: int, depth: int) -> int:
        """Return the position of the brace that closes an unused part."""
        placeholder = _Filler(self.text, lambda _: "x", self.dialect, strict=False)
        try:
            return placeholder.until(start, closing=True, depth=depth + 1)[1]
        except InterpolationFailed as error:
            if (end := self.text.find("}", start)) < 0:
                raise InterpolationFailed(f"{quote(self.text)} has no closing brace") from error
            return end

    def value(self, name: str, at: int) -> TextPiece:
        value = self.values(name)
        if value is None and self.strict:
            raise InterpolationFailed(f"{name} is not set")
        return TextPiece(value or "", variable=name, within=frozenset({(name, at)}))


def _changed(value: str, change: re.Match[str]) -> str:
    """Return a value without a prefix or suffix, or with a part replaced, as BuildKit does. `*` and `?` are wildcards."""
    cut, pattern = change["cut"], change["part"] if change["cut"] else change["pattern"]
    if pattern.count("*") > MAX_WILDCARDS or len(value) > MAX_CHANGED:
        raise InterpolationFailed(f"{quote(change[0])} is not evaluated: it has too many wildcards or characters")
    if cut is None:
        by = change["by"]
        if not pattern.strip("*"):  # it matches an empty text, and programs differ in how often
            raise InterpolationFailed(f"{quote(change[0])} is not evaluated: its pattern matches any text")
        return re.sub(_expression(pattern, ".*"), lambda _: by, value, count=1 if change["replace"] == "/" else 0)
    any_text = ".*" if len(cut) == 2 else ".*?"
    if cut[0] == "#":
        match = re.match(_expression(pattern, any_text), value)
        return value if match is None else value[match.end() :]
    match = re.match(_expression(pattern[::-1], any_text), value[::-1])
    return value if match is None else value[: len(value) - match.end()]


def _expression(pattern: str, any_text: str) -> str:
    return "".join({"*": any_text, "?": "."}.get(char) or re.escape(char) for char in pattern)
