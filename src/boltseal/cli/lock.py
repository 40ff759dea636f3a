"""`boltseal lock`: write the digests of a project's image references to boltseal.lock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boltseal.cli.event_loop import interrupted_by_sigterm
from boltseal.cli.explain_option import ExplainOption, print_explanations
from boltseal.cli.explanation_text import ExplainFormat
from boltseal.cli.lock_options import (
    CountPullsOption,
    EmitOption,
    MergeOption,
    RenderOption,
    UpdateOption,
)
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.output import CommandOutput, print_finding, say, say_finding
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption, PathsArgument, ProjectOption
from boltseal.cli.project_output import ShownReasons, report_empty, report_unread
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.emit_lock import Emit, EmitReport, emit_lock
from boltseal.commands.lock import LockReport, LockRequest, LockRow, lock_project
from boltseal.commands.merge_lock import MergeReport, merge_lock
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.lockfile.document import LOCK_NAME, LockedImage
from boltseal.lockfile.format import time_text


@takes_registry_options
def lock(
    paths: PathsArgument = None,
    update: UpdateOption = False,
    project: ProjectOption = Path(),
    count_pulls: CountPullsOption = False,
    emit: EmitOption = None,
    render: RenderOption = None,
    merge: MergeOption = False,
    explain: ExplainOption = None,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Write the digests of a project's images to boltseal.lock.

    Finds the image references of a project and resolves each with one HEAD request. A later run adds new references
    and reports those that moved; it changes what is locked only with --update, or --update IMAGE.

    --merge merges a conflict between two branches, image by image; exit code 1 if both locked an image to other digests.

    --emit prints a file that makes Compose, kustomize, Helm or BuildKit use the locked digests; the project's files stay.

    --explain reads the former and the new image of each change, and shows who pushed it, whether the base or the
    sources changed, packages, files, size, platforms and signatures; as Markdown for a pull request.

    --render also locks what the project's own tools print; then verify renders again. --no-render ends that.

    A reference that can't be resolved leaves the others locked. [[lock.ignore]] in .boltseal.toml leaves one out.

    Exit code 3: a reference could not be resolved, or there is none.
    """
    with CommandOutput("lock", as_json=as_json or explain is ExplainFormat.JSON) as output:
        if merge:
            if update or emit is not None or render is not None or explain is not None:
                raise Invalid("--merge excludes --update, --emit, --render and --explain")
            _print_merged(output, merge_lock(project, tuple(paths or ())))
            return
        if emit is not None:
            if render is not None:
                raise Invalid("--emit and --render exclude each other: run `boltseal lock --render` first")
            if explain is not None:
                raise Invalid("--emit and --explain exclude each other: --emit locks nothing")
            if update:
                raise Invalid("--emit and --update exclude each other: run `boltseal lock --update` first")
            _print_emitted(output, emit_lock(project, tuple(paths or ()), emit, allow_empty=allow_empty), emit)
            return
        request = LockRequest(
            project=project,
            arguments=tuple(paths or ()),
            update=update,
            count_pulls=count_pulls,
            allow_empty=allow_empty,
            render=render,
            allow=tuple(allow or ()),
            explain=explain is not None,
        )
        with Progress() as progress, interrupted_by_sigterm():
            report = lock_project(request, access, progress)
        _print(output, report, explain)
        if explain is not None:
            print_explanations(output, report.explained, explain, access.client.now_us())


def _print(output: CommandOutput, report: LockReport, explain: ExplainFormat | None) -> None:
    output.outcome = report.outcome
    if report.empty:
        report_unread(output, report.opened)
        report_empty(output, report.opened)
        return
    explained = {each.change.new: each for each in report.explained}
    for row in report.rows:
        found = explained.get(row.reference.by_tag)
        more = {} if found is None or row.status == "removed" else {"explanation": found.as_json()}
        output.add(ref=str(row.reference), status=row.status, reason=row.reason, **_fields(row), **more)
        if not output.as_json and row.status != "locked" and explain is not ExplainFormat.MARKDOWN:
            print_finding(clean(f"{row.status:<12} {row.reference.familiar()}  {row.reason}"))
    shown = ShownReasons()
    for each in report.unresolved:
        output.add(ref=each.name, status="unresolvable", reason=each.reason, places=list(each.places))
        say_finding(
            clean(f"boltseal: {each.name} ({', '.join(each.places[:3])}): {shown.text(each.reason, each.name)}")
        )
    report_unread(output, report.opened)
    for note in report.notes:
        say(clean(f"boltseal: {note}"))
    for part in report.rendered:
        say(clean(f"boltseal: rendered by {part.title}"))
    if report.bare:
        say(
            f"{counted(report.bare, 'image')} of Docker Hub without platforms: to read them counts as pulls (--count-pulls)"
        )
    say(f"{LOCK_NAME}: {counted(report.images, 'image')}, {'written' if report.written else 'unchanged'}")
    if report.unresolved:
        say(
            f"{counted(len(report.unresolved), 'reference')} unresolvable; [[lock.ignore]] in .boltseal.toml leaves one out"
        )


def _print_merged(output: CommandOutput, report: MergeReport) -> None:
    output.outcome = report.outcome
    if report.merged is None:
        say(f"{LOCK_NAME} has no merge conflict")
        return
    for name in report.merged.conflicts:
        reason = "both sides changed it; keep one of the two blocks between the marks"
        output.add(ref=name, status="conflict", reason=reason)
        output.print(clean(f"conflict  {name}: {reason}"))
    images = counted(len(report.merged.lock.images), "image")
    say(f"{LOCK_NAME}: {images} merged, {counted(len(report.merged.conflicts), 'conflict')}")


def _print_emitted(output: CommandOutput, report: EmitReport, emit: Emit) -> None:
    output.outcome = report.outcome
    for row in report.rows:
        image_ref = row.image_ref
        output.add(
            ref=image_ref.written, status=row.status, reason=row.reason, file=image_ref.path, line=image_ref.line
        )
        left_out = "is left out: " if row.status == "left-out" else ""
        say(
            clean(
                f"boltseal: {image_ref.path}:{image_ref.line}: {image_ref.written}{' ' if left_out else ': '}{left_out}{row.reason}"
            )
        )
    if report.text is None:
        report_unread(output, report.opened)
        if report.empty:
            report_empty(output, report.opened)
        elif report.rows or report.opened.problems:
            say("nothing is printed: these would be left as they are")
        else:
            remedy = f"use {' or '.join(f'--emit {name}' for name in report.others if name) or '`boltseal pin`'}"
            output.nothing_to_check(f"--emit {emit} pins none of the project's locked references", remedy)
        return
    for name, number in report.others.items():
        by = f"--emit {name}" if name else "`boltseal pin`"
        say(f"{counted(number, 'reference')} of other files not in it: {by} pins them")
    output.add(ref="", status=str(emit), reason="", text=report.text)
    output.print(report.text.removesuffix("\n"))


def _fields(row: LockRow) -> dict[str, Any]:
    image, move = row.image, row.move
    if image is None:
        return {}
    return {
        "digest": None if image.digest is None else str(image.digest),
        "was": None if move is None or move.before.digest is None else str(move.before.digest),
        "resolves_to": None if move is None or move.to is None else str(move.to),
        "first_seen": time_text(image.first_seen_us),
        "platforms": _platforms(image),
        "used": [{"file": use.file, "at": use.at} for use in image.used],
    }


def _platforms(image: LockedImage) -> dict[str, dict[str, str | None]]:
    return {
        each.platform: {"manifest": str(each.manifest), "image": None if each.image is None else str(each.image)}
        for each in image.platforms
    }
