"""Tables on stdout in the columns of the terminal. Nothing is cut off; a digest, key or name of an image is never broken.

A table has one of three layouts, the first that fits:

1. a line for each row, if everything fits beside each other;
2. a line for each row without its digests and keys, which stand below the row, and with other cells wrapped; columns that
   are read together stand there together, and so does a column of names of which one would be broken;
3. a line for each cell, after the name of its column.

A word that does not fit is broken after a `/` or before an `@`, elsewhere only if it is long and has no tag.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from boltseal.cli.output import print_line, terminal_columns
from boltseal.commands.text import printable
from boltseal.loading import deferred

if TYPE_CHECKING:
    from rich import cells as rich_cells
else:  # few cells need it
    rich_cells = deferred("rich.cells")

_GAP: Final = 2
_INDENT: Final = "    "
_NARROWEST: Final = 12
"""Columns below which a cell is not wrapped: text in a narrower column can't be read."""
_COPIED: Final = re.compile(r"[0-9a-f]{64}|\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}", re.ASCII)
"""A digest, or the key of a ledger: readers copy and compare them whole."""


_PIECES: Final = re.compile(r"(?<=/)(?=[^/])|(?=@)")
_TAGGED: Final = re.compile(r"[\w.-]+:[\w.-]{1,128}", re.ASCII)
_NAME: Final = re.compile(r"[^\s/]+(?:/[^\s/]+)+")
"""The name of an image: a word with a `/` inside."""
_SHORT: Final = 30
"""Columns of a piece that is not broken, whatever it is: most versions, host names and files are shorter."""


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    whole: Collection[str] = (),
    together: Collection[str] = (),
) -> None:
    """Print a table on stdout. `whole`: columns that are not wrapped; `together`: columns that readers compare."""
    for line in table_lines(
        columns, [[printable(cell) for cell in row] for row in rows], whole, terminal_columns(), together
    ):
        print_line(line)


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    whole: Collection[str],
    width: int,
    together: Collection[str] = (),
) -> list[str]:
    """Return the lines of a table of at most `width` columns, where no word is longer."""
    widths = _natural(columns, rows, range(len(columns)))
    if _total(widths) <= width:
        return _lines(columns, rows, widths, below=(), labelled=False)
    below = [at for at in range(len(columns)) if any(_COPIED.search(row[at]) for row in rows)]
    if any(columns[at] in together for at in below):
        below = [at for at, column in enumerate(columns) if at in below or column in together]
    fitted = _beside(columns, rows, whole, width, below)
    names = [at for at, size in (fitted or {}).items() if any(_is_broken_name(row[at], size) for row in rows)]
    if names:
        labelled = len(below) > 1
        fitted = _beside(columns, rows, whole, width, [*below, *names])
        if fitted is not None:
            return _lines(columns, rows, fitted, [*names, *below], labelled=labelled)
    if fitted is None:
        return _records(columns, rows, width)
    return _lines(columns, rows, fitted, below, labelled=len(below) > 1)


def _beside(
    columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[str], width: int, below: Collection[int]
) -> dict[int, int] | None:
    """Return the widths of the columns that are not below their rows; None if they do not fit."""
    beside = [at for at in range(len(columns)) if at not in below]
    natural = _natural(columns, rows, beside)
    least = {at: natural[at] if columns[at] in whole else _least_width(rows, at) for at in beside}
    return _fitted(natural, least, width) if beside else None


def _is_broken_name(cell: str, width: int) -> bool:
    """Return whether a cell is one word, such as an image's name, that does not fit."""
    return _cells(cell) > width and _NAME.fullmatch(cell) is not None


def _natural(columns: Sequence[str], rows: Sequence[Sequence[str]], chosen: Iterable[int]) -> dict[int, int]:
    """Return the width of the longest cell of each of these columns."""
    return {at: max(map(_cells, (columns[at], *(row[at] for row in rows)))) for at in chosen}


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _least_width(rows: Sequence[Sequence[str]], at: int) -> int:
    """Return the width that a column needs so that no piece is broken which should not be."""
    pieces = (piece for row in rows for word in row[at].split() for piece in _PIECES.split(word) if _unbroken(piece))
    return max(_NARROWEST, max(map(_cells, pieces), default=0))


def _unbroken(piece: str) -> bool:
    """Return whether a piece of a word stays in one line: a name with its tag, or a short one."""
    return _cells(piece) <= _SHORT or _TAGGED.fullmatch(piece) is not None


def _fitted(widths: dict[int, int], least: dict[int, int], width: int) -> dict[int, int] | None:
    """Return the widths with the widest columns narrowed until the table fits; None if it can't."""
    fitted = dict(widths)
    while (over := _total(fitted) - width) > 0:
        narrowed = sorted((size for at, size in fitted.items() if size > least[at]), reverse=True)
        if not narrowed:
            return None
        at = next(at for at, size in fitted.items() if size > least[at] and size == narrowed[0])
        next_widest = narrowed[1] if len(narrowed) > 1 else 0
        fitted[at] = max(least[at], narrowed[0] - over, min(next_widest, narrowed[0] - 1))
    return fitted


def _lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: dict[int, int],
    below: Sequence[int],
    *,
    labelled: bool,
) -> list[str]:
    """Return a header and the rows; `below`: the columns that stand below their row, `labelled`: with their names."""
    lines = []
    for row in (columns, *rows):
        wrapped = {at: _wrapped(row[at], width) for at, width in widths.items()}
        for number in range(max(map(len, wrapped.values()), default=0)):
            cells = (_padded(part[number] if number < len(part) else "", widths[at]) for at, part in wrapped.items())
            lines.append((" " * _GAP).join(cells).rstrip())
        if row is not columns:
            lines += [
                f"{_INDENT}{columns[at].lower() + ' ' if labelled else ''}{row[at]}" for at in below if row[at].strip()
            ]
    return lines


def _records(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a block of lines for each row, separated by an empty line."""
    label = max(len(column.strip()) for column in columns) + _GAP
    lines: list[str] = []
    for row in rows:
        lines += [""] if lines else []
        for column, cell in zip(columns, row, strict=True):
            if not cell.strip():
                continue
            shown = cell.strip()
            first, *more = [shown] if _NAME.fullmatch(shown) else _wrapped(shown, max(width - label, _NARROWEST))
            lines += [f"{column.strip():<{label}}{first}", *(" " * label + part for part in more)]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    """Return text in lines of this width; a word that is longer is broken, unless it contains a digest or a key."""
    if _cells(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _cells(joined) <= width:
            lines[-1] = joined
            continue
        lines += [word] if _cells(word) <= width or _COPIED.search(word) else _broken(word, width)
    return [line for line in lines if line]


def _broken(word: str, width: int) -> list[str]:
    """Return the parts of a word that is longer than a line."""
    lines = [""]
    for piece in _PIECES.split(word):
        if _cells(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines += [piece] if _unbroken(piece) else rich_cells.chop_cells(piece, width)
    return lines


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _cells(text))


def _cells(text: str) -> int:
    """Return the columns of a text: wide characters have two."""
    if text.isascii():
        return len(text)
    return rich_cells.cell_len(text)
