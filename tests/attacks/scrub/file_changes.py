"""Changes of files that leave their times as they were."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def rewritten(path: Path, content: bytes) -> None:
    """Replace a file's content, then restore its times."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def kept_times(path: Path, change: Callable[[], None]) -> None:
    """Make a change in a folder, then restore the folder's times."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
