"""Set the I/O priority of this process, for which Python has no call."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_NUMBERS: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "s390x": 282, "ppc64le": 273}
"""ioprio_set(2) by machine; on others only the CPU priority is lowered."""
_PROCESS: Final = 1
_IDLE: Final = 3 << 13


def idle_disk() -> bool:
    """Give this process the I/O class "idle"; return whether the kernel accepted it."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        return False
    return bool(ctypes.CDLL(None).syscall(number, _PROCESS, os.getpid(), _IDLE) == 0)
