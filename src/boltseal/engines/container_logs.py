"""Decode a container's log from an engine's stream, and make it safe for a terminal. Pure.

A container without a terminal has two streams, which are multiplexed (Docker's "attach" format):

    1 byte    0 stdin, 1 stdout, 2 stderr, 3 an error of the engine
    3 bytes   0
    4 bytes   how many bytes of that stream follow, big-endian

A container with a terminal has one raw stream. A line of one stream is not split by data of the other.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from boltseal.engines.inventory import EngineMismatch

MAX_LINES: Final = 1000
MAX_CHARACTERS: Final = 4096
"""Per line; a longer one ends with an ellipsis."""

_HEAD: Final = 8
_STREAMS: Final = range(4)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")
_MAX_BYTES: Final = 4 * MAX_CHARACTERS


class LogTail:
    """Keeps the last `lines` lines of a log. `terminal`: the container has one."""

    def __init__(self, lines: int, *, terminal: bool) -> None:
        if not 0 < lines <= MAX_LINES:
            raise AssertionError(f"between 1 and {MAX_LINES} lines of a log are kept")
        self._kept: deque[str] = deque(maxlen=lines)
        self._terminal = terminal
        self._head = b""
        self._stream = 1
        self._left = 0
        self._begun = dict.fromkeys(_STREAMS, b"")

    def feed(self, piece: bytes) -> None:
        """Add the next bytes of the answer. Raises: EngineMismatch."""
        if self._terminal:
            self._written(piece)
            return
        at = 0
        while at < len(piece):
            if self._left:
                part = piece[at : at + self._left]
                self._written(part)
                self._left -= len(part)
                at += len(part)
                continue
            wanted = _HEAD - len(self._head)
            self._head += piece[at : at + wanted]
            at += wanted
            if len(self._head) == _HEAD:
                self._stream, self._left = _frame(self._head)
                self._head = b""

    def end(self) -> tuple[str, ...]:
        """Return the kept lines after the end of the log; an unterminated last line counts."""
        for rest in self._begun.values():
            if rest:
                self._kept.append(printable(rest))
        return tuple(self._kept)

    def _written(self, part: bytes) -> None:
        *whole, rest = (self._begun[self._stream] + part).split(b"\n")
        for line in whole[-MAX_LINES:]:
            self._kept.append(printable(line))
        self._begun[self._stream] = rest[:_MAX_BYTES]


def printable(line: bytes) -> str:
    """Return a line as safe text: without colour codes, with other unprintable characters as escapes."""
    text = _COLOUR.sub("", line[:_MAX_BYTES].decode("utf-8", "replace").rstrip("\r")).expandtabs(8)
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)


def _frame(head: bytes) -> tuple[int, int]:
    if head[0] not in _STREAMS or head[1:4] != b"\0\0\0":
        raise EngineMismatch("the engine's log is not in Docker's format")
    return head[0], int.from_bytes(head[4:])
