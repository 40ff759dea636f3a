"""Frequent queries use an index on PostgreSQL too, in a database of ten thousand tags, and of a million at full size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from boltseal.server.storage.metadata import (
    blob_reviews,
    failed_login_table,
    foreign_tags,
    hidden_blobs,
    layer_chain_table,
    ledger_store,
    links,
    name_lists,
    outbox_table,
    postgres_lookups,
    queries,
    tag_entries,
    tag_table,
    unreferenced,
    upload_table,
    usage,
)
from boltseal.server.storage.metadata.postgres import PostgresSession
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata_factory import open_metadata, prepare_metadata
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.soak.scale import IS_FULL
from tests.storage_servers import Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

TAGS = 1_000_000 if IS_FULL else 10_000
REPOSITORY = "shop/app7"
DIGEST = "sha256:" + "7" * 64
FILL = f"""
INSERT INTO repository (id, name, created_us) SELECT n, 'shop/app' || n, 1 FROM generate_series(1, 1000) n;
INSERT INTO manifest (repository_id, digest, canonical, media_type, size, subject, pushed_us, pushed_by)
  SELECT n % 1000 + 1, 'sha256:m' || n, 'sha256:m' || n, 'm', 500, 'sha256:m' || n / 2, 1, 'ci' FROM generate_series(1, {TAGS}) n;
INSERT INTO content SELECT 'sha256:m' || n, 'raw' FROM generate_series(1, {TAGS}) n;
INSERT INTO blob (repository_id, digest, size, added_us, added_by)
  SELECT n % 1000 + 1, 'sha256:b' || n, 500, 1, 'ci' FROM generate_series(1, {2 * TAGS}) n;
INSERT INTO link SELECT n % 1000 + 1, 'sha256:m' || n, 'sha256:b' || n, 'layer' FROM generate_series(1, {TAGS}) n;
INSERT INTO link SELECT n % 1000 + 1, 'sha256:m' || n, 'sha256:b' || n + 1000, 'config' FROM generate_series(1, {TAGS}) n;
INSERT INTO tag (repository_id, name, digest, canonical, media_type, entry_index, changed_us, changed_by, sealed_digest, keep)
  SELECT n % 1000 + 1, '1.0.' || n, 'sha256:m' || n, 'sha256:m' || n, 'm', n, 1, 'ci', 'sha256:m' || n, 'forever'
  FROM generate_series(1, {TAGS}) n;
INSERT INTO entry SELECT n, n, 'tag.created', 'shop/app' || n % 1000 + 1, '1.0.' || n, 'line' FROM generate_series(0, {TAGS}) n;
INSERT INTO ledger_head VALUES (1, {TAGS}, 1, 'registry.test', '');
INSERT INTO layer_chain SELECT n % 1000 + 1, 'sha256:m' || n, '[]' FROM generate_series(1, {TAGS}) n;
INSERT INTO released SELECT 'sha256:r' || n, n FROM generate_series(1, {TAGS}) n;
INSERT INTO blob_review SELECT 'sha256:b' || n, n % 1000 + 1, n FROM generate_series(1, {TAGS}) n;
INSERT INTO foreign_tag (repository, name, digest, asked_us, entry_index, changes, changes_since_us)
  SELECT 'up/app' || n % 100, 't' || n, 'sha256:m', 1, 1, 0, 0 FROM generate_series(1, {TAGS}) n;
