"""The tables of reports from hosts; see `host_table`.

`schema` describes them beside all others, and imports them, so that its METADATA is whole.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table

from boltseal.server.storage.metadata.schema_columns import METADATA, TEXT

host = Table(
    "host",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("login", TEXT, nullable=False, index=True),  # the user who reported it first, and alone may report it
    Column("first_us", BigInteger, nullable=False),
    Column("last_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

host_subject = Table(
    "host_subject",  # the newest report of each kind and subject
    METADATA,
    Column("host", TEXT, primary_key=True),
    Column("kind", TEXT, primary_key=True),
    Column("subject", TEXT, primary_key=True),
    Column("received_us", BigInteger, nullable=False),
    Column("every_s", Integer),  # NULL: it has no schedule
    Column("complete", Boolean, nullable=False),
    Column("outcome", TEXT, nullable=False),
    Column("summary", TEXT, nullable=False),  # JSON: all but the images
    Column("images_sha256", TEXT, nullable=False),  # of the last complete report, or ""
    sqlite_with_rowid=False,
)

host_image = Table(
    "host_image",  # the images of the newest reports, a row for each digest
    METADATA,
    Column("host", TEXT, primary_key=True),
    Column("kind", TEXT, primary_key=True),
    Column("subject", TEXT, primary_key=True),
    Column("item", Integer, primary_key=True),
    Column("digest", TEXT, primary_key=True),  # "" of an image without any
    Column("repository", TEXT, nullable=False),  # "" of an image without a name
    Column("tag", TEXT, nullable=False),  # "" without one
    Column("detail", TEXT, nullable=False),  # JSON: the image as it was reported
    Index(None, "digest", "host"),
    Index(None, "repository", "tag", "host"),
    sqlite_with_rowid=False,
)

host_report = Table(
    "host_report",  # some of the last reports of each kind and subject
    METADATA,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("host", TEXT, nullable=False),
    Column("kind", TEXT, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("received_us", BigInteger, nullable=False),
    Column("outcome", TEXT, nullable=False),
    Column("summary", TEXT, nullable=False),
    Column("images", TEXT, nullable=False),  # JSON: of a release its images, else an empty list
    Index(None, "host", "kind", "subject", "idx"),
    Index(None, "kind", "idx"),
)
