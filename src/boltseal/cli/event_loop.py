"""Signals of the event loop of a command."""

from __future__ import annotations

import asyncio
import signal
import threading


def cancel_on_sigterm() -> None:
    """Cancel the running task on SIGTERM, so that a command that it runs is ended and its end is recorded."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
