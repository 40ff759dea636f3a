"""Ends statements on PostgreSQL that take too long: a thread for each connection with a time budget."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Final

import psycopg

CANCEL_EVERY_S: Final = 0.05
CANCEL_WITHIN_S: Final = 5.0


class Watchdog:
    """Cancels the statement that runs on a connection when its time is over, again and again until that is acknowledged.

    A request to cancel goes over a connection of its own, and may take seconds. `set` waits for the one that is under way, so that
    it hits no later statement; no other one begins meanwhile.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._ends_s: float | None = None
        self._asleep = True
        self._cancelling = False
        self._closed = False
        self.interrupted = False
        self._thread = threading.Thread(target=self._run, name="boltseal-watchdog", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the time that was set is over."""
        return self.interrupted and self._ends_s is not None

    def set(self, seconds: float | None) -> None:
        """Cancel what runs after this time; None: cancel nothing. Wakes the thread only if it waits without a time limit."""
        with self._changed:
            self._ends_s = None
            while self._cancelling:
                self._changed.wait()
            if seconds is not None:
                self._ends_s = time.monotonic() + seconds
                self.interrupted = False
                if self._asleep:
                    self._asleep = False
                    self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._is_due():
            try:
                with suppress(psycopg.Error, OSError):  # OSError: no file descriptor is left; it is tried again
                    self._connection.cancel_safe(timeout=CANCEL_WITHIN_S)
            finally:  # `set` waits for it
                with self._changed:
                    self._cancelling = False
                    self._changed.notify_all()

    def _is_due(self) -> bool:
        """Wait until a statement is to be cancelled. False: until this was closed."""
        with self._changed:
            while not self._closed:
                if self._ends_s is None:
                    self._asleep = True
                    self._changed.wait()
                    continue
                left_s = self._ends_s - time.monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                self.interrupted = self._cancelling = True
                self._ends_s = time.monotonic() + CANCEL_EVERY_S  # it may have been between two statements
                return True
        return False
