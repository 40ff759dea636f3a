"""Commands on the data folder of a running server while pushes go on, and their sudden end by SIGKILL."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.server.storage.backup import COMPLETE
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.polling import wait_until
from tests.server.serve.process import client_of, manifest, put
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

KILLS = 20


class Pushes:
    """A thread that pushes new tags, until `stop`."""

    def __init__(self, server: Server) -> None:
        self.statuses: list[int] = []
        self._server = server
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ending.set()
        self._thread.join()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more pushes are answered."""
        wanted = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= wanted, f"{count} more pushes are answered")

    def _push(self) -> None:
        with client_of(self._server) as client:
            while not self._ending.is_set():
                number = len(self.statuses)
                body = manifest(client, "shop/app", f"image {number}")
                self.statuses.append(put(client, f"shop/app:1.0.{number}", body).status_code)


@contextlib.contextmanager
def pushing(server: Server) -> Iterator[Pushes]:
    """Pushes that go on inside the block."""
    pushes = Pushes(server)
    try:
        pushes.wait_for_more(3)
        yield pushes
    finally:
        pushes.stop()


def killed_when(reached: Callable[[], bool], *arguments: str | Path) -> int:
    """Run a command and kill it as soon as a state is reached. Return its exit code: it may be quicker."""
    with BoltsealProcess(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=program.clean_environment(None),
    ) as process:
        wait_until(lambda: reached() or process.poll() is not None, "the command is in the middle of its work")
        process.send_signal(signal.SIGKILL)
        return process.wait()


def killed_in_the_middle(data: Path, copies: Path, names: str) -> Path:
    """Kill backups, each with a folder of its own, when files of these names are in it, until one was not complete yet."""
    for number in range(KILLS):
        copy = copies / str(number)
        killed_when(lambda copy=copy: any(copy.glob(names)), "admin", "backup", copy, "--data", data)  # type: ignore[misc]
        if not (copy / COMPLETE).exists():
            return copy
    raise AssertionError(f"{KILLS} backups were complete before the kill")


@pytest.mark.parametrize("names", ["*", "boltseal.db*", "blobs/*/*/*"])
def test_a_backup_that_is_killed_is_not_restored_and_harms_nothing(tmp_path: Path, names: str) -> None:
    """Killed in the middle while pushes go on: restore refuses it; the next backup completes it; no push fails."""
    data = tmp_path / "data"
    with boltseal(data) as server:
        with pushing(server) as pushes:
            copy = killed_in_the_middle(data, tmp_path / "copies", names)
            refused = program.run("admin", "restore", copy, "--data", tmp_path / "half")
            acknowledged = len(pushes.statuses)
            whole = program.run("admin", "backup", copy, "--data", data)
        restored = program.run("admin", "restore", copy, "--data", tmp_path / "new")

    assert refused.code != 0
    assert "no complete backup" in refused.err
    assert set(pushes.statuses) == {201}
    assert (whole.code, restored.code) == (0, 0), restored.err
    assert program.run("admin", "fsck", "--data", data).code == 0
    assert tags_of(tmp_path / "new") >= acknowledged


def test_a_key_is_rotated_while_pushes_go_on(tmp_path: Path) -> None:
    """Two rotations, and one killed after its entry; a monitor that was given the first key follows, and receipts verify."""
    data, state = tmp_path / "data", tmp_path / "monitor"
    why = ("ledger", "rotate", "--reason", "once a year", "--data", data)
    with boltseal(data, workers=2) as server:
        key = program.run("ledger", "key", "--data", data).out.strip()
        program.run("ledger", "trust", server.address, key)
        monitor = ("ledger", "monitor", server.url, "--key", key, "--state", state)
        with pushing(server) as pushes:
            before = receipt(server, "1.0.0", tmp_path / "before")
            rotations = [program.run(*why).code, program.run(*why).code]
            killed_when(lambda: rotated(data) >= 3, *why)
            rotations.append(program.run(*why).code)
            pushes.wait_for_more(3)
        last = len(pushes.statuses) - 1
        after = wait_until(lambda: receipt(server, f"1.0.{last}", tmp_path / "after"), "the last push is signed")
        newest = program.run("ledger", "key", "--data", data).out.strip()
        followed = program.run(*monitor)

    assert rotations == [0, 0, 0]
    assert set(pushes.statuses) == {201}
    assert (before, after) == (True, True)
    assert program.run("ledger", "receipt", "verify", tmp_path / "before", "--key", key).code == 0
    assert program.run("ledger", "receipt", "verify", tmp_path / "after", "--key", newest).code == 0
    assert followed.code == 0, followed.err
    assert program.run("admin", "fsck", "--data", data).code == 0


def receipt(server: Server, tag: str, target: Path) -> bool:
    """Write the receipt of a tag; return whether there was one."""
    target.unlink(missing_ok=True)
    run = program.run("ledger", "receipt", f"{server.address}/shop/app:{tag}", "-o", target)
    return run.code == 0


def rotated(data: Path) -> int:
    """Return how many entries name a new key."""
    with contextlib.closing(sqlite3.connect(f"file:{data / DATABASE_NAME}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM entry WHERE kind = 'key.rotated'").fetchone()
    return int(count)


def tags_of(data: Path) -> int:
    """Return how many tags a data folder has."""
    with contextlib.closing(sqlite3.connect(f"file:{data / DATABASE_NAME}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM tag").fetchone()
    return int(count)
