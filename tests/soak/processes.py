"""What the processes of a server are, what they hold in memory, and their sudden end. Linux only, by /proc."""

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
    """A process and all its descendants."""
    found = [pid]
    for process in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{process}/task").iterdir():
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def kill_tree(pid: int) -> None:
    """SIGKILL to all of them at once, as a power cut would; returns when none of the descendants is left."""
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
    """Resident memory of the whole tree. What processes share is counted in each, so this is never too little."""
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
        """How much more the tree held at its peak than when the watch began."""
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
    """A file that fills the file system of `folder` up, but for `leave_bytes`; removed at the end."""
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
    """What `boltseal admin fsck --json` says of a store that no server holds."""
    done = run("admin", "fsck", "--data", data, "--json")
    assert done.code in (0, 1), done.err
    return done.json
