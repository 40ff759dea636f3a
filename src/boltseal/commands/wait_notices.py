"""Notices about waits: a command that waits for a registry before it asks again says so, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stamina.instrumentation import RetryDetails

from boltseal.errors import BoltsealError

NOTICED_S: Final = 2.0
"""The shortest wait that is announced."""


class WaitNotices:
    """A retry hook of stamina. While one announced wait lasts, no other is announced: many requests may wait at once."""

    def __init__(self, notice: Callable[[str], None], now_us: Callable[[], int]) -> None:
        self._notice = notice
        self._now_us = now_us
        self._silent_until_us = 0

    def __call__(self, details: RetryDetails) -> None:
        """Announce a wait. `details`: the error and the seconds until the request is repeated."""
        now_us, error = self._now_us(), details.caused_by
        if details.wait_for < NOTICED_S or now_us < self._silent_until_us or not isinstance(error, BoltsealError):
            return
        self._silent_until_us = now_us + int(details.wait_for * 1_000_000)
        self._notice(f"{error.message}; asking again in {details.wait_for:.0f} s")
