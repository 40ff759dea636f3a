"""Measure processor time at several sizes, and fit how it grows.

Processor time, not elapsed time, so that other programs of the machine matter little; of an action that can be repeated the
fastest run. Processor time covers Python, SQLite and C code alike; counted steps of one would miss loops in the others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.soak.scale import IS_FULL

SIZES: Final = (1_000, 10_000, 100_000) if IS_FULL else (300, 3_000)
NOISE_S: Final = 0.01
"""Processor time below which a difference is noise."""
MAX_EXPONENT: Final = 1.3
"""The highest allowed power of the size, between the two largest sizes. From 300 to 3,000, n log n is 1.14 and n squared 2."""
RUNS: Final = 3


@dataclass(slots=True)
class Growth:
    """The processor time of one action, by size."""

    name: str
    seconds: dict[int, float] = field(default_factory=dict)

    @property
    def exponent(self) -> float:
        """The power of the size by which the time grows between the two largest sizes; at least 0."""
        smaller, larger = sorted(self.seconds)[-2:]
        ratio = max(self.seconds[larger], NOISE_S) / max(self.seconds[smaller], NOISE_S)
        return max(0.0, math.log(ratio) / math.log(larger / smaller))

    def __str__(self) -> str:
        times = "  ".join(f"{1000 * self.seconds[size]:9.1f}" for size in sorted(self.seconds))
        return f"{self.exponent:5.2f}  {times}  {self.name}"


def table(growths: Mapping[str, Growth]) -> str:
    """Return all measurements as text: the exponent, the milliseconds by size, the name; the steepest first."""
    head = f"power  {'  '.join(f'{size:>9}' for size in SIZES)}  milliseconds of processor time"
    return "\n".join([head, *map(str, sorted(growths.values(), key=lambda each: -each.exponent))])


async def least_seconds(act: Callable[[], Awaitable[object]], runs: int = RUNS) -> float:
    """Return the processor time of an action, of its fastest run."""
    best = math.inf
    for _ in range(runs):
        started = time.process_time()
        await act()
        best = min(best, time.process_time() - started)
    return best


def least_seconds_blocking(act: Callable[[], object], runs: int = 1) -> float:
    """Return the processor time of an action without an event loop, of its fastest run."""
    best = math.inf
    for _ in range(runs):
        started = time.process_time()
        act()
        best = min(best, time.process_time() - started)
    return best
