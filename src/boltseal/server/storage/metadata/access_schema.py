"""The tables of API tokens, service accounts, and what administrators change: the audit log.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

service_account = Table(
    "service_account",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("created_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

last_login = Table(
    "last_login",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("login_us", BigInteger, nullable=False),  # to the hour; of a login with the password
    sqlite_with_rowid=False,
)

api_token = Table(
    "api_token",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column(
        "mac", TEXT, nullable=False
    ),  # of the token's text and of the columns that give it rights; see `auth.api_tokens`
    Column("owner", TEXT, nullable=False),
    Column("kind", TEXT, nullable=False),
    Column("scope", TEXT, nullable=False),
    Column("description", TEXT, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", TEXT, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("used_us", BigInteger),  # to the hour; NULL: never
    Index(None, "owner"),
    sqlite_with_rowid=False,
)

audit_event = Table(
    "audit_event",
    METADATA,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("time_us", BigInteger, nullable=False),
    Column("actor", TEXT, nullable=False),
    Column("action", TEXT, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("detail", TEXT, nullable=False),
)
