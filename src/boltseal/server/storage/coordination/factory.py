"""Opens what the processes of a store share: files of the data folder, or the PostgreSQL database of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.loading import deferred
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock
from boltseal.server.storage.coordination.protocol import InterprocessLock, Leases
from boltseal.server.storage_settings import StorageSettings

if TYPE_CHECKING:
    from boltseal.server.storage.coordination import database_generation, lock_session, postgres_leases, postgres_lock
    from boltseal.server.storage.coordination.database_generation import DatabaseGeneration
    from boltseal.server.storage.coordination.replica_rows import Serving
else:  # most servers have no PostgreSQL
    database_generation = deferred("boltseal.server.storage.coordination.database_generation")
    lock_session = deferred("boltseal.server.storage.coordination.lock_session")
    postgres_leases = deferred("boltseal.server.storage.coordination.postgres_leases")
    postgres_lock = deferred("boltseal.server.storage.coordination.postgres_lock")


def open_generation(storage: StorageSettings, stale_s: float, serving: Serving | None) -> DatabaseGeneration:
    """Open the generation of a PostgreSQL database that has its tables. `stale_s`, `serving`: as of `DatabaseGeneration`."""
    if storage.lock_address is None:
        raise AssertionError("the generation of SQLite is a file")
    return database_generation.DatabaseGeneration(storage.lock_address.with_password, serving, stale_s=stale_s)


def open_leases(data: Path, storage: StorageSettings) -> Leases:
    """Open the leases of a store. The caller closes them."""
    address = storage.lock_address
    return FileLeases(data) if address is None else postgres_leases.PostgresLeases(address.with_password)


def open_locks(data: Path, storage: StorageSettings) -> InterprocessLock:
    """Open the locks of a store. The caller closes them."""
    address = storage.lock_address
    return (
        FileInterprocessLock(data) if address is None else postgres_lock.PostgresInterprocessLock(address.with_password)
    )


def check_locks(storage: StorageSettings) -> None:
    """Check that locks can be held. Raises: BehindPooler: through this address they can't; LockUnusable."""
    if storage.lock_address is None:
        return
    session = lock_session.LockSession(storage.lock_address.with_password)
    try:
        session.rows("SELECT 1")
    finally:
        session.close()
