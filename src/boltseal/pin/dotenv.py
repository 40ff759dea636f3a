"""`.env` files as Compose reads them: `NAME=value`, and where in the text each value ends. Pure.

Values may be in single quotes (as they stand), in double quotes (with escapes), or bare up to ` #`; all but the first
may use variables that stand above. What Compose would not read is left out here, and with it whatever uses it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from boltseal.pin.pieces import Dialect, NotFilled, fill, variables_in
from boltseal.pin.source import Source

MAX_LINE: Final = 4096
_LINE: Final = re.compile(
    r"""[ \t]*(?:export[ \t]+)?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[ \t]*[=:][ \t]*"""
    r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<bare>[^\r\n]*?))"""
    r"""[ \t]*(?:(?<=[ \t=:'"])#.*)?[\r\n]*""",
)


@dataclass(frozen=True, slots=True)
class Value:
    """A variable's value, and the end of its text; `literal`: it stands there as it is, without escapes or variables."""

    text: str
    line: int
    end: int
    literal: bool


@dataclass(frozen=True, slots=True)
class Dotenv:
    """The values of one file by name, and every use of a variable inside them."""

    path: str
    values: dict[str, Value]
    uses: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of several files; the first that has one counts."""

    files: tuple[Dotenv, ...]

    def find(self, name: str) -> tuple[Dotenv, Value] | None:
        """A variable's value, and the file that it comes from."""
        return next(((file, file.values[name]) for file in self.files if name in file.values), None)

    def get(self, name: str) -> str | None:
        """The value of a variable."""
        found = self.find(name)
        return None if found is None else found[1].text


def parse_dotenv(source: Source) -> Dotenv:
    """The variables of a file; the last one of a name counts."""
    values: dict[str, Value] = {}
    uses: Counter[str] = Counter()
    start = 0
    for line in source.text.splitlines(keepends=True):
        match, begin = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None, start
        start += len(line)
        if match is None:
            continue
        kind = next(kind for kind in ("single", "double", "bare") if match[kind] is not None)
        written = match[kind]
        text: str | None = written
        literal = kind == "single" or not ({"$", "\\"} & set(written))
        if kind != "single":
            uses.update(variables_in(written, Dialect.COMPOSE))
            text = _meant(written, values) if not literal else written
        if text is not None:
            values[match["name"]] = Value(text, source.line(begin), begin + match.end(kind), literal)
        else:
            values.pop(match["name"], None)
    return Dotenv(source.path, values, uses)


def _meant(written: str, values: dict[str, Value]) -> str | None:
    def get(name: str) -> str | None:
        return values[name].text if name in values else None

    try:
        return fill(written, get, Dialect.COMPOSE, strict=False).text.replace('\\"', '"')
    except NotFilled:
        return None
