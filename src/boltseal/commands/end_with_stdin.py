"""Ends this process when the other end of its standard input is closed, such as by the end of an ssh connection.

sshd does not end a program without a terminal when its connection ends. So the kernel is asked for SIGIO, whose default is to end the
process: when a pipe or socket that nothing is written to has news, its other end was closed. No thread has to wait for that.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from typing import Final

_STDIN: Final = 0


def end_with_stdin() -> None:
    """End this process now or as soon as standard input ends, or has data."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(_STDIN, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(_STDIN, fcntl.F_SETFL, fcntl.fcntl(_STDIN, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([_STDIN], [], [], 0)[0]:  # it ended before
        os.kill(os.getpid(), signal.SIGIO)
