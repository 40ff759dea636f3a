"""Processes whose root is an overlayfs, by /proc and independent of what an engine reports.

A process ID may be reused as soon as the process ends: after looking through `ProcessRoot.root`, check `still_running`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.engines.safe_open import explained
from boltseal.engines.subordinate_ids import MAX_RANGES, Range

MAX_MOUNTS_BYTES: Final = 16 * 1024 * 1024
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class ProcessRoot:
    """A process whose root is an overlay. `upper`: its writable layer, as mounted. `mounts`: other mount points,
    relative.

    `users`, `groups`: ID mappings of its user namespace; empty: none.
    """

    pid: int
    upper: bytes
    mounts: frozenset[bytes]
    proc: Path
    users: tuple[Range, ...] = ()
    groups: tuple[Range, ...] = ()

    @property
    def root(self) -> Path:
        """Return the path of its root, as seen from this process."""
        return self.proc / str(self.pid) / "root"

    def still_running(self) -> bool:
        """Return whether a process with this ID still runs on this layer."""
        try:
            with (self.proc / str(self.pid) / "mountinfo").open("rb") as file:
                return _root_overlay(file.read(MAX_MOUNTS_BYTES))[0] == self.upper
        except OSError:
            return False


def running_roots(proc: Path = Path("/proc")) -> Iterator[ProcessRoot]:
    """Yield one process per overlay that is the root of some process. Raises: StoreUnreadable: lacks the right."""
    seen: set[bytes] = set()
    for name in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        try:
            with (proc / str(name) / "mountinfo").open("rb") as file:
                raw = file.read(MAX_MOUNTS_BYTES)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue  # the process is ending and has no mounts any more
            raise explained(error, f"{proc}/{name}/mountinfo") from error
        upper, mounts = _root_overlay(raw)
        if upper is not None and upper not in seen:
            seen.add(upper)
            users, groups = (_ids(proc / str(name) / which) for which in ("uid_map", "gid_map"))
            yield ProcessRoot(name, upper, mounts, proc, users, groups)


def _root_overlay(raw: bytes) -> tuple[bytes | None, frozenset[bytes]]:
    """Return the writable layer of the overlay mounted at `/`, and the other mount points."""
    upper = None
    mounts = set()
    for line in raw.split(b"\n"):  # a path in it may have a carriage return
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


def _ids(path: Path) -> tuple[Range, ...]:
    """Return the mapping of a user namespace (user_namespaces(7)); empty if it can't be read: then IDs are not mapped."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()[:MAX_RANGES]]
        return tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows)
    except (OSError, ValueError):
        return ()


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), text)
