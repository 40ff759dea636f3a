"""Copies blobs between a folder with files and an object store, and hashes each while its bytes pass.

    FOLDER/blobs/<algorithm>/<aa>/<hex>    as in a data folder and in a backup

A blob whose bytes are not those of its digest is never recorded, and its object is deleted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.object_upload import index_document, index_key, new_key
from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.metadata.move_target import MovedBlob, MoveTarget
from boltseal.server.storage.object_client import ObjectClient

AT_ONCE: Final = 4
PAGE: Final = 256
RECORD_EVERY_S: Final = 1.0
_PIECE_BYTES: Final = 1024 * 1024

Progress = Callable[[str, int, int], None]


class BlobUnusable(Unavailable):
    """The bytes of a blob are missing or damaged in the source."""


class NamedBlob(NamedTuple):
    """A blob that has to be copied."""

    digest: Digest
    size: int


@dataclass(slots=True)
class CopiedBlobs:
    """What one run did. `unusable`: a line for each blob whose bytes are missing or damaged in the source."""

    blobs: int = 0
    size: int = 0
    copied: int = 0
    copied_size: int = 0
    unusable: list[BlobUnusable] = field(default_factory=list)


def blob_file(folder: Path, digest: Digest) -> Path:
    """Return the file of a blob below a data folder or a backup."""
    return folder / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


def copy_blobs(
    folder: Path, blobs: Sequence[NamedBlob], client: ObjectClient, target: MoveTarget, progress: Progress
) -> CopiedBlobs:
    """Copy the files of blobs into an object store. Those that were copied before are looked at, and not sent again.

    Goes on after a blob that can't be copied, and lists all of these. Raises: StoreBroken, TargetInUse, Unavailable.
    """
    done, total = CopiedBlobs(), sum(blob.size for blob in blobs)
    for page in batches(blobs, PAGE):
        known = target.recorded([str(blob.digest) for blob in page])
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="boltseal-copy") as pool:
            tasks = {pool.submit(_one, folder, blob, client, known.get(str(blob.digest))): blob for blob in page}
            fresh, recorded_s = list[MovedBlob](), time.monotonic()
            try:
                for task in as_completed(tasks):
                    blob = tasks[task]
                    try:
                        moved = task.result()
                    except BlobUnusable as error:
                        done.unusable.append(error)
                        continue
                    done.blobs += 1
                    done.size += blob.size
                    if moved is not None:
                        done.copied += 1
                        done.copied_size += blob.size
                        fresh.append(moved)
                    if fresh and time.monotonic() > recorded_s + RECORD_EVERY_S:
                        target.record(fresh)
                        fresh, recorded_s = [], time.monotonic()
                    progress("copying", done.size, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                if fresh:
                    target.record(fresh)
    return done


def _one(folder: Path, blob: NamedBlob, client: ObjectClient, known: MovedBlob | None) -> MovedBlob | None:
    """Copy one blob; return None if an earlier run did, and its objects are there with their sizes."""
    if known is not None and _is_whole(client, known, blob):
        return None
    key, index = new_key(), index_key(blob.digest)
    if blob.size:
        _put(folder, blob, client, key)
    else:
        _check_empty(folder, blob)
    parts = [ObjectPart(key, blob.size)] if blob.size else []
    client.put_and_wait(index, index_document(blob.digest, parts), "application/json")
    return MovedBlob(str(blob.digest), blob.size, key, index)


def _is_whole(client: ObjectClient, known: MovedBlob, blob: NamedBlob) -> bool:
    if known.size != blob.size or client.size_and_wait(known.index_key) is None:
        return False
    return not blob.size or client.size_and_wait(known.key) == blob.size


def _put(folder: Path, blob: NamedBlob, client: ObjectClient, key: str) -> None:
    file = _HashedFile(folder, blob)
    try:
        client.put_pieces_and_wait(key, file.pieces(), blob.size)
    except StoreBroken:
        if file.error is None:
            raise
    if file.error is not None:
        with suppress(StoreBroken):  # otherwise the server deletes it after a day, since no row names it
            client.delete_and_wait([key])
        raise file.error


def _check_empty(folder: Path, blob: NamedBlob) -> None:
    file = _HashedFile(folder, blob)
    for _ in file.pieces():
        pass
    if file.error is not None:
        raise file.error


class _HashedFile:
    """The file of a blob. `error`: after `pieces`, why its bytes are not those of the blob; None if they are."""

    def __init__(self, folder: Path, blob: NamedBlob) -> None:
        self._path = blob_file(folder, blob.digest)
        self._blob = blob
        self.error: BlobUnusable | None = None

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes. What is wrong with them is in `error`, since the caller is a library."""
        digest, hasher, size = self._blob.digest, self._blob.digest.hasher(), 0
        try:
            with open(self._path, "rb", opener=_no_links) as file:
                while piece := file.read(_PIECE_BYTES):
                    hasher.update(piece)
                    size += len(piece)
                    yield piece
        except FileNotFoundError:
            self.error = BlobUnusable(f"{digest}: its bytes are missing in the source")
        except OSError as error:
            self.error = BlobUnusable(f"{digest}: its bytes can't be read in the source ({error.strerror or error})")
        else:
            if size != self._blob.size:
                self.error = BlobUnusable(f"{digest}: it has {size} bytes in the source, expected {self._blob.size}")
            elif hasher.hexdigest() != digest.hex:
                self.error = BlobUnusable(f"{digest}: its bytes are damaged in the source")


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def looked_at(folder: Path, blobs: Iterable[NamedBlob]) -> list[str]:
    """Return a line for each blob whose file is missing or has another size. Nothing is read."""
    found = []
    for digest, size in blobs:
        try:
            present = blob_file(folder, digest).lstat().st_size
        except OSError as error:
            found.append(f"{digest}: {error.strerror or error}")
        else:
            if present != size:
                found.append(f"{digest}: it has {present} bytes, expected {size}")
    return found
