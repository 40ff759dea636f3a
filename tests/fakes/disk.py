"""A disk that really writes and fails on request: before a call's effect, or after it, when only the answer is lost.

Nothing is imitated: every call that does not fail is the real system call, and half an `append` really appends the
first half. A call that `hold` names waits in its own thread until the test releases it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Sequence

from boltseal.files.atomic_files import FILE_MODE, Disk


class FailingDisk(Disk):
    """`fail("append", errno.ENOSPC, skip=2)`: the third append from now fails. `calls` counts, `order` lists what was called."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.calls: Counter[str] = Counter()
        self._failures: dict[tuple[str, bool], list[int]] = {}
        self._skips: Counter[str] = Counter()
        self._held: dict[str, threading.Event] = {}
        self._arrived: dict[str, threading.Event] = {}

    def fail(self, what: str, number: int = errno.EIO, *, done: bool = False, skip: int = 0, times: int = 1) -> None:
        """Make the call `what` raise `number` after `skip` successful ones, `times` times. `done`: after its effect."""
        self._failures[what, done] = [number] * times
        self._skips[what] = skip

    def hold(self, what: str) -> threading.Event:
        """Make the next calls of `what` wait until the returned event is set."""
        self._arrived[what] = threading.Event()
        self._held[what] = threading.Event()
        return self._held[what]

    def arrived(self, what: str) -> threading.Event:
        """Return the event that is set when a call of `what` waits."""
        return self._arrived[what]

    def _before(self, what: str) -> None:
        self.calls[what] += 1
        self.order.append(what)
        if what in self._held:
            self._arrived[what].set()
            self._held[what].wait(10)
        if self._skips[what] > 0:
            self._skips[what] -= 1
            return
        self._raise(what, done=False)

    def _raise(self, what: str, *, done: bool) -> None:
        laid_out = self._failures.get((what, done), [])
        if laid_out and self._skips[what] <= 0:
            number = laid_out.pop()
            raise OSError(number, os.strerror(number))

    def create(self, path: str, mode: int = FILE_MODE) -> int:
        self._before("create")
        fd = super().create(path, mode)
        try:
            self._raise("create", done=True)
        except OSError:
            super().close(fd)
            raise
        return fd

    def open_to_append(self, path: str) -> int:
        self._before("open_to_append")
        return super().open_to_append(path)

    def open_to_read(self, path: str) -> int:
        self._before("open_to_read")
        return super().open_to_read(path)

    def append(self, fd: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        try:
            self._before("append")
        except OSError:
            whole = b"".join(parts)
            super().append(fd, [whole[: len(whole) // 2]])
            raise
        super().append(fd, parts)
        self._raise("append", done=True)

    def read_at(self, fd: int, size: int, position: int) -> bytes:
        self._before("read_at")
        return super().read_at(fd, size, position)

    def read_cached_at(self, fd: int, size: int, position: int) -> bytes | None:
        self._before("read_cached_at")
        return super().read_cached_at(fd, size, position)

    def truncate(self, fd: int, size: int) -> None:
        self._before("truncate")
        super().truncate(fd, size)
        self._raise("truncate", done=True)

    def touch(self, fd: int) -> None:
        self._before("touch")
        super().touch(fd)
        self._raise("touch", done=True)

    def sync_data(self, fd: int) -> None:
        self._before("sync_data")
        super().sync_data(fd)
        self._raise("sync_data", done=True)

    def sync(self, fd: int) -> None:
        self._before("sync")
        super().sync(fd)
        self._raise("sync", done=True)

    def rename(self, source: str, target: str) -> None:
        self._before("rename")
        super().rename(source, target)
        self._raise("rename", done=True)

    def link(self, source: str, target: str) -> None:
        self._before("link")
        super().link(source, target)
        self._raise("link", done=True)

    def unlink(self, path: str) -> None:
        self._before("unlink")
        super().unlink(path)
        self._raise("unlink", done=True)

    def make_folder(self, path: str) -> None:
        self._before("make_folder")
        super().make_folder(path)
        self._raise("make_folder", done=True)

    def sync_folder(self, path: str) -> None:
        self._before("sync_folder")
        super().sync_folder(path)
        self._raise("sync_folder", done=True)
