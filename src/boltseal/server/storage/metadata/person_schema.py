"""The tables of people who log in by an identity provider, and of the sessions of pages.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, UniqueConstraint

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

person = Table(
    "person",
    METADATA,
    Column("name", TEXT, primary_key=True),  # the user name, which stays that of the first login
    Column("issuer", TEXT, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("display_name", TEXT, nullable=False),
    Column("member_of", TEXT, nullable=False),  # JSON: the groups at the last login
    Column("changed_us", BigInteger, nullable=False),  # no two rows have the same
    Column("mac", TEXT, nullable=False),  # of the columns that give it rights; see `auth.people`
    UniqueConstraint("issuer", "subject"),
    sqlite_with_rowid=False,
)

page_session = Table(
    "page_session",
    METADATA,
    Column("cookie_sha256", TEXT, primary_key=True),
    Column("owner", TEXT, nullable=False),
    Column("login", TEXT, nullable=False),  # differs for each password of the owner; "" of an identity provider
    Column("address", TEXT, nullable=False),
    Column("began_us", BigInteger, nullable=False),
    Column("ends_us", BigInteger, nullable=False),
    Column("seen_us", BigInteger, nullable=False),  # to the minute
    Column(
        "mac", TEXT, nullable=False
    ),  # of the cookie and of the columns above, but seen_us; see `auth.page_sessions`
    Index(None, "owner"),
    Index(None, "ends_us"),
    sqlite_with_rowid=False,
)

used_state = Table(
    "used_state",
    METADATA,
    Column("state_sha256", TEXT, primary_key=True),  # the state of a login at the identity provider, which was used
    Column("ends_us", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)
