"""Backup and restore of metadata in PostgreSQL and blobs in an object store, beside running servers.

    BACKUP/backup.json               what is in it, with the hash of each table; written last, absent while one is being made
    BACKUP/tables/<table>.copy       the rows, as the text of PostgreSQL's COPY, of one snapshot of the database
    BACKUP/blobs/<algorithm>/<aa>/<hex>   with objects: every blob that the snapshot refers to, as in a backup of files

Without objects the blobs stay in the bucket. The table `blob_key` is the list of objects that the backup needs, with sizes.
The registry deletes objects that its own rows do not name any more, so a restore lists those that are missing.

A backup has no keys: its password hashes are encrypted with one of them. Rows of uploads that are under way and of running
servers are left out. `restore_database` is one transaction on an empty database, so it has happened as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Table

from boltseal.files.atomic_files import Disk, make_folders, write_file
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.server.storage.backup import COMPLETE, SNAPSHOTS, BackupFailed, BackupRefused, BackupResult, errors_named
from boltseal.server.storage.batches import batches
from boltseal.server.storage.blobs.blob_copies import AT_ONCE, PAGE, NamedBlob, blob_file, copy_blobs
from boltseal.server.storage.blobs.protocol import BlobAbsent, BlobMaintenance
from boltseal.server.storage.bucket_owner import check_conditions, new_id, owner_now, take_over
from boltseal.server.storage.bucket_reservation import foreign_object, reserve
from boltseal.server.storage.metadata import copy_text, postgres_copy
from boltseal.server.storage.metadata.copy_text import OF_SERVERS, OF_UPLOADS, TextDigest
from boltseal.server.storage.metadata.migrate import HEAD_REVISION, FormatInvalid
from boltseal.server.storage.metadata.move_target import COMPLETE as RESTORED
from boltseal.server.storage.metadata.move_target import NOT_COPIED, MoveTarget, TargetInUse
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage.object_client import ObjectClient, SmallObject
from boltseal.server.storage_settings import BucketUrl, DatabaseUrl

MANIFEST: Final = "backup.json"
_LEFT_OUT: Final = OF_SERVERS | OF_UPLOADS
_PIECE_BYTES: Final = 1024 * 1024
_BLOBS: Final = "SELECT digest, max(size) FROM blob GROUP BY digest ORDER BY digest"

Progress = Callable[[str, int, int], None]


class TableText(msgspec.Struct, frozen=True):
    """One table of a backup. `sha256`: of its text, in hexadecimal digits."""

    rows: int
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`backup.json`. `taken_us`: the database's time of the snapshot. `blobs`: the bucket. `objects`: whether it has the bytes."""

    v: int
    schema: str
    taken_us: int
    database: str
    blobs: str
    objects: bool
    tables: dict[str, TableText]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows and bytes of a registry are."""

    database: DatabaseUrl
    bucket: BucketUrl


def back_up_database(place: Place, blobs: BlobMaintenance | None, folder: Path, progress: Progress) -> BackupResult:
    """Bring a backup up to date. `blobs`: reads the bytes, which are copied too; None: they stay in the bucket.

    Raises: BackupRefused, BackupFailed, Full, FormatInvalid, Unavailable.
    """
    _refuse_other_folder(folder, with_objects=blobs is not None)
    result = BackupResult()
    with errors_named(folder):
        make_folders(Disk(), folder / "tables")
        (folder / MANIFEST).unlink(missing_ok=True)
        Disk().sync_folder(os.fspath(folder))
        gone = list[Digest]()
        for tries_left in range(SNAPSHOTS - 1, -1, -1):
            tables, named, taken_us = _take_snapshot(place.database, folder, progress)
            result.blobs, before = len(named), gone
            gone = [] if blobs is None else _copy_objects(blobs, named, folder, result, progress)
            if not gone:
                break
            lost = [digest for digest in gone if digest in before]  # by two snapshots in a row
            if lost or not tries_left:
                raise BackupFailed(
                    f"the bucket lacks the bytes of {_some(lost or gone)}: they were removed while the backup was made, or are lost; "
                    "repeat the backup, and run boltseal admin fsck if that does not help"
                )
        manifest = Manifest(
            1, HEAD_REVISION, taken_us, str(place.database), str(place.bucket), blobs is not None, tables
        )
        write_file(Disk(), folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return result


def _take_snapshot(
    database: DatabaseUrl, folder: Path, progress: Progress
) -> tuple[dict[str, TableText], list[NamedBlob], int]:
    """Write all tables as of one moment. Return them, the blobs that they refer to, and the moment (microseconds since the epoch)."""
    with postgres_copy.read(database) as session:
        schema = postgres_copy.schema_revision(session)
        if schema != HEAD_REVISION:
            raise FormatInvalid(
                f"the database {database} has schema {schema}, this boltseal works on {HEAD_REVISION}; start `boltseal "
                "serve` once, or use the boltseal of the server"
            )
        tables = _write_tables(session, folder, progress)
        named = [NamedBlob(Digest.parse(digest), size) for digest, size in session.plain(_BLOBS).fetchall()]
        return tables, named, session.began_us or 0


def read_manifest(folder: Path) -> Manifest:
    """Return what a complete backup has. Raises: BackupRefused."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise BackupRefused(f"{folder} is no complete backup (it has no file `{MANIFEST}`); make it again") from error
    except (OSError, msgspec.DecodeError) as error:
        raise BackupRefused(f"{folder / MANIFEST} can't be read: {error}; restore another backup") from error
    wanted = {table.name for table in copy_text.tables(without=_LEFT_OUT)}
    if manifest.schema != HEAD_REVISION or manifest.v != 1 or set(manifest.tables) != wanted:
        raise BackupRefused(
            f"{folder} was made with schema {manifest.schema}, this boltseal works on {HEAD_REVISION}; restore it with the boltseal "
            "that made it, and upgrade afterwards"
        )
    return manifest


