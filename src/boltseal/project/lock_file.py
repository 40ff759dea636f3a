"""Read and write `boltseal.lock` on disk. A write is atomic, and replaces only the lock that was read.

A checked-out project is untrusted: a lock that is a symbolic link is not followed, and only a regular file is read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk
from boltseal.files.folder_lock import folder_locked
from boltseal.lockfile.document import LOCK_NAME, Lock, LockInvalid
from boltseal.lockfile.format import format_lock
from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock
from boltseal.project.edits import FileEdit
from boltseal.project.replace_files import FileChanged
from boltseal.project.source_files import SourceFile

_NEW_MODE: Final = 0o644  # not secret, and every user who builds the project must read it


class LockNotWritten(Unavailable):
    """The disk refused the write, or the lock is too large. It is the old one or the new one, never partial."""


@dataclass(frozen=True, slots=True)
class LockFile:
    """A project's lock as it was read: what a command that writes it replaces. `raw`, `lock`: None where there was none."""

    root: Path
    raw: bytes | None = None
    lock: Lock | None = None


def read_lock_file(root: Path) -> LockFile:
    """Return a project's lock with its exact bytes. Raises: LockInvalid: it can't be read."""
    raw = _read(root / LOCK_NAME)
    return LockFile(root, raw, None if raw is None else parse_lock(raw))


def read_lock(root: Path) -> Lock | None:
    """Return a project's lock, or None if it has none. Raises: LockInvalid: it can't be read."""
    return read_lock_file(root).lock


def lock_edit(read: LockFile, after: Lock) -> FileEdit | None:
    """Return the edit that makes the lock that was read `after`, for `replace_all`; None if its content stays.

    Raises: LockNotWritten: it would be too large.
    """
    if read.raw is None or read.lock == after:
        return None
    text = lock_text(after)
    before = SourceFile(LOCK_NAME, read.raw.decode("utf-8-sig"), read.raw)
    return FileEdit(before, SourceFile(LOCK_NAME, text.decode(), text))


def lock_text(lock: Lock) -> bytes:
    """Return the text of a lock. Raises: LockNotWritten: it is so large that no command would read it."""
    text = format_lock(lock).encode()
    if len(text) > MAX_LOCK_BYTES:
        raise LockNotWritten(
            f"{LOCK_NAME} would have {len(text)} bytes, expected at most {MAX_LOCK_BYTES}; skip files by [lock] exclude"
        )
    return text


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a symbolic link, which is not followed" if path.is_symlink() else error.strerror
        raise LockInvalid(f"{LOCK_NAME} can't be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise LockInvalid(f"{LOCK_NAME} can't be read: it is not a regular file")
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_LOCK_BYTES + 1)


def write_lock(read: LockFile, lock: Lock, disk: Disk = Disk()) -> bool:  # noqa: B008 - it has no state
    """Write the lock into its project. Return False if the file already has this content below its first comment.

    `read`: the lock that it replaces, read before the work began: requests to registries take long.

    Steps: write beside it with its mode; fsync; with the lock of the folder, compare and rename; fsync the folder.
    Raises: FileChanged: another command wrote the lock meanwhile, as `pin` does. LockNotWritten: the disk refused.
    LockInvalid: the existing lock can't be read.
    """
    text = lock_text(lock)
    if _without_head(read.raw) == _without_head(text):
        _refuse_changed(read)
        return False
    write_lock_text(read, text, disk)
    return True


def write_lock_text(read: LockFile, text: bytes, disk: Disk = Disk()) -> None:  # noqa: B008 - it has no state
    """Write the text of a lock into its project, by the steps of `write_lock`. Raises: as `write_lock`."""
    path = read.root / LOCK_NAME
    temporary = f"{path}.{os.urandom(6).hex()}.new"
    try:
        fd = disk.create(temporary)
        try:
            os.fchmod(fd, stat.S_IMODE(path.stat().st_mode) if path.exists() else _NEW_MODE)
            disk.append(fd, [text])
            disk.sync(fd)
        finally:
            disk.close(fd)
        with folder_locked(read.root):
            _refuse_changed(read)
            disk.rename(temporary, os.fspath(path))
        disk.sync_folder(os.fspath(read.root))
    except OSError as error:
        raise LockNotWritten(f"{path} can't be written: {error.strerror}; run the command again") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _refuse_changed(read: LockFile) -> None:
    if _read(read.root / LOCK_NAME) != read.raw:
        raise FileChanged.of(LOCK_NAME)


def read_lock_text(root: Path) -> bytes | None:
    """Return the text of a project's lock, which may have conflict marks; None if it has none. Raises: LockInvalid."""
    return _read(root / LOCK_NAME)


def _without_head(text: bytes | None) -> bytes | None:
    """Return a lock without the comment lines at its beginning, whose words depend on the version that wrote it."""
    while text is not None and text.startswith(b"#"):
        text = text.partition(b"\n")[2]
    return text
