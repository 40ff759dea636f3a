"""`boltseal pin`: write digests into a project's files, or remove them; by boltseal.lock, or by what the tags resolve to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boltseal.client.transport import Transport
from boltseal.commands.interrupted_update import report_interrupted_update, undo_interrupted_update
from boltseal.commands.outcome import Outcome
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import (
    OpenedProject,
    garbage_collection_paused,
    ledger_follower,
    open_project,
    paths_in_project,
    registry_filter,
)
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.errors import BoltsealError, Unavailable
from boltseal.lockfile.document import Lock
from boltseal.project.edits import EditResult, FileEdit, edit
from boltseal.project.generated_files import emitter_of
from boltseal.project.lock_file import LockFile, lock_edit, read_lock_file
from boltseal.project.pin import Pin, PinStatus, pins_by_lock, pins_by_tag, references_to_resolve, unpins
from boltseal.project.replace_files import replace_all
from boltseal.project.resolve import Resolver
from boltseal.project.source_files import Unreadable
from boltseal.project.written_pins import pins_after, valid_pins

WITHOUT_DIGEST = frozenset({PinStatus.NO_PLACE, PinStatus.NOT_LOCKED, PinStatus.UNKNOWN})
"""The statuses that leave a reference without its digest."""


@dataclass(frozen=True, slots=True)
class PinRequest:
    """What to pin. `paths`: () for the whole project. `allow`: further registries that its files may name.

    `write`: replace the files. `to_text`: return their new texts instead. `unpin`: remove the digests that `boltseal pin`
    wrote; `everything`: all of them.
    """

    project: Path
    paths: tuple[str, ...] = ()
    write: bool = False
    to_text: bool = False
    unpin: bool = False
    everything: bool = False
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinReport:
    """The result of a pin.

    Attributes:
        changes: the files that were or would be changed, without the lock.
        record: the lock's own change, which records what was written; None without a lock.
        locked: whether there is a lock.
        refused: why nothing was written or returned; "" if it was.
        text: the files as one stream of YAML documents, with `to_text`.
        hard_links: written files that have another name, which keeps the old text.
        error: why the files could not be written or read again (FileChanged, FilesNotWritten, Unavailable).
    """

    outcome: Outcome
    opened: OpenedProject
    pins: tuple[Pin, ...]
    changes: tuple[FileEdit, ...]
    record: FileEdit | None = None
    locked: bool = True
    refused: str = ""
    text: str = ""
    hard_links: tuple[str, ...] = ()
    error: BoltsealError | None = None

    @property
    def emits(self) -> list[str]:
        """The `lock --emit` formats for digests that can't be written into the project's own files."""
        names = {
            emitter_of(each.image_ref)
            for each in self.pins
            if each.status is PinStatus.NO_PLACE and each.image_ref.resolved is not None
        }
        return sorted(name for name in names if name is not None)


def pin_project(request: PinRequest, options: RegistryOptions, progress: Progress = no_progress) -> PinReport:
    """Pin a project, or show what pinning would change. Files are written all or none.

    Raises: Invalid, ProjectInvalid, LockInvalid, EditsRunning: an update runs.
    """
    settle = undo_interrupted_update if request.write else report_interrupted_update
    settle(options.client, request.project)
    opened = open_project(request.project, paths_in_project(request.project, request.paths))
    read = read_lock_file(opened.root)
    lock = read.lock
    if request.unpin:
        written = {} if lock is None else valid_pins(opened.image_refs, lock)
        pins = unpins(opened.image_refs, written, everything=request.everything)
    else:
        pins = _pins(opened, lock, request.allow, options, progress)
    edited, pins = _edited(opened, pins)
    record = _record(opened, read, pins, unpin=request.unpin)
    refused = _refused(opened, pins, complete=request.to_text)
    text, hard_links = "", tuple[str, ...]()
    error: BoltsealError | None = None
    try:
        if not refused and request.to_text:
            text = "".join(_texts(opened, edited.changes))
        elif not refused and request.write:
            files = edited.changes if record is None else (*edited.changes, record)
            hard_links = replace_all(opened.asked.project.root, files)
    except BoltsealError as failed:
        error = failed
    return PinReport(
        outcome=_outcome(opened, pins),
        opened=opened,
        pins=tuple(pins),
        changes=edited.changes,
        record=record,
        locked=lock is not None,
        refused=refused,
        text=text,
        hard_links=hard_links,
        error=error,
    )


def _record(opened: OpenedProject, read: LockFile, pins: Sequence[Pin], *, unpin: bool) -> FileEdit | None:
    """Return the lock's edit that records which digests are written or removed; None without a lock. Raises: LockNotWritten."""
    if read.lock is None:
        return None
    edits = {each.image_ref: each.digest for each in pins if each.status in (PinStatus.PINNED, PinStatus.UNPINNED)}
    pins_now = pins_after(read.lock, opened.image_refs, edits, unpin=unpin)
    return lock_edit(read, replace(read.lock, pins=pins_now))


