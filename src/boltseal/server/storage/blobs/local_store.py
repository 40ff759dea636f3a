"""Blobs and upload sessions as plain files, which the kernel can send and any tool can read.

    DATA/blobs/<algorithm>/<first two hex digits>/<hex>      a whole blob; its mtime is that of its commit
    DATA/uploads/<32 hex>.<16 hex>                           a session: UploadKey.name; its size is the offset

How this module keeps the promises of `blobs.protocol`:

- A session has no record but its file, so a restart has nothing to recover. A known hash is only in memory, bound to the
  file's inode, size and mtime; without it the file is read again.
- The lock of a session is `flock` on its file [5]. After locking, the name must still be the one name of the locked file:
  what has become a blob, in whatever way, is never written to.
- A session and its blob are on one file system, so `rename` moves whole files at once. Both changes of name are one entry of
  the file system's journal: the blob's folder is synced, the folder of sessions need not be.
- A delete holds an exclusive `flock` on the blob's folder, and a commit a shared one around its rename. So a delete never
  removes bytes that were committed after it looked.
- Entries of another kind (a foreign file, a link, a folder) are never read, sent or removed.

`local_upload` writes the bytes of a session; `files.atomic_files` makes the system calls.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat as stat_bits
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk, make_folders
from boltseal.oci.digest import Digest, hasher
from boltseal.server.storage.blobs.local_partial import LocalPartial, store_error
from boltseal.server.storage.blobs.local_upload import (
    LocalUploadWriter,
    SessionFile,
    SessionHash,
    UploadResources,
    result_of,
)
from boltseal.server.storage.blobs.protocol import (
    PIECE_BYTES,
    BlobAbsent,
    StoreBroken,
    StoredBlob,
    UploadBusy,
    UploadFile,
    UploadKey,
    UploadUnknown,
)
from boltseal.server.storage.upload_admission import MemoryBudget
from boltseal.server.storage.worker_threads import WorkerPool

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
_SESSION_NAME: Final = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_HEX: Final = re.compile(r"[0-9a-f]+")
_HASHES_KEPT: Final = 4096
_SCAN_BYTES: Final = 1024 * 1024
_LOCK_POLL_S: Final = 0.02

SHARED_PIECE_BYTES: Final = 256 * 1024
"""The largest piece when there are several long readers; a server may hold two or three for each stalled client."""

Stamp = tuple[int, int, int]


def _stamp(found: os.stat_result) -> Stamp:
    """Return what changes when another writer changes a session's file."""
    return found.st_ino, found.st_size, found.st_mtime_ns


