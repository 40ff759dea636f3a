"""Write the edits of files as a patch that `git apply` and `patch -p1` take. Pure.

Applied, the patch gives exactly the bytes that `pin --write` writes: lines end at a line feed only, a carriage return
belongs to its line, and a last line without a line feed is marked as git marks it. An edit of a project's file replaces
text within lines, so the two texts have the same number of lines, and line n of one is compared with line n of the
other. Only in the lock, lines are added and removed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from difflib import unified_diff
from io import BytesIO
from itertools import islice, pairwise
from typing import Final

from boltseal.project.edits import FileEdit

CONTEXT: Final = 3
_NO_LINE_FEED: Final = "\\ No newline at end of file\n"
_ESCAPES: Final = {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    **{ord(char): f"\\{name}" for char, name in zip("\a\b\t\n\v\f\r", "abtnvfr", strict=True)},
}


def patch_lines(change: FileEdit) -> Iterator[str]:
    """Yield the lines of a file's patch, each with its line end; none if the texts are equal."""
    before, after = change.before.raw, change.after.raw
    if before == after:
        return
    yield f"--- {_name('a', change.path)}\n"
    yield f"+++ {_name('b', change.path)}\n"
    if _count(before) != _count(after):
        for line in islice(unified_diff([*_lines(before)], [*_lines(after)], n=CONTEXT), 2, None):
            yield from _marked("", line)
        return
    lines = zip(_lines(before), _lines(after), strict=True)
    changed = array("I", (number for number, (was, now) in enumerate(lines) if was != now))
    lines = zip(_lines(before), _lines(after), strict=True)
    at, length = 0, _count(before)
    for first, last in _hunks(changed):
        start, end = max(0, first - CONTEXT), min(length, last + 1 + CONTEXT)
        size = end - start
        count = "" if size == 1 else f",{size}"
        yield f"@@ -{start + 1}{count} +{start + 1}{count} @@\n"
        yield from _hunk(islice(lines, start - at, end - at))
        at = end


def _lines(raw: bytes) -> Iterator[str]:
    """Yield the lines of a text with their ends. A byte order mark is the first character of the first line."""
    return (line.decode() for line in BytesIO(raw))


def _count(raw: bytes) -> int:
    """Return the number of lines."""
    return raw.count(b"\n") + (not raw.endswith(b"\n") and bool(raw))


def _hunks(changed: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last changed line of each hunk. Lines whose contexts touch share one."""
    first = changed[0]
    for line, following in pairwise(changed):
        if following - line > 2 * CONTEXT:
            yield first, line
            first = following
    yield first, changed[-1]


def _hunk(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of a hunk; of neighbouring changed lines first all the old ones, as git does."""
    added: list[str] = []
    for was, now in lines:
        if was != now:
            yield from _marked("-", was)
            added.append(now)
            continue
        for line in added:
            yield from _marked("+", line)
        added.clear()
        yield from _marked(" ", was)
    for line in added:
        yield from _marked("+", line)


def _marked(mark: str, line: str) -> Iterator[str]:
    yield mark + line
    if not line.endswith("\n"):
        yield f"\n{_NO_LINE_FEED}"


def _name(side: str, path: str) -> str:
    """Return a path as git prints it: quoted if it has unusual bytes, and with a tab after it if it has a space."""
    name = f"{side}/{path}"
    raw = name.encode("utf-8", "surrogateescape")
    if any(byte < 0x20 or byte >= 0x7F or byte in b'"\\' for byte in raw):
        return '"' + "".join(_ESCAPES.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in raw) + '"'
    return f"{name}\t" if " " in name else name
