"""Frequent queries of the registry use an index, however much a repository has.

SQLite prints its plan (`EXPLAIN QUERY PLAN`). A step that searches a repository's rows by the repository alone reads
all of them, so that a push would become slower with every push before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.server.storage.metadata import (
    blob_reviews,
    failed_login_table,
    layer_chain_table,
    links,
    object_names,
    outbox_table,
    queries,
    tag_table,
    unreferenced,
    upload_table,
    usage,
)
from boltseal.server.storage.metadata.schema import METADATA
from tests.bare_registry import SHOP
from tests.server.storage.sqlite_session import driver

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
    from tests.bare_registry import BareRegistry

DIGEST = str(Digest.of(b"layer one"))

ASKED: dict[str, Callable[[UnitOfWork], Any]] = {
    "missing": lambda tx: links.missing_parts(tx, 1, DIGEST),
    "reached_from": lambda tx: links.digests(tx, links.closure(1, DIGEST)),
    "reaching": lambda tx: links.digests(tx, links.covering(1, DIGEST, through_subjects=False)),
    "reaching through subjects": lambda tx: links.digests(tx, links.covering(1, DIGEST, through_subjects=True)),
    "kept": lambda tx: tag_table.protecting_tags(tx, 1, links.covering(1, DIGEST, through_subjects=True)),
    "kept by parents": lambda tx: tag_table.protecting_tags_of_parents(tx, 1, DIGEST),
    "meaning": lambda tx: tag_table.tags_resolving_to(tx, 1, DIGEST),
    "tag": lambda tx: tag_table.find(tx, 1, "1.4.2"),
    "manifest": lambda tx: queries.find_manifest(tx, 1, DIGEST),
    "manifest bytes": lambda tx: queries.manifest_bytes(tx, 1, DIGEST),
    "media types": lambda tx: queries.media_types_of(tx, 1, DIGEST),
    "parents": lambda tx: links.parent(tx, 1, DIGEST),
    "blob size": lambda tx: queries.blob_size(tx, 1, DIGEST),
    "blob named": lambda tx: unreferenced.is_blob_referenced(tx, DIGEST),
    "held sizes": lambda tx: queries.sizes_of(tx, 1, [DIGEST]),
    "repositories with a blob": lambda tx: list(queries.repositories_with_blob(tx, DIGEST, None)),
    "some repositories with a blob": lambda tx: queries.some_with_blob(tx, DIGEST, 7, 500),
    "blob of a source": lambda tx: list(queries.repositories_with_blob(tx, DIGEST, SHOP)),
    "referrers": lambda tx: queries.referrers(tx, SHOP, DIGEST, max_bytes=1),
    "tagged bytes": lambda tx: queries.tagged_manifest(tx, SHOP, "1.4.2"),
    "a page of tags": lambda tx: queries.tag_names(tx, SHOP, "1.4.2", 100),
    "held manifests": lambda tx: queries.manifests_of(tx, SHOP, [DIGEST]),
    "count of referrers": lambda tx: queries.count_referrers(tx, 1, DIGEST, 10),
    "what a user holds": lambda tx: usage.total_of(tx, "anonymous"),
    "more for a user": lambda tx: usage.add(tx, "anonymous", 1),
    "open uploads of a user": lambda tx: upload_table.count_of(tx, "anonymous"),
    "end of an upload": lambda tx: upload_table.remove(tx, "0" * 32),
    "failed logins": lambda tx: failed_login_table.find(tx, "192.0.2.1"),
    "due events": lambda tx: outbox_table.due(tx, "ops", 1, 100),
    "end of a purge": lambda tx: unreferenced.forget_purged(tx, [DIGEST]),
    "layer chains": lambda tx: layer_chain_table.documents(tx, SHOP, [DIGEST]),
    "pending layer chains": lambda tx: layer_chain_table.pending(tx, (0, ""), 50),
    "due reviews": lambda tx: blob_reviews.due(tx, 10**15, None, 500),
    "parts to review": lambda tx: blob_reviews.add_parts(tx, 1, [DIGEST]),
    "unused blob": lambda tx: blob_reviews.is_unused(tx, 1, DIGEST),
    "referenced blobs": lambda tx: unreferenced.referenced(tx, [DIGEST]),
    "named objects": lambda tx: object_names.unnamed(tx, [f"blobs/{'0' * 32}"]),
    "remove blob": lambda tx: queries.remove_blob(tx, 1, DIGEST),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.slow
async def test_no_query_reads_all_rows_of_a_repository(shop: BareRegistry, name: str) -> None:
    """Each step of a query uses more than the repository's id, or reads rows that were found already."""
    await shop.push(await shop.image("one"), "1.4.2")
    steps = await shop.database.write(lambda tx: plans_of(tx, ASKED[name]))
    tables = {table.name for table in METADATA.sorted_tables}
    slow = [step for step in steps if step.endswith("(repository_id=?)") or step.removeprefix("SCAN ") in tables]

    assert steps
    assert slow == []


FILL = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
INSERT INTO {} SELECT {} FROM numbers
"""


@pytest.mark.slow
async def test_a_collection_reads_what_has_changed_and_not_what_is_stored(shop: BareRegistry) -> None:
    """The same few reviews cost SQLite the same number of steps with 100,000 more blobs of other images."""
    await shop.push(await shop.image("one"), "1.4.2")
    small = await shop.database.write(steps_of_reviews)

    def fill(tx: UnitOfWork) -> None:
        driver(tx).execute(FILL.format("blob", "1, 'sha256:' || n, 1, 1, 'ci'"))
        driver(tx).execute(FILL.format("link", "1, 'sha256:m' || n, 'sha256:' || n, 'layer'"))

    await shop.database.write(fill)
    large = await shop.database.write(steps_of_reviews)

    assert 0 < large <= small + 5


def steps_of_reviews(tx: UnitOfWork) -> int:
    """Return how many steps of SQLite's machine the reviews that are due take, in tens."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    driver(tx).set_progress_handler(count, 10)
    try:
        for each in blob_reviews.due(tx, 2**62, None, 500):
            blob_reviews.is_unused(tx, each.review.repository_id, each.review.digest)
    finally:
        driver(tx).set_progress_handler(None, 0)
    return steps


def plans_of(tx: UnitOfWork, ask: Callable[[UnitOfWork], Any]) -> list[str]:
    """Return SQLite's plan for every statement that the queries execute."""
    sqlite = driver(tx)
    statements: list[str] = []
    sqlite.set_trace_callback(statements.append)
    try:
        ask(tx)
    finally:
        sqlite.set_trace_callback(None)
    return [str(row[3]) for statement in statements for row in sqlite.execute(f"EXPLAIN QUERY PLAN {statement}")]


def test_every_index_has_an_expected_size(shop: BareRegistry) -> None:
    """Each index has an expected size in this test, so that no plan depends on a guess."""

    def names(snapshot: Snapshot) -> tuple[set[str], set[str]]:
        indexes = driver(snapshot).execute("SELECT idx FROM sqlite_stat1").fetchall()
        there = driver(snapshot).execute(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name NOT IN ('alembic_version')"
        )
        return {row[0] for row in indexes}, {row[0] for row in there.fetchall()}

    indexes, there = shop.database.read_and_wait(names)

    assert {name for name in there if name.startswith("ix_")} <= indexes
