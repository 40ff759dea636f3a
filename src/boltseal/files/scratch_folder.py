"""Temporary folders that the next run removes if the process is killed.

A folder has the name PREFIX-XXXXXXXX in the folder for temporary files, and its process holds a lock on it. The kernel releases the
lock with the process, so a folder without a lock was left by a process that was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Create a folder for the time of the context, after those that killed processes of this user left were removed.

    `parent`: default: the folder for temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    for left in sorted(parent.glob(f"{prefix}-*")):
        _remove_unused(left)
    with tempfile.TemporaryDirectory(prefix="boltseal-new-", dir=parent) as created:
        fd = os.open(created, FOLDER_FLAGS)
        path = Path(created.replace("boltseal-new-", f"{prefix}-"))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before it has a name that another run removes
            Path(created).rename(path)
            yield path
        finally:
            with suppress(OSError):
                path.rename(created)  # where it is removed
            os.close(fd)


def _remove_unused(folder: Path) -> None:
    """Remove a folder of this user that no process holds a lock on."""
    try:
        fd = os.open(folder, FOLDER_FLAGS)
    except OSError:
        return  # it is no folder, or another user's
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # its process runs
    finally:
        os.close(fd)
