"""Processes that run on overlayfs: which root each of them really has, by /proc and not by what an engine says."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.runtimes.beneath import explained

MAX_MOUNTS_BYTES: Final = 16 * 1024 * 1024
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class RunningRoot:
    """A process whose root is an overlay. `upper`: its writable layer, as mounted. `mounts`: what else is mounted, relative."""

    pid: int
    upper: bytes
    mounts: frozenset[bytes]
    proc: Path

    @property
    def root(self) -> Path:
        """Its root, seen from here."""
        return self.proc / str(self.pid) / "root"


def running_roots(proc: Path = Path("/proc")) -> Iterator[RunningRoot]:
    """The first process of each overlay that is some process's root. StoreUnreadable without the right to look."""
    seen: set[bytes] = set()
    for name in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        try:
            with (proc / str(name) / "mountinfo").open("rb") as file:
                raw = file.read(MAX_MOUNTS_BYTES)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue  # it is ending: it has no mounts any more
            raise explained(error, f"{proc}/{name}/mountinfo") from error
        upper, mounts = _root_overlay(raw)
        if upper is not None and upper not in seen:
            seen.add(upper)
            yield RunningRoot(name, upper, mounts, proc)


def _root_overlay(raw: bytes) -> tuple[bytes | None, frozenset[bytes]]:
    """The writable layer of the overlay mounted at `/`, and the other mount points."""
    upper = None
    mounts = set()
    for line in raw.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < 6 or len(kind) < 3:
            continue
        at = _unescaped(fields[4])
        if at != b"/":
            mounts.add(at.strip(b"/"))
        elif kind[0] == b"overlay":
            options = [each for each in kind[2].split(b",") if each.startswith(b"upperdir=")]
            upper = _unescaped(options[0].removeprefix(b"upperdir=")) if options else upper
    return upper, frozenset(mounts)


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), text)
