"""Read and write `boltseal.lock` on disk. Writes are atomic.

A checked-out project is untrusted: a lock that is a symbolic link is not followed, and only a regular file is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk
from boltseal.lockfile.document import LOCK_NAME, Lock, LockInvalid
from boltseal.lockfile.format import format_lock
from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock
from boltseal.project.edits import FileEdit
from boltseal.project.source_files import SourceFile

_NEW_MODE: Final = 0o644  # not secret, and every user who builds the project must read it


class LockNotWritten(Unavailable):
    """The disk refused the write, or the lock is too large. It is the old one or the new one, never partial."""


def read_lock(root: Path) -> Lock | None:
    """Return a project's lock, or None if it has none. Raises: LockInvalid: it can't be read."""
    raw = _read(root / LOCK_NAME)
    return None if raw is None else parse_lock(raw)


def lock_edit(root: Path, before: Lock, after: Lock) -> FileEdit | None:
    """Return the edit of the lock file that makes it `after`; None if its content stays.

    Raises: LockInvalid: the lock on the disk can't be read, or is no longer `before`. LockNotWritten: it would be too large.
    """
    raw = _read(root / LOCK_NAME)
    if raw is None or parse_lock(raw) != before:
        raise _changed()
    if before == after:
        return None
    text = _text_of(after)
    return FileEdit(SourceFile(LOCK_NAME, raw.decode("utf-8-sig"), raw), SourceFile(LOCK_NAME, text.decode(), text))


def refuse_changed(root: Path, before: Lock | None) -> None:
    """Refuse to replace a lock that another command wrote since `before` was read. Raises: LockInvalid."""
    if read_lock(root) != before:
        raise _changed()


def _changed() -> LockInvalid:
    return LockInvalid(f"{LOCK_NAME} changed while boltseal worked on it; run the command again")


def _text_of(lock: Lock) -> bytes:
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


def write_lock(root: Path, lock: Lock, disk: Disk = Disk()) -> bool:  # noqa: B008 - it has no state
    """Write the lock into the project. Return False if the file already has this content below its first comment.

    Steps: write beside it with its mode; fsync; rename over it; fsync the folder.
    Raises: LockNotWritten: the disk refused. LockInvalid: the existing lock can't be read.
    """
    text = _text_of(lock)
    if _without_head(_read(root / LOCK_NAME)) == _without_head(text):
        return False
    write_lock_text(root, text, disk)
    return True


def write_lock_text(root: Path, text: bytes, disk: Disk = Disk()) -> None:  # noqa: B008 - it has no state
    """Write the text of a lock into the project, by the steps of `write_lock`. Raises: LockNotWritten."""
    path = root / LOCK_NAME
    temporary = f"{path}.{os.urandom(6).hex()}.new"
    try:
        fd = disk.create(temporary)
        try:
            os.fchmod(fd, stat.S_IMODE(path.stat().st_mode) if path.exists() else _NEW_MODE)
            disk.append(fd, [text])
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(temporary, os.fspath(path))
        disk.sync_folder(os.fspath(root))
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise LockNotWritten(f"{path} can't be written: {error.strerror}; run the command again") from error


def read_lock_text(root: Path) -> bytes | None:
    """Return the text of a project's lock, which may have conflict marks; None if it has none. Raises: LockInvalid."""
    return _read(root / LOCK_NAME)


def _without_head(text: bytes | None) -> bytes | None:
    """Return a lock without the comment lines at its beginning, whose words depend on the version that wrote it."""
    while text is not None and text.startswith(b"#"):
        text = text.partition(b"\n")[2]
    return text
