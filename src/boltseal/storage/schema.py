"""The tables of the metadata store, for SQLite and PostgreSQL alike.

    repository   a name that was ever pushed to; everything below belongs to one repository (promise 13)
    manifest     what a repository holds by digest; `canonical` is the sha256 of the bytes, however they are addressed
    content      the manifest bytes, once for all repositories, exactly as pushed
    blob         which blobs a repository holds; the bytes lie in the blob store
    released     blobs whose last row went, and when: their bytes may be removed an hour later
    link         what a manifest refers to, also what is not there yet
    tag          one row for every name ever used; `digest` NULL: deleted; `sealed_*` is written once and never cleared
    entry        the ledger's lines as they stand for ever
    ledger_head  one row: the size of the ledger, its last time, its origin, the rules it last recorded
    ledger_tile  the tree over the entries: up to 256 hashes of 32 bytes each; a full tile never changes
    ledger_checkpoint  the signed heads: `latest`, and `witnessed`, the newest that a witness cosigned
    ledger_rotation    for each key that was rotated out: the receipt that names the next one, signed by it
    usage        running totals of what users hold; see `usage`

Times are microseconds since the epoch. Digests are text, `algorithm:hex`. No rule lives here: who may change a
row, and when, is the business of `registry/`; only `registry/tags.py` (through `tag_table`) changes a tag.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.dialects import postgresql

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Lists are paged by name: both databases have to sort by bytes, whatever the locale.
NAME = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

repository = Table(
    "repository",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", Text),  # NULL: before this was written down
)


def _of_repository() -> Column[int]:
    return Column("repository_id", ForeignKey("repository.id"), primary_key=True)


manifest = Table(
    "manifest",
    METADATA,
    _of_repository(),
    Column("digest", Text, primary_key=True),
    Column("canonical", Text, nullable=False, index=True),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("subject", Text),
    Column("artifact_type", Text),
    Column("annotations", Text),
    Column("pushed_us", BigInteger, nullable=False),
    Column("pushed_by", Text, nullable=False),
    Index(None, "repository_id", "subject"),
    sqlite_with_rowid=False,
)

content = Table(
    "content",
    METADATA,
    Column("canonical", Text, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
)

blob = Table(
    "blob",
    METADATA,
    _of_repository(),
    Column("digest", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("added_us", BigInteger, nullable=False),
    Column("added_by", Text),  # NULL: before this was written down
    Index(None, "digest"),
    sqlite_with_rowid=False,
)

released = Table(
    "released",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("released_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

link = Table(
    "link",
    METADATA,
    _of_repository(),
    Column("parent", Text, primary_key=True),
    Column("child", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Index(None, "repository_id", "child"),
    sqlite_with_rowid=False,
)

tag = Table(
    "tag",
    METADATA,
    _of_repository(),
    Column("name", NAME, primary_key=True),
    Column("digest", Text),
    Column("canonical", Text),
    Column("media_type", Text),
    Column("entry_index", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("sealed_digest", Text),
    Column("sealed_canonical", Text),
    Column("sealed_media_type", Text),
    Column("sealed_us", BigInteger),
    Column("sealed_by", Text),
    Column("keep", Text),
    Column("keep_until_us", BigInteger),
    Index(None, "repository_id", "digest"),
    sqlite_with_rowid=False,
)

entry = Table(
    "entry",
    METADATA,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("time_us", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("repository", NAME, nullable=False),
    Column("tag", NAME, nullable=False),
    Column("line", LargeBinary, nullable=False),
    Index(None, "repository", "tag", "idx"),
)

ledger_head = Table(
    "ledger_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("last_time_us", BigInteger, nullable=False),
    Column("origin", Text, nullable=False),
    Column("rules", Text, nullable=False),
)

ledger_tile = Table(
    "ledger_tile",
    METADATA,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

ledger_checkpoint = Table(
    "ledger_checkpoint",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("note", LargeBinary, nullable=False),
)

ledger_rotation = Table(
    "ledger_rotation",
    METADATA,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("receipt", LargeBinary, nullable=False),
)

usage = Table(
    "usage",
    METADATA,
    Column("holder", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("repositories", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
