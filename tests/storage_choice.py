"""Which storage the registries of tests use: SQLite and files, or what `--storage` says: PostgreSQL, S3, or both.

Each data folder has a PostgreSQL database of its own, whose address is in a file beside the folder, so that every opening of the
folder finds it. On the S3 server it has a prefix of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

import psycopg

from boltseal.server.settings import Settings
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings

STORAGE = "TEST_STORAGE"
"""The variable with the `[storage]` settings that `--storage` chose, as JSON."""


def address_file(data: Path) -> Path:
    """Return the file with the address of a data folder's database."""
    return data.with_name(f"{data.name}.database")


def storage_of(data: Path) -> StorageSettings:
    """Return the `[storage]` settings for a data folder of a test."""
    tables: dict[str, object] = json.loads(os.environ.get(STORAGE, "{}"))
    if "blobs" in tables:
        tables["blobs"] = f"{tables['blobs']}/{hashlib.sha256(os.fsencode(data)).hexdigest()}"
    with suppress(FileNotFoundError):
        tables["database"] = DatabaseUrl(address_file(data).read_text(encoding="ascii"))
        tables["mark"] = {"single_replica": True}  # the mark is beside the data, as without a database
    return StorageSettings.model_validate(tables)


def with_storage(settings: Settings) -> Settings:
    """Return settings with the storage of their data folder; a database and a bucket that they name stay."""
    storage, chosen = settings.storage, storage_of(settings.server.data)
    if storage.database is None:
        storage = storage.model_copy(update={"database": chosen.database, "mark": chosen.mark})
    if storage.blobs is None:
        storage = storage.model_copy(update={"blobs": chosen.blobs, "s3": chosen.s3})
    return settings.model_copy(update={"storage": storage})


def copy_database(data: Path, copy: Path) -> None:
    """Give the copy of a data folder a copy of the folder's database, which no connection may use meanwhile."""
    url = storage_of(data).database
    if url is not None:
        server, _, name = url.with_password.rpartition("/")
        address_file(copy).write_text(f"{server}/{_created(server, name)}", encoding="ascii")


def _created(server: str, template: str) -> str:
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"'.encode())
    return name


def drop_database(data: Path) -> None:
    """Drop the database of a data folder, if it has one."""
    url = storage_of(data).database
    if url is not None:
        server, _, name = url.with_password.rpartition("/")
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
