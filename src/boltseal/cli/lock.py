"""`boltseal lock`: what the image references of a project mean, written down beside them."""

from __future__ import annotations

from enum import StrEnum
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
    split_arguments,
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
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from boltseal.client.transport import Transport
    from boltseal.lockfile.document import Lock, LockedImage
    from boltseal.oci.reference import Reference
    from boltseal.project.lock import LockUpdate, MovedReference


class Emit(StrEnum):
    """Files that hold digests for somebody else's tool."""

    COMPOSE_OVERRIDE = "compose-override"
    KUSTOMIZE = "kustomize"
    SOURCE_POLICY = "buildkit-source-policy"


class NotInLock(Invalid):
    """A reference to be updated that no file of the project names; or a lock that is not there."""


def lock(
    paths: PathsArgument = None,
    update: Annotated[
        bool,
        typer.Option("--update", help="Take what the tags mean now: all of them, or the references given."),
    ] = False,
    project: ProjectOption = Path(),
    count_pulls: Annotated[
        bool,
        typer.Option(
            "--count-pulls", help="Read platforms and image IDs on Docker Hub too, where that counts as pulls."
        ),
    ] = False,
    emit: Annotated[
        Emit | None,
        typer.Option("--emit", show_default=False, help="Print a file that holds the locked digests; asks nobody."),
    ] = None,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write boltseal.lock: what a project's images are.

    Finds the image references of a project, asks what each means by one HEAD, and writes that down. Run again it adds
    what is new and says what has moved; it changes nothing that is locked unless told to (--update, or --update REF).

    --emit prints what makes Compose, kustomize or BuildKit take the locked digests, without a touch on the files.

    Exit code 3: a reference could not be resolved, or there is none; the lock is as it was.
    """
    with CommandOutput("lock", as_json=as_json) as answer:
        from boltseal.lockfile.document import Lock
        from boltseal.project.lock_file import read_lock, write_lock

        files, named = split_arguments(project, paths or [], references=update)
        opened = open_project(project, files)
        if opened.empty and not named and not allow_empty:
            tell_unread(answer, opened)
            tell_empty(answer, opened)
            return
        if emit is not None:
            _emit(answer, opened, emit, update=update)
            return
        reach = registry_options(plain_http, ca_file, anonymous, strict)
        old = read_lock(project) or Lock()
        done = relocked(
            opened, old, reach, whom_to_ask(reach, allow or []), _updates(named, opened, update=update), count_pulls
        )
        whole = not done.unresolved and not opened.problems
        written = whole and write_lock(project, done.lock)
        if not whole:
            answer.outcome = Outcome.UNKNOWN
        _tell(answer, opened, old, done, whole=whole, written=written)


def _emit(answer: CommandOutput, opened: OpenedProject, emit: Emit, *, update: bool) -> None:
    """Print the file. What is not locked would be left as it is, unnoticed: then there is no file at all."""
    from boltseal.lockfile.document import LOCK_NAME, key_in
    from boltseal.project.generated_files import EMITTERS
    from boltseal.project.lock_file import read_lock

    lock = read_lock(opened.root)
    if lock is None or update:
        raise NotInLock(f"--emit is made of {LOCK_NAME}: run `boltseal lock` first, and --emit by itself")
    known, digests = lock.by_reference(), {}
    for site in opened.sites:
        image = None if site.resolved is None else known.get(key_in(site.resolved, known))
        if image is None:
            answer.outcome = Outcome.DIFFERS
            reason = site.why or f"it is not in {LOCK_NAME}; add it with `boltseal lock`"
            answer.add(ref=site.written, status="not-locked", reason=reason, file=site.path, line=site.line)
            say(clean(f"boltseal: {site.path}:{site.line}: {site.written}: {reason}"))
        elif image.digest is not None:
            digests[site] = image.digest
    if opened.problems and answer.outcome is not Outcome.DIFFERS:
        answer.outcome = Outcome.UNKNOWN
    tell_unread(answer, opened)
    if answer.outcome is not Outcome.HOLDS:
        say("nothing is printed: it would leave these as they are")
        return
    emitted = EMITTERS[emit](digests)
    for site, reason in emitted.left_out:
        answer.add(ref=site.written, status="left-out", reason=reason, file=site.path, line=site.line)
        say(clean(f"boltseal: {site.path}:{site.line}: {site.written} is left out: {reason}"))
    answer.add(ref="", status=str(emit), reason="", text=emitted.text)
    if not answer.as_json:
        print_line(emitted.text.removesuffix("\n"))


def _updates(named: Sequence[Reference], opened: OpenedProject, *, update: bool) -> Callable[[Reference], bool]:
    from boltseal.lockfile.document import lock_key

    keys = {lock_key(reference) for reference in named}
    there = {lock_key(site.resolved) for site in opened.sites if site.resolved is not None}
    for key in keys - there:
        raise NotInLock(f"{key.familiar()} is named by no file of the project; what is there: `boltseal lock --json`")
    return lambda reference: update and (not keys or reference in keys)


def relocked(
    opened: OpenedProject,
    old: Lock,
    reach: RegistryOptions,
    allowed: Callable[[str], bool],
    update: Callable[[Reference], bool],
    count_pulls: bool,
) -> LockUpdate:
    """A new lock of what the project names now, and what is to be said of it; nothing is written. KeyDiffers, LedgerBroken."""

    async def run(transport: Transport) -> LockUpdate:
        from boltseal.project.lock import relock
        from boltseal.project.resolve import Resolver

        return await relock(
            opened.sites,
            old,
            Resolver(
                transport,
                allowed,
                count_pulls=count_pulls,
                watch=watching(reach, transport, old),
                progress=progress,
            ),
            update=update,
            now_us=clock_us(),
            outside=opened.outside,
        )

    with Progress() as progress:
        return ask(reach, opened.registries, run)


def _tell(
    answer: CommandOutput, opened: OpenedProject, old: Lock, done: LockUpdate, *, whole: bool, written: bool
) -> None:
    from boltseal.lockfile.compare import ChangeKind, compare_locks

    moved = {each.before.reference: each for each in done.moved}
    changes = compare_locks(old, done.lock)
    added = {change.reference for change in changes if change.kind is ChangeKind.ADDED}
    for image in done.lock.images:
        _tell_image(answer, image, moved.get(image.reference), added=image.reference in added, whole=whole)
    for change in changes if whole else ():
        if change.kind is ChangeKind.REMOVED:
            _one(answer, "removed", change.reference, "no file names it any more")
    for one in done.unresolved:
        answer.add(ref=one.name, status="unresolved", reason=one.reason, places=list(one.places))
        say(clean(f"boltseal: {one.name} ({', '.join(one.places[:3])}): {one.reason}"))
    tell_unread(answer, opened)
    for note in done.notes:
        say(clean(f"boltseal: {note}"))
    _summary(done, whole=whole, written=written)


def _tell_image(
    answer: CommandOutput, image: LockedImage, move: MovedReference | None, *, added: bool, whole: bool
) -> None:
    """What became of one image; of a lock that is not written nothing was added or updated."""
    if move is not None:
        status = "updated" if move.taken and whole else "moved"
    elif added:
        status = "local-build" if image.local_build else "added" if whole else "resolved"
    else:
        status = "locked"
    reason = _meaning(image) if move is None else _in_words(move)
    _one(answer, status, image.reference, reason, silent=status == "locked", **_fields(image, move))


def _one(
    answer: CommandOutput, status: str, reference: Reference, reason: str, *, silent: bool = False, **fields: Any
) -> None:
    answer.add(ref=str(reference), status=status, reason=reason, **fields)
    if not answer.as_json and not silent:
        print_line(clean(f"{status:<12} {reference.familiar()}  {reason}"))


def _summary(done: LockUpdate, *, whole: bool, written: bool) -> None:
    from boltseal.lockfile.document import LOCK_NAME
    from boltseal.project.resolve import COUNTS_PULLS

    images = done.lock.images
    bare = [
        each
        for each in images
        if each.digest is not None and not each.platforms and each.reference.registry in COUNTS_PULLS
    ]
    if bare:
        say(
            f"{counted(len(bare), 'image')} of Docker Hub without platforms: to read them counts as pulls (--count-pulls)"
        )
    if not whole:
        say(f"{LOCK_NAME} is as it was: it is written when every reference can be resolved")
    else:
        say(f"{LOCK_NAME}: {counted(len(images), 'image')}, {'written' if written else 'unchanged'}")


def _fields(image: LockedImage, move: MovedReference | None) -> dict[str, Any]:
    from boltseal.lockfile.format import time_text

    return {
        "digest": None if image.digest is None else str(image.digest),
        "was": None if move is None or move.before.digest is None else str(move.before.digest),
        "means": None if move is None or move.to is None else str(move.to),
        "first_seen": time_text(image.first_seen_us),
        "platforms": {
            each.platform: {"manifest": str(each.manifest), "image": None if each.image is None else str(each.image)}
            for each in image.platforms
        },
        "used": [{"file": use.file, "at": use.at} for use in image.used],
    }


def _meaning(image: LockedImage) -> str:
    return "built here; no registry holds it" if image.digest is None else str(image.digest)


def _in_words(move: MovedReference) -> str:
    from boltseal.lockfile.compare import age

    before = move.before
    was = "a local build" if before.digest is None else before.digest.short
    now = "nothing" if move.to is None else move.to.short
    ago = age(before.first_seen_us, clock_us())
    changed = f" ({move.platforms})" if str(move.platforms) else ""
    taken = "" if move.taken else f"; kept: take it with `boltseal lock --update {before.reference.familiar()}`"
    return f"locked {ago} ago to {was}, means {now} now{changed}{taken}"
