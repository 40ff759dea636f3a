"""What the tests of `make serve-postgres` and `make serve-replicas` share."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.polling import until_answer

ROOT = Path(__file__).parents[2]


async def ready(client: httpx2.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    """Wait until the registry is ready."""

    async def is_ready() -> bool:
        assert process.poll() is None, "it ended"
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    await until_answer(is_ready, "the registry is ready", 120)


def fsck(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `admin fsck` as README.md and the page of operations show it."""
    command = f"env $(cat {folder}/s3.env) {Path(sys.executable).with_name('boltseal')} admin fsck --config {folder}/boltseal.toml"
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)  # noqa: S602 - as a user types it


def running_programs() -> list[str]:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
