"""`boltseal lock --merge`: merge two versions of boltseal.lock by entry, as a merge driver of git or after a conflict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boltseal.build.git_state import merge_stages
from boltseal.commands.outcome import Outcome
from boltseal.config import child_environment
from boltseal.errors import Invalid, Unavailable
from boltseal.files.named_files import FileMissing
from boltseal.lockfile.document import LOCK_NAME, Lock, LockInvalid
from boltseal.lockfile.format import format_merged
from boltseal.lockfile.merge import MergedLock, MergeSides, merge_locks, sides_of_conflict
from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock
from boltseal.project.git_program import GitFailed
from boltseal.project.lock_file import LockFile, read_lock_text, write_lock_text


@dataclass(frozen=True, slots=True)
class MergeReport:
    """The result of a merge. `merged` None: the lock has no conflict, and nothing was done."""

    outcome: Outcome
    merged: MergedLock | None = None


def merge_lock(project: Path, files: Sequence[str]) -> MergeReport:
    """Merge a lock. `files`: base, ours and theirs, of which ours gets the result; () for the conflict in the project's lock.

    Conflicts that remain are written with marks. Raises: Invalid, LockInvalid, LockNotWritten, FileChanged, Unavailable.
    """
    if files:
        return _merge_files(files)
    text = read_lock_text(project)
    if text is None:
        raise Invalid(f"there is no {LOCK_NAME} in {project}; --project names the folder of the project")
    marked = sides_of_conflict(text)
    if marked is None:
        parse_lock(text)  # reports incomplete marks
        return MergeReport(Outcome.HOLDS)
    try:
        staged = merge_stages(project, child_environment(), LOCK_NAME)
    except (GitFailed, FileMissing):
        staged = None
    merged = _merged(marked if staged is None else MergeSides(*staged))
    write_lock_text(LockFile(project, text), format_merged(merged).encode())
    return _report(merged)


def _merge_files(files: Sequence[str]) -> MergeReport:
    if len(files) != 3:
        raise Invalid(f"--merge takes no files, or BASE OURS THEIRS; got {len(files)}")
    base, ours, theirs = map(Path, files)
    merged = _merged(MergeSides(_read(base), _read(ours), _read(theirs)))
    try:
        ours.write_bytes(format_merged(merged).encode())
    except OSError as error:
        raise Unavailable(f"{ours} can't be written: {error.strerror}") from error
    return _report(merged)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_LOCK_BYTES + 1)
    except FileNotFoundError as error:
        raise FileMissing(path) from error
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror}") from error


def _merged(sides: MergeSides) -> MergedLock:
    """Merge the sides. A base that can't be read is treated as not known, since it decides only what was removed."""
    try:
        base = parse_lock(sides.base) if sides.base else Lock()
    except LockInvalid:
        base = Lock()
    return merge_locks(base, parse_lock(sides.ours), parse_lock(sides.theirs))


def _report(merged: MergedLock) -> MergeReport:
    return MergeReport(Outcome.DIFFERS if merged.conflicts else Outcome.HOLDS, merged)
