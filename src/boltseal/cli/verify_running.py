"""`boltseal verify --running`: check that the containers of hosts run what was locked."""

from __future__ import annotations

from pathlib import Path

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.onrunning import Where, counts, look, read_locked, result, tell_broken, tell_failed, told_of
from boltseal.cli.remote import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.commands.verify_running import VerifyRunningReport, verify_containers
from boltseal.errors import Invalid
from boltseal.project.settings import project_settings


def verify_running(
    where: Where,
    project: Path,
    options: RegistryOptions | None,
    allow: list[str],
    *,
    strict: bool,
    allow_empty: bool,
    as_json: bool,
) -> None:
    """Compare and print. `options`: None to contact no registry. Raises: Invalid: there is no lock."""
    with CommandOutput("verify-running", as_json=as_json) as output:
        strict = strict or project_settings(project).strict
        lock = read_locked(project)
        if lock is None:
            raise Invalid(f"{project / 'boltseal.lock'} is not there; write it with `boltseal lock`")
        looked = look(where)
        report = verify_containers(looked.seen, lock, lambda seen: told_of(options, allow, seen, lock), strict=strict)
        _print(output, report)
        if not looked.failed and not report.compared and not allow_empty:
            output.nothing_to_check(
                f"found {counted(len(report.rows), 'container')}, none of them in boltseal.lock",
                "check --host and --project",
            )
        tell_failed(output, looked)
        tell_broken(output, report.answers)
        for reason in report.not_asked:
            say(f"could not ask: {clean(reason)}")
        if report.rows:
            say(counts(report.rows, lambda row: "" if row.verdict is None else str(row.verdict.standing)))


def _print(output: CommandOutput, report: VerifyRunningReport) -> None:
    output.outcome = report.outcome
    for row, weight in zip(report.rows, report.weights, strict=True):
        output.add(**result(row) | {"weight": weight})
        if weight == "holds" or output.as_json or row.verdict is None:
            continue
        host = f"{row.seen.host} ({row.seen.node})" if row.seen.node else row.seen.host
        print_line(
            clean(f"{host}: {row.seen.name}: {row.seen.started_as}: {row.verdict.standing}: {row.verdict.reason}")
        )
