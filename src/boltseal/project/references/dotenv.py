"""`.env` files as Compose reads them: `NAME=value`, and where in the text each value ends. Pure.

Values may be in single quotes (as they stand), in double quotes (with escapes), or bare up to ` #`; all but the first
may use variables that stand above. A quoted value may go on over several lines, and what looks like a variable there is
none. A variable that Compose would not read, or not as it is read here, can't be told, and so can't whatever uses it.
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
_BEHIND: Final = re.compile(r"[ \t\r]*(?:#[^\n]*)?")


@dataclass(frozen=True, slots=True)
class DotenvValue:
    """A variable's value, and the end of its text; `literal`: it stands there as it is, without escapes or variables."""

    text: str
    line: int
    end: int
    literal: bool


@dataclass(frozen=True, slots=True)
class Dotenv:
    """The values of one file by name, and every use of a variable inside them. `untold`: variables without a known value."""

    path: str
    values: dict[str, DotenvValue]
    uses: Counter[str] = field(default_factory=Counter)
    untold: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of several files; the first that has one counts."""

    files: tuple[Dotenv, ...]

    def find(self, name: str) -> tuple[Dotenv, DotenvValue] | None:
        """A variable's value, and the file that it comes from. InterpolationFailed."""
        for file in self.files:
            if name in file.untold:
                raise InterpolationFailed(f"what {file.path} sets {name} to is not evaluated here")
            if name in file.values:
                return file, file.values[name]
        return None

    def get(self, name: str) -> str | None:
        """The value of a variable. InterpolationFailed."""
        found = self.find(name)
        return None if found is None else found[1].text


def parse_dotenv(source: SourceFile) -> Dotenv:
    """The variables of a file; the last one of a name counts. Unreadable where a quote is not closed."""
    values: dict[str, DotenvValue] = {}
    untold: set[str] = set()
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
                raise Unreadable(source.path, source.line(begin), "has a quote that nothing closes")
            begin, stop, end = begin + 1, quoted.end("value"), _line_end(text, quoted.end())
            whole = _BEHIND.fullmatch(text, quoted.end(), end) is not None
        else:
            bare = text[begin:end].partition(" #")[0].rstrip()
            kind, stop, whole = "", begin + len(bare), True
        written = text[begin:stop]
        meant: str | None = written
        literal = kind == "'" or not ({"$", "\\"} & set(written))
        if kind != "'":
            uses.update(variables_in(written, Dialect.COMPOSE))
            meant = _meant(written, values, untold) if not literal else written
        untold.discard(match["name"])
        if meant is not None and whole:
            values[match["name"]] = DotenvValue(meant, source.line(at), stop, literal)
        else:
            values.pop(match["name"], None)
            untold.add(match["name"])
        at = end + 1
    return Dotenv(source.path, values, uses, frozenset(untold))


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _meant(written: str, values: dict[str, DotenvValue], untold: set[str]) -> str | None:
    def get(name: str) -> str | None:
        if name in untold:
            raise InterpolationFailed(name)
        return values[name].text if name in values else None

    try:
        return fill(written, get, Dialect.COMPOSE, strict=False).text.replace('\\"', '"')
    except InterpolationFailed:
        return None
