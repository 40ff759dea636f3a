"""`boltseal verify`: do the files of a project still mean what was locked? The gate of a pipeline."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.onproject import (
    AllowOption,
    OpenedProject,
    PathsArgument,
    ProjectOption,
    open_project,
    path_of,
    tell_empty,
    watching,
    whom_to_ask,
)
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.progress import Progress
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.cli.running_options import ComposeOption, HostsOption, KubeOption, NamespaceOption
from boltseal.cli.verify_running import verify_running
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.running import ContainerFilter
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.lockfile.compare import Weight
    from boltseal.lockfile.document import Lock
    from boltseal.project.image_references import ScanProblem
    from boltseal.project.tag_moves import TagMove
    from boltseal.project.verify import VerifyResult


def verify(
    paths: PathsArgument = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody: compare the files with the lock alone.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="What is only noted does not hold either; a ledger whose key nobody has given is refused."
        ),
    ] = False,
    platform: PlatformsOption = None,
    github: Annotated[bool, typer.Option("--github", help="Write annotations of GitHub Actions.")] = False,
    running: Annotated[
        bool, typer.Option("--running", help="Compare what runs on hosts with the lock, instead of the files.")
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

    For each reference: holds; tag moved; not pinned; not in the lock; lock and file disagree; wrong platform pinned;
    gone; could not check, with the reason. A pin whose floating tag moved still holds, and is noted.

    With --running it is for each container: holds; not recreated; recreated without a pull; tag moved after the pull, or
    after the lock; other platform; local build; unknown; record gone. What the lock does not name is noted.

    Exit code 0: all hold; 1: one does not; 3: one could not be checked, or there was nothing to check.
    """
    if running:
        if paths or github:
            raise Invalid("--running looks at hosts; give it without PATH and --github")
        where = ContainerFilter(tuple(host or ()), compose, kube, namespace)
        reach = None if offline else registry_options(plain_http, ca_file, anonymous, strict)
        verify_running(where, project, reach, allow or [], strict=strict, allow_empty=allow_empty, as_json=as_json)
        return
    if host or compose or kube or namespace:
        raise Invalid("--host, --compose and --kube are where containers run; give them with --running")
    with CommandOutput("verify", as_json=as_json) as answer:
        from boltseal.lockfile.compare import Weight
        from boltseal.project.lock_file import read_lock
        from boltseal.project.platforms import check_platform

        opened = open_project(project, [path_of(project, path) for path in paths or []])
        lock = read_lock(project)
        strict = strict or opened.settings.strict
        reach = None if offline else registry_options(plain_http, ca_file, anonymous, strict)
        platforms = [check_platform(each) for each in platform or opened.settings.platforms]
        verdicts = _verdicts(opened, lock, reach, allow or [], platforms, strict=strict)
        answer.outcome = _outcome(verdicts, opened, strict=strict)
        for verdict in verdicts:
            _tell(answer, verdict, github=github)
        for problem in opened.problems:
            _tell_problem(answer, problem, "unreadable", Weight.UNKNOWN, github=github)
        for note in opened.notes:
            _tell_problem(answer, note, "template", Weight.DIFFERS if strict else Weight.NOTE, github=github)
        _summary(verdicts, opened)
        if opened.empty and not allow_empty:
            reason = tell_empty(answer, opened)
            if github and not as_json:
                print_line(f"::error::{_data(reason)}")


def _verdicts(
    opened: OpenedProject,
    lock: Lock | None,
    reach: RegistryOptions | None,
    allow: list[str],
    platforms: list[str],
    *,
    strict: bool,
) -> tuple[VerifyResult, ...]:
    import asyncio

    from boltseal.project.resolve import Resolver
    from boltseal.project.verify import verify as verified

    now_us = clock_us()
    if reach is None:
        return asyncio.run(verified(opened.sites, lock, None, now_us=now_us, strict=strict, platforms=platforms))
    allowed = whom_to_ask(reach, allow)

    async def run(transport: Transport) -> tuple[VerifyResult, ...]:
        resolver = Resolver(transport, allowed, watch=watching(reach, transport, lock), progress=progress)
        return await verified(opened.sites, lock, resolver, now_us=now_us, strict=strict, platforms=platforms)

    with Progress() as progress:
        return ask(reach, opened.registries, run)


