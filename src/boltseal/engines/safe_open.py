"""Read files below a folder without ever leaving it, whatever an attacker put there.

Each component of a path is opened on its own, relative to its parent and without following links (`openat2` calls this
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS; this works on every kernel). Only regular files are opened: opening a device
may have effects, and opening a pipe may block. Access times are not updated where the kernel permits that.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final, Self

from boltseal.engines.openat2 import Open, open_in_mount
from boltseal.errors import Invalid, NotFound, Unavailable, quote

MAX_NAMES: Final = 1_000_000
MAX_COMPONENTS: Final = 2_000
OPEN_FOLDERS: Final = 64
"""Folders that a `SafeFolder` keeps open, so that the next name in one needs a single look-up."""

_ENCODING: Final = sys.getfilesystemencoding()
_NO_NAMES: Final = frozenset({b"", b".", b".."})
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class StoreMissing(NotFound):
    """A file that a store names, or must have, does not exist."""


class StoreUnreadable(Unavailable):
    """A file can't be read; the message names the missing right or the I/O error."""


class StoreMalformed(Invalid):
    """A store contains what no engine writes: it is damaged or hostile, and not used."""


class TooManyNames(StoreMalformed):
    """A folder has more entries than the limit."""


class SafeFolder:
    """An open folder. Paths are bytes, relative, without `.` and `..`; the empty path is the folder itself.

    Every method may raise StoreMissing, StoreUnreadable or StoreMalformed. Not thread-safe.
    """

    max_names = MAX_NAMES
    _pinned: frozenset[bytes] = frozenset()
    open_at: Open | None = None
    """Opens a name unless something is mounted over it; set by `stay_in_mount`."""
    open_folders = OPEN_FOLDERS

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._open: dict[bytes, int] = {}
        try:
            # The user names the root itself, which may be a symbolic link: /var/lib/docker often is one.
            self._open[b""] = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, str(self.root)) from error
        self.device = os.fstat(self._open[b""]).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def stay_in_mount(self) -> None:
        """From now on refuse to open what something is mounted over, where the kernel permits that."""
        self.open_at = open_in_mount()

    def open_in(self, name: bytes, flags: int, parent: int) -> int:
        """Open a name in an open folder of this one, like `open_quietly`. Raises: OSError."""
        return open_quietly(name, flags, parent, self.open_at)

    def pin(self, path: bytes, fd: int) -> None:
        """Use another folder, of which this keeps its own descriptor, for everything at and below a path."""
        self._open[path] = os.dup(fd)
        self._pinned |= {path}

    def below(self, path: bytes) -> SafeFolder:
        """Return a subfolder as a SafeFolder, opened without following links."""
        fd = os.dup(self.folder(path))
        made = SafeFolder.__new__(SafeFolder)
        made.root, made._open = self.root / os.fsdecode(path), {b"": fd}
        made.device = os.fstat(fd).st_dev
        return made

    def folder(self, path: bytes) -> int:
        """Return a folder's descriptor. It is owned by this object and may be closed by the next call."""
        found = self._open.get(path)
        if found is not None:
            return found
        try:
            return self.descriptor(path)
        except OSError as error:
            raise explained(error, self.shown(path)) from error

    def descriptor(self, path: bytes) -> int:
        """Return a folder's descriptor, like `folder`, but raise the kernel's OSError."""
        found = self._open.get(path)
        if found is not None:
            return found
        if path.count(b"/") >= MAX_COMPONENTS:
            raise StoreMalformed(f"a path of more than {MAX_COMPONENTS} components below {self.root}")
        at, names = path, []
        while at not in self._open:
            at, _, name = at.rpartition(b"/")
            if name in _NO_NAMES or b"\0" in name:
                raise StoreMalformed(f"{quote(readable(path))} is not a path below {self.root}")
            names.append(name)
        for name in reversed(names):
            if len(self._open) > self.open_folders:
                self._forget(at)
            fd = self.open_in(name, _FOLDER, self._open[at])
            at = at + b"/" + name if at else name
            self._open[at] = fd
        return self._open[path]

    def _forget(self, kept: bytes) -> None:
        """Close the folders that were opened first, except the root and `kept`."""
        for path in list(self._open)[: self.open_folders // 2]:
            if path and path != kept and path not in self._pinned:
                os.close(self._open.pop(path))

    def stat(self, path: bytes) -> os.stat_result:
        """Return the status of a path without following a link."""
        try:
            return self._stat(path)
        except OSError as error:
            raise explained(error, self.shown(path)) from error

    def _stat(self, path: bytes) -> os.stat_result:
        above, _, name = path.rpartition(b"/")
        if not name or path in self._pinned:
            return os.fstat(self.folder(path))
        if name in _NO_NAMES or b"\0" in name:
            raise StoreMalformed(f"{quote(readable(name))} is not a name below {self.root}")
        return os.stat(name, dir_fd=self.folder(above), follow_symlinks=False)

    def exists(self, path: bytes) -> bool:
        """Return whether a path exists."""
        try:
            self._stat(path)
        except (FileNotFoundError, StoreMissing):
            return False
        except OSError as error:
            raise explained(error, self.shown(path)) from error
        return True

    def link(self, path: bytes) -> bytes:
        """Return the target of a symbolic link. Raises: StoreMalformed: it is none."""
        above, _, name = path.rpartition(b"/")
        if name in _NO_NAMES or b"\0" in name:
            raise StoreMalformed(f"{quote(readable(name))} is not a name below {self.root}")
        parent = self.folder(above)
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise StoreMalformed(f"{self.shown(path)} is not a symbolic link") from error
            raise explained(error, self.shown(path)) from error

    def names(self, path: bytes, limit: int = 0) -> list[bytes]:
        """Return the names in a folder, sorted. Raises: TooManyNames: more than `limit` (0: `max_names`)."""
        return sorted(self.listed(path, limit))

    def listed(self, path: bytes, limit: int = 0) -> dict[bytes, bool]:
        """Return the names in a folder, and whether each is a regular file. Raises: TooManyNames, as `names`."""
        fd, limit = self.folder(path), limit or self.max_names
        found: dict[bytes, bool] = {}
        try:
            with os.scandir(fd) as entries:
                for each in islice(entries, limit + 1):
                    found[each.name.encode(_ENCODING, "surrogateescape")] = each.is_file(follow_symlinks=False)
            if len(found) > limit:
                raise TooManyNames(f"{self.shown(path)} holds more than {limit} names")
        except OSError as error:
            raise explained(error, self.shown(path)) from error
        return found

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """Open a regular file; yield its descriptor. Raises: StoreMalformed: it is something else."""
        before = self.stat(path)
        if not stat.S_ISREG(before.st_mode):
            raise StoreMalformed(f"{self.shown(path)} is not a regular file")
        above, _, name = path.rpartition(b"/")
        try:
            fd = self.open_in(name, _FILE, self.folder(above))
        except OSError as error:
            raise explained(error, self.shown(path)) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):  # replaced after `stat`
                raise StoreMalformed(f"{self.shown(path)} is not a regular file")
            yield fd
        finally:
            os.close(fd)

    def read(self, path: bytes, limit: int) -> bytes:
        """Return the content of a small file. Raises: StoreMalformed: it has more than `limit` bytes."""
        with self.opened(path) as fd:
            pieces, left = [], limit + 1
            try:
                while left > 0 and (piece := os.read(fd, min(left, 1 << 20))):
                    pieces.append(piece)
                    left -= len(piece)
            except OSError as error:
                raise explained(error, self.shown(path)) from error
        if left <= 0:
            raise StoreMalformed(f"{self.shown(path)} has more than {limit} bytes, which no engine writes there")
        return b"".join(pieces)

    def shown(self, path: bytes) -> str:
        """Return a path for use in a message."""
        return quote(str(self.root / readable(path)), 300)[1:-1]


