"""The outcome that every use case reports in one word."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce

from boltseal.errors import BoltsealError, ExitCode, exit_code


class Outcome(StrEnum):
    """Whether what was checked holds, differs, or could not be checked (unknown)."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNKNOWN = "unknown"

    def worse(self, other: Outcome) -> Outcome:
        """Return the worse of two outcomes: differs, then unknown, then holds."""
        order = (Outcome.HOLDS, Outcome.UNKNOWN, Outcome.DIFFERS)
        return max(self, other, key=order.index)

    @classmethod
    def of_error(cls, error: BoltsealError) -> Outcome:
        """Return the outcome that an error stands for: differs if it is a contradiction or a refusal, else unknown."""
        return cls.DIFFERS if exit_code(error) is ExitCode.DIFFERS else cls.UNKNOWN

    @classmethod
    def worst(cls, outcomes: Iterable[Outcome]) -> Outcome:
        """Return the worst of these outcomes; `holds` if there are none."""
        return reduce(Outcome.worse, outcomes, cls.HOLDS)
