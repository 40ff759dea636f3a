"""Watches the clock of a running server: the anchor that all its processes share, and the comparison with it.

    DATA/run/<pid of the server>/clock    "TIME BOOT BOOT_ID": both clocks in microseconds when the server started

The server's workers and the commands beside it read the same anchor, also workers that started after a step, so all of them
refuse writes and accept them again together. A server that starts makes a new anchor: a gap to the ledger's last entry is
normal then. `boltseal ledger recover --clock` replaces the anchor. Without a running server, or after another boot, there is
none, and nothing is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from boltseal.ledger.clock import ClockReading, has_stepped_forward, step_us
from boltseal.server.storage.metrics import RunFolder

ANCHOR_NAME: Final = "clock"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has the first


def boot_us() -> int:
    """Return the microseconds since the machine started, with those in which it was suspended."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1000


class ClockGuard:
    """Compares the clock with the anchor in a run folder. `boot_clock`: microseconds since the machine started."""

    def __init__(self, run: Path, boot_clock: Callable[[], int] = boot_us) -> None:
        self._path = run / ANCHOR_NAME
        self._boot_clock = boot_clock
        self._boot_id = _boot_id()
        self._last: ClockReading | None = None

    @classmethod
    def beside(cls, data: Path) -> ClockGuard | None:
        """Return the guard of the server that runs on a data folder; None if there is none."""
        run = RunFolder.of_running_server(data)
        return None if run is None else cls(run)

    def confirm(self, time_us: int) -> None:
        """Declare that the clock is right now. Raises: OSError."""
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{time_us} {self._boot_clock()} {self._boot_id}\n", encoding="ascii")
        beside.replace(self._path)

    def doubt(self, time_us: int) -> str | None:
        """Return why the clock is not trusted now, None if it is. Reads a small file."""
        anchor, now = self._anchor(), ClockReading(time_us, self._boot_clock())
        if anchor is None or not has_stepped_forward(anchor, now):
            return None
        return (
            f"the clock of the registry has stepped forward by {step_us(anchor, now) // 1_000_000} s while it ran: nothing is "
            "written until the clock is corrected; if it is right now, run `boltseal ledger recover --clock`"
        )

    def _anchor(self) -> ClockReading | None:
        try:
            time_text, boot, boot_id = self._path.read_text(encoding="ascii").split()
            self._last = ClockReading(int(time_text), int(boot)) if boot_id == self._boot_id else None
        except (OSError, ValueError):
            pass  # what was read last still holds
        return self._last


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return "-"
