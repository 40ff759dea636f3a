"""`boltseal pin`: digests into a project's own files, or out of them again. Shows what would change; writes when told to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.onproject import (
    AllowOption,
    OpenedProject,
    PathsArgument,
    ProjectOption,
    many_values,
    open_project,
    path_of,
    tell_empty,
    tell_unread,
    watching,
    whom_to_ask,
)
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.progress import Progress
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, StrictOption, registry_options
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from boltseal.client.transport import Transport
    from boltseal.project.edits import EditResult, FileEdit
    from boltseal.project.pin import Pin


class OneAtATime(Invalid):
    """Options that exclude each other, or miss each other."""


class NotPrinted(Unavailable):
    """A file among those to be printed that can't be read."""


def pin(
    paths: PathsArgument = None,
    write: Annotated[bool, typer.Option("--write", help="Write the files: all of them or none.")] = False,
    to_stdout: Annotated[
        bool, typer.Option("--stdout", help="Print the files with their digests, for `| kubectl apply -f -`.")
    ] = False,
    unpin: Annotated[bool, typer.Option("--unpin", help="Take the digests out again.")] = False,
    allow_empty: AllowEmptyOption = False,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write digests into a project's files.

    app:1.4.2 becomes app:1.4.2@sha256:..., by boltseal.lock, or where there is none by what the tags mean now. Nothing
    else in the files changes, and that is proven before anything is written. Without --write it shows the difference.

    Exit code 1: a reference is left without its digest, and is named; 3: something could not be read or asked, or
    there is no reference.
    """
    with CommandOutput("pin", as_json=as_json) as answer:
        if to_stdout and (write or as_json or not paths):
            raise OneAtATime("--stdout prints files that are named, and goes with neither --write nor --json")
        opened = open_project(project, [path_of(project, path) for path in paths or []])
        reach = registry_options(plain_http, ca_file, anonymous, strict)
        pins = _unpins(opened) if unpin else _pins(opened, reach, allow or [])
        edited, pins = _edited(opened, pins)
        answer.outcome = _outcome(opened, pins)
        held_back = _held_back(opened, pins, whole=to_stdout)
        _tell(answer, opened, pins)
        if not held_back:
            _deliver(opened, edited, write=write, to_stdout=to_stdout, quiet=as_json)
        _summary(pins, edited, write=write, to_stdout=to_stdout, held_back=held_back)
        if opened.empty and not to_stdout and not allow_empty:
            tell_empty(answer, opened)


def _unpins(opened: OpenedProject) -> list[Pin]:
    from boltseal.project.pin import unpins

    return unpins(opened.sites)


def _pins(opened: OpenedProject, reach: RegistryOptions, allow: list[str]) -> list[Pin]:
    from boltseal.project.lock_file import read_lock
    from boltseal.project.pin import pins_by_lock, pins_by_meaning, to_be_asked

    lock = read_lock(opened.root)
    if lock is not None:
        return pins_by_lock(opened.sites, lock)
    wanted = to_be_asked(opened.sites)
    if not wanted:
        return pins_by_meaning(opened.sites, {})
    allowed = whom_to_ask(reach, allow)

    async def run(transport: Transport) -> list[Pin]:
        from boltseal.project.resolve import Resolver

        resolver = Resolver(transport, allowed, watch=watching(reach, transport, None), progress=progress)
        return pins_by_meaning(opened.sites, await resolver.meanings(wanted))

    with Progress() as progress:
        return ask(reach, {reference.registry for reference in wanted}, run)


def _edited(opened: OpenedProject, pins: list[Pin]) -> tuple[EditResult, list[Pin]]:
    """The new texts, and the pins with what was refused among them."""
    from boltseal.project.edits import edit
    from boltseal.project.pin import Pin, PinStatus

    wanted = {each.site: each.digest for each in pins if each.status in (PinStatus.PINNED, PinStatus.UNPINNED)}
    with many_values():
        edited = edit(opened.asked, opened.found, wanted)
    refused = {refusal.site: refusal.reason for refusal in edited.refusals}
    told = [Pin(each.site, PinStatus.NO_PLACE, refused[each.site]) if each.site in refused else each for each in pins]
    return edited, told


def _outcome(opened: OpenedProject, pins: list[Pin]) -> Outcome:
    """1 beats 3."""
    from boltseal.project.pin import PinStatus

    statuses = {each.status for each in pins}
    if statuses & {PinStatus.NO_PLACE, PinStatus.NOT_LOCKED}:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if PinStatus.UNKNOWN in statuses or opened.problems else Outcome.HOLDS


def _held_back(opened: OpenedProject, pins: list[Pin], *, whole: bool) -> str:
    """Why nothing is written or printed; "" where it may be. `whole`: only if everything has its digest."""
    from boltseal.project.pin import PinStatus

    if opened.problems:
        return "a file could not be read"
    if any(each.status is PinStatus.UNKNOWN and each.site.resolved is not None for each in pins):
        return "a reference could not be asked for"
    bare = {PinStatus.NO_PLACE, PinStatus.NOT_LOCKED, PinStatus.UNKNOWN}
    if whole and any(each.status in bare for each in pins):
        return "a reference would go without its digest"
    return ""


def _tell(answer: CommandOutput, opened: OpenedProject, pins: list[Pin]) -> None:
    from boltseal.project.pin import PinStatus

    told = {PinStatus.NO_PLACE, PinStatus.NOT_LOCKED, PinStatus.UNKNOWN}
    for each in pins:
        site = each.site
        answer.add(
            ref=site.written if site.resolved is None else str(site.resolved),
            status=each.status,
            reason=each.reason,
            file=site.path,
            line=site.line,
            at=site.where,
            digest=None if each.digest is None else str(each.digest),
        )
        if each.status in told:
            say(clean(f"{site.path}:{site.line}: {site.written}: {each.status}: {each.reason}"))
    tell_unread(answer, opened)


def _deliver(opened: OpenedProject, edited: EditResult, *, write: bool, to_stdout: bool, quiet: bool) -> None:
    from boltseal.project.replace_files import replace_all

    if to_stdout:
        print_line("".join(_files(opened, edited)), end="")
    elif write:
        for name in replace_all(opened.asked.project.root, edited.changes):
            say(clean(f"boltseal: {name} has another name (a hard link), which keeps the old text"))
    elif not quiet:
        for change in edited.changes:
            for line in _difference(change):
                print_line(line)


def _files(opened: OpenedProject, edited: EditResult) -> Iterator[str]:
    """The files as `kubectl apply -f` would take them, one stream of documents, each changed or not. NotPrinted."""
    from boltseal.project.source_files import ProjectTree as Files
    from boltseal.project.source_files import Unreadable

    changed = {change.path: change.after.text for change in edited.changes}
    files: Files = opened.asked.project
    names: list[str] = []
    for path in opened.paths or ("",):
        at = files.root / path
        inside = (
            sorted(each for each in at.iterdir() if each.suffix in (".yaml", ".yml", ".json")) if at.is_dir() else [at]
        )
        try:
            names += [files.name(each) for each in inside if each.is_file()]
        except Unreadable as error:
            raise NotPrinted(f"{error.problem}; nothing is printed") from error
    for number, name in enumerate(dict.fromkeys(names)):
        try:
            text = changed.get(name) or files.read(name).text
        except Unreadable as error:
            raise NotPrinted(f"{error.problem}; nothing is printed") from error
        begin = "---\n" if number and not text.startswith("---") else ""
        yield begin + text + ("" if text.endswith("\n") else "\n")


def _difference(change: FileEdit) -> Sequence[str]:
    """A unified difference, with names as git has them; control characters of a file do not reach the terminal."""
    from difflib import unified_diff

    old, new = (text.split("\n") for text in (change.before.text, change.after.text))
    lines = unified_diff(old, new, f"a/{change.path}", f"b/{change.path}", lineterm="")
    return [line if line.isprintable() else _printable(line) for line in lines]


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in line)


def _summary(pins: list[Pin], edited: EditResult, *, write: bool, to_stdout: bool, held_back: str) -> None:
    from collections import Counter

    counts = Counter(each.status for each in pins)
    say(
        f"{counted(len(pins), 'reference')}: {', '.join(f'{number} {status}' for status, number in sorted(counts.items()))}"
        if pins
        else "no references"
    )
    _elsewhere(pins)
    files = counted(len(edited.changes), "file")
    if held_back:
        say(f"nothing is {'printed' if to_stdout else 'written'}: {held_back}")
    elif write:
        say(f"{files} written")
    elif to_stdout:
        say(f"{files} printed with other digests")
    elif edited.changes:
        say(f"{files} would change: --write writes them")


def _elsewhere(pins: list[Pin]) -> None:
    """Which generated files can hold what has no place in the project's own."""
    from boltseal.project.generated_files import EMITS
    from boltseal.project.pin import PinStatus

    kinds = {each.site.format for each in pins if each.status is PinStatus.NO_PLACE and each.site.resolved is not None}
    words = [f"`boltseal lock --emit {EMITS[kind]}`" for kind in sorted(kinds & EMITS.keys())]
    if words:
        say(f"what has no place can be held beside the files: {', '.join(words)}")
