"""`boltseal verify --running`: is what runs on hosts what was locked? A reason for each container that is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.context import client_context
from boltseal.cli.onproject import whom_to_ask
from boltseal.cli.running_output import add_broken, add_failed, count_text, row_fields
from boltseal.commands.outcome import Outcome
from boltseal.commands.running import ContainerFilter, find_containers, locked_images, registry_answers
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boltseal.commands.registry_access import RegistryOptions
    from boltseal.host.containers.hosts import RunningContainer
    from boltseal.host.containers.registries import Answers
    from boltseal.host.containers.rows import ContainerRow
    from boltseal.lockfile.container_check import LockedImages


class NoLock(Invalid):
    """There is nothing to compare with."""


def verify_running(
    where: ContainerFilter,
    project: Path,
    reach: RegistryOptions | None,
    allow: list[str],
    *,
    strict: bool,
    allow_empty: bool,
    as_json: bool,
) -> None:
    """Compare and tell. NoLock."""
    with CommandOutput("verify-running", as_json=as_json) as answer:
        from boltseal.host.containers.rows import needs_registry
        from boltseal.project.settings import project_settings

        strict = strict or project_settings(project).strict
        lock = locked_images(project)
        if lock is None:
            raise NoLock(
                f"{project / 'boltseal.lock'}: there is no lock to compare with; write one with `boltseal lock`"
            )
        client = client_context()
        looked = find_containers(where, client)
        rows, told = _rows(looked.containers, lock, reach, allow)
        for row in rows:
            _tell(answer, row, strict=strict)
        held = [row for row in rows if row.verdict is not None and row.verdict.weight != "note"]
        answer.outcome = _outcome(rows, strict=strict)
        if not looked.failed and not held and not allow_empty:
            answer.nothing_to_check(
                f"found {counted(len(rows), 'container')}, none of them in boltseal.lock", "check --host and --project"
            )
        add_failed(answer, looked)
        add_broken(answer, told)
        for reason in dict.fromkeys(row.unasked for row in rows if row.unasked and needs_registry(row)):
            say(f"could not ask: {clean(reason)}")
        if rows:
            say(count_text(rows, _standing))


def _rows(
    seen: Sequence[RunningContainer], lock: LockedImages, reach: RegistryOptions | None, allow: list[str]
) -> tuple[list[ContainerRow], Answers]:
    """The rows; a registry is asked only about containers whose reason it can tell apart."""
    from boltseal.host.containers.registries import NOBODY
    from boltseal.host.containers.rows import needs_registry
    from boltseal.host.containers.rows import rows as rows_of

    rows = rows_of(seen, lock)
    unsure = [each.seen for each in rows if needs_registry(each)]
    told = NOBODY
    if unsure:
        allowed = whom_to_ask(reach, allow) if reach is not None else _nobody
        told = registry_answers(unsure, lock, client_context(), reach, allowed)
    better = iter(rows_of(unsure, lock, told))
    return [next(better) if needs_registry(each) else each for each in rows], told


def _nobody(_registry: str) -> bool:
    """Allow no registry."""
    return False


def _weight(row: ContainerRow, *, strict: bool) -> str:
    if row.verdict is None:
        raise AssertionError("there is a lock")
    return "differs" if strict and row.verdict.weight == "note" else str(row.verdict.weight)


def _standing(row: ContainerRow) -> str:
    return "" if row.verdict is None else str(row.verdict.standing)


def _outcome(rows: Sequence[ContainerRow], *, strict: bool) -> Outcome:
    """1 beats 3: what does not hold is certain, whatever could not be checked beside it."""
    weights = {_weight(row, strict=strict) for row in rows}
    if "differs" in weights:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if "unknown" in weights else Outcome.HOLDS


def _tell(answer: CommandOutput, row: ContainerRow, *, strict: bool) -> None:
    weight = _weight(row, strict=strict)
    answer.add(**row_fields(row) | {"weight": weight})
    if weight == "holds" or answer.as_json or row.verdict is None:
        return
    where = f"{row.seen.host} ({row.seen.node})" if row.seen.node else row.seen.host
    print_line(clean(f"{where}: {row.seen.name}: {row.seen.started_as}: {row.verdict.standing}: {row.verdict.reason}"))
