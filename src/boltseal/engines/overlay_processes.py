"""Processes that run on overlayfs: which root each of them really has, by /proc and not by what an engine says.

A number of a process may be given to another one as soon as the first has ended: whoever looked through it asks
afterwards whether it is `the_same`.
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
    """A process whose root is an overlay. `upper`: its writable layer, as mounted. `mounts`: what else is mounted, relative.

    `users`, `groups`: which ids of this host its own are, by its user namespace; none: the same.
    """

    pid: int
    upper: bytes
    mounts: frozenset[bytes]
    proc: Path
    users: tuple[Range, ...] = ()
    groups: tuple[Range, ...] = ()

    @property
    def root(self) -> Path:
        """Its root, seen from here."""
        return self.proc / str(self.pid) / "root"

    def the_same(self) -> bool:
        """Whether a process of this number still runs on this layer."""
        try:
            with (self.proc / str(self.pid) / "mountinfo").open("rb") as file:
                return _root_overlay(file.read(MAX_MOUNTS_BYTES))[0] == self.upper
        except OSError:
            return False


def running_roots(proc: Path = Path("/proc")) -> Iterator[ProcessRoot]:
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
            users, groups = (_ids(proc / str(name) / which) for which in ("uid_map", "gid_map"))
            yield ProcessRoot(name, upper, mounts, proc, users, groups)


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


def _ids(path: Path) -> tuple[Range, ...]:
    """What a user namespace makes of ids (user_namespaces(7)); nothing where it can't be read: then they are compared as they are."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()[:MAX_RANGES]]
        return tuple((int(inside), int(outside), int(count)) for inside, outside, count in rows)
    except (OSError, ValueError):
        return ()


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), text)
