"""Progress of long work on stderr, only if stderr is a terminal and -q is not given: step, share, rate, time remaining.

The line is removed before anything else is printed, and at the end, so that it never shares a line with a result.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from boltseal.cli.output import talk
from boltseal.commands.text import printable
from boltseal.loading import deferred

if TYPE_CHECKING:
    from rich import console as rich_console
    from rich import progress as rich_progress
    from rich import text as rich_text
    from rich import theme as rich_theme
    from rich.progress import Progress as Line
    from rich.progress import Task, TaskID
    from rich.text import Text
else:  # loading rich takes 40 ms, and most commands show no progress
    rich_console = deferred("rich.console")
    rich_progress = deferred("rich.progress")
    rich_text = deferred("rich.text")
    rich_theme = deferred("rich.theme")

INTERVAL_S: Final = 0.1
IN_BYTES: Final = frozenset({"copying", "pulling", "reading"})
"""Steps whose amounts are bytes; those of others are counted."""
BAR_COLUMNS: Final = 60
"""Columns of a terminal below which the line has no bar, so that it stays one line."""
_STYLES: Final = {
    **dict.fromkeys(
        ("progress.percentage", "progress.remaining", "progress.elapsed", "progress.data.speed"), "default"
    ),
    **dict.fromkeys(("bar.complete", "bar.finished", "bar.pulse"), "magenta"),
    "bar.back": "bright_black",
}
"""Colours of the terminal's own palette that can be read on a dark and on a light background; rich's cyan can't."""


class Progress:
    """A progress callback. Leaving its block removes the line."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and not talk().quiet
        self._next_s = 0.0
        self._line: Line | None = None
        self._step: tuple[str, TaskID] | None = None

    def __enter__(self) -> Self:
        if self._shown:
            talk().hide_progress = self._hide
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()
        if self._shown:
            talk().hide_progress = None

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Show the name of a step, how much is done and of how much (0: not known), at most ten times a second.

        `note`: shown instead of the rate.
        """
        now_s = time.monotonic()
        if not self._shown or now_s < self._next_s:
            return
        self._next_s = now_s + INTERVAL_S
        step, note = printable(step), printable(note)
        if self._line is None:
            self._line = _line()
        if self._step is None or self._step[0] != step:
            if self._step is not None:
                self._line.remove_task(self._step[1])
            self._step = step, self._line.add_task(step, total=None, note="")
        self._line.update(self._step[1], completed=done, total=total or None, note=note)
        self._line.start()
        self._line.refresh()

    def _hide(self) -> None:
        if self._line is not None:
            self._line.stop()


def _line() -> Line:
    """Return rich's progress on stderr."""

    class Rate(rich_progress.ProgressColumn):
        def render(self, task: Task) -> Text:
            return rich_text.Text(task.fields["note"] or _rate(task.description, task.speed))

    console = rich_console.Console(stderr=True, highlight=False, theme=rich_theme.Theme(_STYLES))
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        *([rich_progress.BarColumn()] if console.width >= BAR_COLUMNS else []),
        rich_progress.TaskProgressColumn(),
        Rate(),
        rich_progress.TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        # rich would print what is intended for stdout on its own console, which is stderr
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _rate(step: str, speed: float | None) -> str:
    if speed is None:
        return ""
    return f"{size_text(int(speed))}/s" if step in IN_BYTES else f"{speed:.1f}/s"


def size_text(size_bytes: int) -> str:
    """Return a size as text: 512 B, 3.4 MiB."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
