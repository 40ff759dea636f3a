"""Output of `boltseal verify --running`."""

from __future__ import annotations

from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.running_output import add_broken, add_failed, count_text, row_fields
from boltseal.commands.text import clean, counted
from boltseal.commands.verify_running import VerifyRunningReport
from boltseal.lockfile.document import LOCK_NAME


def print_running(output: CommandOutput, report: VerifyRunningReport, *, allow_empty: bool) -> None:
    """Print the containers that do not run what was locked, or released. `allow_empty`: no container of the lock is fine."""
    output.outcome = report.outcome
    for row, weight in zip(report.rows, report.weights, strict=True):
        output.add(**row_fields(row) | {"weight": weight})
        if weight == "holds" or output.as_json or row.verdict is None:
            continue
        host = f"{row.seen.host} ({row.seen.node})" if row.seen.node else row.seen.host
        print_line(clean(f"{host}: {row.seen.name}: {row.seen.started_as}: {row.verdict.status}: {row.verdict.reason}"))
    if not report.found.failed and not report.compared and not allow_empty:
        output.nothing_to_check(
            f"found {counted(len(report.rows), 'container')}, none of them in {report.expected}",
            "check --host and --project"
            if report.expected == LOCK_NAME
            else "check --kube, --namespace and --project-name",
        )
    add_failed(output, report.found, report.missing_weight)
    add_broken(output, report.answers)
    if report.expected != LOCK_NAME and not output.as_json:
        say(clean(f"compared with {report.expected}"))
    for reason in report.not_asked:
        say(f"could not ask: {clean(reason)}")
    if report.rows:
        say(count_text(report.rows, lambda row: "" if row.verdict is None else str(row.verdict.status)))
