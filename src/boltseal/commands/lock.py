"""`boltseal lock`: resolve a project's image references and write the digests to boltseal.lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.engine_releases import known_folders
from boltseal.commands.explained_changes import Explanation
from boltseal.commands.explained_lock import explain_lock
from boltseal.commands.interrupted_update import undo_interrupted_update
from boltseal.commands.outcome import Outcome
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import (
    OpenedProject,
    ledger_follower,
    open_project,
    paths_in_project,
    registry_filter,
    split_arguments,
)
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.rendered_project import RenderedProject, add_rendered, find_renderable
from boltseal.commands.text import clean
from boltseal.config import child_environment
from boltseal.deploy.holds import HeldImage, end_hint, held_images, holding
from boltseal.errors import Invalid
from boltseal.lockfile.compare import ChangeKind, age, compare_locks
from boltseal.lockfile.document import Lock, LockedImage, Rendered, lock_key
from boltseal.lockfile.holds import git_end_hint, held_references
from boltseal.oci.reference import Reference
from boltseal.project.held_digests import read_holds
from boltseal.project.lock import LockUpdate, relock
from boltseal.project.lock_entries import MovedReference, Unresolved
from boltseal.project.lock_file import read_lock_file, write_lock
from boltseal.project.resolve import COUNTS_PULLS, Resolver


@dataclass(frozen=True, slots=True)
class LockRequest:
    """What to lock.

    `arguments`: files and folders of the project, and with `update` also references; () for all of them. `update`: take
    what the tags resolve to now. `count_pulls`: read platforms on Docker Hub too. `allow_empty`: lock a project without
    references. `render`: also lock what the project's own tools print; None: as the lock says. `allow`: further registries
    that its files may name.
    """

    project: Path
    arguments: tuple[str, ...] = ()
    update: bool = False
    count_pulls: bool = False
    allow_empty: bool = False
    render: bool | None = None
    allow: tuple[str, ...] = ()
    explain: bool = False


class LockRow(NamedTuple):
    """One locked reference: `status` is added, locked, moved, updated, local-build or removed."""

    status: str
    reference: Reference
    reason: str
    image: LockedImage | None = None
    move: MovedReference | None = None


@dataclass(frozen=True, slots=True)
class LockReport:
    """The result of a lock.

    `unresolved`: references that could not be resolved. `complete`: none, and every file was read.
    `empty`: the project has no references, and nothing was done. `bare`: Docker Hub images without platforms.
    `rendered`: what was rendered. `explained`: changes of images, if the request says so.
    """

    outcome: Outcome
    opened: OpenedProject
    rows: tuple[LockRow, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    notes: tuple[str, ...] = ()
    images: int = 0
    bare: int = 0
    rendered: tuple[Rendered, ...] = ()
    explained: tuple[Explanation, ...] = ()
    complete: bool = True
    written: bool = False
    empty: bool = False


def lock_project(request: LockRequest, options: RegistryOptions, progress: Progress = no_progress) -> LockReport:
    """Lock a project. A reference that can't be resolved leaves the others locked, and the outcome unknown.

    Raises: Invalid, LockInvalid, KeyDiffers, LedgerBroken, LockNotWritten; FileChanged: another command wrote the lock meanwhile;
    EditsRunning: an update runs.
    """
    undo_interrupted_update(options.client, request.project)
    paths, named = _arguments(request)
    opened = open_project(request.project, paths)
    read = read_lock_file(request.project)
    old = read.lock or Lock()
    rendering = _rendering(opened, old, request, progress)
    opened = rendering.opened
    if opened.empty and not named and not request.allow_empty:
        return LockReport(Outcome.UNKNOWN, opened, empty=True)
    update = _updates(named, opened, update=request.update)
    if request.update:
        in_git = held_references(read_holds(request.project))
        update = unless_held(update, _held_in(options.client, request.project), options.client, in_git)
    allowed = registry_filter(options, request.allow)
    done = resolve_lock(
        opened,
        old,
        options,
        allowed,
        update=update,
        count_pulls=request.count_pulls,
        progress=progress,
        rendered=rendering.done,
        not_rendered=_not_rendered(opened, old, rendering, request),
    )
    complete = not done.unresolved and not opened.problems
    # nothing was locked before and nothing is now: a file without entries would only look like a lock
    written = (complete or done.lock != Lock()) and write_lock(read, done.lock)
    images = done.lock.images
    explained = explain_lock(old, done.lock, options) if request.explain else ()
    return LockReport(
        outcome=Outcome.HOLDS if complete else Outcome.UNKNOWN,
        explained=explained,
        opened=opened,
        rows=_rows(old, done, options.client.now_us()),
        unresolved=done.unresolved,
        notes=done.notes,
        images=len(images),
        bare=sum(
            each.digest is not None and not each.platforms and each.reference.registry in COUNTS_PULLS
            for each in images
        ),
        rendered=rendering.done,
        complete=complete,
        written=written,
    )


def resolve_lock(
    opened: OpenedProject,
    old: Lock,
    options: RegistryOptions,
    allowed: Callable[[str], bool],
    *,
    update: Callable[[Reference], bool],
    count_pulls: bool = False,
    progress: Progress = no_progress,
    rendered: Iterable[Rendered] = (),
    not_rendered: Iterable[Rendered] | None = None,
) -> LockUpdate:
    """Resolve the project's references and return the new lock, which is not written. Raises: KeyDiffers, LedgerBroken.

    `allowed`: which registries may be contacted. `update`: which known references take what they resolve to now.
    `rendered`, `not_rendered`: see `relock`.
    """

    async def run(transport: Transport) -> LockUpdate:
        follow = ledger_follower(options, transport, old)
        resolver = Resolver(transport, allowed, count_pulls=count_pulls, watch=follow, progress=progress, explain=True)
        now_us = options.client.now_us()
        return await relock(
            opened.image_refs,
            old,
            resolver,
            update=update,
            now_us=now_us,
            outside=opened.unread(),
            rendered=rendered,
            not_rendered=not_rendered,
        )

    return ask(options, opened.registries, run)


def _rendering(opened: OpenedProject, old: Lock, request: LockRequest, progress: Progress) -> RenderedProject:
    """Render what is asked for, or what the lock has as rendered."""
    if request.render is False:
        return RenderedProject(opened)
    wanted = find_renderable(opened) if request.render else old.rendered
    return add_rendered(opened, wanted, child_environment(), progress)


def _not_rendered(opened: OpenedProject, old: Lock, rendering: RenderedProject, request: LockRequest) -> set[Rendered]:
    """Return what the lock has as rendered though it was not this time: it failed, or is outside the given paths.

    What was asked for and failed is in the lock too, so that `verify` reports it instead of leaving its images out.
    """
    if request.render is False:
        return set()
    there = find_renderable(opened) if request.render else old.rendered
    return {*there, *(each for each in old.rendered if opened.outside(each.path))} - set(rendering.done)


def _arguments(request: LockRequest) -> tuple[list[Path], list[Reference]]:
    if request.update:
        return split_arguments(request.project, request.arguments)
    return paths_in_project(request.project, request.arguments), []


def _updates(named: Sequence[Reference], opened: OpenedProject, *, update: bool) -> Callable[[Reference], bool]:
    keys = {lock_key(reference) for reference in named}
    present = {lock_key(image_ref.resolved) for image_ref in opened.image_refs if image_ref.resolved is not None}
    for key in keys - present:
        raise Invalid(f"no file of the project names {key.familiar()}; `boltseal lock --json` lists its references")
    return lambda reference: update and (not keys or reference in keys)


def unless_held(
    update: Callable[[Reference], bool],
    held: Sequence[HeldImage],
    client: ClientContext,
    in_git: Mapping[Reference, str],
) -> Callable[[Reference], bool]:
    """Return which references are resolved again: those of `update` but for what a rollback holds; that is a notice each.

    `in_git`: what `boltseal.holds` of the project holds, with the reason.
    """
    # A digest without a tag is never updated.
    reasons = {Reference.parse(each.image).by_tag: f"{each.reason}; {end_hint()}" for each in held}
    reasons |= {reference: f"{reason}; {git_end_hint()}" for reference, reason in in_git.items()}
    for reference, reason in reasons.items():
        if update(reference):
            client.notice(clean(f"{reference.familiar()} is not updated: {reason}"))
    return lambda reference: update(reference) and reference not in reasons


def _held_in(client: ClientContext, project: Path) -> list[HeldImage]:
    """Return what rollbacks hold of the projects that were deployed from a folder or from one in it, on any known engine."""
    root, found = project.resolve(), list[HeldImage]()
    for folder in known_folders(client):
        releases = folder.all()
        if any(Path(each.directory).resolve().is_relative_to(root) for each in holding(releases)):
            found += held_images(releases)
    return found


def _rows(old: Lock, done: LockUpdate, now_us: int) -> tuple[LockRow, ...]:
    """Return a row for each image."""
    moved = {each.before.reference: each for each in done.moved}
    changes = compare_locks(old, done.lock)
    added = {change.reference for change in changes if change.kind is ChangeKind.ADDED}
    rows = []
    for image in done.lock.images:
        move = moved.get(image.reference)
        if move is not None:
            status = "updated" if move.updated else "moved"
        elif image.reference in added:
            status = "local-build" if image.local_build else "added"
        else:
            status = "locked"
        reason = _digest(image) if move is None else _move(move, now_us)
        rows.append(LockRow(status, image.reference, reason, image, move))
    known = done.lock.by_reference()
    for change in changes:
        if change.kind is ChangeKind.REMOVED:
            reference = change.reference
            replaced = reference.tag is not None and reference.digest is not None and reference.by_tag in known
            reason = "the entry of its tag replaces it" if replaced else "no file names it any more"
            rows.append(LockRow("removed", reference, reason))
    return tuple(rows)


def _digest(image: LockedImage) -> str:
    return "built here; no registry has it" if image.digest is None else str(image.digest)


def _move(move: MovedReference, now_us: int) -> str:
    before = move.before
    was = "a local build" if before.digest is None else str(before.digest)
    now = "nothing" if move.to is None else str(move.to)
    ago = age(before.first_seen_us, now_us)
    changed = f" ({move.platforms})" if str(move.platforms) else ""
    taken = "" if move.updated else f"; kept: take it with `boltseal lock --update {before.reference.familiar()}`"
    return f"locked {ago} ago to {was}, resolves to {now} now{changed}{taken}"
