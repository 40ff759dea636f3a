"""Runs boltseal in a process that is killed before the Nth change of a file in a folder: `killed_removal.py N FOLDER ARGUMENTS`."""

from __future__ import annotations

import sys
from pathlib import Path

from boltseal.cli.root import run
from tests.deploy.cleanup_kills import KilledBefore

if __name__ == "__main__":
    number, folder, *arguments = sys.argv[1:]
    sys.addaudithook(KilledBefore(int(number), Path(folder)))
    sys.argv[1:] = arguments
    run()
