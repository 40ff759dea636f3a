"""`boltseal.lock` on the disk: read as it is, or nothing where there is none; written whole, or left as it was.

A project is checked out from somewhere: a lock that is a link is not followed, wherever it leads, and what is no plain
file is not opened.
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

_NEW_MODE: Final = 0o644  # it holds no secret, and whoever builds the project has to read it


class LockNotWritten(Unavailable):
    """The disk did not take the lock: it is the old one, or the new one, and nothing between."""


def read_lock(root: Path) -> Lock | None:
    """The lock of a project, None where it has none. LockInvalid."""
    raw = _read(root / LOCK_NAME)
    return None if raw is None else parse_lock(raw)


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a link, which is not followed" if path.is_symlink() else error.strerror
        raise LockInvalid(f"{LOCK_NAME} can't be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise LockInvalid(f"{LOCK_NAME} can't be read: it is no file")
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_LOCK_BYTES + 1)


def write_lock(root: Path, lock: Lock, disk: Disk = Disk()) -> bool:  # noqa: B008 - it has no state
    """Put the lock into the project; False where it says this already. LockNotWritten, LockInvalid.

    1. Write beside it, with its mode. 2. fsync. 3. Rename over it. 4. fsync the folder.
    """
    path, text = root / LOCK_NAME, format_lock(lock).encode()
    if _read(path) == text:
        return False
    beside = f"{path}.{os.urandom(6).hex()}.new"
    try:
        fd = disk.create(beside)
        try:
            os.fchmod(fd, stat.S_IMODE(path.stat().st_mode) if path.exists() else _NEW_MODE)
            disk.append(fd, [text])
            disk.sync(fd)
        finally:
            disk.close(fd)
        disk.rename(beside, os.fspath(path))
        disk.sync_folder(os.fspath(root))
    except OSError as error:
        Path(beside).unlink(missing_ok=True)
        raise LockNotWritten(f"{path} can't be written: {error.strerror}; run it again") from error
    return True
