"""The tables of the metadata database, for SQLite and PostgreSQL.

    repository   every name that was ever pushed to; the rows below belong to one repository (guarantee 13)
    manifest     the manifests of a repository by digest; `canonical` is the sha256 of the bytes, whatever the digest is
    content      manifest bytes, stored once for all repositories, exactly as pushed
    blob         the blobs of a repository; the bytes are in the blob store. `hidden_us`: since when clients do not see it
    released     blobs whose last row was removed, and when: their bytes may be deleted an hour later
    link         what a manifest refers to, also what is not stored yet
    tag          one row for every tag ever used; `digest` NULL: deleted; `sealed_*` is written once and never cleared;
                 without it but with `keep_until_us` the tag is settling: it is sealed at that time
    entry        the ledger's lines, never changed
    ledger_head  one row: the size of the ledger, its last time, its origin, the rules it recorded last
    ledger_tile  the tree over the entries: up to 256 hashes of 32 bytes each; a full tile never changes
    ledger_checkpoint  signed checkpoints: `latest`, and `witnessed`, the newest one that a witness cosigned
    ledger_rotation    for each key that was rotated out: the receipt that names the next one, signed by it
    observation, observation_*   the same five tables of the log of observations: what upstreams' tags resolved to
    foreign_tag  the state of an upstream's tag: what is served, what is held back, when the upstream was last asked
    upstream     the state of an upstream: what is left of its pull limit, since when it does not answer
    upstream_pause  until when an upstream gets no request, or no request that counts as a pull, from any process
    reservation  a push through the push proxy that is under way: for an hour no other push to that tag is accepted
    pulled       when a manifest of a mirrored repository was pulled last, to the hour; no row: not since it was stored
    usage        running totals of users; see `usage`
    outbox       events that a receiver of notifications has not accepted yet; see `outbox_table`
    outbox_cursor  up to where each log was read for events
    upload_session  who began an upload, in which repository, and until when it counts; see `upload_table`
    failed_login  failed logins by address; see `failed_login_table`
    account      users who may log in, and the encrypted hashes of their passwords; see `account_table`
    layer_chain  what shows that an image was built on this manifest (`oci.layer_chain`), also after it was deleted; NULL: not
                 found out yet, because its config is missing or the row is older than the table
    write_mark   on PostgreSQL, for each writer the mark of its last durable COMMIT; see `postgres`
    purged_blob  blobs whose rows a purge removed and whose bytes it has not deleted yet; see `unreferenced.note_purged`
    generation   one row, or none: a number that changes when cached answers may be wrong; see `coordination.database_generation`
    lease        the epoch of the last lease of each name; see `coordination.postgres_leases`; both only used on PostgreSQL
    stored_blob  blobs whose bytes are in an object store, one row for all repositories; see `blob_keys`
    blob_key     the objects that have the bytes of a blob, in order
    dead_key     objects that no blob and no session refers to any more, and from when on they may be deleted
    upload_progress  how far an upload to an object store is, and which request may continue it; see `upload_progress`
    upload_part  the objects that have the bytes of an upload so far, in order
    bucket_owner one row, or none: which registry this is in its bucket's `owner` object, and whether it is being rebuilt
    manifest_object  the object that has the bytes of a manifest; no row: not written yet, or blobs are files
    changed_part  blobs that a repository got or lost, and manifests refer to, whose objects are to be written again; see `bucket_rows`
    blob_review  blobs that garbage collection looks at again, and from when on; see `blob_reviews`
    full_collection  how far `admin gc --full` is, while it is not done
    users_existed  one row, or none: there was a user once; see `server.auth.user_directory`
    ledger_doubt  why a log takes no entries, until that is resolved; see `doubt_table`
    witness_statement  what each witness stated last about the ledger; see `witness_table`
    requested_rebuild  the last request of a rebuild for each image and base; see `rebuild_table`
    replica      on PostgreSQL, the processes that serve; see `coordination.replica_rows`
    pipeline_session, pipeline_refresh  pipelines that logged in with an ID token; see `pipeline_table`
    schema_support  one row: the oldest revision whose servers may work on this schema; see `schema_support`
    service_account  users without a password, who only have API tokens
    last_login   when a user logged in with the password last
    api_token    API tokens: whose they are, what they allow, until when; see `api_token_table`
    person       people who logged in by an identity provider, and their groups; see `person_table`
    page_session, used_state  sessions of pages, and logins at an identity provider that were used; see `session_table`
    audit_event  who changed users and API tokens; see `audit_table`
    refused_push pushes that were refused; see `refused_push_table`
    host, host_subject, host_image, host_report  what hosts reported; see `host_table`

There are two logs with the same tables (`LogTables`): the ledger of changes of our tags, and the observations of upstreams' tags.
They are apart so that clients, who choose which upstream tags are asked for, cannot make the ledger grow.

Times are microseconds since the epoch. Digests are text, `algorithm:hex`. There are no rules here: `registry` decides which
row may change when, and only `server/registry/tag_writer.py` (through `tag_table`) changes a tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    and_,
    text,
)

from boltseal.server.storage.metadata import access_schema as access_schema  # its tables are in METADATA too
from boltseal.server.storage.metadata import gc_schema as gc_schema
from boltseal.server.storage.metadata import host_schema as host_schema
from boltseal.server.storage.metadata import object_schema as object_schema
from boltseal.server.storage.metadata import person_schema as person_schema
from boltseal.server.storage.metadata import pipeline_schema as pipeline_schema
from boltseal.server.storage.metadata import refused_schema as refused_schema
from boltseal.server.storage.metadata import replica_schema as replica_schema
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log
from boltseal.server.storage.metadata.schema_columns import METADATA as METADATA
from boltseal.server.storage.metadata.schema_columns import TEXT as TEXT

repository = Table(
    "repository",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", TEXT, nullable=False, unique=True),
    Column("created_us", BigInteger, nullable=False),
    Column("created_by", TEXT),  # NULL: before this was written down
)


def _of_repository() -> Column[int]:
    return Column("repository_id", ForeignKey("repository.id"), primary_key=True)


manifest = Table(
    "manifest",
    METADATA,
    _of_repository(),
    Column("digest", TEXT, primary_key=True),
    Column("canonical", TEXT, nullable=False, index=True),
    Column("media_type", TEXT, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("subject", TEXT),
    Column("artifact_type", TEXT),
    Column("annotations", TEXT),
    Column("pushed_us", BigInteger, nullable=False),
    Column("pushed_by", TEXT, nullable=False),
    Index(None, "repository_id", "subject"),
    sqlite_with_rowid=False,
)

content = Table(
    "content",
    METADATA,
    Column("canonical", TEXT, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
)

blob = Table(
    "blob",
    METADATA,
    _of_repository(),
    Column("digest", TEXT, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("added_us", BigInteger, nullable=False),
    Column("added_by", TEXT),  # NULL: before this was written down
    Column("hidden_us", BigInteger),  # NULL: clients see it; see `hidden_blobs`
    Index(None, "digest"),
    sqlite_with_rowid=False,
)

released = Table(
    "released",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("released_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

link = Table(
    "link",
    METADATA,
    _of_repository(),
    Column("parent", TEXT, primary_key=True),
    Column("child", TEXT, primary_key=True),
    Column("kind", TEXT, primary_key=True),
    Index(None, "repository_id", "child"),
    sqlite_with_rowid=False,
)

SETTLING: Final = "sealed_digest IS NULL AND keep_until_us IS NOT NULL"

tag = Table(
    "tag",
    METADATA,
    _of_repository(),
    Column("name", TEXT, primary_key=True),
    Column("digest", TEXT),
    Column("canonical", TEXT),
    Column("media_type", TEXT),
    Column("entry_index", BigInteger, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    Column("changed_by", TEXT, nullable=False),
    Column("sealed_digest", TEXT),
    Column("sealed_canonical", TEXT),
    Column("sealed_media_type", TEXT),
    Column("sealed_us", BigInteger),
    Column("sealed_by", TEXT),
    Column("keep", TEXT),
    Column("keep_until_us", BigInteger),
    Index(None, "repository_id", "digest"),
    Index("ix_tag_settling", "keep_until_us", sqlite_where=text(SETTLING), postgresql_where=text(SETTLING)),
    sqlite_with_rowid=False,
)


IS_SETTLING: Final = and_(tag.c.sealed_digest.is_(None), tag.c.keep_until_us.is_not(None))
"""The condition of `ix_tag_settling` in queries."""


@dataclass(frozen=True, slots=True)
class LogTables:
    """The tables of one log."""

    entry: Table
    head: Table
    tile: Table
    checkpoint: Table
    rotation: Table


def _log(entries: str, prefix: str) -> LogTables:
    return LogTables(
        entry=Table(
            entries,
            METADATA,
            Column("idx", BigInteger, primary_key=True, autoincrement=False),
            Column("time_us", BigInteger, nullable=False),
            Column("kind", TEXT, nullable=False),
            Column("repository", TEXT, nullable=False),
            Column("tag", TEXT, nullable=False),
            Column("line", LargeBinary, nullable=False),
            Index(None, "repository", "tag", "idx"),
        ),
        head=Table(
            f"{prefix}_head",
            METADATA,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("size", BigInteger, nullable=False),
            Column("last_time_us", BigInteger, nullable=False),
            Column("origin", TEXT, nullable=False),
            Column("rules", TEXT, nullable=False),
        ),
        tile=Table(
            f"{prefix}_tile",
            METADATA,
            Column("level", Integer, primary_key=True, autoincrement=False),
            Column("idx", BigInteger, primary_key=True, autoincrement=False),
            Column("hashes", LargeBinary, nullable=False),
        ),
        checkpoint=Table(
            f"{prefix}_checkpoint",
            METADATA,
            Column("name", TEXT, primary_key=True),
            Column("size", BigInteger, nullable=False),
            Column("note", LargeBinary, nullable=False),
        ),
        rotation=Table(
            f"{prefix}_rotation",
            METADATA,
            Column("idx", BigInteger, primary_key=True, autoincrement=False),
            Column("receipt", LargeBinary, nullable=False),
        ),
    )


TABLES: Final[Mapping[Log, LogTables]] = {
    LEDGER: _log("entry", "ledger"),
    OBSERVATIONS: _log("observation", "observation"),
}
"""The tables of each log."""

foreign_tag = Table(
    "foreign_tag",
    METADATA,
    Column("repository", TEXT, primary_key=True),
    Column("name", TEXT, primary_key=True),
    Column("digest", TEXT),
    Column("media_type", TEXT),
    Column("size", BigInteger),
    Column("held_digest", TEXT),
    Column("held_media_type", TEXT),
    Column("held_size", BigInteger),
    Column("held_us", BigInteger),
    Column("gone_us", BigInteger),
    Column("asked_us", BigInteger, nullable=False),
    Column("entry_index", BigInteger, nullable=False),
    Column("changes", BigInteger, nullable=False),
    Column("changes_since_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

pulled = Table(
    "pulled",
    METADATA,
    _of_repository(),
    Column("digest", TEXT, primary_key=True),
    Column("pulled_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

upstream = Table(
    "upstream",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("down_us", BigInteger),
    Column("down_reason", TEXT),
    Column("quota_limit", BigInteger),
    Column("quota_remaining", BigInteger),
    Column("quota_window_s", BigInteger),
    Column("quota_source", TEXT),
    Column("quota_us", BigInteger),
    sqlite_with_rowid=False,
)

upstream_pause = Table(
    "upstream_pause",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("until_us", BigInteger, nullable=False),
    Column("pulls_until_us", BigInteger, nullable=False),
    Column("reason", TEXT, nullable=False),
    sqlite_with_rowid=False,
)

reservation = Table(
    "reservation",
    METADATA,
    Column("repository", TEXT, primary_key=True),
    Column("tag", TEXT, primary_key=True),
    Column("digest", TEXT, nullable=False),
    Column("media_type", TEXT, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("actor", TEXT, nullable=False),
    Column("reserved_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    METADATA,
    Column("holder", TEXT, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("repositories", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    METADATA,
    Column("receiver", TEXT, primary_key=True),
    Column("event_id", TEXT, primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("minor", Boolean, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_us", BigInteger, nullable=False),
    Index(None, "receiver", "at_us"),
)

outbox_cursor = Table(
    "outbox_cursor",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("position", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

upload_session = Table(
    "upload_session",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("repository", TEXT, nullable=False),
    Column("owner", TEXT, nullable=False),
    Column("begun_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Index(None, "owner", "expires_us"),
    sqlite_with_rowid=False,
)

failed_login = Table(
    "failed_login",
    METADATA,
    Column("address", TEXT, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_us", BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)

account = Table(
    "account",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("encrypted_hash", TEXT, nullable=False),
    Column("changed_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

purged_blob = Table(
    "purged_blob",
    METADATA,
    Column("digest", TEXT, primary_key=True),
    Column("purged_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

PENDING_CHAIN: Final = "document IS NULL"

layer_chain = Table(
    "layer_chain",
    METADATA,
    _of_repository(),
    Column("digest", TEXT, primary_key=True),
    Column("document", TEXT),
    Index(
        "ix_layer_chain_pending",
        "repository_id",
        "digest",
        sqlite_where=text(PENDING_CHAIN),
        postgresql_where=text(PENDING_CHAIN),
    ),
    sqlite_with_rowid=False,
)

write_mark = Table(
    "write_mark",
    METADATA,
    Column("writer", TEXT, primary_key=True),
    Column("mark", TEXT, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

generation = Table(
    "generation",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

lease = Table(
    "lease",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
