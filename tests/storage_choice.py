"""Which database the registries of tests use: SQLite, or with `--storage=postgres` a PostgreSQL database for each data folder.

The address of a folder's database is in a file beside the folder, so that every opening of the folder finds it.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import psycopg

from boltseal.server.settings import Settings
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings


def address_file(data: Path) -> Path:
    """Return the file with the address of a data folder's database."""
    return data.with_name(f"{data.name}.database")


def storage_of(data: Path) -> StorageSettings:
    """Return the `[storage]` settings for a data folder of a test."""
    with suppress(FileNotFoundError):
        return StorageSettings(database=DatabaseUrl(address_file(data).read_text(encoding="ascii")))
    return StorageSettings()


def with_storage(settings: Settings) -> Settings:
    """Return settings with the database of their data folder."""
    database = storage_of(settings.server.data).database
    return settings.model_copy(update={"storage": settings.storage.model_copy(update={"database": database})})


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
