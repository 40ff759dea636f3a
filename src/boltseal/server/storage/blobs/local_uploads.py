"""Upload sessions as plain files: `UploadSessions` and `UploadCleanup` of a store in a folder.

- A session has no record but its file, so a restart has nothing to recover. A known hash is only in memory, bound to the
  file's inode, size and mtime; without it the file is read again.
- The lock of a session is `flock` on its file [5]. After locking, the name must still be the one name of the locked file:
  what has become a blob, in whatever way, is never written to.

Numbers in brackets are the promises of `blobs.protocol`. `local_upload` writes the bytes of a session.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from boltseal.oci.digest import Digest, hasher
from boltseal.server.storage.blobs.local_layout import (
    SESSION_NAME,
    LocalLayout,
    is_session,
    lstat,
    mtime_us,
    sorted_names,
)
from boltseal.server.storage.blobs.local_partial import LocalPartial, store_error
from boltseal.server.storage.blobs.local_upload import (
    LocalUploadWriter,
    SessionFile,
    SessionHash,
    UploadResources,
    result_of,
)
from boltseal.server.storage.blobs.protocol import DEFAULT_ALGORITHM, UploadBusy, UploadFile, UploadKey

_HASHES_KEPT: Final = 4096
_LOCK_POLL_S: Final = 0.02

Stamp = tuple[int, int, int]


def _stamp(found: os.stat_result) -> Stamp:
    """Return what changes when another writer changes a session's file."""
    return found.st_ino, found.st_size, found.st_mtime_ns


class LocalUploads:
    """`UploadSessions` and `UploadCleanup` in a folder. `lock_wait_s`: how long a request waits for its session."""

    def __init__(self, layout: LocalLayout, resources: UploadResources, lock_wait_s: float) -> None:
        self._layout = layout
        self._resources = resources
        self._disk = resources.disk
        self._lock_wait_s = lock_wait_s
        self._known_hashes: OrderedDict[str, tuple[Stamp, SessionHash]] = OrderedDict()

    async def start_upload(self, key: UploadKey) -> None:
        """Create the session's empty file. It need not survive a power cut, so nothing is synced.

        In a thread: creating a name waits for the file system's journal, which may be busy with another fsync.
        """
        make = self._resources.quick.launch(self._make_session, key.name)
        try:
            await result_of(make)
        except OSError as error:
            raise store_error(error, "an upload can't be started") from error

    def _make_session(self, name: str) -> None:
        with suppress(FileExistsError):
            self._disk.close(self._disk.create(f"{self._layout.uploads}/{name}"))

    async def upload_size(self, key: UploadKey) -> int:
        """Return the size of the session's file."""
        found = lstat(f"{self._layout.uploads}/{key.name}")
        if found is None or found.st_nlink != 1:
            raise key.unknown()
        return found.st_size

    @asynccontextmanager
    async def open_upload(
        self, key: UploadKey, digest: Digest | None = None, wait_s: float | None = None
    ) -> AsyncIterator[LocalUploadWriter]:
        """Open and lock the file, and check that its name is still its only one."""
        path = f"{self._layout.uploads}/{key.name}"
        try:
            fd = self._disk.open_to_append(path)
        except FileNotFoundError as error:
            raise key.unknown() from error
        except OSError as error:
            raise store_error(error, "the upload session can't be opened") from error
        try:
            await self._lock(fd, key, self._lock_wait_s if wait_s is None else wait_s)
            found = os.fstat(fd)
            if not self._is_only_name_of(path, found):
                raise key.unknown()
            file = SessionFile(
                key.name, path, fd, lambda: self._is_only_name_of(path, found), lambda d: self._layout.place(path, d)
            )
            writer = LocalUploadWriter(self._resources, file, found.st_size, self._known_hash(key.name, found, digest))
            try:
                yield writer
            finally:
                self._keep_hash(key.name, fd, await writer.close())
        finally:
            self._disk.close(fd)

    async def open_partial(self, key: UploadKey) -> LocalPartial:
        """Open the session's file, which may have become a blob by the time it is read."""
        try:
            fd = self._disk.open_to_read(f"{self._layout.uploads}/{key.name}")
        except FileNotFoundError as error:
            raise key.unknown() from error
        except OSError as error:
            raise store_error(error, "the upload session can't be opened") from error
        return LocalPartial(self._disk, self._resources.quick, fd)

    async def cancel_upload(self, key: UploadKey) -> None:
        """Remove the name. A writer that still has the file finds no name to commit."""
        try:
            self._disk.unlink(f"{self._layout.uploads}/{key.name}")
        except FileNotFoundError as error:
            raise key.unknown() from error
        except OSError as error:
            raise store_error(error, "the upload can't be cancelled") from error
        self._known_hashes.pop(key.name, None)

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        """Yield the sessions whose file was changed last before a time."""
        for name in sorted_names(self._layout.uploads):
            found = lstat(f"{self._layout.uploads}/{name}")
            if found is not None and is_session(name, found) and mtime_us(found) < older_than_us:
                yield UploadFile(name, found.st_size, mtime_us(found))

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        """Lock the session without waiting, check its time again, and remove its name."""
        if not SESSION_NAME.fullmatch(upload.name):
            return False
        path = f"{self._layout.uploads}/{upload.name}"
        try:
            fd = self._disk.open_to_append(path)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mtime_us(os.fstat(fd)) >= older_than_us:
                return False
            self._disk.unlink(path)
        except OSError:
            return False
        finally:
            self._disk.close(fd)
        return True

    async def _lock(self, fd: int, key: UploadKey, wait_s: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if clock() >= deadline:
                    msg = f"another request is writing to the upload session {key.id}: wait for it to end, then go on"
                    raise UploadBusy(msg) from error
            except OSError as error:
                raise store_error(error, "the upload session can't be locked") from error
            else:
                return
            await asyncio.sleep(_LOCK_POLL_S)

    def _is_only_name_of(self, path: str, expected: os.stat_result) -> bool:
        """Return whether the path is the one name of that file. After a crash a second name is a blob's."""
        found = lstat(path)
        return found is not None and found.st_nlink == 1 and os.path.samestat(found, expected)

    def _known_hash(self, name: str, found: os.stat_result, digest: Digest | None) -> SessionHash | None:
        kept = self._known_hashes.pop(name, None)
        if found.st_size == 0:
            algorithm = DEFAULT_ALGORITHM if digest is None else digest.algorithm
            return SessionHash(algorithm, hasher(algorithm))
        return kept[1] if kept is not None and kept[0] == _stamp(found) else None

    def _keep_hash(self, name: str, fd: int, running: SessionHash | None) -> None:
        if running is None:
            return
        self._known_hashes[name] = (_stamp(os.fstat(fd)), running)
        while len(self._known_hashes) > _HASHES_KEPT:
            self._known_hashes.popitem(last=False)
