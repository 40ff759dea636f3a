"""The tables of garbage collection: which blobs are looked at again and when, and how far a full collection is.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

blob_review = Table(
    "blob_review",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("repository_id", Integer, primary_key=True, autoincrement=False),  # 0: the bytes, for all repositories
    Column("due_us", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

full_collection = Table(
    "full_collection",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row, or none
    Column("stage", TEXT, nullable=False),
    Column("position", TEXT, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
