"""An event loop whose waits take no time: when nobody is ready, its clock goes on to the next timer at once.

What waits for a minute is tested with the minute it really has, exactly, and on a machine as busy as it likes. Only for
what happens inside the process: nothing from a socket or a thread is waited for.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any


class _Skipping(selectors.DefaultSelector):
    """Waits for nothing, and adds up what it was asked to wait."""

    waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and no timer is set"
        self.waited_s += max(0.0, timeout)
        return super().select(0)


class _HastyLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.waited_s


def in_no_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on such a loop."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=_HastyLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
