"""`boltseal verify --running`: check that the containers of hosts run what boltseal.lock says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from boltseal.commands.outcome import Outcome
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.registries import NOBODY, Answers
from boltseal.host.containers.rows import ContainerRow, needs_registry, rows
from boltseal.lockfile.container_check import LockedImages

AskRegistries = Callable[[Sequence[RunningContainer]], Answers]
"""Asks the registries of these containers what their tags resolve to."""


@dataclass(frozen=True, slots=True)
class VerifyRunningReport:
    """The result. `weights`: holds, note, differs or unknown, for each of `rows`. `compared`: rows that the lock names."""

    outcome: Outcome
    rows: tuple[ContainerRow, ...]
    weights: tuple[str, ...]
    answers: Answers
    compared: int

    @property
    def not_asked(self) -> list[str]:
        """Why registries were not asked about containers that needed it, each reason once."""
        return list(dict.fromkeys(row.unasked for row in self.rows if row.unasked and needs_registry(row)))


def verify_containers(
    seen: Sequence[RunningContainer], lock: LockedImages, ask: AskRegistries, *, strict: bool
) -> VerifyRunningReport:
    """Compare running containers with a lock. `strict`: a note counts as a difference.

    Registries are asked only about containers whose deviation they can explain.
    """
    compared = rows(seen, lock)
    unsure = [row.seen for row in compared if needs_registry(row)]
    answers = ask(unsure) if unsure else NOBODY
    explained = iter(rows(unsure, lock, answers))
    compared = [next(explained) if needs_registry(row) else row for row in compared]
    weights = tuple(_weight(row, strict=strict) for row in compared)
    return VerifyRunningReport(
        outcome=_outcome(weights),
        rows=tuple(compared),
        weights=weights,
        answers=answers,
        compared=sum(row.verdict is not None and row.verdict.weight != "note" for row in compared),
    )


def _weight(row: ContainerRow, *, strict: bool) -> str:
    if row.verdict is None:
        raise AssertionError("every row was compared with a lock")
    return "differs" if strict and row.verdict.weight == "note" else str(row.verdict.weight)


def _outcome(weights: Sequence[str]) -> Outcome:
    if "differs" in weights:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if "unknown" in weights else Outcome.HOLDS
