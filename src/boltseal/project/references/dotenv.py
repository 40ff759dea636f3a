"""Parse `.env` files as Compose does: `NAME=value`, with the end of each value in the text. Pure.

Values are in single quotes (literal), in double quotes (with escapes), or bare up to ` #`. All but single-quoted values
may use variables defined above them. A quoted value may span several lines; text inside it defines no variable. A
variable that is not evaluated exactly as Compose does has an unknown value, and so has everything that uses it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from boltseal.project.references.interpolation import Dialect, InterpolationFailed, fill, variables_in
from boltseal.project.source_files import SourceFile, Unreadable

_BEGIN: Final = re.compile(r"[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*[=:][ \t]*")
_QUOTED: Final = {
    "'": re.compile(r"'(?P<value>[^']*)'"),
    '"': re.compile(r'"(?P<value>(?:[^"\\]|\\.)*)"', re.DOTALL),
}
_REST: Final = re.compile(r"[ \t\r]*(?:#[^\n]*)?")


@dataclass(frozen=True, slots=True)
class DotenvValue:
    """A variable's value, and the end of its text. `literal`: the text has no escapes or variables."""

    text: str
    line: int
    end: int
    literal: bool


@dataclass(frozen=True, slots=True)
class Dotenv:
    """One file's values by name, and every use of a variable in them. `unknown`: variables that are not evaluated."""

    path: str
    values: dict[str, DotenvValue]
    uses: Counter[str] = field(default_factory=Counter)
    unknown: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of several files. The first file that contains a variable decides."""

    files: tuple[Dotenv, ...]

    def find(self, name: str) -> tuple[Dotenv, DotenvValue] | None:
        """Return a variable's value and its file, or None if unset. Raises: InterpolationFailed: it is not evaluated."""
        for file in self.files:
            if name in file.unknown:
                raise InterpolationFailed(f"the value of {name} in {file.path} is not evaluated")
            if name in file.values:
                return file, file.values[name]
        return None

    def get(self, name: str) -> str | None:
        """Return a variable's value, or None if unset. Raises: InterpolationFailed: it is not evaluated."""
        found = self.find(name)
        return None if found is None else found[1].text


def parse_dotenv(source: SourceFile) -> Dotenv:
    """Parse a file; the last value of a name counts. Raises: Unreadable: a quote is not closed."""
    values: dict[str, DotenvValue] = {}
    unknown: set[str] = set()
    uses: Counter[str] = Counter()
    text, at = source.text, 0
    while at < len(text):
        end = _line_end(text, at)
        match = _BEGIN.match(text, at, end)
        if match is None:
            at = end + 1
            continue
        begin, kind = match.end(), text[match.end() : match.end() + 1]
        if kind in _QUOTED:
            quoted = _QUOTED[kind].match(text, begin)
            if quoted is None:
                raise Unreadable(source.path, source.line(begin), "has an unclosed quote")
            begin, stop, end = begin + 1, quoted.end("value"), _line_end(text, quoted.end())
            whole = _REST.fullmatch(text, quoted.end(), end) is not None
        else:
            bare = text[begin:end].partition(" #")[0].rstrip()
            kind, stop, whole = "", begin + len(bare), True
        written = text[begin:stop]
        value: str | None = written
        literal = kind == "'" or not ({"$", "\\"} & set(written))
        if kind != "'":
            uses.update(variables_in(written, Dialect.COMPOSE))
            value = _evaluate(written, values, unknown) if not literal else written
        unknown.discard(match["name"])
        if value is not None and whole:
            values[match["name"]] = DotenvValue(value, source.line(at), stop, literal)
        else:
            values.pop(match["name"], None)
            unknown.add(match["name"])
        at = end + 1
    return Dotenv(path=source.path, values=values, uses=uses, unknown=frozenset(unknown))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _evaluate(written: str, values: dict[str, DotenvValue], unknown: set[str]) -> str | None:
    def get(name: str) -> str | None:
        if name in unknown:
            raise InterpolationFailed(name)
        return values[name].text if name in values else None

    try:
        return fill(written, get, Dialect.COMPOSE, strict=False).text.replace('\\"', '"')
    except InterpolationFailed:
        return None
