"""Reading below a folder without ever leaving it, whatever whoever changed it has put there.

Each component of a path is opened on its own, below the folder before it and without following links (what
`openat2` calls RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS; this works on every kernel). Only plain files are ever opened:
opening a device may do something, and opening a pipe may wait for ever. Access times stay as they are where the kernel
lets us.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, Self

from boltseal.errors import Invalid, NotFound, Unavailable, quote

MAX_NAMES: Final = 1_000_000
NAMES_AT_ONCE: Final = 10_000
MAX_COMPONENTS: Final = 2_000
OPEN_FOLDERS: Final = 64
"""How many folders a `SafeFolder` keeps open, so that the next name in one costs a single look-up."""

_NO_NAMES: Final = frozenset({b"", b".", b".."})
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class StoreMissing(NotFound):
    """Something that a store names, or must have, and that is not there."""


class StoreUnreadable(Unavailable):
    """Something is there and can't be read; the message says which right is missing, or what the disk answered."""


class StoreMalformed(Invalid):
    """A store says something that no engine writes: damaged or hostile, in any case not believed."""


class TooManyNames(StoreMalformed):
    """A folder that holds more names than are read."""


class SafeFolder:
    """A folder, open. Paths are bytes, relative, without `.` and `..`; the empty path is the folder itself.

    Every method may raise StoreMissing, StoreUnreadable or StoreMalformed. Not for several threads at once.
    """

    max_names = MAX_NAMES
    open_folders = OPEN_FOLDERS

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._open: dict[bytes, int] = {}
        try:
            # The root itself is the person's word, and may be reached through links: /var/lib/docker often is one.
            self._open[b""] = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, str(self.root)) from error
        self.device = os.fstat(self._open[b""]).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every folder."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def below(self, path: bytes) -> SafeFolder:
        """A folder in here as a folder of its own, reached without following a link."""
        fd = os.dup(self.folder(path))
        made = SafeFolder.__new__(SafeFolder)
        made.root, made._open = self.root / os.fsdecode(path), {b"": fd}
        made.device = os.fstat(fd).st_dev
        return made

    def folder(self, path: bytes) -> int:
        """A folder's descriptor. It belongs to this object and may be closed by the next call."""
        found = self._open.get(path)
        if found is not None:
            return found
        try:
            return self.descriptor(path)
        except OSError as error:
            raise explained(error, self.shown(path)) from error

    def descriptor(self, path: bytes) -> int:
        """As `folder`, with the kernel's own error: OSError."""
        found = self._open.get(path)
        if found is not None:
            return found
        if path.count(b"/") >= MAX_COMPONENTS:
            raise StoreMalformed(f"a path of more than {MAX_COMPONENTS} parts below {self.root}")
        at, names = path, []
        while at not in self._open:
            at, _, name = at.rpartition(b"/")
            if name in _NO_NAMES or b"\0" in name:
                raise StoreMalformed(f"{quote(readable(path))} is no path below {self.root}")
            names.append(name)
        for name in reversed(names):
            if len(self._open) > self.open_folders:
                self._forget(at)
            fd = open_quietly(name, _FOLDER, self._open[at])
            at = at + b"/" + name if at else name
            self._open[at] = fd
        return self._open[path]

    def _forget(self, kept: bytes) -> None:
        """Close the folders opened first, but never the root and what leads to where we are."""
        for path in list(self._open)[: self.open_folders // 2]:
            if path and path != kept:
                os.close(self._open.pop(path))

    def stat(self, path: bytes) -> os.stat_result:
        """What lies at a path, a link not followed."""
        above, _, name = path.rpartition(b"/")
        if not name:
            return os.fstat(self.folder(path))
        if name in _NO_NAMES or b"\0" in name:
            raise StoreMalformed(f"{quote(readable(name))} is no name below {self.root}")
        parent = self._open.get(above)
        if parent is None:
            parent = self.folder(above)
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            raise explained(error, self.shown(path)) from error

    def exists(self, path: bytes) -> bool:
        """Whether anything lies there."""
        try:
            self.stat(path)
        except StoreMissing:
            return False
        return True

    def link(self, path: bytes) -> bytes:
        """Where a symbolic link points, in its own words. StoreMalformed if it is something else."""
        above, _, name = path.rpartition(b"/")
        if name in _NO_NAMES or b"\0" in name:
            raise StoreMalformed(f"{quote(readable(name))} is no name below {self.root}")
        parent = self.folder(above)
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise StoreMalformed(f"{self.shown(path)} is no symbolic link") from error
            raise explained(error, self.shown(path)) from error

    def names(self, path: bytes, limit: int = 0) -> list[bytes]:
        """The names in a folder, sorted. TooManyNames if there are more than `limit`; 0: than `max_names`."""
        return sorted(self.listed(path, limit))

    def listed(self, path: bytes, limit: int = 0) -> dict[bytes, bool]:
        """The names in a folder, each with whether it is a plain file. TooManyNames as in `names`."""
        fd, limit = self.folder(path), limit or self.max_names
        found: dict[bytes, bool] = {}
        try:
            with os.scandir(fd) as entries:
                while some := {
                    each.name: each.is_file(follow_symlinks=False) for each in islice(entries, NAMES_AT_ONCE)
                }:
                    found.update(zip(os.fsencode("\0".join(some)).split(b"\0"), some.values(), strict=True))
                    if len(found) > limit:
                        raise TooManyNames(f"{self.shown(path)} holds more than {limit} names")
        except OSError as error:
            raise explained(error, self.shown(path)) from error
        return found

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """A plain file's descriptor. StoreMalformed if something else lies there."""
        before = self.stat(path)
        if not stat.S_ISREG(before.st_mode):
            raise StoreMalformed(f"{self.shown(path)} is no plain file")
        above, _, name = path.rpartition(b"/")
        try:
            fd = open_quietly(name, _FILE, self.folder(above))
        except OSError as error:
            raise explained(error, self.shown(path)) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # it was put there this moment
                raise StoreMalformed(f"{self.shown(path)} is no plain file")
            yield fd
        finally:
            os.close(fd)

    def read(self, path: bytes, limit: int) -> bytes:
        """A small file, whole. StoreMalformed if it has more than `limit` bytes."""
        with self.opened(path) as fd:
            pieces, left = [], limit + 1
            try:
                while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
                    pieces.append(piece)
                    left -= len(piece)
            except OSError as error:
                raise explained(error, self.shown(path)) from error
        if left <= 0:
            raise StoreMalformed(f"{self.shown(path)} has more than {limit} bytes; no engine writes that much there")
        return b"".join(pieces)

    def shown(self, path: bytes) -> str:
        """A path as a message may show it."""
        return quote(str(self.root / readable(path)), 300)[1:-1]


def open_quietly(name: bytes, flags: int, parent: int) -> int:
    """`open` below a folder, leaving the access time alone where we may (it takes the owner or CAP_FOWNER). OSError."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return os.open(name, flags, dir_fd=parent)


def readable(path: bytes) -> str:
    """Bytes of a name as text; what is not UTF-8 as `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def explained(error: OSError, what: str) -> StoreMissing | StoreUnreadable | StoreMalformed:
    """What a failed call of the kernel means."""
    if error.errno == errno.ENOENT:
        return StoreMissing(f"{what} is not there")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StoreMalformed(f"{what}: a part of this path is a symbolic link or no folder; links are not followed")
    if error.errno == errno.ENAMETOOLONG:
        return StoreMalformed(f"{what}: a name that is too long for this file system")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreUnreadable(f"no right to read {what}; run it as root (CAP_DAC_READ_SEARCH)")
    return StoreUnreadable(f"{what} can't be read: {error.strerror or error}")
