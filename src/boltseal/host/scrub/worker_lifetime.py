"""Ends a worker process when its parent ends, for whatever reason.

A process that is killed by SIGKILL can't end its children, and a worker that waits for its next job gets no end of file,
because the other workers have the pipe too. So the kernel sends the signal (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_SET_PARENT_DEATH_SIGNAL: Final = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends. `parent`: the parent's process ID.

    A parent that has ended before the call sends no signal; then this process has another parent, and ends here.
    """
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
