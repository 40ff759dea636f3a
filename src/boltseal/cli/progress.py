"""Progress of long work: one line on stderr that is overwritten, only if stderr is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

INTERVAL_S: Final = 0.1
_CLEAR_LINE: Final = "\r\x1b[2K"


class Progress:
    """A progress callback. Leaving its block clears the line."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()

    def __call__(self, step: str, done: int, total: int) -> None:
        """Show the name of a step, how much is done and of how much (0: not known), at most ten times a second."""
        now_s = time.monotonic()
        if not self._shown or now_s < self._next_s:
            return
        self._next_s = now_s + INTERVAL_S
        part = f"{100 * done // total} %" if total else str(done)
        sys.stderr.write(f"{_CLEAR_LINE}{step}: {part}")
        sys.stderr.flush()


def size_text(size_bytes: int) -> str:
    """Return a size as text: 512 B, 3.4 MiB."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
