"""Excludes other processes from the files of a folder while one of them is compared and replaced.

The lock is a `flock` on the folder itself: it leaves no file, and ends with its process. A file system without such locks (NFS does
not lock folders) gets none: then only the comparison just before the replacement protects the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

WAIT_S: Final = 10.0
"""How long a process waits. The lock is held for one comparison and one write."""

_POLL_S: Final = 0.02
_NO_LOCKS: Final = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextmanager
def folder_locked(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """Exclude other processes that replace files of a folder by this function, inside the block.

    Raises: OSError; TimeoutError: another process held the lock for `wait_s`.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait_for(fd, folder, wait_s)
        yield
    finally:
        os.close(fd)


def _wait_for(fd: int, folder: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                reason = f"another process has locked the folder {folder} for {wait_s:g} s"
                raise TimeoutError(errno.ETIMEDOUT, reason) from error
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return
        else:
            return
