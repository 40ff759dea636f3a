"""A metadata database whose writes fail at random, before or after they are done."""

from __future__ import annotations

import random
from typing import Any

from boltseal.errors import Unavailable


class Flaky:
    """Metadata whose writes from threads fail at random, half of them after they were done."""

    def __init__(self, whole: Any, dice: random.Random) -> None:
        self._whole, self._dice = whole, dice
        self.share = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def write_and_wait(self, job: Any, **more: Any) -> Any:
        """Write, or fail before or after it."""
        fate = self._dice.random()
        if fate < self.share / 2:
            raise Unavailable("not done")
        result = self._whole.write_and_wait(job, **more)
        if fate < self.share:
            raise Unavailable("done, and the answer is lost")
        return result
