"""FileInterprocessLock: one at a time of all processes, and a dead one holds nobody up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock, LockNotAcquired, LockUnusable

HOLDS = """
import asyncio, sys
from pathlib import Path
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock

async def main():
    async with FileInterprocessLock(Path(sys.argv[1])).taken("tag", 0):
        print("taken", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_one_at_a_time_in_a_process_and_among_them(tmp_path: Path) -> None:
    """Two openings of the file are two processes to the kernel."""
    here, there = FileInterprocessLock(tmp_path), FileInterprocessLock(tmp_path)
    inside, most = 0, 0

    async def work(turns: FileInterprocessLock) -> None:
        nonlocal inside, most
        async with turns.taken("tag", 10):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(work(turns) for turns in (here, there) * 10))
    here.close()
    there.close()

    assert most == 1


async def test_another_key_is_another_turn(tmp_path: Path) -> None:
    """Nobody waits for what is none of their business."""
    turns = FileInterprocessLock(tmp_path)
    async with turns.taken("one", 0), turns.taken("two", 0):
        with pytest.raises(LockNotAcquired, match="somebody else is at the same"):
            async with turns.taken("one", 0.05):
                pass
    turns.close()
    turns.close()


def _holder(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE)


async def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    """The kernel lets go of what it had."""
    other = _holder(tmp_path)
    assert other.stdout is not None
    assert await asyncio.to_thread(other.stdout.readline) == b"taken\n"
    turns = FileInterprocessLock(tmp_path)
    with pytest.raises(LockNotAcquired):
        async with turns.taken("tag", 0.05):
            pass
    other.kill()
    await asyncio.to_thread(other.wait)
    other.stdout.close()
    async with turns.taken("tag", 5):
        pass
    turns.close()


async def test_a_file_that_can_not_be_made_is_doubt(tmp_path: Path) -> None:
    """No turn, no work."""
    with pytest.raises(LockUnusable, match=r"turns\.lock can't be used"):
        async with FileInterprocessLock(tmp_path / "missing").taken("tag", 0):
            pass
