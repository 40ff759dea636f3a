"""`make serve-postgres`: boltseal, PostgreSQL and an S3 server as a new user starts them, and starts them again."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.images import image, meaning, push
from tests.polling import until_signed
from tests.ports import free_port
from tests.real.served_scripts import ROOT, fsck, ready, running_programs


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


@pytest.mark.real
async def test_one_command_runs_everything_and_continues_later(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After Ctrl-C nothing runs any more, and the next start has the tag, its seal and the ledger."""
    folder, port = tmp_path_factory.mktemp("serve") / "data-postgres", free_port()
    for parent in folder.parents[:4]:  # up to the folder of all test runs
        parent.chmod(parent.stat().st_mode | 0o055)  # PostgreSQL runs as another user when the test runs as root
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
        with served(folder, port) as process:
            await ready(client, process)
            await push(client, "shop/app", "1.0.0", image("one"))
            await until_signed(client, 3)
            checked = await asyncio.to_thread(fsck, folder)
        codes = [process.returncode]
        config = folder / "boltseal.toml"
        config.write_text(f"{config.read_text()}# a change of the operator\n")
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
    assert (checked.returncode, "no problem found" in checked.stdout) == (0, True), checked.stderr
    assert "# a change of the operator" in config.read_text()
    assert {(folder / name).stat().st_mode & 0o777 for name in ("boltseal.toml", "s3.env", "s3.key")} == {0o600}
    assert left == []