def _outcome(verdicts: tuple[VerifyResult, ...], opened: OpenedProject, *, strict: bool) -> Outcome:
    """1 beats 3: what does not hold is certain, whatever could not be checked beside it."""
    from boltseal.lockfile.compare import Weight

    weights = {verdict.weight for verdict in verdicts}
    if Weight.DIFFERS in weights or (strict and opened.notes):
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if Weight.UNKNOWN in weights or opened.problems else Outcome.HOLDS


def _tell(answer: CommandOutput, verdict: VerifyResult, *, github: bool) -> None:
    from boltseal.lockfile.format import time_text

    site = verdict.site
    answer.add(
        ref=site.written if site.resolved is None else str(site.resolved),
        status=verdict.status,
        reason=verdict.reason,
        weight=verdict.weight,
        file=site.path,
        line=site.line,
        at=site.where,
        written=site.written,
        expected=None if verdict.from_ is None else str(verdict.from_),
        means=None if verdict.to is None else str(verdict.to),
        locked_at=None if verdict.image is None else time_text(verdict.image.first_seen_us),
        platforms=None if verdict.change is None else asdict(verdict.change),
        **_move(verdict.move),
    )
    if not verdict.reason or answer.as_json:
        return
    if github:
        print_line(annotation(verdict))
    elif verdict.weight != "holds":
        print_line(clean(f"{site.path}:{site.line}: {site.written}: {verdict.status}: {verdict.reason}"))


def _move(move: TagMove | None) -> dict[str, Any]:
    """What is known of a move, all keys always there."""
    from boltseal.lockfile.format import time_text

    def when(time_us: int | None) -> str | None:
        return None if time_us is None else time_text(time_us)

    if move is None:
        return dict.fromkeys(("sealed", "sealed_by", "moved_at", "left_at", "moved_by", "entry"))
    return {
        "sealed": move.sealed,
        "sealed_by": move.told,
        "moved_at": when(move.moved_us),
        "left_at": when(move.left_us),
        "moved_by": move.by or None,
        "entry": move.entry,
    }


def _tell_problem(answer: CommandOutput, problem: ScanProblem, status: str, weight: Weight, *, github: bool) -> None:
    answer.add(ref="", status=status, reason=problem.message, weight=weight, file=problem.path, line=problem.line)
    if answer.as_json:
        return
    level = "warning" if weight == "note" else "error"
    print_line(_command(level, problem.path, problem.line, problem.message) if github else clean(str(problem)))


def annotation(verdict: VerifyResult) -> str:
    """A verdict as GitHub Actions shows it beside the line: a workflow command."""
    from boltseal.lockfile.compare import Weight

    level = {Weight.HOLDS: "notice", Weight.NOTE: "warning"}.get(verdict.weight, "error")
    site = verdict.site
    return _command(level, site.path, site.line, f"{site.written}: {verdict.status}: {verdict.reason}")


def _command(level: str, path: str, line: int, message: str) -> str:
    place = f"file={_property(path)}" + (f",line={line}" if line else "")
    return f"::{level} {place}::{_data(message)}"


def _data(text: str) -> str:
    """As a workflow command has it; what else would steer a terminal is shown."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _summary(verdicts: tuple[VerifyResult, ...], opened: OpenedProject) -> None:
    counts = Counter(verdict.status for verdict in verdicts)
    told = [f"{number} {status}" for status, number in sorted(counts.items())]
    told += [
        f"{len(each)} {word}" for each, word in ((opened.problems, "unreadable"), (opened.notes, "template")) if each
    ]
    say(f"{counted(len(verdicts), 'reference')}{': ' if told else ''}{', '.join(told)}")