def open_quietly(name: bytes, flags: int, parent: int, open_at: Open | None = None) -> int:
    """Open a file below a folder without updating its access time where permitted (owner or CAP_FOWNER). Raises:
    OSError.
    """
    try:
        if open_at is not None:
            return open_at(name, flags | os.O_NOATIME, parent)
        return os.open(name, flags | os.O_NOATIME, dir_fd=parent)
    except PermissionError:
        return open_at(name, flags, parent) if open_at is not None else os.open(name, flags, dir_fd=parent)


def readable(path: bytes) -> str:
    """Decode a name as text; bytes that are not UTF-8 become `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def explained(error: OSError, what: str) -> StoreMissing | StoreUnreadable | StoreMalformed:
    """Return the error for a failed system call."""
    if error.errno == errno.ENOENT:
        return StoreMissing(f"{what} does not exist")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StoreMalformed(
            f"{what}: a component of this path is a symbolic link or no folder; links are not followed"
        )
    if error.errno == errno.EXDEV:
        return StoreUnreadable(f"something is mounted over {what}; overlayfs uses what is below it")
    if error.errno == errno.ENAMETOOLONG:
        return StoreMalformed(f"{what}: the name is too long for this file system")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreUnreadable(f"no permission to read {what}; run as root (CAP_DAC_READ_SEARCH)")
    return StoreUnreadable(f"{what} can't be read: {error.strerror or error}")
