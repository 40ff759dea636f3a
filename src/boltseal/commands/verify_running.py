"""`boltseal verify --running`: check that the containers of hosts run the images in boltseal.lock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import registry_filter
from boltseal.commands.ps import ContainerFilter, FoundContainers, find_containers, locked_images, registry_answers
from boltseal.commands.registry_access import RegistryOptions
from boltseal.errors import Invalid
from boltseal.host.containers.registries import NOT_ASKED, RegistryAnswers
from boltseal.host.containers.rows import ContainerRow, container_rows, needs_registry
from boltseal.lockfile.document import LOCK_NAME
from boltseal.project.settings import project_settings


@dataclass(frozen=True, slots=True)
class VerifyRunningRequest:
    """What to verify: the containers of `filter`, by the lock of `project`.

    `offline`: contact no registry. `strict`: a note counts as a difference; the project's settings may require it as
    well. `allow`: further registries that the lock may name.
    """

    filter: ContainerFilter
    project: Path
    offline: bool = False
    strict: bool = False
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyRunningReport:
    """The comparison of running containers with the lock.

    `weights`: holds, note, differs or unknown, for each of `rows`. `compared`: rows that the lock names.
    """

    outcome: Outcome
    found: FoundContainers
    rows: tuple[ContainerRow, ...]
    weights: tuple[str, ...]
    answers: RegistryAnswers
    compared: int

    @property
    def not_asked(self) -> list[str]:
        """Why registries were not asked about containers that needed it, each reason once."""
        return list(dict.fromkeys(row.unasked for row in self.rows if row.unasked and needs_registry(row)))


def verify_running(request: VerifyRunningRequest, options: RegistryOptions) -> VerifyRunningReport:
    """Compare running containers with a lock. Raises: Invalid: there is no lock; LockInvalid, LedgerBroken.

    Registries are asked only about containers whose deviation they can explain.
    """
    strict = request.strict or project_settings(request.project).strict
    options = replace(options, strict=strict)
    lock = locked_images(request.project)
    if lock is None:
        raise Invalid(f"{request.project / LOCK_NAME} is not there; write it with `boltseal lock`")
    found = find_containers(request.filter, options.client)
    compared = list(container_rows(found.containers, lock))
    unsure = [row.seen for row in compared if needs_registry(row)]
    answers = NOT_ASKED
    if unsure:
        allowed = (lambda _: False) if request.offline else registry_filter(options, request.allow)
        answers = registry_answers(unsure, lock, options.client, None if request.offline else options, allowed)
    explained = iter(container_rows(unsure, lock, answers))
    compared = [next(explained) if needs_registry(row) else row for row in compared]
    weights = tuple(_weight(row, strict=strict) for row in compared)
    return VerifyRunningReport(
        outcome=_outcome(weights),
        found=found,
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
