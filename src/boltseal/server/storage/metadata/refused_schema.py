"""The table of refused pushes; `refused_push_table` has its queries.

`schema` describes it beside all others, and imports it, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

refused_push = Table(
    "refused_push",
    METADATA,
    Column("id", TEXT, primary_key=True),  # a hash of all columns that are not about time, number or the free tag
    Column("repository", TEXT, nullable=False),  # a name: nothing may ever have been pushed to it
    Column("tag", TEXT, nullable=False),  # "": pushed by digest alone
    Column("reason", TEXT, nullable=False),
    Column("pushed", TEXT, nullable=False),  # "": refused before the manifest was read
    Column("digest", TEXT, nullable=False),  # what the tag resolved to; "": nothing
    Column("owner", TEXT, nullable=False),  # the user whose limits count
    Column("actor", TEXT, nullable=False),
    Column("address", TEXT, nullable=False),
    Column("extra", TEXT, nullable=False),  # JSON: the verified claims of a pipeline
    Column("free", TEXT, nullable=False),  # the tag that the last refusal suggested; "": none
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
    Index(None, "last_us", "id"),
    Index(None, "repository", "last_us", "id"),
    Index(None, "owner", "last_us", "id"),
    sqlite_with_rowid=False,
)
