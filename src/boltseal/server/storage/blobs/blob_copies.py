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
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.object_upload import index_document, index_key, new_key
from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.metadata.blob_keys import ObjectPart
from boltseal.server.storage.metadata.move_target import MovedBlob, MoveTarget
from boltseal.server.storage.object_client import PART_BYTES, ObjectClient

AT_ONCE: Final = 4
PAGE: Final = 256
RECORD_EVERY_S: Final = 1.0
_PIECE_BYTES: Final = 1024 * 1024

Progress = Callable[[str, int, int], None]


class BlobUnusable(Unavailable):
    """The bytes of a blob are missing or damaged in the source."""

    def __init__(self, digest: Digest, problem: str) -> None:
        super().__init__(f"{digest}: {problem}")
        self.digest = digest


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

    def add(self, blob: NamedBlob, *, copied: bool = False) -> None:
        """Count a blob that is in the bucket. `copied`: by this run."""
        self.blobs += 1
        self.size += blob.size
        if copied:
            self.copied += 1
            self.copied_size += blob.size


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
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="boltseal-copy") as pool:
        for page in batches(blobs, PAGE):
            known = target.recorded([str(blob.digest) for blob in page])
            whole = pool.map(partial(_is_whole, client), [known.get(str(blob.digest)) for blob in page], page)
            missing = []
            for blob, is_whole in zip(page, whole, strict=True):
                if is_whole:
                    done.add(blob)
                else:
                    missing.append(_planned(blob))
            if missing:
                target.announce([key for plan in missing for key in (plan.moved.key, plan.moved.index_key)])
                _copy_page(
                    pool,
                    partial(_one, folder, client),
                    missing,
                    target,
                    done,
                    lambda: progress("copying", done.size, total),
                )
            else:
                progress("copying", done.size, total)
    return done


class _Plan(NamedTuple):
    """A blob that is copied next. `moved`: its new keys."""

    blob: NamedBlob
    moved: MovedBlob


def _planned(blob: NamedBlob) -> _Plan:
    return _Plan(blob, MovedBlob(str(blob.digest), blob.size, new_key(), index_key(blob.digest)))


def _copy_page(
    pool: ThreadPoolExecutor,
    copy: Callable[[_Plan], None],
    plans: Sequence[_Plan],
    target: MoveTarget,
    done: CopiedBlobs,
    show: Callable[[], None],
) -> None:
    """Copy some blobs at once, and record them."""
    tasks = {pool.submit(copy, plan): plan for plan in plans}
    fresh, recorded_s = list[MovedBlob](), time.monotonic()
    try:
        for task in as_completed(tasks):
            plan = tasks[task]
            try:
                task.result()
            except BlobUnusable as error:
                done.unusable.append(error)
                continue
            done.add(plan.blob, copied=True)
            fresh.append(plan.moved)
            if time.monotonic() > recorded_s + RECORD_EVERY_S:
                target.record(fresh)
                fresh, recorded_s = [], time.monotonic()
            show()
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        if fresh:
            target.record(fresh)


def _one(folder: Path, client: ObjectClient, plan: _Plan) -> None:
    """Copy one blob, and write its index object."""
    blob, moved = plan
    if blob.size:
        _put(folder, blob, client, moved.key)
    else:
        _check_empty(folder, blob)
    parts = [ObjectPart(moved.key, blob.size)] if blob.size else []
    client.put_and_wait(moved.index_key, index_document(blob.digest, parts), "application/json")


def _is_whole(client: ObjectClient, known: MovedBlob | None, blob: NamedBlob) -> bool:
    """Return whether an earlier run copied a blob, and its objects are there with their sizes."""
    if known is None or known.size != blob.size or client.size_and_wait(known.index_key) is None:
        return False
    return not blob.size or client.size_and_wait(known.key) == blob.size


def _put(folder: Path, blob: NamedBlob, client: ObjectClient, key: str) -> None:
    file = _HashedFile(folder, blob)
    if blob.size <= PART_BYTES:  # one request instead of three, and nothing is sent of damaged bytes
        content = b"".join(file.pieces())
        if file.error is not None:
            raise file.error
        client.put_and_wait(key, content)
        return
    try:
        client.put_pieces_and_wait(key, file.pieces(), blob.size)
    except StoreBroken:
        if file.error is None:
            raise
    if file.error is not None:
        with suppress(StoreBroken):  # otherwise the server deletes it a day after the move, since no row names it
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
            self.error = BlobUnusable(digest, "its bytes are missing in the source")
        except OSError as error:
            self.error = BlobUnusable(digest, f"its bytes can't be read in the source ({error.strerror or error})")
        else:
            if size != self._blob.size:
                self.error = BlobUnusable(digest, f"it has {size} bytes in the source, expected {self._blob.size}")
            elif hasher.hexdigest() != digest.hex:
                self.error = BlobUnusable(digest, "its bytes are damaged in the source")


def _no_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def file_problems(folder: Path, blobs: Iterable[NamedBlob]) -> list[str]:
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
