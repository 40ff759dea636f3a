"""Every file of a store in a folder, for garbage collection and fsck: `BlobMaintenance`.

Entries of another kind (a foreign file, a link, a folder) are never read, sent or removed.
"""

from __future__ import annotations

import stat as stat_bits
from collections.abc import Iterator
from typing import Final

from boltseal.files.atomic_files import Disk
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.local_layout import (
    ALGORITHMS,
    SHARD,
    LocalLayout,
    is_blob,
    is_session,
    lstat,
    sorted_names,
    stored_blob,
)
from boltseal.server.storage.blobs.local_partial import store_error
from boltseal.server.storage.blobs.protocol import ComparedPage, DifferenceKind, StoredBlob, StoreDifference

_SCAN_BYTES: Final = 1024 * 1024


class LocalMaintenance:
    """`BlobMaintenance` in a folder."""

    def __init__(self, layout: LocalLayout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk

    def look(self, digest: Digest, *, by_row: bool = False) -> StoredBlob | None:
        """Look at the blob's file: one system call."""
        return self._layout.look(digest)

    def scan(self, digest: Digest) -> Iterator[bytes]:
        """Yield the file that is there now; if it is replaced or deleted meanwhile, the old one to its end."""
        fd = self._layout.open_blob(digest)
        try:
            position = 0
            while piece := self._disk.read_at(fd, _SCAN_BYTES, position):
                position += len(piece)
                yield piece
        except OSError as error:
            raise store_error(error, f"blob {digest} can't be read") from error
        finally:
            self._disk.close(fd)

    def walk(self, after: str = "") -> Iterator[StoredBlob]:
        """Yield folder by folder in order, so that blobs that come or go meanwhile do not matter."""
        for algorithm in sorted(ALGORITHMS):
            folder = f"{self._layout.blobs}/{algorithm}"
            for shard in sorted_names(folder):
                if f"{algorithm}:{shard}" < after[: len(algorithm) + 1 + len(shard)] or not self._is_shard(
                    algorithm, shard
                ):
                    continue
                for name in sorted_names(f"{folder}/{shard}"):
                    if f"{algorithm}:{name}" <= after:
                        continue
                    found = lstat(f"{folder}/{shard}/{name}")
                    if found is not None and is_blob(algorithm, shard, name, found):
                        yield stored_blob(Digest(algorithm, name), found)

    def compare(self, after: str = "", *, contents: bool = False) -> Iterator[ComparedPage]:
        """Yield one page: what is neither a blob in its place nor a session, relative to the data folder."""
        found = (
            StoreDifference(DifferenceKind.FOREIGN, name, 0, 0, "a file in the store that is neither blob nor upload")
            for name in self._strays()
            if name > after
        )
        yield ComparedPage("", 0, tuple(found))

    def _strays(self) -> Iterator[str]:
        for name in sorted_names(self._layout.uploads):
            found = lstat(f"{self._layout.uploads}/{name}")
            if found is not None and not is_session(name, found):
                yield f"uploads/{name}"
        for algorithm in sorted_names(self._layout.blobs):
            if algorithm in ALGORITHMS:
                yield from self._strays_of(algorithm)
            else:
                yield f"blobs/{algorithm}"

    def _strays_of(self, algorithm: str) -> Iterator[str]:
        for shard in sorted_names(f"{self._layout.blobs}/{algorithm}"):
            if not self._is_shard(algorithm, shard):
                yield f"blobs/{algorithm}/{shard}"
                continue
            for name in sorted_names(f"{self._layout.blobs}/{algorithm}/{shard}"):
                inside = lstat(f"{self._layout.blobs}/{algorithm}/{shard}/{name}")
                if inside is not None and not is_blob(algorithm, shard, name, inside):
                    yield f"blobs/{algorithm}/{shard}/{name}"

    def _is_shard(self, algorithm: str, name: str) -> bool:
        found = lstat(f"{self._layout.blobs}/{algorithm}/{name}")
        return found is not None and SHARD.fullmatch(name) is not None and stat_bits.S_ISDIR(found.st_mode)

    @property
    def deleted_at_once(self) -> int:
        """Return how many calls of `delete` a collection makes at the same time."""
        return 1

    def delete(self, stored: StoredBlob) -> bool:
        """Unlink the file if it is still the one that was looked at. A power cut may bring it back, still unreferenced.

        The lock of the folder keeps a commit from replacing the file between the comparison and the unlink.
        """
        path = self._layout.blob(stored.digest)
        try:
            folder = self._disk.lock_folder(self._layout.shard(stored.digest), exclusive=True)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(error, f"blob {stored.digest} can't be deleted") from error
        try:
            if self._layout.look(stored.digest) != stored:
                return False
            self._disk.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(error, f"blob {stored.digest} can't be deleted") from error
        finally:
            self._disk.close(folder)
        return True
