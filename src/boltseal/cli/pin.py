"""`boltseal pin`: write digests into a project's own files, or remove them. Without --write it shows the difference."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.output import CommandOutput, print_exact, say, say_finding
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption, PathsArgument, ProjectOption
from boltseal.cli.project_output import report_empty, report_unread
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.pin import WITHOUT_DIGEST, PinReport, PinRequest, pin_project
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.lockfile.document import LOCK_NAME
from boltseal.project.edits import FileEdit
from boltseal.project.patch import patch_lines
from boltseal.project.pin import PinStatus

LINES_AT_ONCE: Final = 10_000
"""How many lines of a patch are printed together."""


@takes_registry_options
def pin(
    paths: PathsArgument = None,
    write: Annotated[bool, typer.Option("--write", help="Write the files: all of them or none.")] = False,
    to_stdout: Annotated[
        bool, typer.Option("--stdout", help="Print the files with their digests, for `| kubectl apply -f -`.")
    ] = False,
    unpin: Annotated[
        bool, typer.Option("--unpin", help="Remove the digests that `boltseal pin` wrote, as boltseal.lock records.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="With --unpin: remove all digests.")] = False,
    allow_empty: AllowEmptyOption = False,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Write digests into a project's files.

    app:1.4.2 becomes app:1.4.2@sha256:..., by boltseal.lock, or without one by what the tags resolve to now. Nothing
    else in the files changes, which is verified before anything is written. Without --write it prints a patch, which
    `git apply` takes.

    Exit code 1: a reference is left without its digest, and is named; 3: something could not be read or resolved, or
    there is no reference.
    """
    with CommandOutput("pin", as_json=as_json) as output:
        if to_stdout and (write or as_json or not paths):
            raise Invalid("--stdout needs PATH, and excludes --write and --json")
        if everything and not unpin:
            raise Invalid("--all needs --unpin")
        request = PinRequest(
            project=project,
            paths=tuple(paths or ()),
            write=write,
            to_text=to_stdout,
            unpin=unpin,
            everything=everything,
            allow=tuple(allow or ()),
        )
        with Progress() as progress:
            report = pin_project(request, access, progress)
        _print(output, request, report)
        if report.opened.empty and not to_stdout and not allow_empty:
            report_empty(output, report.opened)


def _print(output: CommandOutput, request: PinRequest, report: PinReport) -> None:
    output.outcome = report.outcome
    for each in report.pins:
        image_ref = each.image_ref
        if output.as_json:
            output.add(
                ref=image_ref.written if image_ref.resolved is None else str(image_ref.resolved),
                status=each.status,
                reason=each.reason,
                file=image_ref.path,
                line=image_ref.line,
                at=image_ref.where,
                digest=None if each.digest is None else str(each.digest),
            )
        if each.status in WITHOUT_DIGEST:
            say_finding(clean(f"{image_ref.path}:{image_ref.line}: {image_ref.written}: {each.status}: {each.reason}"))
    report_unread(output, report.opened)
    if report.error is not None:
        raise report.error
    if report.text:
        print_exact(report.text)
    for name in report.hard_links:
        say(clean(f"boltseal: {name} has another name (a hard link), which keeps the old text"))
    if not (report.refused or request.write or request.to_text or output.as_json):
        for change in (*report.changes, *((report.record,) if report.record is not None else ())):
            lines = _difference(change)
            while part := "".join(islice(lines, LINES_AT_ONCE)):
                print_exact(part)
    _print_summary(request, report)


def _difference(change: FileEdit) -> Iterator[str]:
    """Yield a file's patch: exact where a program reads it, and with control characters escaped on a terminal."""
    if not sys.stdout.isatty():
        yield from patch_lines(change)
        return
    for line in patch_lines(change):
        yield "".join(char if char.isprintable() or char in "\t\n" else ascii(char)[1:-1] for char in line)


def _print_summary(request: PinRequest, report: PinReport) -> None:
    counts = Counter(each.status for each in report.pins)
    numbers = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    if report.pins:
        say(f"{counted(len(report.pins), 'reference')}: {numbers}")
    if report.emits:
        words = ", ".join(f"`boltseal lock --emit {name}`" for name in report.emits)
        say(f"digests without a place in these files can be in a file beside them: {words}")
    if counts[PinStatus.FOREIGN]:
        say(
            "a foreign digest is not recorded as written by `boltseal pin`, and stays; --unpin --all removes all digests"
        )
    if request.write and counts[PinStatus.PINNED] and not (report.locked or report.refused):
        say(
            f"without {LOCK_NAME} no digest is recorded as written; `boltseal lock` first makes --unpin restore the files"
        )
    files = counted(len(report.changes), "file")
    if report.refused:
        say(f"nothing is {'printed' if request.to_text else 'written'}: {report.refused}")
    elif request.write:
        say(f"{files} {f'and {LOCK_NAME} ' if report.record is not None else ''}written")
    elif request.to_text:
        say(f"{files} printed with other digests")
    elif report.changes:
        say(f"{files} would change: --write writes them")
