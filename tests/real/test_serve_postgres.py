"""`make serve-postgres`: boltseal, PostgreSQL and an S3 server as a new user starts them, and starts them again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from tests.images import image, meaning, push
from tests.polling import until_answer, until_signed
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@contextmanager
def served(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script, and end it as Ctrl-C does."""
    argv = [sys.executable, "-m", "scripts.serve_postgres", "--listen", f"127.0.0.1:{port}", "--data", str(folder)]
    process = subprocess.Popen(argv, start_new_session=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def ready(client: httpx2.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    """Wait until the registry is ready."""

    async def is_ready() -> bool:
        assert process.poll() is None, "it ended"
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx2.TransportError:
            return False

    await until_answer(is_ready, "the registry is ready", 120)


@pytest.mark.real
async def test_one_command_runs_everything_and_continues_later(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After Ctrl-C nothing runs any more, and the next start has the tag, its seal and the ledger."""
    folder, port = tmp_path_factory.mktemp("serve") / "data-postgres", free_port()
    for parent in folder.parents[:4]:  # up to the folder of all test runs
        parent.chmod(0o755)  # PostgreSQL runs as another user when the test runs as root
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
        with served(folder, port) as process:
            await ready(client, process)
            await push(client, "shop/app", "1.0.0", image("one"))
            await until_signed(client, 3)
        codes = [process.returncode]
        with served(folder, port) as process:
            await ready(client, process)
            found = await meaning(client, "shop/app", "1.0.0")
            refused = await push(client, "shop/app", "1.0.0", image("two"))
            await push(client, "shop/app", "1.1.0", image("two"))
            await until_signed(client, 4)
            tile = await client.get("/ledger/tile/0/000.p/4")
        codes.append(process.returncode)
    left = [line for line in running_programs() if str(folder) in line]

    assert found == image("one").digest
    assert refused.status_code == 409
    assert (tile.status_code, len(tile.content)) == (200, 128)
    assert codes == [0, 0]
    assert left == []


def running_programs() -> list[str]:
    """Return the command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
