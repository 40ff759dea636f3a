"""`boltseal verify`: check in a pipeline that the files of a project still resolve to what was locked."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption, PathsArgument, ProjectOption
from boltseal.cli.project_output import report_empty
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.cli.running_options import ComposeOption, HostsOption, KubeOption, NamespaceOption
from boltseal.cli.verify_running_output import print_running
from boltseal.commands.running import ContainerFilter
from boltseal.commands.text import clean, counted
from boltseal.commands.verify import VerifyReport, VerifyRequest, verify_project
from boltseal.commands.verify_running import VerifyRunningRequest, verify_running
from boltseal.errors import Invalid
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.format import time_text
from boltseal.project.image_references import ScanProblem
from boltseal.project.tag_moves import TagMove
from boltseal.project.verify import VerifyResult


def verify(
    paths: PathsArgument = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Contact no registry: compare the files with the lock alone.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Treat notes as differences; refuse a registry whose ledger key is not pinned."),
    ] = False,
    platform: PlatformsOption = None,
    github: Annotated[bool, typer.Option("--github", help="Write annotations of GitHub Actions.")] = False,
    running: Annotated[
        bool, typer.Option("--running", help="Compare the containers of hosts with the lock, instead of the files.")
    ] = False,
    host: HostsOption = None,
    compose: ComposeOption = None,
    kube: KubeOption = None,
    namespace: NamespaceOption = None,
    allow_empty: AllowEmptyOption = False,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a project's images are what was locked.

    Status of each reference: holds; tag moved; not pinned; not in the lock; lock and file disagree; wrong platform
    pinned; gone; could not check, with the reason. A pin whose floating tag moved still holds, and is noted.

    With --running, of each container: holds; not recreated; recreated without a pull; tag moved after the pull, or
    after the lock; other platform; local build; unknown; record gone. Containers that are not in the lock are noted.

    Exit code 0: all hold; 1: one does not; 3: one could not be checked, or there was nothing to check.
    """
    if running:
        if paths or github:
            raise Invalid("--running checks hosts; it excludes PATH and --github")
        with CommandOutput("verify-running", as_json=as_json) as output:
            running_request = VerifyRunningRequest(
                filter=ContainerFilter(tuple(host or ()), compose, kube, namespace),
                project=project,
                offline=offline,
                strict=strict,
                allow=tuple(allow or ()),
            )
            options = registry_options(plain_http, ca_file, anonymous, strict)
            print_running(output, verify_running(running_request, options), allow_empty=allow_empty)
        return
    if host or compose or kube or namespace:
        raise Invalid("--host, --compose, --kube and --namespace need --running")
    with CommandOutput("verify", as_json=as_json) as output:
        request = VerifyRequest(
            project=project,
            paths=tuple(paths or ()),
            platforms=tuple(platform or ()),
            offline=offline,
            strict=strict,
            allow=tuple(allow or ()),
        )
        with Progress() as progress:
            report = verify_project(request, registry_options(plain_http, ca_file, anonymous, strict), progress)
        _print(output, report, github=github)
        if report.opened.empty and not allow_empty:
            reason = report_empty(output, report.opened)
            if github and not as_json:
                print_line(f"::error::{_data(reason)}")


def _print(output: CommandOutput, report: VerifyReport, *, github: bool) -> None:
    output.outcome = report.outcome
    for result in report.results:
        output.add(**_fields(result))
        if not result.reason or output.as_json:
            continue
        site = result.site
        if github:
            print_line(_annotation(result))
        elif result.weight != "holds":
            print_line(clean(f"{site.path}:{site.line}: {site.written}: {result.status}: {result.reason}"))
    for problem in report.opened.problems:
        _print_problem(output, problem, "unreadable", Weight.UNKNOWN, github=github)
    for note in report.opened.notes:
        _print_problem(output, note, "template", report.note_weight, github=github)
    numbers = [f"{number} {status}" for status, number in sorted(Counter(one.status for one in report.results).items())]
    numbers += [
        f"{len(each)} {word}"
        for each, word in ((report.opened.problems, "unreadable"), (report.opened.notes, "template"))
        if each
    ]
    say(f"{counted(len(report.results), 'reference')}{': ' if numbers else ''}{', '.join(numbers)}")


def _fields(result: VerifyResult) -> dict[str, Any]:
    site = result.site
    return {
        "ref": site.written if site.resolved is None else str(site.resolved),
        "status": result.status,
        "reason": result.reason,
        "weight": result.weight,
        "file": site.path,
        "line": site.line,
        "at": site.where,
        "written": site.written,
        "expected": None if result.from_ is None else str(result.from_),
        "means": None if result.to is None else str(result.to),
        "locked_at": None if result.image is None else time_text(result.image.first_seen_us),
        "platforms": None if result.change is None else asdict(result.change),
        **_move_fields(result.move),
    }


def _move_fields(move: TagMove | None) -> dict[str, Any]:
    if move is None:
        return dict.fromkeys(("sealed", "sealed_by", "moved_at", "left_at", "moved_by", "entry"))
    return {
        "sealed": move.sealed,
        "sealed_by": move.told,
        "moved_at": None if move.moved_us is None else time_text(move.moved_us),
        "left_at": None if move.left_us is None else time_text(move.left_us),
        "moved_by": move.by or None,
        "entry": move.entry,
    }


def _print_problem(output: CommandOutput, problem: ScanProblem, status: str, weight: Weight, *, github: bool) -> None:
    output.add(ref="", status=status, reason=problem.message, weight=weight, file=problem.path, line=problem.line)
    if output.as_json:
        return
    level = "warning" if weight == "note" else "error"
    print_line(_workflow_command(level, problem.path, problem.line, problem.message) if github else clean(str(problem)))


def _annotation(result: VerifyResult) -> str:
    level = {Weight.HOLDS: "notice", Weight.NOTE: "warning"}.get(result.weight, "error")
    site = result.site
    return _workflow_command(level, site.path, site.line, f"{site.written}: {result.status}: {result.reason}")


def _workflow_command(level: str, path: str, line: int, message: str) -> str:
    """Return an annotation as a workflow command of GitHub Actions, which shows it beside the line."""
    properties = f"file={_property(path)}" + (f",line={line}" if line else "")
    return f"::{level} {properties}::{_data(message)}"


def _data(text: str) -> str:
    """Escape a message of a workflow command, and control characters for the terminal."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
