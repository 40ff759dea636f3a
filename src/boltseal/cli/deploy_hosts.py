"""`boltseal deploy` and `boltseal rollback` over several hosts: the part of these commands that prints the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boltseal.cli.output import CommandOutput, say
from boltseal.cli.release_output import print_release
from boltseal.cli.report_options import shown_report
from boltseal.cli.table import print_table
from boltseal.cli.target_options import Targets
from boltseal.commands.deploy import DeployOptions, notify_release
from boltseal.commands.deploy_report import host_report_targets, report_release
from boltseal.commands.host_checks import HostsProject
from boltseal.commands.host_reports import ReportOptions, ReportTarget
from boltseal.commands.host_runs import (
    HostEnd,
    HostResult,
    HostsResult,
    deploy_to_hosts,
    resume_on_hosts,
    roll_back_hosts,
)
from boltseal.commands.interrupted_update import undo_interrupted_update
from boltseal.commands.project_name import project_name
from boltseal.commands.text import clean, counted
from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.project_files import project_folder
from boltseal.errors import Invalid

_GOOD = (HostEnd.RUNS, HostEnd.UNCHANGED)


@dataclass(frozen=True, slots=True)
class HostsCommand:
    """A deploy to several hosts. `files`: finds the project's; `services`, `allow`: see `HostsProject`.

    `reporting`: where each host's release is reported. `resumed`: continue an unfinished run.
    """

    targets: Targets
    project: str | None
    files: Callable[[], ProjectFiles]
    services: Sequence[str]
    allow: Sequence[str]
    reporting: ReportOptions
    resumed: bool
    anyway: bool


def deploy_hosts(
    output: CommandOutput, options: DeployOptions, command: HostsCommand, *, refused: Sequence[object]
) -> None:
    """Deploy to several hosts, or continue that. `refused`: values of options that do not apply to several hosts."""
    targets = command.targets
    if any(refused):
        raise Invalid(
            "--update and --build can't be combined with several hosts: lock first, by `boltseal lock --update`, and build and push "
            "first, by `boltseal build`, since an image that one host builds is not on the others"
        )
    if command.resumed:
        if targets.canary or targets.parallel:
            raise Invalid("--resume continues a recorded run; it takes no --canary or --parallel")
        project = project_name(command.project, options.client)
        request = targets.request(options)
        reports = host_report_targets(options, command.reporting, request.hosts)
        print_hosts(output, options, resume_on_hosts(request, project), reports)
        return
    named = command.files()
    undo_interrupted_update(options.client, project_folder(named))
    request = targets.request(options)
    reports = host_report_targets(options, command.reporting, request.hosts)
    wanted = HostsProject(named, tuple(command.services), tuple(command.allow), command.anyway)
    print_hosts(output, options, deploy_to_hosts(request, wanted), reports)


def rollback_hosts(
    output: CommandOutput,
    options: DeployOptions,
    targets: Targets,
    project: str,
    reporting: ReportOptions,
    *,
    refused: Sequence[object],
) -> None:
    """Roll back on several hosts. `reporting`: as of a deploy; `refused`: values of options that do not apply to several."""
    if any(refused):
        raise Invalid(
            "NUMBER and --restore-files can't be combined with several hosts: each host has release numbers of its own; name one "
            "host"
        )
    request = targets.request(options)
    reports = host_report_targets(options, reporting, request.hosts)
    print_hosts(output, options, roll_back_hosts(request, project), reports)


def print_hosts(
    output: CommandOutput, options: DeployOptions, found: HostsResult, reports: Mapping[str, ReportTarget]
) -> None:
    """Print the result of each host, send its report, and set the outcome. `reports`: where each host is reported."""
    for each in found.hosts:
        _add(output, options, each, reports.get(each.host))
    output.outcome = found.outcome
    if not output.as_json:
        print_table(("HOST", "RUN", "RELEASE", "REASON"), [_row(each) for each in found.hosts], whole=("HOST", "RUN"))
    good = sum(each.end in _GOOD for each in found.hosts)
    output.print(f"{good} of {counted(len(found.hosts), 'host')} {'runs' if good == 1 else 'run'} it")
    if found.command:
        say(clean(f"boltseal: to continue, when the hosts can be reached: `{found.command}`"))


def _add(output: CommandOutput, options: DeployOptions, result: HostResult, target: ReportTarget | None) -> None:
    """Add the rows of one host for `--json`, and show why its own release failed. `target`: where it is reported."""
    begin, report = len(output.results), dict[str, Any]()
    for done in (result.done, result.back):
        if done is None:
            continue
        if output.as_json or (done.outcome is not None and not done.release.good):
            output.print(clean(f"{result.host}:"))
            print_release(output, done)
        notify_release(done, result.host, options.client)
        if target is not None:
            report = {"report": shown_report(report_release(options, target, done.release))}
    if result.error is not None:
        output.could_not_check(result.error)
    output.results[begin:] = [{**row, "host": result.host} for row in output.results[begin:]]
    output.add(
        ref=result.host, status=str(result.end), reason=result.reason, host=result.host, runs=result.runs, **report
    )


def _row(result: HostResult) -> tuple[str, ...]:
    runs = "" if result.runs is None else str(result.runs)
    return (result.host, str(result.end), runs, clean(result.reason))
