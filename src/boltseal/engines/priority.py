"""The priority of this process at the disk. Python has no call for it."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

_NUMBERS: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "s390x": 282, "ppc64le": 273}
"""ioprio_set(2) by machine; elsewhere nothing is done, and the CPU's priority has to do."""
_PROCESS: Final = 1
_IDLE: Final = 3 << 13


def idle_disk() -> bool:
    """Reads wait for everybody else's (class "idle"). Whether the kernel took it."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        return False
    return bool(ctypes.CDLL(None).syscall(number, _PROCESS, os.getpid(), _IDLE) == 0)
