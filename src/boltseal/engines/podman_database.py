"""Reads in which store Podman works by its own database, which takes precedence over storage.conf.

    db.sql                   SQLite, in a store's root: table DBConfig, column GraphRoot
    libpod/bolt_state.db     bbolt, of earlier versions, and used if it exists: runtime-config, graph-root

Podman writes the folder of the store into it when it creates the database. If that is another folder, every command without
`--root` uses the images and containers there. (Source: podman libpod/runtime.go, mergeDBConfig.)

The file is read into memory, so that SQLite opens no file, takes no lock and follows no link of the store.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.engines.bbolt import BboltFile
from boltseal.engines.linked_folders import is_of_this_host
from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreUnreadable, explained
from boltseal.loading import deferred

if TYPE_CHECKING:
    import sqlite3
else:  # most stores have no such database
    sqlite3 = deferred("sqlite3")

SQLITE: Final = b"db.sql"
BOLT: Final = b"libpod/bolt_state.db"
MAX_DATABASE_BYTES: Final = 256 * 1024 * 1024
MAX_STEPS: Final = 1_000_000
"""The limit of SQLite's work: a forged table could be a view without end."""
MAX_VALUE_BYTES: Final = 1024 * 1024
"""The limit of a text: one instruction of a forged view could make one of a gigabyte."""
ATTEMPTS: Final = 10
PAUSE_S: Final = 0.05
_USUAL: Final = "/containers/storage"
"""The end of the default path of a store, for root and for other users."""
_WAL: Final = 2
_QUERY: Final = "SELECT GraphRoot FROM DBConfig"


def other_store(files: SafeFolder) -> str:
    """Return the folder of the store that Podman uses in place of this one by its database, "" if it uses this one.

    Raises: StoreUnreadable, StoreMalformed.
    """
    for read, name in ((_of_bolt, BOLT), (_of_sqlite, SQLITE)):
        if files.exists(name) and (recorded := read(files)) and not _is_here(files.root, recorded):
            return recorded
    return ""


def _is_here(root: Path, recorded: str) -> bool:
    """Return whether a recorded folder is this store, or this is a copy of a store, which Podman uses only by `--root`.

    On the mounted disk of another host the recorded folder is the end of the store's path.
    """
    try:
        if root.samefile(recorded):
            return True
    except (OSError, ValueError):
        pass  # it does not exist
    resolved = root.resolve()
    if is_of_this_host(resolved):
        return False
    shown = str(resolved)
    return shown.endswith("/" + recorded.strip("/")) or not shown.endswith(_USUAL)


def _of_bolt(files: SafeFolder) -> str:
    for _ in range(ATTEMPTS):
        with files.opened(BOLT) as fd:
            try:
                bolt = BboltFile(fd, BOLT.decode())
                config = bolt.root.below(b"runtime-config")
                found = b"" if config is None else config.values().get(b"graph-root", b"")
            except OSError as error:
                raise explained(error, files.shown(BOLT)) from error
            if bolt.consistent():
                return found.decode("utf-8", "backslashreplace")
    raise StoreUnreadable(f"{files.shown(BOLT)} is being written all the time")


def _of_sqlite(files: SafeFolder) -> str:
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_S if attempt else 0)
        if _is_being_written(files):
            continue
        raw = files.read(SQLITE, MAX_DATABASE_BYTES)
        if files.read(SQLITE, MAX_DATABASE_BYTES) == raw and not _is_being_written(files):
            return _graph_root(files, raw) if raw else ""
    raise StoreUnreadable(f"{files.shown(SQLITE)} is being written, or a transaction of it was interrupted")


def _is_being_written(files: SafeFolder) -> bool:
    """Return whether SQLite would change the database by a journal when Podman opens it."""
    journals = (SQLITE + end for end in (b"-journal", b"-wal"))
    return any(files.exists(each) and files.stat(each).st_size for each in journals)


def _graph_root(files: SafeFolder, raw: bytes) -> str:
    shown = files.shown(SQLITE)
    if _WAL in raw[18:20]:
        raise StoreUnreadable(f"{shown} has a write-ahead log, with which Podman makes no database")
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(raw)
            database.execute("PRAGMA trusted_schema = OFF")
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            database.set_progress_handler(lambda: 1, MAX_STEPS)
            rows = database.execute(_QUERY).fetchmany(2)
    except sqlite3.Error as error:
        raise StoreMalformed(f"{shown} is not a database of Podman's: {error}") from error
    if not rows:
        return ""
    if len(rows) > 1 or not isinstance(rows[0][0], str):
        raise StoreMalformed(f"{shown} has an unknown form: one folder is expected in DBConfig")
    return str(rows[0][0])
