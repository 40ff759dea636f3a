"""Leases on one host: `flock` on one file for each name, `DATA/NAME.lease`, which contains the epoch as a decimal number.

The kernel releases the lock when the process ends, so a lease cannot be lost while its process runs.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk
from boltseal.server.storage.coordination.interprocess_lock import LockUnusable
from boltseal.server.storage.coordination.protocol import LeaseLost, Statements

LEASE_SUFFIX: Final = ".lease"
LEASE_NAME: Final = re.compile(r"[a-z][a-z-]{0,30}")
_EPOCH_BYTES: Final = 20


class FileLease:
    """A lease that this process holds as long as its file descriptor is open."""

    def __init__(self, fd: int, epoch: int) -> None:
        self._fd: int | None = fd
        self.epoch = epoch

    def held(self) -> bool:
        """Whether the lease was not released."""
        return self._fd is not None

    def confirm(self, _: Statements) -> None:
        """Raise LeaseLost if the lease was released. The kernel gives it to no other process before that."""
        if not self.held():
            raise LeaseLost("the lease was released: nothing was changed")

    def release(self) -> None:
        """Give the lease back. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


class FileLeases:
    """The leases of one data folder."""

    def __init__(self, data: Path, disk: Disk | None = None) -> None:
        self._data = data
        self._disk = disk or Disk()
        self._leases: list[FileLease] = []

    def acquire(self, name: str) -> FileLease | None:
        """Return a lease, or None while another process holds the one of this name. Raises: LockUnusable."""
        if not LEASE_NAME.fullmatch(name):
            raise ValueError(f"lease name {name!r}; expected lower-case letters and hyphens")
        path = self._data / f"{name}{LEASE_SUFFIX}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                epoch = int(os.pread(fd, _EPOCH_BYTES, 0) or b"0") + 1
                os.pwrite(fd, b"%0*d" % (_EPOCH_BYTES, epoch), 0)
                self._disk.sync(
                    fd
                )  # after a power cut the next epoch must still be a higher one, and the file readable
                self._disk.sync_folder(os.fspath(self._data))
            except BaseException:
                os.close(fd)
                raise
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            raise LockUnusable(f"the lease file {path} can't be used: {error}") from error
        lease = FileLease(fd, epoch)
        self._leases = [*(each for each in self._leases if each.held()), lease]
        return lease

    def close(self) -> None:
        """Release every lease. Idempotent."""
        for lease in self._leases:
            lease.release()
        self._leases.clear()
