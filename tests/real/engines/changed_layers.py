"""Changes the unpacked files of images on an engine's disk, as an attacker with access to the disk does."""

from __future__ import annotations

import shutil
from pathlib import Path


def plant(data: Path, beside: str) -> None:
    """In each unpacked layer with the program `beside`, change /busybox and plant a file; container layers are left alone."""
    found = [each.parents[1] for each in data.rglob(f"bin/{beside}") if each.parents[1].name in ("diff", "fs")]
    for layer in found:
        changed = layer / "changed"
        shutil.copy2(layer / "busybox", changed)
        with changed.open("ab") as file:
            file.write(b"!")
        changed.replace(layer / "busybox")
        (layer / "planted").write_bytes(b"planted")

    assert found
