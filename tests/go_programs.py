"""Programs in Go that check boltseal from outside, built without a network from Debian's packages."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from tests.programs import program

CACHE = Path(__file__).parent.parent / "build/go-cache"
"""What is compiled already, mostly Go's own library: kept for all programs and all runs, and deleted by `make clean`."""


def build_go(source: str | Path, built: Path) -> Path:
    """Build the program of a source file or of a package; return its path, `built`.

    One build at a time, so that what two programs share is compiled once.
    """
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(CACHE),
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
    }
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "boltseal-tests.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([program("go"), "build", "-o", built, source], env=environment, check=True)
    return built
