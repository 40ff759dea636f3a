"""Processes whose root is an overlayfs, by /proc and independent of what an engine reports.

A process ID may be reused as soon as the process ends: after looking through `ProcessRoot.root`, check `still_running`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from boltseal.engines.safe_open import explained
from boltseal.engines.subordinate_ids import MAX_RANGES, Range

MAX_MOUNTS_BYTES: Final = 16 * 1024 * 1024
_NS_PID: Final = re.compile(rb"^NSpid:((?:\t[0-9]+)+)$", re.MULTILINE)
_START_TIME: Final = 19
"""The index of `starttime` among the fields after the name."""
_NEVER: Final = 1 << 64
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")

_Rank: TypeAlias = tuple[bool, int]


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
    """Yield the first process of each overlay that is the root of some process.

    That is the first one of a PID namespace, else the one that runs longest. Process IDs do not show it: after they have wrapped,
    a program that a container starts again and again has a lower one than its parent.

    Raises: StoreUnreadable: lacks the right.
    """
    first: dict[bytes, tuple[_Rank, ProcessRoot]] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        try:
            with (proc / str(pid) / "mountinfo").open("rb") as file:
                raw = file.read(MAX_MOUNTS_BYTES)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        except OSError as error:
            if error.errno == errno.EINVAL:
                continue  # the process is ending and has no mounts any more
            raise explained(error, f"{proc}/{pid}/mountinfo") from error
        upper, mounts = _root_overlay(raw)
        if upper is None:
            continue
        rank = _rank(proc / str(pid))
        if upper not in first or rank < first[upper][0]:
            users, groups = (_ids(proc / str(pid) / which) for which in ("uid_map", "gid_map"))
            first[upper] = rank, ProcessRoot(pid, upper, mounts, proc, users, groups)
    yield from (found for _, found in first.values())


def _rank(process: Path) -> _Rank:
    """Return a key by which the first process of a container sorts before its other processes (proc(5): NSpid, starttime)."""
    try:
        ids = _NS_PID.search((process / "status").read_bytes())
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()  # a name may have spaces and parentheses
        return ids is None or ids[1].split()[-1] != b"1", int(fields[_START_TIME])
    except (OSError, ValueError, IndexError):
        return True, _NEVER


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
