"""A journal of edits to a project's files that are undone unless the deployment that follows them succeeds.

    STATE/edits/HASH.json   the files before and after the edits, the lock before and after; HASH is of the project's path
    STATE/edits/HASH.lock   held (flock) by the process that edits or restores

The journal is on the disk before the first edit, so that a run after a kill or a power cut can undo the edits:

1. Every file must be as it was before the edits or as they left it. If one is neither, it was edited since, and nothing
   is restored.
2. The lock likewise, unless the edits had not come to it (stage `files`): then it stays. No path may lead out of the project.
3. What differs is written back, all files or none. 4. The journal is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.lockfile.document import LOCK_NAME
from boltseal.project.edits import FileEdit
from boltseal.project.replace_files import FileChanged, replace_all
from boltseal.project.source_files import SourceFile

_SECRET: Final = 0o600  # the files may hold passwords
MAX_FOLDERS: Final = 100_000
"""How many folders of a project are compared with the name of an unreadable journal before it counts as the project's."""

_NOT_EDITED: Final = "nothing was edited"
_EDITED: Final = "the project's files are edited already; they are restored if they can be"
_STAYS: Final = "the edits stay, and the journal too: remove it, or the next update undoes them"


class JournalUnusable(Unavailable):
    """The journal can't be read or written."""


class EditsRunning(Unavailable):
    """Another process edits this project and deploys the edits at this moment."""


class JournalStage(StrEnum):
    """How far the edits have come. The files may be edited in every stage."""

    FILES = "files"
    """The lock was not touched."""
    LOCKING = "locking"
    """By boltseal 0.2: the lock is being written, and may be anything."""
    LOCKED = "locked"
    """The lock is being written, or was: it is as before or as recorded."""


class JournaledFile(msgspec.Struct, frozen=True):
    """One file's bytes. `path`: relative to the journal's root."""

    path: str
    before: bytes
    after: bytes


class JournalRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written. `root`: the folder with the lock. `project`, `engine`, `release`: the last release before the edits."""

    root: str
    files: tuple[JournaledFile, ...]
    lock_before: bytes
    lock_after: bytes
    stage: JournalStage
    project: str
    engine: str
    release: int


class Restored(NamedTuple):
    """What a restoration did. `refused`: files that were edited since the journal; if there are any, nothing was restored."""

    files: tuple[str, ...]
    refused: tuple[str, ...] = ()


class EditJournal:
    """The journal of one project. Everything but `of_project` needs `held`."""

    def __init__(self, state: Path, root: Path, disk: Disk = Disk()) -> None:  # noqa: B008 - it has no state
        self.root = root.resolve()
        self._path = state / "edits" / f"{_name_of(self.root)}.json"
        self._disk = disk

    @classmethod
    def of_project(cls, state: Path, root: Path) -> tuple[EditJournal, ...]:
        """Return the journals of a folder, of folders in it, and of those above it, without taking their locks.

        Raises: JournalUnusable: one of them can't be read. An unreadable journal of another project is skipped.
        """
        whole = root.resolve()
        found = []
        for path in sorted((state / "edits").glob("*.json")):
            try:
                record = _read(path)
            except JournalUnusable:
                if _may_belong_to(path.stem, whole):
                    raise
                continue
            at = None if record is None else Path(record.root)
            if at is not None and (at == whole or at in whole.parents or whole in at.parents):
                found.append(cls(state, at))
        return tuple(found)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that edits this project. Raises: EditsRunning, JournalUnusable."""
        with self._errors(_NOT_EDITED):
            for folder in (self._path.parent.parent, self._path.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(
                self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _SECRET
            )
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EditsRunning(f"{self.root} is being updated by another process; run it again later") from error
            yield
        finally:
            os.close(fd)

    def read(self) -> JournalRecord | None:
        """Return what is recorded, None where no edits are. Raises: JournalUnusable."""
        return _read(self._path)

    def begin(
        self, edited: Path, edits: Sequence[FileEdit], lock: bytes, *, project: str, engine: str, release: int
    ) -> None:
        """Record edits before they are made. `edited`: the folder of their paths. Raises: JournalUnusable."""
        below = edited.resolve().relative_to(self.root)
        files = tuple(JournaledFile((below / one.path).as_posix(), one.before.raw, one.after.raw) for one in edits)
        record = JournalRecord(
            root=str(self.root),
            files=files,
            lock_before=lock,
            lock_after=lock,
            stage=JournalStage.FILES,
            project=project,
            engine=engine,
            release=release,
        )
        self._write(record, _NOT_EDITED)

    @contextlib.contextmanager
    def locking(self, after: bytes) -> Iterator[None]:
        """Record what the block writes as the lock, before it does. It wrote nothing if it raises FileChanged.

        Raises: JournalUnusable.
        """
        record = self.read()
        if record is None:
            raise AssertionError("begin comes first")
        self._write(msgspec.structs.replace(record, stage=JournalStage.LOCKED, lock_after=after), _EDITED)
        try:
            yield
        except FileChanged:
            self._write(record, _EDITED)
            raise

    def end(self) -> None:
        """Forget the edits: they stay. Raises: JournalUnusable."""
        with self._errors(_STAYS):
            self._path.unlink(missing_ok=True)
            self._disk.sync_folder(os.fspath(self._path.parent))

    def restore(self) -> Restored:
        """Undo the recorded edits, all files or none, and forget them. Raises: JournalUnusable, FilesNotWritten, FileChanged."""
        record = self.read()
        if record is None:
            return Restored(())
        changes, refused = [], []
        any_lock = record.stage is JournalStage.LOCKING
        lock = JournaledFile(LOCK_NAME, record.lock_before, record.lock_after)
        for file in record.files if record.stage is JournalStage.FILES else (*record.files, lock):
            now = self._content(file.path)
            if now == file.before:
                continue
            if now is None or not (now == file.after or (any_lock and file is lock)):
                refused.append(file.path)
                continue
            changes.append(FileEdit(_opaque(file.path, now), _opaque(file.path, file.before)))
        if not refused:
            replace_all(self.root, changes, self._disk)
        self.end()
        return Restored((), tuple(refused)) if refused else Restored(tuple(change.path for change in changes))

    def _content(self, path: str) -> bytes | None:
        """Return a file's bytes, None if it is not in the project: a folder may have become a link to another place."""
        whole = self.root / path
        inside = whole.is_relative_to(self.root) and whole.resolve() == whole
        return _bytes(whole) if inside else None

    def _write(self, record: JournalRecord, consequence: str) -> None:
        with self._errors(consequence):
            write_file(self._disk, self._path, msgspec.json.encode(record), _SECRET)

    @contextlib.contextmanager
    def _errors(self, consequence: str) -> Iterator[None]:
        """Turn errors of the host into JournalUnusable. `consequence`: what that means for the project's files."""
        try:
            yield
        except OSError as error:
            raise JournalUnusable(f"{self._path} can't be written: {error.strerror}; {consequence}") from error


def _name_of(root: Path) -> str:
    return sha256(os.fsencode(root)).hexdigest()[:32]


def _may_belong_to(name: str, root: Path) -> bool:
    """Return whether a journal of this name is of a folder, of one above it, or of one in it; true if that is not known."""
    named = re.fullmatch(r"[0-9a-f]{32}", name)
    if named is None or any(_name_of(folder) == name for folder in (root, *root.parents)):
        return True
    for count, (folder, _, _) in enumerate(os.walk(root)):
        if _name_of(Path(folder)) == name or count >= MAX_FOLDERS:
            return True
    return False


def _read(path: Path) -> JournalRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=JournalRecord)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalUnusable(f"{path} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise JournalUnusable(
            f"{path} is not a journal of edits: {error}; compare the project's files with their history, and remove it"
        ) from error


def _opaque(path: str, raw: bytes) -> SourceFile:
    """Return a file to be written as it is: a lock that was being written may be no text."""
    return SourceFile(path, "", raw)


def _bytes(path: Path) -> bytes | None:
    """Return a file's bytes; None where there is none, or a link."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            return file.read()
    except OSError:
        return None
