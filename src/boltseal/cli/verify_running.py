"""`boltseal verify --running`: is what runs on hosts what was locked? A reason for each container that is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, Outcome, clean, counted, print_line, say
from boltseal.cli.onrunning import Where, counts, look, read_locked, result, tell_broken, tell_failed, told_of
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boltseal.cli.remote import RegistryOptions
    from boltseal.host.containers.hosts import RunningContainer
    from boltseal.host.containers.registries import RegistryAnswers
    from boltseal.host.containers.rows import ContainerRow
    from boltseal.lockfile.container_check import LockedImages


class NoLock(Invalid):
    """There is nothing to compare with."""


def verify_running(
    where: Where,
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
        lock = read_locked(project)
        if lock is None:
            raise NoLock(
                f"{project / 'boltseal.lock'}: there is no lock to compare with; write one with `boltseal lock`"
            )
        looked = look(where)
        rows, told = _rows(looked.seen, lock, reach, allow)
        for row in rows:
            _tell(answer, row, strict=strict)
        held = [row for row in rows if row.verdict is not None and row.verdict.weight != "note"]
        answer.outcome = _outcome(rows, strict=strict)
        if not looked.failed and not held and not allow_empty:
            answer.nothing_to_check(
                f"found {counted(len(rows), 'container')}, none of them in boltseal.lock", "check --host and --project"
            )
        tell_failed(answer, looked)
        tell_broken(answer, told)
        for reason in dict.fromkeys(row.unasked for row in rows if row.unasked and needs_registry(row)):
            say(f"could not ask: {clean(reason)}")
        if rows:
            say(counts(rows, _standing))


def _rows(
    seen: Sequence[RunningContainer], lock: LockedImages, reach: RegistryOptions | None, allow: list[str]
) -> tuple[list[ContainerRow], RegistryAnswers]:
    """The rows; a registry is asked only about containers whose reason it can tell apart."""
    from boltseal.host.containers.registries import NOT_ASKED
    from boltseal.host.containers.rows import container_rows as rows_of
    from boltseal.host.containers.rows import needs_registry

    rows = rows_of(seen, lock)
    unsure = [each.seen for each in rows if needs_registry(each)]
    told = told_of(reach, allow, unsure, lock) if unsure else NOT_ASKED
    better = iter(rows_of(unsure, lock, told))
    return [next(better) if needs_registry(each) else each for each in rows], told


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
    answer.add(**result(row) | {"weight": weight})
    if weight == "holds" or answer.as_json or row.verdict is None:
        return
    where = f"{row.seen.host} ({row.seen.node})" if row.seen.node else row.seen.host
    print_line(clean(f"{where}: {row.seen.name}: {row.seen.started_as}: {row.verdict.standing}: {row.verdict.reason}"))
