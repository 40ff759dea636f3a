"""Backup of a data folder beside a running server, incremental into the same folder, and restore.

    BACKUP/format  BACKUP/boltseal.db        as in a data folder; the database gets its name when its copy is complete
    BACKUP/blobs/<algorithm>/<aa>/<hex>      every blob that the copied database refers to
    BACKUP/complete                          the time of the last complete backup; absent while one is being made

Steps of `back_up`:

1. Remove `complete`.
2. Copy the database by SQLite's own backup, as one snapshot.
3. Take every blob that the snapshot refers to and the backup lacks: a hard link where both are on one file system, otherwise
   a copy that is hashed while it is read.
4. Remove blobs that the snapshot does not refer to.
5. Write `complete`.

What was acknowledged before step 2 is in the snapshot, and its bytes were durable before it was. So step 3 finds them unless
garbage collection or a purge deleted them meanwhile. Their rows were removed before, so steps 2 and 3 are repeated: then the snapshot
does not refer to them. A blob that is gone for two snapshots in a row is lost. Keys and the
users' file are not copied, so a backup gives no rights: the password hashes in its database are encrypted with one of the keys.
The bytes of upload sessions are not copied.

A hard link shares its bytes with the store. Blobs are never written to after their commit, so the registry does not change
them; a failing disk may. A backup on another file system has bytes of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Full, Invalid, Unavailable
from boltseal.files.atomic_files import (
    FILE_MODE,
    Disk,
    durable_at_end,
    is_no_space,
    make_folders,
    write_file,
)
from boltseal.oci.digest import Digest
from boltseal.server.storage.metadata import sqlite
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, check_data
from boltseal.server.storage.metadata.move_fence import COPYING, MOVED, read_fence
from boltseal.server.storage.metadata.sqlite_types import wrong_types

COMPLETE: Final = "complete"
UNFINISHED_NAME: Final = f"{DATABASE_NAME}.unfinished"
"""The database of a restore that is not complete, so that the folder is no data folder and is not served."""
SNAPSHOTS: Final = 10
"""How often the database is copied, if blobs that it refers to were deleted while the blobs were copied."""
_PIECE_BYTES: Final = 1024 * 1024


class BackupRefused(Invalid):
    """The folder is no backup, is not complete, or is not empty where it has to be."""


class BackupFailed(Unavailable):
    """Something could not be copied, so the backup is not complete. Repeating it goes on from what is there."""


@dataclass(slots=True)
class BackupResult:
    """The result of a backup or a restore. `was_there`: this backup was restored there before, and nothing was changed."""

    blobs: int = 0
    taken: int = 0
    taken_bytes: int = 0
    removed: int = 0
    was_there: bool = False


def back_up(data: Path, target: Path, now_us: int, progress: Callable[[str, int, int], None]) -> BackupResult:
    """Bring a backup up to date with a data folder. Raises: BackupRefused, BackupFailed, Full, FormatInvalid."""
    check_data(data)
    if (fence := read_fence(data)) is not None and fence.state != COPYING:
        done, instead = (
            ("was moved", "back up the server there")
            if fence.state == MOVED
            else ("is being moved", "wait for the move, and back up the server there, or undo it")
        )
        raise BackupRefused(
            f"{data} {done} to {fence.database} and {fence.blobs}; {instead}: a restored copy of this folder would accept writes"
        )
    _refuse_other_folder(data, target)
    with errors_named(target):
        make_folders(Disk(), target)
        (target / COMPLETE).unlink(missing_ok=True)
        Disk().sync_folder(os.fspath(target))  # after a power cut it must not be there beside a newer database
        layout = (data / "format").read_bytes()  # before the copy: a migration in between makes the copy the newer one
        result, gone = BackupResult(), set[Digest]()
        for tries_left in range(SNAPSHOTS - 1, -1, -1):
            sqlite.copy_file(data / DATABASE_NAME, target / DATABASE_NAME)
            before, gone = gone, _copy_blobs(target / DATABASE_NAME, data, target, result, progress)
            if not gone:
                break
            if gone & before or not tries_left:
                raise _lost(min(gone & before or gone, key=str), data)
        result.removed = _drop_unnamed(target)
        write_file(Disk(), target / "format", layout)
        write_file(Disk(), target / COMPLETE, f"{now_us}\n".encode())
    return result


def restore(backup: Path, data: Path, progress: Callable[[str, int, int], None]) -> BackupResult:
    """Make a new data folder of a backup; every byte of a blob is hashed on its way. BackupRefused, BackupFailed, ...

    The database gets its name after everything is durable. Until then the folder is no data folder, so blobs are written in
    place, and the disk is waited for once.
    """
    if not (backup / COMPLETE).is_file():
        raise BackupRefused(f"{backup} is no complete backup (it has no file `{COMPLETE}`); make it again")
    check_data(backup, oldest=1)
    if data.exists() and any(data.iterdir()):
        raise BackupRefused(f"{data} is not empty; a backup is restored into a new folder: name one with --data FOLDER")
    with errors_named(data):
        _refuse_wrong_types(backup / DATABASE_NAME)
        make_folders(Disk(), data)
        database = data / UNFINISHED_NAME
        with durable_at_end(data):
            sqlite.copy_file(backup / DATABASE_NAME, database)
            result = _copy_all(database, backup, data, progress)
        for name in ("uploads", "ledger"):
            make_folders(Disk(), data / name)
        database.replace(data / DATABASE_NAME)
        write_file(Disk(), data / "format", (backup / "format").read_bytes())
    return result


def _refuse_wrong_types(database: Path) -> None:
    with sqlite.open_snapshot(database) as snapshot:
        wrong = next(wrong_types(snapshot.sql), None)
    if wrong is not None:
        raise BackupFailed(f"{database} is damaged ({wrong}); nothing was restored: restore another backup")


@contextmanager
def errors_named(target: Path) -> Iterator[None]:
    """Turn errors of the database's copy and of the file system inside the block into BackupFailed and Full."""
    try:
        yield
    except sqlite.CopyFailed as error:
        raise BackupFailed(f"the database can't be copied to {target}: {error.message}") from error
    except OSError as error:
        if is_no_space(error):
            raise Full(f"no space left under {target}; free some and make it again") from error
        raise BackupFailed(f"can't write {target}: {error.strerror or error}") from error


