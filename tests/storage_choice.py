"""Which storage the registries of tests use: SQLite and files, or what `--storage` says: PostgreSQL, S3, or both.

Each data folder has a database of its own in PostgreSQL, and a prefix of its own in the bucket of the S3 server, also for the
ledger's mark. The database is created when the folder's settings are first asked for; its address is in a file beside the folder,
so that each process and each later opening of the folder finds it.

`tests.storage_option` starts the servers and sets the variable that this module reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import obstore
import psycopg
from obstore.store import S3Store

from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage_settings import StorageSettings
from scripts.storage_programs import BUCKET, REGION, object_client

STORAGE: Final = "TEST_STORAGE"
"""The variable with the servers that `--storage` chose, as JSON: `postgres`, an address, `template`, the name of a database with
boltseal's schema, `endpoint` of the S3 server, `key_id` and `secret` for it, and `access_key_file`, the file with both for the mark."""

STATEMENT_S: Final = 120
"""How long creating or dropping a database may take."""

Tables = dict[str, Any]


def address_file(data: Path) -> Path:
    """Return the file with the address of a data folder's database."""
    return data.with_name(f"{data.name}.database")


def storage_tables(data: Path) -> Tables:
    """Return the `[storage]` tables for a data folder of a test; it gets its database now, if it has none."""
    servers, tables = chosen_servers(), Tables()
    if "postgres" in servers:
        file = address_file(data)
        if not file.exists():
            _give_database(data, servers["template"])
        tables["database"] = file.read_text(encoding="ascii")
        tables["mark"] = {"single_replica": True}
    if "endpoint" in servers:
        prefix = _prefix(data)
        tables["blobs"] = f"s3://{BUCKET}/{prefix}/registry"
        tables["s3"] = {"endpoint": servers["endpoint"], "region": REGION}
        tables["mark"] = tables["s3"] | {
            "url": f"s3://{BUCKET}/{prefix}/ledger.mark",
            "access_key_file": servers["access_key_file"],
        }
    return tables


def storage_of(data: Path) -> StorageSettings:
    """Return the `[storage]` settings for a data folder of a test."""
    return StorageSettings.model_validate(storage_tables(data))


def with_storage(settings: Settings) -> Settings:
    """Return settings with the storage of their data folder; a `[storage]` that they have stays."""
    if settings.storage != StorageSettings():
        return settings
    return settings.model_copy(update={"storage": storage_of(settings.server.data)})


def storage_variables(arguments: Sequence[str | Path]) -> dict[str, str]:
    """Return the settings of the folder that a command's `--data` names, as variables of its environment."""
    if not chosen_servers() or "--data" not in arguments:
        return {}
    tables = storage_tables(Path(arguments[[*arguments].index("--data") + 1]))
    return dict(_variables("BOLTSEAL_STORAGE", tables))


def copy_storage(data: Path, copy: Path) -> None:
    """Give the copy of a data folder copies of its database, which no connection may use meanwhile, and of its objects."""
    servers = chosen_servers()
    if "postgres" in servers:
        _give_database(copy, _database(data))
    if "endpoint" in servers:
        source, target = _objects(data), _objects(copy)
        for found in obstore.list(source).collect():
            obstore.put(target, found["path"], obstore.get(source, found["path"]).bytes())


def take_copy(data: Path, copy: Path) -> None:
    """Copy a data folder and its database, as a backup does, which no server uses meanwhile. Keys and objects are not copied."""
    shutil.copytree(data, copy)
    if "postgres" in chosen_servers():
        _give_database(copy, _database(data))


def put_back(copy: Path, data: Path) -> None:
    """Replace a data folder and its database by an older copy; keys, mark and objects stay."""
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    if "postgres" in chosen_servers():
        drop_database(data)
        _give_database(data, _database(copy))


def change_rows(data: Path, statement: str, *values: object) -> int:
    """Change rows of a registry behind its back; return their number. The statement is written for SQLite."""
    if "postgres" not in chosen_servers():
        with closing(sqlite3.connect(data / DATABASE_NAME)) as database, database:
            return database.execute(statement, values).rowcount
    with psycopg.connect(storage_tables(data)["database"]) as connection:
        return connection.execute(*_for_postgres(statement, values)).rowcount


def read_rows(data: Path, query: str, *values: object) -> list[Any]:
    """Return what a query finds in the database of a registry. The query is written for SQLite."""
    if "postgres" not in chosen_servers():
        with closing(sqlite3.connect(data / DATABASE_NAME)) as database:
            return database.execute(query, values).fetchall()
    with psycopg.connect(storage_tables(data)["database"]) as connection:
        return connection.execute(*_for_postgres(query, values)).fetchall()


def _for_postgres(statement: str, values: Sequence[object]) -> tuple[bytes, list[object]]:
    """Return a statement of the tests in PostgreSQL's words, with the values in the order of their places."""
    for words, others in (
        ("CAST(line AS TEXT)", "convert_from(line, 'UTF8')"),
        (" AS BLOB)", "::text AS bytea)"),
        ("x'ff'", "'\\xff'::bytea"),
        ("%", "%%"),
    ):
        statement = statement.replace(words, others)
    places = re.findall(r"\?(\d*)", statement)
    ordered = [values[int(place) - 1 if place else number] for number, place in enumerate(places)]
    return re.sub(r"\?\d*", "%s", statement).encode(), ordered


def drop_database(data: Path) -> None:
    """Drop the database of a data folder, if it has one."""
    if address_file(data).exists():
        server, _, name = address_file(data).read_text(encoding="ascii").rpartition("/")
        with _admin(server) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


def chosen_servers() -> dict[str, str]:
    """Return the servers that `--storage` chose."""
    servers: dict[str, str] = json.loads(os.environ.get(STORAGE, "{}"))
    return servers


def _give_database(data: Path, template: str) -> None:
    server, name = chosen_servers()["postgres"], f"d{uuid.uuid4().hex}"
    with _admin(server) as connection:
        connection.execute(f'CREATE DATABASE {name} TEMPLATE "{template}"'.encode())
    data.parent.mkdir(parents=True, exist_ok=True)
    address_file(data).write_text(f"{server}/{name}", encoding="ascii")


def _admin(server: str) -> psycopg.Connection:
    """Connect for statements about databases, which wait for every other connection of the server: not for ever."""
    limit = f"-c statement_timeout={STATEMENT_S}s"
    return psycopg.connect(f"{server}/postgres", autocommit=True, connect_timeout=STATEMENT_S, options=limit)


def _database(data: Path) -> str:
    return address_file(data).read_text(encoding="ascii").rpartition("/")[2]


def _prefix(data: Path) -> str:
    return hashlib.sha256(os.fsencode(data)).hexdigest()


def _objects(data: Path) -> S3Store:
    servers = chosen_servers()
    return object_client(servers["endpoint"], (servers["key_id"], servers["secret"]), _prefix(data))


def _variables(prefix: str, tables: Tables) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tables.items():
        key = f"{prefix}__{name.upper()}"
        found += _variables(key, value) if isinstance(value, dict) else [(key, str(value))]
    return found
