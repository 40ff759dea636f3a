"""What a container wrote, out of the stream in which an engine sends it, and harmless to a terminal. Pure.

A container without a terminal has two streams, which come as one (Docker's "attach" format):

    1 byte    0 stdin, 1 stdout, 2 stderr, 3 the engine's own complaint
    3 bytes   0
    4 bytes   how many bytes of that stream follow, big-endian

One with a terminal comes as it is. A line that one stream has begun is not cut by what the other says meanwhile.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

from boltseal.engines.inventory import EngineMismatch

MAX_LINES: Final = 1000
MAX_CHARACTERS: Final = 4096
"""Of one line; what is longer ends in an ellipsis."""

_HEAD: Final = 8
_STREAMS: Final = range(4)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")
_MAX_BYTES: Final = 4 * MAX_CHARACTERS


class LogTail:
    """The last `lines` lines of what is fed to it, whatever the amount. `terminal`: the container has one."""

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
        """The next bytes of the answer. EngineMismatch."""
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
        """What was kept, once all was fed; a last line without its end is a line too."""
        for rest in self._begun.values():
            if rest:
                self._kept.append(harmless(rest))
        return tuple(self._kept)

    def _written(self, part: bytes) -> None:
        *whole, rest = (self._begun[self._stream] + part).split(b"\n")
        for line in whole[-MAX_LINES:]:
            self._kept.append(harmless(line))
        self._begun[self._stream] = rest[:_MAX_BYTES]


def harmless(line: bytes) -> str:
    """A line as a terminal may have it: colours are left out, and of what else is not to be seen its escape is shown."""
    text = _COLOUR.sub("", line[:_MAX_BYTES].decode("utf-8", "replace").rstrip("\r")).expandtabs(8)
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in shown)


def _frame(head: bytes) -> tuple[int, int]:
    if head[0] not in _STREAMS or head[1:4] != b"\0\0\0":
        raise EngineMismatch("the engine sends a log that is in no form of Docker's")
    return head[0], int.from_bytes(head[4:])
