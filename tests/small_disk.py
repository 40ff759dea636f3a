"""A small file system that can really be full. Only root may mount one, which the test reports."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs on `folder` with mount's `options`, such as `size=16m` or `nr_inodes=12`."""
    if os.geteuid() != 0:
        pytest.fail("a test with a full disk mounts a small tmpfs, which only root may do: run it as root")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{options},mode=0750", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