def _pins(
    opened: OpenedProject, lock: Lock | None, allow: Sequence[str], options: RegistryOptions, progress: Progress
) -> list[Pin]:
    if lock is not None:
        return pins_by_lock(opened.image_refs, lock)
    wanted = references_to_resolve(opened.image_refs)
    if not wanted:
        return pins_by_tag(opened.image_refs, {})
    allowed = registry_filter(options, allow)

    async def run(transport: Transport) -> list[Pin]:
        resolver = Resolver(
            transport, allowed, watch=ledger_follower(options, transport), progress=progress, explain=True
        )
        return pins_by_tag(opened.image_refs, await resolver.resolve(wanted))

    return ask(options, {reference.registry for reference in wanted}, run)


def _edited(opened: OpenedProject, pins: Sequence[Pin]) -> tuple[EditResult, list[Pin]]:
    """Return the new texts, and the pins with NO_PLACE for each edit that was refused."""
    wanted = {each.image_ref: each.digest for each in pins if each.status in (PinStatus.PINNED, PinStatus.UNPINNED)}
    with garbage_collection_paused():
        edited = edit(opened.asked, opened.found, wanted)
    reasons = {refusal.image_ref: refusal.reason for refusal in edited.refusals}
    return edited, [
        Pin(each.image_ref, PinStatus.NO_PLACE, reasons[each.image_ref]) if each.image_ref in reasons else each
        for each in pins
    ]


def _outcome(opened: OpenedProject, pins: Sequence[Pin]) -> Outcome:
    statuses = {each.status for each in pins}
    if statuses & {PinStatus.NO_PLACE, PinStatus.NOT_LOCKED}:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if PinStatus.UNKNOWN in statuses or opened.problems else Outcome.HOLDS


def _refused(opened: OpenedProject, pins: Sequence[Pin], *, complete: bool) -> str:
    """Return why nothing may be written, or "". `complete`: every reference needs its digest."""
    if opened.problems:
        return "a file could not be read"
    if complete and any(each.status in WITHOUT_DIGEST for each in pins):
        return "a reference would be left without its digest"
    return ""


def _texts(opened: OpenedProject, changes: Sequence[FileEdit]) -> Iterator[str]:
    """Yield the files, changed or not, as `kubectl apply -f` reads them: one stream of documents. Raises: Unavailable."""
    changed = {change.path: change.after.text for change in changes}
    files = opened.asked.project
    names: list[str] = []
    for path in opened.paths or ("",):
        at = files.root / path
        inside = (
            sorted(each for each in at.iterdir() if each.suffix in (".yaml", ".yml", ".json")) if at.is_dir() else [at]
        )
        try:
            names += [files.name(each) for each in inside if each.is_file()]
        except Unreadable as error:
            raise Unavailable(f"{error.problem}; nothing is printed") from error
    for number, name in enumerate(dict.fromkeys(names)):
        try:
            text = changed.get(name) or files.read(name).text
        except Unreadable as error:
            raise Unavailable(f"{error.problem}; nothing is printed") from error
        separator = "---\n" if number and not text.startswith("---") else ""
        yield separator + text + ("" if text.endswith("\n") else "\n")
