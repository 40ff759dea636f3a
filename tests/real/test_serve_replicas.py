"""`make serve-replicas`: two replicas behind nginx as a new operator starts them, and kills each of them under load."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from scripts.serve_replicas import FIRST_PORT, NAMES
from tests.images import image, meaning, push
from tests.polling import until, until_answer, until_signed
from tests.ports import free_port
from tests.real.load_through_proxy import APP, PULLERS, load
from tests.real.served_scripts import ROOT, fsck, ready, running_programs

pytestmark = [pytest.mark.real, pytest.mark.slow]

LISTEN_ENTRIES = 3  # of the ledger: its origin, and two tags


@contextmanager
def served(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the script, and end it as Ctrl-C does."""
    argv = [sys.executable, "-m", "scripts.serve_replicas", "--listen", f"127.0.0.1:{port}", "--data", str(folder)]
    process = subprocess.Popen(argv, start_new_session=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)


async def is_ready(port: int) -> bool:
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0) as client:
            return (await client.get("/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


async def test_each_replica_is_killed_under_load_and_no_acknowledged_push_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Pushes and pulls go on after each kill -9, all that was acknowledged is there, and the next start has it too."""
    folder, port = tmp_path_factory.mktemp("serve") / "data-replicas", free_port()
    for parent in folder.parents[:4]:  # up to the folder of all test runs
        parent.chmod(
            parent.stat().st_mode | 0o055
        )  # PostgreSQL and nginx run as another user when the test runs as root
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as client:
        with served(folder, port) as process:
            await ready(client, process)
            async with load(client) as seen:
                await seen.goes_on()
                for number, name in enumerate(NAMES):
                    at = folder / f"{name}.pid"
                    killed = at.read_text()
                    os.kill(int(killed), signal.SIGKILL)
                    await seen.goes_on()
                    await until(lambda at=at, killed=killed: at.read_text() != killed, "it was started again")  # type: ignore[misc]  # bound at once
                    await until_answer(lambda number=number: is_ready(FIRST_PORT + number), "it is ready again", 120)  # type: ignore[misc]  # bound at once
                    await seen.goes_on()
            lost = {}
            for number, name in enumerate(NAMES):
                async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{FIRST_PORT + number}", timeout=60) as one:
                    lost[name] = await seen.lost(one)
            await until_signed(client, len(seen.acknowledged) + LISTEN_ENTRIES)
            checked = await asyncio.to_thread(fsck, folder)
        codes = [process.returncode]
        with served(folder, port) as process:
            await ready(client, process)
            found = await meaning(client, APP, "1.0.0")
            moved = await push(client, APP, "1.0.0", image("another"))
        codes.append(process.returncode)
    left = [line for line in running_programs() if str(folder) in line]

    assert lost == {name: [] for name in NAMES}
    assert sum(seen.pulls.values()) - seen.pulls["200"] <= PULLERS * len(NAMES), seen.pulls
    assert not {"404", "500", "502", "503", "504"} & set(seen.pulls)
    assert (checked.returncode, "no problem found" in checked.stdout) == (0, True), checked.stdout + checked.stderr
    assert (found, moved.status_code) == (image("a release").digest, 409)
    assert codes == [0, 0]
    assert left == []
