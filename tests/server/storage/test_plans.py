"""Frequent queries of the registry use an index, however much a repository has.

SQLite prints its plan (`EXPLAIN QUERY PLAN`). A step that searches a repository's rows by the repository alone reads
all of them, so that a push would become slower with every push before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.server.registry.refused_pushes import NEWEST
from boltseal.server.storage.metadata import (
    blob_reviews,
    failed_login_table,
    foreign_tags,
    hidden_blobs,
    host_table,
    layer_chain_table,
    ledger_store,
    links,
    name_lists,
    object_names,
    outbox_table,
    page_queries,
    pipeline_table,
    queries,
    rebuild_table,
    refused_push_table,
    tag_states,
    tag_table,
    unreferenced,
    upload_table,
    usage,
)
from boltseal.server.storage.metadata.host_table import HostRow, ImageFilter, ImageRow, ReportRow, SubjectRow
from boltseal.server.storage.metadata.pipeline_table import PipelineRefreshRow, PipelineSessionRow
from boltseal.server.storage.metadata.refused_push_table import RefusedPush, RefusedTimes
from boltseal.server.storage.metadata.schema import METADATA
from tests.bare_registry import SHOP
from tests.server.storage.sqlite_session import driver

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
    from tests.bare_registry import BareRegistry

DIGEST = str(Digest.of(b"layer one"))

PIPELINE = PipelineSessionRow("0" * 64, "https://ci.example.com", "{}", "0" * 64, 1, 20)
REFUSED = RefusedPush("shop/app", "1.4.2", "sealed", DIGEST, DIGEST, "ci", "ci", "192.0.2.1", "{}")

IMAGE_OF_HOST = ("web-1", "ps", "", 0)

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
    "blob": lambda tx: queries.find_blob(tx, 1, DIGEST),
    "blob named": lambda tx: unreferenced.is_blob_referenced(tx, DIGEST),
    "parts": lambda tx: queries.parts_of(tx, 1, [DIGEST]),
    "repositories with a blob": lambda tx: list(queries.repositories_with_blob(tx, DIGEST, None)),
    "some repositories with a blob": lambda tx: queries.some_with_blob(tx, DIGEST, 7, 500),
    "blob of a source": lambda tx: list(queries.repositories_with_blob(tx, DIGEST, SHOP)),
    "referrers": lambda tx: queries.referrers(tx, SHOP, DIGEST, max_bytes=1),
    "tagged bytes": lambda tx: queries.tagged_manifest(tx, SHOP, "1.4.2"),
    "a page of tags": lambda tx: name_lists.tag_names(tx, SHOP, "1.4.2", 100),
    "a page of tag states": lambda tx: tag_states.tags_of(tx, SHOP, "1.4.2", 100, deleted=True),
    "the state of a tag": lambda tx: tag_states.find(tx, SHOP, "1.4.2"),
    "tags of all repositories": lambda tx: tag_states.tags_after(tx, (1, "1.4.2"), 1000),
    "a page of requested rebuilds": lambda tx: rebuild_table.requests_after(tx, ("shop/app:1", "node:16"), 100),
    "tags of upstreams": lambda tx: foreign_tags.tags_after(tx, ("docker.io/library/node", "16"), 1000),
    "sizes of manifests": lambda tx: queries.sizes_of(tx, SHOP, [DIGEST], "application/x"),
    "held manifests": lambda tx: queries.manifests_of(tx, SHOP, [DIGEST]),
    "count of referrers": lambda tx: queries.count_referrers(tx, 1, DIGEST, 10),
    "what a user holds": lambda tx: usage.total_of(tx, "anonymous"),
    "more for a user": lambda tx: usage.add(tx, "anonymous", 1),
    "open uploads of a user": lambda tx: upload_table.count_of(tx, "anonymous"),
    "end of an upload": lambda tx: upload_table.remove(tx, "0" * 32),
    "failed logins": lambda tx: failed_login_table.find(tx, "192.0.2.1"),
    "a session of a pipeline": lambda tx: pipeline_table.find(tx, "0" * 64),
    "a new session of a pipeline": lambda tx: pipeline_table.open_session(tx, PIPELINE, forget_before_us=10),
    "a new refresh token": lambda tx: pipeline_table.add_refresh(
        tx, PipelineRefreshRow("1" * 64, "0" * 64, 20), most=5
    ),
    "a refresh token": lambda tx: pipeline_table.find_refresh(tx, "1" * 64),
    "the end of a session": lambda tx: pipeline_table.revoke(tx, "0" * 64),
    "refused pushes of a repository": lambda tx: refused_push_table.of_repository(tx, SHOP, "1.0", NEWEST, 5, 100),
    "refused pushes": lambda tx: refused_push_table.of_all(tx, NEWEST, 5, 100),
    "a refused push": lambda tx: refused_push_table.add(tx, REFUSED, RefusedTimes(1, 1, 1, ""), repeated=False),
    "a repeated refused push": lambda tx: refused_push_table.add(tx, REFUSED, RefusedTimes(2, 2, 1, ""), repeated=True),
    "end of a refused push": lambda tx: refused_push_table.expire(tx, 1),
    "what runs of some": lambda tx: host_table.running_images(tx, [DIGEST]),
    "what runs of an image": lambda tx: host_table.running_among(tx, links.closure(1, DIGEST)),
    "what runs of a repository": lambda tx: host_table.running_in(tx, 1),
    "a host": lambda tx: host_table.find(tx, "web-1"),
    "a page of hosts": lambda tx: host_table.hosts_after(tx, "web-1", 100),
    "reports of hosts": lambda tx: host_table.subjects_of(tx, ["web-1"]),
    "repositories of hosts": lambda tx: host_table.repositories_of(tx, ["web-1"]),
    "hosts of a digest": lambda tx: host_table.images_after(tx, IMAGE_OF_HOST, 100, ImageFilter(digest=DIGEST)),
    "hosts of a tag": lambda tx: host_table.images_after(
        tx, IMAGE_OF_HOST, 100, ImageFilter(repository=SHOP, tag="1.4.2")
    ),
    "images of a host": lambda tx: host_table.images_after(tx, IMAGE_OF_HOST, 100, ImageFilter(host="web-1")),
    "images of all hosts": lambda tx: host_table.images_after(tx, IMAGE_OF_HOST, 100, ImageFilter()),
    "a report": lambda tx: host_table.add_report(tx, ReportRow(0, "web-1", "ps", "", 1, "holds", "{}", "[]")),
    "releases": lambda tx: host_table.reports_before(tx, "deploy", 10, 100),
    "releases of a host": lambda tx: host_table.reports_before(tx, "deploy", 10, 100, "web-1"),
    "a host to forget": lambda tx: host_table.forget(tx, "web-1"),
    "sessions of pipelines": lambda tx: pipeline_table.after(tx, "0", 100, now_us=5),
    "due events": lambda tx: outbox_table.due(tx, "ops", 1, 100),
    "end of a purge": lambda tx: unreferenced.forget_purged(tx, [DIGEST]),
    "layer chains": lambda tx: layer_chain_table.documents(tx, SHOP, [DIGEST]),
    "pending layer chains": lambda tx: layer_chain_table.pending(tx, (0, ""), 50),
    "due reviews": lambda tx: blob_reviews.due(tx, 10**15, None, 500, failed=False),
    "failed reviews": lambda tx: blob_reviews.due(tx, 10**15, None, 500, failed=True),
    "number of failed reviews": blob_reviews.count_failed,
    "hide a blob": lambda tx: hidden_blobs.hide(tx, 1, DIGEST),
    "keep blobs": lambda tx: hidden_blobs.keep(tx, 1, [DIGEST]),
    "removed blobs": lambda tx: hidden_blobs.removed(tx, 1, [DIGEST]),
    "parts to review": lambda tx: blob_reviews.add_parts(tx, 1, [DIGEST]),
    "unused blob": lambda tx: blob_reviews.find_unused(tx, 1, DIGEST),
    "referenced blobs": lambda tx: unreferenced.referenced(tx, [DIGEST]),
    "named objects": lambda tx: object_names.unnamed(tx, [f"blobs/{'0' * 32}"]),
    "repository of a page": lambda tx: page_queries.repository_number(tx, SHOP),
    "sizes of images": lambda tx: page_queries.image_sizes(tx, 1, [DIGEST]),
    "last pulls": lambda tx: page_queries.last_pulls(tx, 1, [DIGEST]),
    "types of referrers": lambda tx: page_queries.referring_types(tx, 1, [DIGEST]),
    "tags of a page": lambda tx: page_queries.tags_named(tx, SHOP, 1, ["1.4.2"]),
    "search for tags": lambda tx: page_queries.tags_from(tx, [SHOP], "1.4", 50),
    "search for digests": lambda tx: page_queries.manifests_from(tx, "sha256:9f86", ("", 0), 100),
    "tags of found digests": lambda tx: page_queries.tags_resolving(
        tx, [page_queries.ManifestAt(DIGEST, 1, SHOP, DIGEST)], 100
    ),
    "newest changes": lambda tx: ledger_store.newest_lines(tx, 500, 500, ["tag.created"]),
    "remove blob": lambda tx: queries.remove_blob(tx, 1, DIGEST),
}


def with_report(tx: UnitOfWork) -> None:
    """Write a host with a report, without which some queries end early."""
    host_table.add(tx, HostRow("web-1", "ops", 1, 1))
    host_table.put_subject(tx, SubjectRow("web-1", "ps", "", 1, 60, True, "holds", "{}", ""))
    host_table.add_images(tx, [ImageRow("web-1", "ps", "", 0, DIGEST, SHOP, "1.4.2", "{}")])


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.slow
async def test_no_query_reads_all_rows_of_a_repository(shop: BareRegistry, name: str) -> None:
    """Each step of a query uses more than the repository's id, or reads rows that were found already."""
    await shop.push(await shop.image("one"), "1.4.2")
    await shop.database.write(with_report)
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
    """A few reviews cost SQLite the same number of steps with 100,000 more blobs of other images."""
    await shop.push(await shop.image("one"), "1.4.2")
    small = await shop.database.write(steps_of_reviews)

    def fill(tx: UnitOfWork) -> None:
        driver(tx).execute(FILL.format("blob", "1, 'sha256:' || n, 1, 1, 'ci', NULL"))
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
        for each in blob_reviews.due(tx, 2**62, None, 500, failed=False):
            blob_reviews.find_unused(tx, each.review.repository_id, each.review.digest)
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