INSERT INTO upload_session SELECT 'u' || n, 'shop/app1', 'o' || n % 50, 1, 10000000000000000 FROM generate_series(1, {TAGS}) n;
INSERT INTO failed_login SELECT '192.0.2.' || n, 1, n FROM generate_series(1, {TAGS}) n;
INSERT INTO outbox SELECT 'ops' || n % 5, 'e' || n, n, false, 'x', 0, n FROM generate_series(1, {TAGS}) n;
INSERT INTO usage SELECT 'user' || n, 1, 1 FROM generate_series(1, {TAGS}) n;
ANALYZE;
"""  # noqa: S608 - constants
LARGE = "repository|manifest|content|blob|link|tag|entry|layer_chain|released|blob_review|foreign_tag|upload_session|failed_login|outbox|usage"

ASKED: dict[str, Callable[[UnitOfWork], Any]] = {
    "repository": lambda tx: queries.lock_repository(tx, REPOSITORY),
    "missing parts": lambda tx: links.missing_parts(tx, 7, DIGEST),
    "closure": lambda tx: links.digests(tx, links.closure(7, DIGEST)),
    "covering": lambda tx: links.digests(tx, links.covering(7, DIGEST, through_subjects=True)),
    "covering any": lambda tx: links.digests(tx, links.covering_any(7, [DIGEST, "sha256:m6"])),
    "protecting tags": lambda tx: tag_table.protecting_tags(tx, 7, links.covering(7, DIGEST, through_subjects=True)),
    "protecting tags of parents": lambda tx: tag_table.protecting_tags_of_parents(tx, 7, DIGEST),
    "tags of a digest": lambda tx: tag_table.tags_resolving_to(tx, 7, DIGEST),
    "lock a tag": lambda tx: tag_table.lock_tag(tx, 7, "9.9"),
    "settled tags": lambda tx: tag_table.settled(tx, 10**15, 10),
    "signature tags": lambda tx: tag_table.signature_tags_at(tx, REPOSITORY, DIGEST),
    "manifest": lambda tx: queries.find_manifest(tx, 7, DIGEST),
    "manifest bytes": lambda tx: queries.manifest_bytes(tx, 7, DIGEST),
    "manifest size": lambda tx: queries.manifest_size(tx, 7, DIGEST),
    "digest with a prefix": lambda tx: queries.digest_with_prefix(tx, 7, "sha256:m1"),
    "aliases": lambda tx: queries.has_aliases(tx, 7),
    "digests of bytes": lambda tx: queries.digests_of_bytes(tx, 7, "sha256:m6"),
    "media types": lambda tx: queries.media_types_of(tx, 7, "sha256:m6"),
    "blob": lambda tx: queries.find_blob(tx, 7, DIGEST),
    "blob of any repository": lambda tx: unreferenced.is_blob_referenced(tx, DIGEST),
    "parts": lambda tx: queries.parts_of(tx, 7, [DIGEST, "sha256:m6"]),
    "repositories with a blob": lambda tx: list(queries.repositories_with_blob(tx, DIGEST, None)),
    "referrers": lambda tx: queries.referrers(tx, REPOSITORY, DIGEST, max_bytes=1, limit=10),
    "tagged manifest": lambda tx: queries.tagged_manifest(tx, REPOSITORY, "1.0.6"),
    "a page of tags": lambda tx: name_lists.tag_names(tx, REPOSITORY, "1.0.1", 10),
    "a page of repositories": lambda tx: name_lists.repository_names(tx, "shop/app2", 5),
    "manifests": lambda tx: queries.manifests_of(tx, REPOSITORY, [DIGEST]),
    "sizes of manifests": lambda tx: queries.sizes_of(tx, REPOSITORY, [DIGEST], "application/x"),
    "parent manifest": lambda tx: queries.parent_manifest(tx, REPOSITORY, "sha256:b6"),
    "count of referrers": lambda tx: queries.count_referrers(tx, 7, DIGEST, 10),
    "rows of any repository": lambda tx: queries.rows_of_any_repository(tx, [DIGEST]),
    "usage": lambda tx: usage.add(tx, "user7", 1),
    "open uploads": lambda tx: upload_table.count_of(tx, "nobody"),
    "end of an upload": lambda tx: upload_table.remove(tx, "u7"),
    "failed logins": lambda tx: failed_login_table.find(tx, "192.0.2.7"),
    "due events": lambda tx: outbox_table.due(tx, "none", 1, 10),
    "layer chains": lambda tx: layer_chain_table.documents(tx, REPOSITORY, [DIGEST]),
    "pending layer chains": lambda tx: layer_chain_table.pending(tx, (0, ""), 50),
    "foreign tag": lambda tx: foreign_tags.find(tx, "up/app7", "t7"),
    "last change of a tag": lambda tx: tag_entries.last_change(tx, REPOSITORY, "1.0.6"),
    "entries of a tag": lambda tx: ledger_store.entries_of(tx, REPOSITORY, "1.0.6", after=-1, limit=5, until=TAGS),
    "last index of a tag": lambda tx: ledger_store.last_index(tx, REPOSITORY, "1.0.6", ["tag.created"]),
    "entries": lambda tx: tag_entries.entries_from(tx, 500, 10),
    "rows of tags": lambda tx: tag_entries.rows_after(tx, (7, "1.0.6"), 10),
    "remove a manifest": lambda tx: queries.remove_manifest(tx, 7, "sha256:m6"),
    "due reviews": lambda tx: blob_reviews.due(tx, 5, None, 500, failed=False),
    "failed reviews": lambda tx: blob_reviews.due(tx, 5, None, 500, failed=True),
    "number of failed reviews": blob_reviews.count_failed,
    "keep blobs": lambda tx: hidden_blobs.keep(tx, 7, ["sha256:b6"]),
    "removed blobs": lambda tx: hidden_blobs.removed(tx, 7, ["sha256:b6"]),
    "parts to review": lambda tx: blob_reviews.add_parts(tx, 7, ["sha256:m6"]),
    "unused blob": lambda tx: blob_reviews.find_unused(tx, 7, "sha256:b6"),
    "referenced blobs": lambda tx: unreferenced.referenced(tx, ["sha256:b6"]),
    "remove a blob": lambda tx: queries.remove_blob(tx, 7, "sha256:b6"),
}  # fmt: skip


@pytest.fixture(scope="module")
def full(postgres_server: Postgres, schema_template: str) -> Iterator[str]:
    """A database with many tags, and statistics of it."""
    name = postgres_server.create_database(schema_template)
    with psycopg.connect(postgres_server.url(name), autocommit=True) as connection:
        connection.execute(FILL.encode())
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def database(full: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Metadata]:
    data = tmp_path_factory.mktemp("plans") / "data"
    storage = StorageSettings(database=DatabaseUrl(full))
    prepare_metadata(data, storage)
    with closing(open_metadata(data, storage, None)) as opened:
        yield opened


class Explaining(psycopg.Cursor[Any]):
    """A cursor that also keeps the plan of each statement it executes."""

    plans: list[str]

    def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        """Keep the plan, then execute the statement."""
        text = query.decode() if isinstance(query, bytes) else str(query)
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)", text):
            super().execute(f"EXPLAIN {text}".encode(), params)
            self.plans.append("\n".join(row[0] for row in self.fetchall()))
        return super().execute(query, params, **more)


def plans_of(tx: UnitOfWork, ask: Callable[[UnitOfWork], Any]) -> list[str]:
    """Return PostgreSQL's plan of every statement that the query functions execute, and undo what they did."""
    assert isinstance(tx.sql, PostgresSession)
    plans: list[str] = []
    factory = type("Kept", (Explaining,), {"plans": plans})
    before, tx.sql.driver.cursor_factory = tx.sql.driver.cursor_factory, factory
    try:
        with tx.rolled_back():
            ask(tx)
    finally:
        tx.sql.driver.cursor_factory = before
    return plans


@pytest.mark.parametrize("name", ASKED)
async def test_no_query_reads_a_whole_table(database: Metadata, name: str) -> None:
    """No step of a query is a sequential scan of a table that grows."""
    plans = await database.write(lambda tx: plans_of(tx, ASKED[name]))

    assert plans
    assert not [plan for plan in plans if re.search(rf"Seq Scan on ({LARGE})\b", plan)]


KINDS = {name: kind for name, kind in vars(postgres_lookups).items() if isinstance(kind, postgres_lookups._Kind)}


@pytest.mark.parametrize("name", [name for name in KINDS if KINDS[name].columns])
def test_no_lookup_reads_a_whole_table(full: str, name: str) -> None:
    """A look-up of many keys at once uses an index for each."""
    kind = KINDS[name]
    values = [[f"shop/app{n}" for n in range(16)], [f"1.0.{n}" for n in range(16)]][: kind.columns]
    with psycopg.connect(full) as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {kind.query}".encode(), values).fetchall())

    assert not re.search(rf"Seq Scan on ({LARGE})\b", plan), plan
    assert not re.search(r"Index Cond: \(repository_id = [^()]+\)$", plan, re.MULTILINE), plan
