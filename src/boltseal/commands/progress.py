"""Progress of long work, reported to the caller of a use case."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a step's name, how much of it is done, and how much there is (0: not known)."""


def no_progress(_step: str, _done: int, _total: int) -> None:
    """Ignore progress."""
