"""The tables of pipelines that logged in with an ID token: their sessions and refresh tokens.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

pipeline_session = Table(
    "pipeline_session",
    METADATA,
    Column("id", TEXT, primary_key=True),  # the sha256 of the issuer and its identifier of the ID token
    Column("issuer", TEXT, nullable=False),
    Column("claims", TEXT, nullable=False),
    Column("payload_sha256", TEXT, nullable=False),  # a token with the same identifier and other claims is refused
    Column("opened_us", BigInteger, nullable=False),
    Column("ends_us", BigInteger, nullable=False, index=True),  # when the ID token and all refresh tokens have ended
    Column("revoked_us", BigInteger),  # NULL: it was not revoked
    sqlite_with_rowid=False,
)

pipeline_refresh = Table(
    "pipeline_refresh",
    METADATA,
    Column("token_sha256", TEXT, primary_key=True),
    Column("session", TEXT, nullable=False, index=True),
    Column("ends_us", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)
