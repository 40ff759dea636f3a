"""The tables of an object store: which objects have the bytes of a blob and of an upload, and which may be deleted.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, Table, text

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

stored_blob = Table(
    "stored_blob",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("stored_us", BigInteger, nullable=False),
    Column("version", TEXT, nullable=False),
    Column("index_key", TEXT, nullable=False),
    sqlite_with_rowid=False,
)

OF_MANY_KEYS: Final = "position = 1"

blob_key = Table(
    "blob_key",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("key", TEXT, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    Index("ix_blob_key_many", "digest", sqlite_where=text(OF_MANY_KEYS), postgresql_where=text(OF_MANY_KEYS)),
    sqlite_with_rowid=False,
)

dead_key = Table(
    "dead_key",
    METADATA,
    Column("key", TEXT, primary_key=True),
    Column("due_us", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

upload_progress = Table(
    "upload_progress",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("digest", TEXT),  # of the bytes so far; NULL: not known
    Column("changed_us", BigInteger, nullable=False),
    Column("writer", TEXT, index=True),  # NULL: none
    Column("writer_until_us", BigInteger, nullable=False),
    Column("index_key", TEXT),  # of the index object that the writer will write; NULL: none yet
    sqlite_with_rowid=False,
)

upload_part = Table(
    "upload_part",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("key", TEXT, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

bucket_owner = Table(
    "bucket_owner",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("registry", TEXT, nullable=False),
    Column("claimed", Boolean, nullable=False),
    Column("rebuilding", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

manifest_object = Table(
    "manifest_object",
    METADATA,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("digest", TEXT, primary_key=True),
    Column("key", TEXT, nullable=False, unique=True),
    sqlite_with_rowid=False,
)

changed_part = Table(
    "changed_part",
    METADATA,
    Column("repository_id", ForeignKey("repository.id"), primary_key=True),
    Column("digest", TEXT, primary_key=True),
    sqlite_with_rowid=False,
)
