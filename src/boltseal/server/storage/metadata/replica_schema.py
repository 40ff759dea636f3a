"""The tables of what the servers of one registry know together, beside the content: replicas, doubts, witnesses, rebuilds.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

users_existed = Table(
    "users_existed",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row, or none
    sqlite_with_rowid=False,
)

ledger_doubt = Table(
    "ledger_doubt",
    METADATA,
    Column("log", TEXT, primary_key=True),
    Column("about", TEXT, primary_key=True),
    Column("reason", TEXT, nullable=False),
    sqlite_with_rowid=False,
)

witness_statement = Table(
    "witness_statement",
    METADATA,
    Column("witness", TEXT, primary_key=True),
    Column("stated", TEXT, nullable=False),
    Column("size", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

requested_rebuild = Table(
    "requested_rebuild",
    METADATA,
    Column("image", TEXT, primary_key=True),
    Column("base", TEXT, primary_key=True),
    Column("digest", TEXT, nullable=False),
    Column("time_us", BigInteger, nullable=False),
    Column("outcome", TEXT, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("summary", TEXT, nullable=False),
    sqlite_with_rowid=False,
)

replica = Table(
    "replica",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("beat", BigInteger, nullable=False),  # raised by each confirmation, also of the same generation
    Column("generation", BigInteger, nullable=False),  # the last one that the process confirmed; -1: none yet
    Column("stale_ms", BigInteger, nullable=False),  # for how long after a confirmation it may answer from caches
    Column("version", TEXT, nullable=False),
    Column("revision", TEXT, nullable=False),
    sqlite_with_rowid=False,
)

schema_support = Table(
    "schema_support",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row, or none
    Column("oldest", TEXT, nullable=False),
    sqlite_with_rowid=False,
)
