"""The process group of a running rebuild command, recorded so that the next run can end it after a crash.

    FOLDER/rebuilding.group    process ID of the group's leader, its start time in clock ticks, and the boot ID

A command that survives a killed boltseal must end before it is run again. An ID may belong to another process by then:
a group is ended only if the same leader still runs, or if the leader has ended and its session still exists, since the
system gives the ID of a session to no other process. Without /proc nothing is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final, NamedTuple

NAME: Final = "rebuilding.group"
END_S: Final = 5.0
POLL_S: Final = 0.05


class _Process(NamedTuple):
    """A process, from /proc. `start`: in clock ticks since boot."""

    group: int
    session: int
    start: int
    zombie: bool


def record_group(file: Path, leader: int) -> None:
    """Record the group of a started process. Raises: OSError."""
    process = _process(leader)
    if process is not None:
        file.write_text(f"{leader} {process.start} {_boot_id()}\n", "ascii")


def forget_group(file: Path) -> None:
    """Remove the record of a group that has ended. Raises: OSError."""
    file.unlink(missing_ok=True)


def terminate_left_over(file: Path) -> bool:
    """End the recorded group if it still runs, and remove the record. Returns whether something was ended. Raises: OSError."""
    try:
        leader_text, start, boot = file.read_text("ascii").split()
        leader = int(leader_text)
    except FileNotFoundError:
        return False
    except ValueError:  # it was not written to its end
        forget_group(file)
        return False
    process = _process(leader)
    same = process is not None and process.start == int(start) and process.session == leader
    ours = leader > 1 and boot == _boot_id() and (same or (process is None and _is_running(leader)))
    if ours:
        _end(leader)
    forget_group(file)
    return ours


def _end(group: int) -> None:
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal_)
        until = time.monotonic() + END_S
        while _is_running(group) and time.monotonic() < until:
            time.sleep(POLL_S)
        if not _is_running(group):
            return


def _is_running(group: int) -> bool:
    """Return whether a process of the group's session runs that has not ended."""
    for folder in Path("/proc").glob("[0-9]*"):
        process = _process(int(folder.name))
        if process is not None and (process.group, process.session, process.zombie) == (group, group, False):
            return True
    return False


def _process(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        fields = text.rpartition(")")[2].split()  # the name before it may contain anything
        return _Process(int(fields[2]), int(fields[3]), int(fields[19]), fields[0] in "ZX")
    except (OSError, ValueError, IndexError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"
