"""Where blobs and upload sessions are on the disk: names, folders, and the rename that makes a session a blob.

    DATA/blobs/<algorithm>/<first two hex digits>/<hex>      a whole blob; its mtime is that of its commit
    DATA/uploads/<32 hex>.<16 hex>                           a session: UploadKey.name; its size is the offset

A session and its blob are on one file system, so `rename` moves whole files at once. Both changes of name are one entry of
the file system's journal: the blob's folder is synced, the folder of sessions need not be. A delete holds an exclusive
`flock` on the blob's folder, and a commit a shared one around its rename. So a delete never removes bytes that were
committed after it looked.
"""

from __future__ import annotations

import os
import re
import stat as stat_bits
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk, make_folders
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.local_partial import store_error
from boltseal.server.storage.blobs.protocol import BlobAbsent, StoredBlob, UploadUnknown

ALGORITHMS: Final = {"sha256": 64, "sha512": 128}
SESSION_NAME: Final = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}")
SHARD: Final = re.compile(r"[0-9a-f]{2}")
_HEX: Final = re.compile(r"[0-9a-f]+")


class LocalLayout:
    """The folders of one store, `blobs` and `uploads`. Creates nothing but the folder of a blob that is placed."""

    def __init__(self, data: Path, disk: Disk) -> None:
        self.blobs = f"{os.fspath(data)}/blobs"
        self.uploads = f"{os.fspath(data)}/uploads"
        self._disk = disk
        self._shards_on_disk: set[str] = set()

    def make_folders(self) -> None:
        """Create the folders that are missing, durably."""
        make_folders(self._disk, Path(self.uploads))
        for algorithm in ALGORITHMS:
            folder = f"{self.blobs}/{algorithm}"
            make_folders(self._disk, Path(folder))
            # A crash may have left shards whose names are not on the disk yet.
            self._disk.sync_folder(folder)
            self._shards_on_disk.update(entry.path for entry in os.scandir(folder) if entry.is_dir())

    def shard(self, digest: Digest) -> str:
        """Return the folder of a blob."""
        return f"{self.blobs}/{digest.algorithm}/{digest.hex[:2]}"

    def blob(self, digest: Digest) -> str:
        """Return the file of a blob, which may not exist."""
        return f"{self.blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def open_blob(self, digest: Digest) -> int:
        """Open the file of a blob for reading, and return its descriptor. Raises: BlobAbsent, StoreBroken."""
        try:
            return self._disk.open_to_read(self.blob(digest))
        except FileNotFoundError as error:
            raise BlobAbsent(f"blob {digest} is not in the store") from error
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be opened") from error

    def look(self, digest: Digest) -> StoredBlob | None:
        """Return what is stored under a digest, None if nothing is. Raises: StoreBroken."""
        found = lstat(self.blob(digest))
        return stored_blob(digest, found) if found is not None and stat_bits.S_ISREG(found.st_mode) else None

    def place(self, source: str, digest: Digest) -> None:
        """Rename a session's synced file to its blob's name, and sync the folder. Raises: OSError, UploadUnknown."""
        shard = self.shard(digest)
        if shard not in self._shards_on_disk:
            self._make_shard(shard)
        target = f"{shard}/{digest.hex}"
        try:
            self._rename(source, shard, target)
        except FileNotFoundError as error:
            if lstat(source) is None:
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


def lstat(path: str) -> os.stat_result | None:
    """Return the status of a path without following links, None if there is nothing. Raises: StoreBroken."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error(error, "the store can't be looked at") from error


def sorted_names(folder: str) -> list[str]:
    """Return the names in a folder in order; none if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise store_error(error, "a folder of the store can't be read") from error


def is_blob(algorithm: str, shard: str, name: str, found: os.stat_result) -> bool:
    """Return whether an entry of a shard is a blob: a regular file whose name is a digest of this shard."""
    has_name = len(name) == ALGORITHMS[algorithm] and name[:2] == shard and _HEX.fullmatch(name) is not None
    return has_name and stat_bits.S_ISREG(found.st_mode)


def is_session(name: str, found: os.stat_result) -> bool:
    """Return whether an entry of the folder of uploads is a session: a regular file with the name of one."""
    return SESSION_NAME.fullmatch(name) is not None and stat_bits.S_ISREG(found.st_mode)


def stored_blob(digest: Digest, found: os.stat_result) -> StoredBlob:
    """Return the blob of a file with this status. Its version is the inode and the mtime."""
    return StoredBlob(digest, found.st_size, mtime_us(found), f"{found.st_ino}-{found.st_mtime_ns}")


def mtime_us(found: os.stat_result) -> int:
    """Return when a file was last changed, in microseconds since the epoch."""
    return found.st_mtime_ns // 1000
