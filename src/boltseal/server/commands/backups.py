"""Back up and restore a registry, by what its settings say: SQLite and files, or PostgreSQL and an object store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.ledger.checkpoint import checkpoint_of_note_unverified
from boltseal.loading import deferred
from boltseal.server.settings import Settings
from boltseal.server.storage.backup import BackupRefused, BackupResult, back_up, restore
from boltseal.server.storage.blobs.blob_stores import open_bucket, open_to_examine
from boltseal.server.storage.findings import Examined
from boltseal.server.storage.mark_factory import open_keys
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata_factory import open_snapshot, prepare_metadata
from boltseal.server.storage.object_manifests import ObjectManifests
from boltseal.server.store_factory import examine_store, open_metadata

if TYPE_CHECKING:
    from boltseal.server.storage import postgres_backup
    from boltseal.server.storage.postgres_backup import Place
else:  # most servers have no PostgreSQL
    postgres_backup = deferred("boltseal.server.storage.postgres_backup")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored registry. `behind`: how many entries it lacks that were signed; None: there is no mark to compare with."""

    copied: BackupResult
    examined: Examined
    behind: int | None


def make_backup(
    settings: Settings, folder: Path, now_us: int, progress: Progress, *, with_objects: bool
) -> BackupResult:
    """Bring a backup up to date. Raises: BackupRefused, BackupFailed, Full, FormatInvalid, Unavailable."""
    place = _place(settings)
    if place is None:
        if with_objects:
            raise BackupRefused(
                "--with-objects is for an object store, and [storage] names none: a backup always has the blobs then"
            )
        return back_up(settings.server.data, folder, now_us, progress)
    if not with_objects:
        return postgres_backup.back_up_database(place, None, folder, progress)
    with open_metadata(settings) as database, closing(open_to_examine(settings, database)) as blobs:
        return postgres_backup.back_up_database(place, blobs.maintenance, folder, progress)


def restore_backup(settings: Settings, folder: Path, progress: Progress) -> Restored:
    """Restore into what the settings name, which must be empty, and check it as `admin fsck` does.

    Raises: BackupRefused, BackupFailed, Full, FormatInvalid, Unavailable.
    """
    place = _place(settings)
    if place is None:
        if _is_of_database(folder):
            raise BackupRefused(
                f"{folder} is a backup of PostgreSQL and an object store; name settings with [storage] database and blobs by --config"
            )
        copied = restore(folder, settings.server.data, progress)
        return _checked(settings, copied, progress, behind=None)
    if not _is_of_database(folder):
        raise BackupRefused(
            f"the settings name PostgreSQL and an object store, and {folder} is no backup of these; restore a backup of SQLite and files "
            "without [storage], and move it with `boltseal admin migrate`"
        )
    signed = _signed(settings)
    client = open_bucket(settings)
    copied = postgres_backup.restore_database(folder, place, client, progress)
    prepare_metadata(settings.server.data, settings.storage)
    if not copied.was_there:  # otherwise a server writes them, and may have removed some since
        with open_metadata(settings) as database:
            ObjectManifests(database, client).write_missing()
    with open_snapshot(settings.server.data, settings.storage) as snapshot:
        size = ledger_store.size(snapshot)
    return _checked(settings, copied, progress, behind=None if signed is None else max(0, signed - size))


def _is_of_database(folder: Path) -> bool:
    """Return whether a backup is one of PostgreSQL and an object store, complete or not."""
    return (folder / "tables").is_dir()


def _checked(settings: Settings, copied: BackupResult, progress: Progress, *, behind: int | None) -> Restored:
    return Restored(copied, examine_store(settings, progress, with_keys=False, hashed=True), behind)


def _signed(settings: Settings) -> int | None:
    """Return how many entries were signed, by the mark; None if there is none. Raises: LedgerKeyUnreadable."""
    mark = open_keys(settings.keys, settings.storage).mark()
    return None if mark is None else checkpoint_of_note_unverified(mark).size


def _place(settings: Settings) -> Place | None:
    """Return where rows and bytes are; None: both in the data folder.

    Raises: BackupRefused: only one of them is in the data folder.
    """
    storage = settings.storage
    if storage.database is None and storage.blobs is None:
        return None
    if storage.database is None or storage.blobs is None:
        here, there, instead = (
            ("database", "blobs", "copy the database with `sqlite3 .backup`, and use the object store's versions")
            if storage.database is None
            else ("blobs", "database", "use pg_dump or a base backup, and copy the data folder after it")
        )
        raise BackupRefused(
            f"[storage] {there} is set and [storage] {here} is not: this command copies both in the data folder, or both elsewhere; "
            f"{instead}"
        )
    return postgres_backup.Place(storage.database, storage.blobs)
