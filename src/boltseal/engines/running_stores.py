"""Find the stores of running engines, wherever their command line or configuration puts them.

    /proc/PID/fd         the databases that Docker's daemon and containerd keep open (`engine_locks.LOCKED`); only root sees them
    /proc/PID/cmdline    --data-root of the daemon, --root of containerd, also for users who can't read the store

A path counts only if it is the same file here: an engine in a container has paths of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from boltseal.engines.engine_locks import LOCKED

_OPTIONS: Final = {b"dockerd": (b"--data-root", b"-g", b"--graph"), b"containerd": (b"--root",)}
_MAX_ARGUMENT_BYTES: Final = 64 * 1024


def running_stores(proc: Path = Path("/proc")) -> list[Path]:
    """Return the stores that running engines have open, or that their command lines name."""
    found: dict[Path, None] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        process = proc / str(pid)
        with suppress(OSError):  # it has ended
            name = (process / "comm").read_bytes().rstrip(b"\n")
            if name in _OPTIONS:
                found |= dict.fromkeys((*_opened(process), *_named(process, _OPTIONS[name])))
    return list(found)


def _opened(process: Path) -> Iterator[Path]:
    with suppress(OSError):  # lacks the right
        for each in (process / "fd").iterdir():
            with suppress(OSError):
                path = Path(os.readlink(each))  # noqa: PTH115 - a path only if the kernel shows one
                root = next((str(path)[: -len(name) - 1] for name in LOCKED if str(path).endswith(f"/{name}")), "")
                if root and path.samefile(each):
                    yield Path(root)


def _named(process: Path, options: tuple[bytes, ...]) -> Iterator[Path]:
    with (process / "cmdline").open("rb") as file:
        arguments = file.read(_MAX_ARGUMENT_BYTES).split(b"\0")
    for argument, following in zip(arguments, [*arguments[1:], b""], strict=True):
        name, _, value = argument.partition(b"=")
        if name in options:
            root = Path(os.fsdecode(value or following))
            if root.is_absolute() and root.is_dir():
                yield root
