"""Free space on the disk, and the reserve that uploads must leave.

A disk that is really full can't record a delete either. So uploads are refused while there is still space for the database,
which must take manifests, deletes and the ledger.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from boltseal.errors import ErrorCode, Full, Unavailable

_GIB = 1024**3


class ReserveReached(Full):
    """The upload would use the reserve. The session holds what was acknowledged."""

    code: ClassVar[ErrorCode | None] = ErrorCode.BLOB_UPLOAD_INVALID


class DiskReserve:
    """The file system of a data folder. `reserve_bytes`: what must stay free; 0: nothing."""

    def __init__(self, data: Path, reserve_bytes: int) -> None:
        self._data = os.fspath(data)
        self.reserve_bytes = reserve_bytes

    def free_bytes(self) -> int:
        """Return the number of bytes that this process may still write. Raises: Unavailable."""
        try:
            found = os.statvfs(self._data)
        except OSError as error:
            raise Unavailable(f"the disk under {self._data} can't be read: {error.strerror}") from error
        return found.f_bavail * found.f_frsize

    def check(self, wanted_bytes: int) -> None:
        """Refuse a write of `wanted_bytes` that would leave less than the reserve.

        Raises: ReserveReached, Unavailable.
        """
        if not self.reserve_bytes:
            return
        free = self.free_bytes()
        if free - wanted_bytes < self.reserve_bytes:
            raise ReserveReached(
                f"the registry's disk is nearly full: {free / _GIB:.2f} GiB are free, and {self.reserve_bytes / _GIB:.2f} "
                "GiB are kept for deletes and records; free some space and push again"
            )