def _refuse_other_folder(data: Path, target: Path) -> None:
    if target.resolve().is_relative_to(data.resolve()) or data.resolve().is_relative_to(target.resolve()):
        raise BackupRefused(f"{target} and {data} are inside each other; name a folder elsewhere, best on another disk")
    known = {"format", "blobs", COMPLETE}
    foreign = [
        item.name
        for item in (sorted(target.iterdir()) if target.is_dir() else ())
        if item.name not in known and not item.name.startswith(DATABASE_NAME) and not item.name.endswith(".new")
    ]
    if foreign or (target / "uploads").exists():
        raise BackupRefused(f"{target} is not empty and no backup (it contains {foreign[0]!r}); name another folder")


def _referenced_blobs(database: Path) -> Iterator[tuple[Digest, int]]:
    for digest, size in sqlite.blob_sizes(database):
        yield Digest.parse(digest), size


def _blob_path(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


def _copy_blobs(
    database: Path, source: Path, target: Path, result: BackupResult, progress: Callable[[str, int, int], None]
) -> set[Digest]:
    """Link or copy the blobs that a backup lacks. Return those that are gone from the source."""
    named, gone = list(_referenced_blobs(database)), set[Digest]()
    folders: set[Path] = set()
    for number, (digest, size) in enumerate(named, start=1):
        at = _blob_path(target, digest)
        if not _is_whole(at, size):
            if at.parent not in folders:
                make_folders(Disk(), at.parent)
                folders.add(at.parent)
            if _link_or_copy(_blob_path(source, digest), at, digest, size):
                result.taken += 1
                result.taken_bytes += size
            else:
                gone.add(digest)
        progress("blobs", number, len(named))
    for folder in folders:
        Disk().sync_folder(os.fspath(folder))
    result.blobs = len(named)
    return gone


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _link_or_copy(source: Path, target: Path, digest: Digest, size: int) -> bool:
    """Link or copy a blob. Returns False if it is gone from the source."""
    try:
        found = source.stat().st_size
    except FileNotFoundError:
        return False
    if found != size:
        raise _other_size(digest, found, size, source.parents[3])
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links, or the blob was deleted since
        return _copy_hashed(source, target, digest)
    return True


def _copy_hashed(source: Path, target: Path, digest: Digest) -> bool:
    """Copy a blob and hash it. Returns False if it is gone from the source."""
    try:
        reads = source.open("rb")
    except FileNotFoundError:
        return False
    beside = target.with_name(f"{target.name}.new")
    running = digest.hasher()
    with reads, beside.open("wb") as writes:
        while piece := reads.read(_PIECE_BYTES):
            running.update(piece)
            writes.write(piece)
        writes.flush()
        os.fsync(writes.fileno())
    if running.hexdigest() != digest.hex:
        beside.unlink()
        raise _damaged(digest)
    beside.chmod(FILE_MODE)
    beside.replace(target)
    return True


def _copy_all(database: Path, source: Path, target: Path, progress: Callable[[str, int, int], None]) -> BackupResult:
    """Copy every blob into a folder that has none. What was written is not durable yet."""
    named = list(_referenced_blobs(database))
    result = BackupResult(blobs=len(named), taken=len(named))
    disk, shards = Disk(), set[str]()
    for number, (digest, size) in enumerate(named, start=1):
        shard = f"blobs/{digest.algorithm}/{digest.hex[:2]}"
        if shard not in shards:
            make_folders(disk, target / "blobs" / digest.algorithm)
            disk.make_folder(f"{target}/{shard}")
            shards.add(shard)
        _copy_in_place(source, target, f"{shard}/{digest.hex}", digest, size)
        result.taken_bytes += size
        progress("blobs", number, len(named))
    return result


def _copy_in_place(source: Path, target: Path, name: str, digest: Digest, size: int) -> None:
    """Copy a blob and hash it. Descriptors, because file objects cost more than the bytes of a small blob."""
    try:
        reads = os.open(f"{source}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _lost(digest, source) from error
    try:
        writes = os.open(
            f"{target}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE
        )
        try:
            running, copied = digest.hasher(), 0
            while piece := os.read(reads, _PIECE_BYTES):
                running.update(piece)
                _write_all(writes, piece)
                copied += len(piece)
        finally:
            os.close(writes)
    finally:
        os.close(reads)
    if copied != size:
        raise _other_size(digest, copied, size, source)
    if running.hexdigest() != digest.hex:
        raise _damaged(digest)


def _write_all(fd: int, piece: bytes) -> None:
    written = os.write(fd, piece)
    while written < len(piece):
        piece = piece[written:]
        written = os.write(fd, piece)


def _lost(digest: Digest, source: Path) -> BackupFailed:
    return BackupFailed(
        f"the bytes of {digest} are not in {source}: removed meanwhile, or lost; repeat the backup, "
        "and run boltseal admin fsck if that does not help"
    )


def _other_size(digest: Digest, found: int, size: int, source: Path) -> BackupFailed:
    return BackupFailed(f"{digest} has {found} bytes instead of {size} in {source}: run boltseal admin fsck")


def _damaged(digest: Digest) -> BackupFailed:
    return BackupFailed(
        f"the bytes of {digest} are damaged in the source: run boltseal admin fsck, and push the blob again"
    )


def _drop_unnamed(target: Path) -> int:
    """Remove blobs that the snapshot does not refer to: purged since, or incompletely copied."""
    named = {_blob_path(target, digest) for digest, _ in _referenced_blobs(target / DATABASE_NAME)}
    removed = 0
    for path in sorted((target / "blobs").glob("*/*/*")):
        if path not in named:
            path.unlink()
            removed += 1
    return removed
