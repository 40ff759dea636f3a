"""The tables of garbage collection: which blobs are looked at again and when, and how far a full collection is.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, Table, text

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

FAILED: Final = "problem IS NOT NULL"
"""The condition of `ix_blob_review_problem`."""

blob_review = Table(
    "blob_review",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("repository_id", Integer, primary_key=True, autoincrement=False),  # 0: the bytes, for all repositories
    Column("due_us", BigInteger, nullable=False, index=True),
    Column("removed_us", BigInteger),  # when the repository lost the blob to garbage collection
    Column("problem", TEXT),  # why the last try to delete the bytes failed
    Index("ix_blob_review_problem", "digest", sqlite_where=text(FAILED), postgresql_where=text(FAILED)),
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
