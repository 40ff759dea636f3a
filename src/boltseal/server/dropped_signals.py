"""Signals that arrive while a worker starts."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

DROPPED_SIGNALS_AFTER_S: Final = (0.1, 1.0)


def deliver_dropped_signals() -> None:
    """Have uvloop handle a signal that arrives between the lifespan's start and the worker's main loop.

    The worker listens by then, but the loop stands still: uvloop notes the signal, and reads its notes only when another
    signal wakes the loop. SIGWINCH, which has no other use here, is that signal; twice, as the first may come while the
    lifespan still starts. Without it, a server that is stopped as soon as it listens waits for its worker until it kills it.
    """
    signal.signal(signal.SIGWINCH, lambda *_: None)
    for delay_s in DROPPED_SIGNALS_AFTER_S:
        asyncio.get_running_loop().call_later(delay_s, signal.raise_signal, signal.SIGWINCH)
