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
    well. `allow`: further registries that the lock may name. `released`: the project whose release on a cluster they are compared
    with, in place of a lock (`verify_release`).
    """

    filter: ContainerFilter
    project: Path
    offline: bool = False
    strict: bool = False
    allow: tuple[str, ...] = ()
    released: str | None = None


@dataclass(frozen=True, slots=True)
class VerifyRunningReport:
    """The comparison of running containers with `expected`: the lock, or a release.

    `weights`: holds, note, differs or unknown, for each of `rows`. `compared`: rows that are in `expected`. `missing_weight`: of
    services without a container.
    """

    outcome: Outcome
    found: FoundContainers
    rows: tuple[ContainerRow, ...]
    weights: tuple[str, ...]
    answers: RegistryAnswers
    compared: int
    expected: str = LOCK_NAME
    missing_weight: str = "note"

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
    weights = tuple(weight_of(row, strict=strict) for row in compared)
    missing_weight = "differs" if strict else "note"
    return VerifyRunningReport(
        outcome=outcome_of((*weights, *(missing_weight for _ in found.missing if found.hosts))),
        found=found,
        rows=tuple(compared),
        weights=weights,
        answers=answers,
        compared=sum(row.verdict is not None and row.verdict.weight != "note" for row in compared),
        missing_weight=missing_weight,
    )


def weight_of(row: ContainerRow, *, strict: bool) -> str:
    """Return the weight of a compared row. `strict`: a note counts as a difference."""
    if row.verdict is None:
        raise AssertionError("every row was compared")
    return "differs" if strict and row.verdict.weight == "note" else str(row.verdict.weight)


def outcome_of(weights: Sequence[str], *, unknown: bool = False) -> Outcome:
    """Return the outcome of these weights. `unknown`: something could not be checked."""
    if "differs" in weights:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if unknown or "unknown" in weights else Outcome.HOLDS