def restore_database(folder: Path, place: Place, client: ObjectClient, progress: Progress) -> BackupResult:
    """Fill an empty database, and with the backup's objects an empty bucket. Every byte is hashed on its way.

    An interrupted restore goes on when it is repeated. Raises: BackupRefused, BackupFailed, TargetInUse, Unavailable.
    """
    manifest = read_manifest(folder)
    if not manifest.objects and str(place.bucket) != manifest.blobs:
        raise BackupRefused(
            f"{folder} has no objects, they are in {manifest.blobs}, and [storage] blobs is {place.bucket}; set it to that bucket, or "
            "make the backup --with-objects"
        )
    _check_tables(folder, manifest)
    target = MoveTarget(place.database, hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:32])
    state = target.check()
    if state == RESTORED:
        return BackupResult(blobs=manifest.tables["blob"].rows, was_there=True)
    found = foreign_object(client) if state is None and manifest.objects else None
    if found is not None:
        raise TargetInUse(f"{place.bucket} is not empty (it contains {found!r}); name an unused bucket or prefix")
    check_conditions(client, str(place.bucket))
    registry = target.claim(new_id()).registry
    result = BackupResult()
    if manifest.objects:
        owner: SmallObject | None = reserve(client, registry, str(place.bucket))
        result = _send_objects(folder, client, target, progress)
    else:  # the bucket stays with its registry until everything else is done
        owner = owner_now(client)
    target.complete(
        lambda table: _text(folder, table),
        lambda _: take_over(client, registry, str(place.bucket), owner),
        progress,
        expected={name: table.sha256 for name, table in manifest.tables.items()},
        without=NOT_COPIED if manifest.objects else _LEFT_OUT,
    )
    if not manifest.objects:
        result.blobs = manifest.tables["stored_blob"].rows
    return result


def _check_tables(folder: Path, manifest: Manifest) -> None:
    """Compare each table with its hash, before anything is copied. Raises: BackupFailed."""
    for name, table in manifest.tables.items():
        digest = TextDigest()
        for _ in digest.passing(_text(folder, METADATA.tables[name])):
            pass
        if (digest.sha256, digest.rows) != (table.sha256, table.rows):
            raise BackupFailed(
                f"the text of the table {name} is damaged (it is not what {MANIFEST} says); nothing was changed: restore another backup"
            )


def _send_objects(folder: Path, client: ObjectClient, target: MoveTarget, progress: Progress) -> BackupResult:
    copied = copy_blobs(folder, list(_named_blobs(folder)), client, target, progress)
    if copied.unusable:
        raise BackupFailed(
            f"the backup can't be restored: {_some([each.message for each in copied.unusable])}; restore another backup"
        )
    return BackupResult(copied.blobs, copied.copied, copied.copied_size)


