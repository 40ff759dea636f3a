"""Runs boltseal in a process that is killed after its Nth rename of a file: `killed.py N SUFFIX ARGUMENTS`.

SUFFIX is what the new name ends with. A deploy renames the release's file (`.release`), which records the release, and
again at each step.
"""

from __future__ import annotations

import os
import signal
import sys

from boltseal.cli.root import run
from boltseal.files.atomic_files import Disk

_rename = Disk.rename


class _Killing:
    left, suffix = int(sys.argv[1]), sys.argv[2]

    def __call__(self, disk: Disk, source: str, target: str) -> None:
        _rename(disk, source, target)
        if target.endswith(self.suffix):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    killing = _Killing()
    Disk.rename = lambda self, source, target: killing(self, source, target)  # type: ignore[method-assign]
    sys.argv[1:] = sys.argv[3:]
    run()
