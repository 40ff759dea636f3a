"""A refused delete of an image with very many tags does bounded work, because every write waits for it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, select

from boltseal.errors import SealedDelete
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.refusal_message import MAX_COUNTED
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.storage.metadata.schema import link as link_rows
from boltseal.server.storage.metadata.schema import manifest as manifest_rows
from boltseal.server.storage.metadata.schema import tag as tag_rows
from tests.bare_registry import INDEX, OCI, SHOP
from tests.server.storage.sqlite_session import driver

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import UnitOfWork
    from tests.bare_registry import BareRegistry, Opener

pytestmark = pytest.mark.files_only("counts the steps of SQLite; test_postgres_plans has the plans of PostgreSQL")

MOST_ROWS = MAX_COUNTED + 1
"""Rows that one query of a refusal may return, whatever the number of tags."""
STEPS_EACH = 1000


async def copies(shop: BareRegistry, tag: str, count: int) -> None:
    """Insert more tags equal to this one at once, because pushing them one by one takes minutes."""

    def job(tx: UnitOfWork) -> None:
        row = tx.sql.connection.execute(select(tag_rows).where(tag_rows.c.name == tag)).mappings().one()
        tx.sql.connection.execute(insert(tag_rows), [{**row, "name": f"{tag}.{number:06}"} for number in range(count)])

    await shop.database.write(job)


async def images_with(shop: BareRegistry, numbers: Iterable[int]) -> None:
    """Insert images equal to the one tagged 1.0.0, each with a digest and a sealed tag of its own."""

    def job(tx: UnitOfWork) -> None:
        connection = tx.sql.connection
        row = dict(connection.execute(select(tag_rows).where(tag_rows.c.name == "1.0.0")).mappings().one())
        parts = [dict(part) for part in connection.execute(select(link_rows)).mappings()]
        made = {f"2.0.{number:06}": str(Digest.of(b"image %d" % number)) for number in numbers}
        links = [
            {**part, "parent": each} for part in parts if part["parent"] == row["digest"] for each in made.values()
        ]
        tags = [{**row, "name": name, "digest": each, "sealed_digest": each} for name, each in made.items()]
        connection.execute(insert(link_rows), links)
        connection.execute(insert(tag_rows), tags)

    await shop.database.write(job)


async def stored_by_sha512(shop: BareRegistry, digest: Digest, numbers: Iterable[int]) -> None:
    """Insert manifests with the parts of this one that are stored under the sha512 digest of their bytes."""

    def job(tx: UnitOfWork) -> None:
        connection = tx.sql.connection
        query = select(manifest_rows).where(manifest_rows.c.digest == str(digest))
        row = dict(connection.execute(query).mappings().one())
        parts = connection.execute(select(link_rows).where(link_rows.c.parent == str(digest))).mappings().all()
        for number in numbers:
            raw = b"%s %d" % (str(digest).encode(), number)
            parent = str(Digest.of(raw, "sha512"))
            connection.execute(insert(manifest_rows), {**row, "digest": parent, "canonical": str(Digest.of(raw))})
            connection.execute(insert(link_rows), [{**part, "parent": parent} for part in parts])

    await shop.database.write(job)


async def index_of(shop: BareRegistry, *bodies: bytes) -> bytes:
    """Return an index of stored images."""
    children = []
    for body in bodies:
        await shop.push(body, Digest.of(body))
        children.append({"mediaType": OCI, "digest": str(Digest.of(body)), "size": len(body)})
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()


async def sealed_image(shop: BareRegistry) -> Digest:
    """Return an image that sealed tags resolve to."""
    body = await shop.image("one")
    await shop.push(body, "1.0.0")
    return Digest.of(body)


async def in_a_sealed_index(shop: BareRegistry) -> Digest:
    """Return an image without tags, in an index that sealed tags resolve to."""
    body = await shop.image("one")
    await shop.push(await index_of(shop, body), "1.0.0", media_type=INDEX)
    return Digest.of(body)


async def referrer(shop: BareRegistry) -> Digest:
    """Return a referrer of a sealed image, a day old, so that its pusher can no longer delete it."""
    body = await shop.image("one")
    await shop.push(body, "1.0.0")
    subject = {"mediaType": OCI, "digest": str(Digest.of(body)), "size": len(body)}
    statement = await shop.image("statement", subject=subject)
    await shop.push(statement, Digest.of(statement))
    shop.clock.now_us += 2 * 86_400_000_000
    return Digest.of(statement)


async def layer(shop: BareRegistry) -> Digest:
    """Return a layer of an image that sealed tags resolve to."""
    body = await shop.image("one")
    await shop.push(body, "1.0.0")
    return Digest.parse(json.loads(body)["layers"][0]["digest"])


async def mutable_beside_a_seal(shop: BareRegistry) -> Digest:
    """Return an image that one sealed tag and many mutable ones resolve to."""
    body = await shop.image("one")
    await shop.push(body, "0.1.0", "latest")
    return Digest.of(body)


@dataclass(frozen=True, slots=True)
class Case:
    """What is deleted, and the tag of which many copies are made."""

    made: Callable[[BareRegistry], Awaitable[Digest]]
    copied: str = "1.0.0"


CASES = {
    "the manifest of sealed tags": Case(sealed_image),
    "a manifest in a sealed index": Case(in_a_sealed_index),
    "a referrer of a sealed image": Case(referrer),
    "a layer of a sealed image": Case(layer),
    "a manifest with many mutable tags": Case(mutable_beside_a_seal, "latest"),
}


async def delete(shop: BareRegistry, digest: Digest, case: str) -> None:
    if case.startswith("a layer"):
        await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
    else:
        await shop.registry.deletes.manifest(SHOP, digest, UNCONDITIONAL, ANONYMOUS)


@dataclass(slots=True)
class Work:
    """What a job does in the database: its queries, and the thousands of SQLite steps that they take."""

    queries: list[str]
    steps: int = 0


@asynccontextmanager
async def watched(shop: BareRegistry) -> AsyncIterator[Work]:
    """Record what the writer does in the database meanwhile."""
    statements: list[str] = []
    work = Work([])

    def step() -> int:
        work.steps += 1
        return 0

    def watch(tx: UnitOfWork) -> None:
        sqlite = driver(tx)
        sqlite.set_trace_callback(statements.append)
        sqlite.set_progress_handler(step, STEPS_EACH)

    def leave(tx: UnitOfWork) -> None:
        sqlite = driver(tx)
        sqlite.set_trace_callback(None)
        sqlite.set_progress_handler(None, 0)

    await shop.database.write(watch)
    try:
        yield work
    finally:
        await shop.database.write(leave)
    work.queries = [each for each in statements if re.match("(?i)select|with", each.lstrip())]


async def refused(shop: BareRegistry, digest: Digest, case: str) -> tuple[str, list[str], int]:
    """Return the refusal of a delete, its queries, and the thousands of SQLite steps that they took."""
    async with watched(shop) as work:
        with pytest.raises(SealedDelete) as error:
            await delete(shop, digest, case)
    return error.value.message, work.queries, work.steps


async def rows_of(shop: BareRegistry, queries: list[str]) -> int:
    """Return the largest number of rows that one query returns."""

    def job(tx: UnitOfWork) -> int:
        return max(len(driver(tx).execute(query).fetchall()) for query in queries)

    return await shop.database.write(job)


@pytest.mark.parametrize("case", CASES)
async def test_a_refusal_reads_few_rows_of_many_tags(shop: BareRegistry, case: str) -> None:
    """A refusal names three of a thousand tags and counts them, and no query returns all."""
    made = CASES[case]
    digest = await made.made(shop)
    await copies(shop, made.copied, 5000)

    message, queries, _ = await refused(shop, digest, case)

    assert " more seal" in message or "more alone can be deleted" in message
    assert len(message) < 400
    assert await rows_of(shop, queries) <= MOST_ROWS


@pytest.mark.parametrize("case", CASES)
async def test_the_work_of_a_refusal_grows_no_faster_than_the_tags(open_shop: Opener, case: str) -> None:
    """Ten times the tags cost about ten times the database steps, and as many queries."""
    shop = open_shop()
    made = CASES[case]
    digest = await made.made(shop)
    await copies(shop, made.copied, 1000)
    _, few_queries, few = await refused(shop, digest, case)
    await copies(shop, f"{made.copied}.000000", 9000)
    _, many_queries, many = await refused(shop, digest, case)

    assert len(many_queries) == len(few_queries)
    assert many <= 15 * few + 10


async def test_a_refusal_for_a_layer_of_many_sealed_images_reads_a_part_of_them(shop: BareRegistry) -> None:
    """A delete of a layer costs as many database steps with 9,000 sealed images that contain it as with 1,500."""
    digest = await layer(shop)
    await images_with(shop, range(1500))
    _, _, few = await refused(shop, digest, "a layer")
    await images_with(shop, range(1500, 9000))
    message, _, many = await refused(shop, digest, "a layer")

    assert "and more than 997 more seal" in message
    assert many <= few + 10


async def test_a_delete_beside_many_manifests_with_two_digests_sends_few_queries(shop: BareRegistry) -> None:
    """A delete of a layer sends as many queries with 400 manifests under their sha512 digest as with 4."""
    counts = []
    for name, number in (("one", 4), ("two", 400)):
        body = await shop.image(name)
        await shop.push(body, Digest.of(body))
        await stored_by_sha512(shop, Digest.of(body), range(number))
        digest = Digest.parse(json.loads(body)["layers"][0]["digest"])
        async with watched(shop) as work:
            await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
        counts.append(len(work.queries))

    assert counts[1] == counts[0]


async def test_deletable_tags_are_named_without_signature_tags(shop: BareRegistry) -> None:
    """Signature tags, which stay as long as their image, are not listed as deletable."""
    body = await shop.image("one")
    hex_ = "ab" * 32
    await shop.push(body, "1.4.2", "latest", "edge", f"sha256-{hex_}.sig", f"sha512-{hex_}")

    message, _, _ = await refused(shop, Digest.of(body), "")

    assert message.endswith("; tags edge and latest alone can be deleted by their names")


async def test_an_unsealed_tag_is_named_as_deletable(shop: BareRegistry) -> None:
    """Of two sealed tags of one image, the one that an admin has unsealed is named as deletable."""
    body = await shop.image("one")
    await shop.push(body, "1.4.2", "1.4.3")
    await shop.registry.seals.unseal(SHOP, Tag("1.4.3"), ANONYMOUS, "was wrong")

    message, _, _ = await refused(shop, Digest.of(body), "")

    assert "is what tag 1.4.2 seals" in message
    assert message.endswith("; tag 1.4.3 alone can be deleted by its name")