class LocalBlobs:
    """`BlobStore` in a folder. `create=False` changes nothing on the disk, for reading beside a running server.

    `memory_bytes`: what all writers together may buffer. `lock_wait_s`: how long a request waits for its session.
    """

    def __init__(
        self,
        data: Path,
        *,
        create: bool = True,
        disk: Disk | None = None,
        memory_bytes: int = 32 * 1024 * 1024,
        lock_wait_s: float = 2.0,
        bulk_threads: int = 4,
        quick_threads: int = 8,
    ) -> None:
        self._disk = disk or Disk()
        self._data = os.fspath(data)
        self._blobs = f"{self._data}/blobs"
        self._uploads = f"{self._data}/uploads"
        self._lock_wait_s = lock_wait_s
        self._resources = UploadResources(
            disk=self._disk,
            budget=MemoryBudget(memory_bytes),
            quick=WorkerPool(quick_threads, "boltseal-quick"),
            bulk=WorkerPool(bulk_threads, "boltseal-bulk"),
            syncs=ThreadPoolExecutor(bulk_threads, "boltseal-syncs"),
        )
        self._known_hashes: OrderedDict[str, tuple[Stamp, SessionHash]] = OrderedDict()
        self._shards_on_disk: set[str] = set()
        self._long_readers = 0
        if create:
            self._make_folders()

    def close(self) -> None:
        """Wait for what is being written, and end the threads."""
        self._resources.quick.close()
        self._resources.bulk.close()
        self._resources.syncs.shutdown()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that all writers together have in memory now."""
        return self._resources.budget.held_bytes

    def _make_folders(self) -> None:
        make_folders(self._disk, Path(self._uploads))
        for algorithm in ALGORITHMS:
            folder = f"{self._blobs}/{algorithm}"
            make_folders(self._disk, Path(folder))
            # A crash may have left shards whose names are not on the disk yet.
            self._disk.sync_folder(folder)
            self._shards_on_disk.update(entry.path for entry in os.scandir(folder) if entry.is_dir())

    # Sessions

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
            self._disk.close(self._disk.create(f"{self._uploads}/{name}"))

    async def upload_size(self, key: UploadKey) -> int:
        """Return the size of the session's file."""
        found = self._lstat(f"{self._uploads}/{key.name}")
        if found is None or found.st_nlink != 1:
            raise key.unknown()
        return found.st_size

    @asynccontextmanager
    async def open_upload(
        self, key: UploadKey, algorithm: str = "sha256", wait_s: float | None = None
    ) -> AsyncIterator[LocalUploadWriter]:
        """Open and lock the file, and check that its name is still its only one."""
        path = f"{self._uploads}/{key.name}"
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
                key.name, path, fd, lambda: self._is_only_name_of(path, found), lambda d: self._place(path, d)
            )
            writer = LocalUploadWriter(
                self._resources, file, found.st_size, self._known_hash(key.name, found, algorithm)
            )
            try:
                yield writer
            finally:
                self._keep_hash(key.name, fd, await writer.close())
        finally:
            self._disk.close(fd)

    def open_partial(self, key: UploadKey) -> LocalPartial:
        """Open the session's file, which may have become a blob by the time it is read."""
        try:
            fd = self._disk.open_to_read(f"{self._uploads}/{key.name}")
        except FileNotFoundError as error:
            raise key.unknown() from error
        except OSError as error:
            raise store_error(error, "the upload session can't be opened") from error
        return LocalPartial(self._disk, self._resources.quick, fd)

    async def cancel_upload(self, key: UploadKey) -> None:
        """Remove the name. A writer that still has the file finds no name to commit."""
        try:
            self._disk.unlink(f"{self._uploads}/{key.name}")
        except FileNotFoundError as error:
            raise key.unknown() from error
        except OSError as error:
            raise store_error(error, "the upload can't be cancelled") from error
        self._known_hashes.pop(key.name, None)

    def abandoned(self, older_than_us: int) -> Iterator[UploadFile]:
        """Yield the sessions whose file was changed last before a time."""
        for name in _sorted_names(self._uploads):
            found = self._lstat(f"{self._uploads}/{name}")
            if found is not None and _is_session(name, found) and _mtime_us(found) < older_than_us:
                yield UploadFile(name, found.st_size, _mtime_us(found))

    def discard(self, upload: UploadFile, older_than_us: int) -> bool:
        """Lock the session without waiting, check its time again, and remove its name."""
        if not _SESSION_NAME.fullmatch(upload.name):
            return False
        path = f"{self._uploads}/{upload.name}"
        try:
            fd = self._disk.open_to_append(path)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _mtime_us(os.fstat(fd)) >= older_than_us:
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
        found = self._lstat(path)
        return found is not None and found.st_nlink == 1 and os.path.samestat(found, expected)

    def _known_hash(self, name: str, found: os.stat_result, algorithm: str) -> SessionHash | None:
        kept = self._known_hashes.pop(name, None)
        if found.st_size == 0:
            return SessionHash(algorithm, hasher(algorithm))
        return kept[1] if kept is not None and kept[0] == _stamp(found) else None

    def _keep_hash(self, name: str, fd: int, running: SessionHash | None) -> None:
        if running is None:
            return
        self._known_hashes[name] = (_stamp(os.fstat(fd)), running)
        while len(self._known_hashes) > _HASHES_KEPT:
            self._known_hashes.popitem(last=False)

    def _place(self, source: str, digest: Digest) -> None:
        """Rename a session's synced file to its blob's name, and sync the folder. Raises: OSError, UploadUnknown."""
        shard = self._shard(digest)
        if shard not in self._shards_on_disk:
            self._make_shard(shard)
        target = f"{shard}/{digest.hex}"
        try:
            self._rename(source, shard, target)
        except FileNotFoundError as error:
            if self._lstat(source) is None:
                raise UploadUnknown("the upload session was cancelled meanwhile; start one with POST") from error
            self._make_shard(shard)
            self._rename(source, shard, target)
        self._disk.sync_folder(shard)

    def _rename(self, source: str, shard: str, target: str) -> None:
        """Rename while no `delete` is between its comparison and its unlink."""
        folder = self._disk.lock_folder(shard, exclusive=False)
        try:
            self._disk.rename(source, target)
        finally:
            self._disk.close(folder)

    def _make_shard(self, shard: str) -> None:
        self._disk.make_folder(shard)
        self._disk.sync_folder(shard.rpartition("/")[0])
        self._shards_on_disk.add(shard)

    # Blobs

    async def stat(self, digest: Digest) -> StoredBlob | None:
        """Look at the file: one system call, which costs less than a hand-over to a thread."""
        return self.look(digest)

    def look(self, digest: Digest) -> StoredBlob | None:
        """Return what is stored under a digest, None if nothing is."""
        found = self._lstat(self._blob(digest))
        return _stored(digest, found) if found is not None and stat_bits.S_ISREG(found.st_mode) else None

    def path(self, digest: Digest) -> Path | None:
        """Return the path of the blob's file, which may not exist."""
        return Path(self._blob(digest))

    async def read(self, digest: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield pieces. One long reader is fastest with large pieces read at once; several would make each other wait."""
        fd = self._open_blob(digest)
        is_long = length > SHARED_PIECE_BYTES
        self._long_readers += is_long
        try:
            position, end = start, start + length
            while position < end:
                alone = not is_long or self._long_readers == 1
                size = min(PIECE_BYTES if alone else SHARED_PIECE_BYTES, end - position)
                piece = await self._read_piece(fd, size, position, digest, at_once=alone)
                position += len(piece)
                yield piece
        finally:
            self._long_readers -= is_long
            self._disk.close(fd)

    def _open_blob(self, digest: Digest) -> int:
        try:
            return self._disk.open_to_read(self._blob(digest))
        except FileNotFoundError as error:
            raise BlobAbsent(f"blob {digest} is not in the store") from error
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be opened") from error

    async def _read_piece(self, fd: int, size: int, position: int, digest: Digest, *, at_once: bool) -> bytes:
        """Read on the event loop if the bytes are in memory and there is no other long reader, else in a thread."""
        try:
            piece = self._disk.read_cached_at(fd, size, position) if at_once else None
            if piece is None:
                piece = await result_of(self._resources.quick.launch(self._disk.read_at, fd, size, position))
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be read") from error
        if not piece:
            raise StoreBroken(
                f"blob {digest} is shorter than its size: damaged; run `boltseal admin fsck`, push it again"
            )
        return piece

    def scan(self, digest: Digest) -> Iterator[bytes]:
        """Yield the file that is there now; if it is replaced or deleted meanwhile, the old one to its end."""
        fd = self._open_blob(digest)
        try:
            position = 0
            while piece := self._disk.read_at(fd, _SCAN_BYTES, position):
                position += len(piece)
                yield piece
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be read") from error
        finally:
            self._disk.close(fd)

    def walk(self) -> Iterator[StoredBlob]:
        """Yield folder by folder in order, so that blobs that come or go meanwhile do not matter."""
        for algorithm in sorted(ALGORITHMS):
            folder = f"{self._blobs}/{algorithm}"
            for shard in _sorted_names(folder):
                if not self._is_shard(algorithm, shard):
                    continue
                for name in _sorted_names(f"{folder}/{shard}"):
                    found = self._lstat(f"{folder}/{shard}/{name}")
                    if found is not None and _is_blob(algorithm, shard, name, found):
                        yield _stored(Digest(algorithm, name), found)

    def strays(self) -> Iterator[str]:
        """Yield what is neither a blob in its place nor a session, relative to the data folder."""
        for name in _sorted_names(self._uploads):
            found = self._lstat(f"{self._uploads}/{name}")
            if found is not None and not _is_session(name, found):
                yield f"uploads/{name}"
        for algorithm in _sorted_names(self._blobs):
            if algorithm in ALGORITHMS:
                yield from self._strays_of(algorithm)
            else:
                yield f"blobs/{algorithm}"

    def _strays_of(self, algorithm: str) -> Iterator[str]:
        for shard in _sorted_names(f"{self._blobs}/{algorithm}"):
            if not self._is_shard(algorithm, shard):
                yield f"blobs/{algorithm}/{shard}"
                continue
            for name in _sorted_names(f"{self._blobs}/{algorithm}/{shard}"):
                inside = self._lstat(f"{self._blobs}/{algorithm}/{shard}/{name}")
                if inside is not None and not _is_blob(algorithm, shard, name, inside):
                    yield f"blobs/{algorithm}/{shard}/{name}"

    def _is_shard(self, algorithm: str, name: str) -> bool:
        found = self._lstat(f"{self._blobs}/{algorithm}/{name}")
        return found is not None and _SHARD.fullmatch(name) is not None and stat_bits.S_ISDIR(found.st_mode)

    async def delete(self, stored: StoredBlob) -> bool:
        """Delete as `delete_and_wait` does, in a thread."""
        deleted: bool = await result_of(self._resources.quick.launch(self.delete_and_wait, stored))
        return deleted

    def delete_and_wait(self, stored: StoredBlob) -> bool:
        """Unlink the file if it is still the one that was looked at. A power cut may bring it back, still unreferenced.

        The lock of the folder keeps a commit from replacing the file between the comparison and the unlink.
        """
        path = self._blob(stored.digest)
        try:
            folder = self._disk.lock_folder(self._shard(stored.digest), exclusive=True)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(error, f"blob {stored.digest} can't be deleted") from error
        try:
            if self.look(stored.digest) != stored:
                return False
            self._disk.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(error, f"blob {stored.digest} can't be deleted") from error
        finally:
            self._disk.close(folder)
        return True

    def _shard(self, digest: Digest) -> str:
        return f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}"

    def _blob(self, digest: Digest) -> str:
        return f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def _lstat(self, path: str) -> os.stat_result | None:
        """Return the status of a path without following links, None if there is nothing. Raises: StoreBroken."""
        try:
            return os.lstat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(error, "the store can't be looked at") from error


def _sorted_names(folder: str) -> list[str]:
    """Return the names in a folder in order; none if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise store_error(error, "a folder of the store can't be read") from error


def _is_blob(algorithm: str, shard: str, name: str, found: os.stat_result) -> bool:
    has_name = len(name) == ALGORITHMS[algorithm] and name[:2] == shard and _HEX.fullmatch(name) is not None
    return has_name and stat_bits.S_ISREG(found.st_mode)


def _is_session(name: str, found: os.stat_result) -> bool:
    return _SESSION_NAME.fullmatch(name) is not None and stat_bits.S_ISREG(found.st_mode)


def _stored(digest: Digest, found: os.stat_result) -> StoredBlob:
    return StoredBlob(digest, found.st_size, _mtime_us(found), f"{found.st_ino}-{found.st_mtime_ns}")


def _mtime_us(found: os.stat_result) -> int:
    return found.st_mtime_ns // 1000
