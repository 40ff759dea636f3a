"""The processes of a server: their memory, and their sudden end. Linux only, by /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cli.program import run
from tests.polling import wait_until

SAMPLE_EVERY_S = 0.02


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for process in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{process}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL all of them at once, as a power cut does; return when no descendant is left."""
    processes = tree(pid)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(map(_runs, processes)), f"processes {processes} have ended", 10.0)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):  # gone before or while it is read
        return False


def resident_bytes(pid: int) -> int:
    """Return the resident memory of the whole tree. Shared memory counts in each process, so the sum is never too
    small."""
    return sum(_resident_bytes(process) for process in tree(pid))


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """`with MemoryWatch(pid) as watch: ...` samples the tree's memory; `watch.growth_bytes` is the peak's over the start."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-watch")
        self.before_bytes = self.peak_bytes = resident_bytes(pid)

    @property
    def growth_bytes(self) -> int:
        """Return by how much the tree's peak memory exceeded that at the start."""
        return self.peak_bytes - self.before_bytes

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self._pid))


@contextlib.contextmanager
def ballast(folder: Path, leave_bytes: int = 0) -> Iterator[Path]:
    """Fill the file system of `folder` with a file, except for `leave_bytes`; remove it at the end."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        size = 1 << 20
        while size >= 1:
            try:
                if file.write(b"\0" * size) < size:
                    size //= 2
            except OSError:
                size //= 2
        if leave_bytes:
            file.truncate(max(0, file.tell() - leave_bytes))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def fsck(data: Path) -> dict[str, object]:
    """Return the output of `boltseal admin fsck --json` for a store that no server uses."""
    done = run("admin", "fsck", "--data", data, "--json")
    assert done.code in (0, 1), done.err
    return done.json