def _write_tables(session: postgres_copy.Session, folder: Path, progress: Progress) -> dict[str, TableText]:
    found, wanted = {}, copy_text.tables(without=_LEFT_OUT)
    for number, table in enumerate(wanted, start=1):
        digest = TextDigest()
        with _file(folder, table).open("wb") as file:
            for piece in digest.passing(postgres_copy.copy_out(session, table)):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        found[table.name] = TableText(digest.rows, digest.size, digest.sha256)
        progress("tables", number, len(wanted))
    Disk().sync_folder(os.fspath(folder / "tables"))
    return found


def _file(folder: Path, table: Table) -> Path:
    return folder / "tables" / f"{table.name}.copy"


def _text(folder: Path, table: Table) -> Iterator[bytes]:
    try:
        with _file(folder, table).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        raise BackupFailed(f"{_file(folder, table)} can't be read: {error.strerror}; restore another backup") from error


def _named_blobs(folder: Path) -> Iterator[NamedBlob]:
    """Yield every blob that the rows of a backup refer to. The text of digests and sizes has no escapes."""
    table = next(table for table in copy_text.tables(without=frozenset()) if table.name == "blob")
    names = [column.name for column in table.columns]
    digest, size = names.index("digest"), names.index("size")
    found = dict[Digest, int]()
    try:
        with _file(folder, table).open("rb") as file:
            for line in file:
                fields = line.rstrip(b"\n").decode("ascii").split("\t")
                found[Digest.parse(fields[digest])] = int(fields[size])
    except (ValueError, IndexError, DigestInvalid) as error:
        raise BackupFailed(
            f"{_file(folder, table)} is no text of the table {table.name} ({type(error).__name__}); nothing was "
            "changed: restore another backup"
        ) from error
    yield from (NamedBlob(each, found[each]) for each in sorted(found, key=str))


def _copy_objects(
    blobs: BlobMaintenance, named: list[NamedBlob], folder: Path, result: BackupResult, progress: Progress
) -> list[Digest]:
    """Copy the blobs that a backup lacks, and remove those that it does not need. Return the blobs that are gone from the bucket."""
    gone, done = [], 0
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="boltseal-backup")
    try:
        for page in batches(named, PAGE):
            missing = [blob for blob in page if not _has_size(blob_file(folder, blob.digest), blob.size)]
            for parent in {blob_file(folder, blob.digest).parent for blob in missing}:
                make_folders(Disk(), parent)
            for blob, is_there in zip(missing, pool.map(partial(_download, blobs, folder), missing), strict=True):
                if is_there:
                    result.taken += 1
                    result.taken_bytes += blob.size
                else:
                    gone.append(blob.digest)
            done += len(page)
            progress("blobs", done, len(named))
    finally:
        pool.shutdown(cancel_futures=True)
    wanted = {blob_file(folder, blob.digest) for blob in named}
    for path in sorted((folder / "blobs").glob("*/*/*")):
        if path not in wanted:
            path.unlink()
            result.removed += 1
    return gone


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _download(blobs: BlobMaintenance, folder: Path, blob: NamedBlob) -> bool:
    """Write the bytes of a blob, by the objects that its row names now: they may have been joined since the snapshot.

    False: they are not in the bucket.
    """
    path, hasher = blob_file(folder, blob.digest), blob.digest.hasher()
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        try:
            for piece in blobs.scan(blob.digest):
                hasher.update(piece)
                file.write(piece)
        except BlobAbsent:
            beside.unlink()
            return False
        file.flush()
        os.fsync(file.fileno())
    if hasher.hexdigest() != blob.digest.hex:
        with suppress(OSError):
            beside.unlink()
        raise BackupFailed(
            f"the bytes of {blob.digest} are damaged in the bucket: run boltseal admin fsck, and push the blob again"
        )
    beside.replace(path)
    Disk().sync_folder(os.fspath(path.parent))
    return True


def _some(blobs: Sequence[object]) -> str:
    return str(blobs[0]) if len(blobs) == 1 else f"{blobs[0]} and {len(blobs) - 1} more"


def _refuse_other_folder(folder: Path, *, with_objects: bool) -> None:
    names = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
    if COMPLETE in names or "format" in names:
        raise BackupRefused(f"{folder} is a backup of SQLite and files, or a data folder; name another folder")
    foreign = sorted(name for name in names if name not in ("tables", "blobs", MANIFEST) and not name.endswith(".new"))
    if foreign:
        raise BackupRefused(f"{folder} is not empty and no backup (it contains {foreign[0]!r}); name another folder")
    if "blobs" in names and not with_objects:
        raise BackupRefused(f"{folder} is a backup with objects; pass --with-objects, or name another folder")
