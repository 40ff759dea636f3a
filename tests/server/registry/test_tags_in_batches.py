"""Deleting, purging and expiring many tags takes several transactions, so that other writes need not wait for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlalchemy import insert, select

from boltseal.errors import SealedDelete
from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry import sequencer
from boltseal.server.registry.deletes import CHECKED_AT_ONCE, Deletes
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.seals import PurgeTargetChanged, Seals
from boltseal.server.registry.tag_writer import TAGS_AT_ONCE, TagWriter
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.schema import tag as tag_rows
from tests.bare_registry import DAY_US, SHOP

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import UnitOfWork
    from tests.bare_registry import BareRegistry, Opener

MANY = 2 * TAGS_AT_ONCE + TAGS_AT_ONCE // 2


class Counting:
    """A metadata database that counts its writes, and calls `between` before each but the first."""

    def __init__(self, shop: BareRegistry, between: Callable[[], Any] | None = None) -> None:
        self._shop = shop
        self._between = between
        self.writes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._shop.database, name)

    async def write(self, job: Callable[[UnitOfWork], object], **options: Any) -> object:
        if self.writes and self._between is not None:
            await self._between()
        self.writes += 1
        return await self._shop.database.write(job, **options)


def seals_of(shop: BareRegistry, database: Counting) -> Seals:
    return Seals(cast("Metadata", database), shop.blobs, shop.registry.seals._tag_writer)


def deletes_of(shop: BareRegistry, database: Counting) -> Deletes:
    writer: TagWriter = shop.registry.seals._tag_writer
    return Deletes(cast("Metadata", database), writer, RefusalLog(writer.rules))


async def copies(shop: BareRegistry, tag: str, count: int) -> None:
    """Write more tags like this one, each with a ledger entry of its own."""
    (*_, last) = [entry for entry in await shop.entries() if entry.tag == tag]

    def job(tx: UnitOfWork) -> None:
        row = tx.sql.connection.execute(select(tag_rows).where(tag_rows.c.name == tag)).mappings().one()
        rows = []
        for number in range(count):
            name = f"{tag}.{number:06}"
            index = sequencer.append(
                tx,
                EntryKind.TAG_CREATED,
                repository=SHOP,
                tag=Tag(name),
                digest=last.digest,
                media_type=last.type,
                size_bytes=last.size,
                actor=last.actor,
                extra=last.extra,
            )
            rows.append({**row, "name": name, "entry_index": index})
        tx.sql.connection.execute(insert(tag_rows), rows)

    await shop.database.write(job)


async def tags_left(shop: BareRegistry) -> list[str]:
    return list((await shop.registry.pulls.tags(SHOP, None, None)).items)


async def kinds(shop: BareRegistry, kind: EntryKind) -> int:
    return sum(entry.kind is kind for entry in await shop.entries())


async def test_a_manifest_of_many_mutable_tags_is_deleted_in_several_transactions(shop: BareRegistry) -> None:
    """Every tag is recorded as deleted, the last transaction deletes the manifest, and none deletes all tags."""
    body = await shop.image("one")
    await shop.push(body, "latest")
    await copies(shop, "latest", MANY)
    database = Counting(shop)
    await deletes_of(shop, database).manifest(SHOP, Digest.of(body), UNCONDITIONAL, ANONYMOUS)

    assert database.writes == 3
    assert await tags_left(shop) == []
    assert await kinds(shop, EntryKind.TAG_DELETED) == MANY + 1
    assert await shop.registry.pulls.stored_manifest(SHOP, Digest.of(body)) is None


async def test_a_protected_tag_among_many_refuses_before_any_is_deleted(shop: BareRegistry) -> None:
    """A signature tag of a sealed image, last among many mutable tags of one manifest, keeps all of them."""
    image, signature = await shop.image("sealed"), await shop.image("signature")
    await shop.push(image, "1.0.0")
    await shop.push(signature, "latest", f"sha256-{Digest.of(image).hex}.sig")
    await copies(shop, "latest", MANY)
    database = Counting(shop)
    with pytest.raises(SealedDelete):
        await deletes_of(shop, database).manifest(SHOP, Digest.of(signature), UNCONDITIONAL, ANONYMOUS)

    assert database.writes == 1
    assert len(await tags_left(shop)) == MANY + 3


async def test_many_signature_tags_of_a_manifest_are_checked_in_several_transactions(shop: BareRegistry) -> None:
    """Each names another image, whose seals are looked up: all of them in one transaction would exceed its time budget."""
    body = await shop.image("one")
    await shop.push(body, f"sha256-{0:064x}.sig", *(f"sha256-{number:064x}.sig" for number in range(1, MANY)))
    database = Counting(shop)
    await deletes_of(shop, database).manifest(SHOP, Digest.of(body), UNCONDITIONAL, ANONYMOUS)

    assert database.writes == math.ceil(MANY / CHECKED_AT_ONCE) + 3
    assert await tags_left(shop) == []


async def test_a_protected_signature_tag_among_many_keeps_all_of_them(shop: BareRegistry) -> None:
    """All signature tags are checked before the first transaction deletes any, also the last one by name."""
    signature, image = await shop.image("signature"), await shop.image("image")
    while Digest.of(image).hex[0] != "f":
        image += b" "
    await shop.push(
        signature, f"sha256-{Digest.of(image).hex}.sig", *(f"sha256-{number:064x}.sig" for number in range(1, MANY))
    )
    await shop.push(image, "1.0.0")
    before = await tags_left(shop)
    with pytest.raises(SealedDelete):
        await deletes_of(shop, Counting(shop)).manifest(SHOP, Digest.of(signature), UNCONDITIONAL, ANONYMOUS)

    assert await tags_left(shop) == before


async def test_a_seal_that_comes_between_two_transactions_stops_the_delete(shop: BareRegistry) -> None:
    """Each transaction checks again: a tag that is sealed meanwhile keeps its manifest, and resolves to it."""
    body = await shop.image("one")
    await shop.push(body, "latest")
    await copies(shop, "latest", MANY)

    async def seal() -> None:
        await shop.push(body, "1.0.0")

    with pytest.raises(SealedDelete):
        await deletes_of(shop, Counting(shop, seal)).manifest(SHOP, Digest.of(body), UNCONDITIONAL, ANONYMOUS)

    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.0.0"))).raw == body


async def test_an_image_of_many_sealed_tags_is_purged_in_several_transactions(shop: BareRegistry) -> None:
    """The plan lists every tag, the purge records every tag, and none of its transactions deletes all of them."""
    body = await shop.image("one")
    await shop.push(body, "1.0.0")
    await copies(shop, "1.0.0", MANY)
    database = Counting(shop)
    seals = seals_of(shop, database)
    plan = await seals.plan_purge(SHOP, Tag("1.0.0"), ANONYMOUS)
    planned = database.writes
    confirmed = plan.confirmed()
    purged = await seals.purge(SHOP, Tag("1.0.0"), ANONYMOUS, "leaked", confirmed=confirmed)

    assert len(plan.tags) == MANY + 1
    assert set(purged.tags) == set(plan.tags)
    assert (purged.manifests, purged.blobs) == (plan.manifests, plan.blobs)
    assert database.writes - planned >= 3
    assert await kinds(shop, EntryKind.TAG_PURGED) == MANY + 1
    assert await tags_left(shop) == []


async def test_a_new_tag_between_two_transactions_stops_a_confirmed_purge(shop: BareRegistry) -> None:
    """A tag that was not confirmed is not purged, and the message says how many tags are gone."""
    body = await shop.image("one")
    await shop.push(body, "1.0.0")
    await copies(shop, "1.0.0", MANY)
    plan = await shop.registry.seals.plan_purge(SHOP, Tag("1.0.0"), ANONYMOUS)
    confirmed = plan.confirmed()

    async def push() -> None:
        await shop.push(body, "0.0.1")

    with pytest.raises(PurgeTargetChanged, match=f"{TAGS_AT_ONCE} tags were deleted"):
        await seals_of(shop, Counting(shop, push)).purge(SHOP, Tag("1.0.0"), ANONYMOUS, "leaked", confirmed=confirmed)

    assert "0.0.1" in await tags_left(shop)


async def test_many_tags_expire_in_several_transactions(open_shop: Opener) -> None:
    """All overdue tags are deleted and recorded, some in each transaction; a dry run lists them and writes none."""
    shop = open_shop({"repository": "**", "tag": "*", "mode": "sealed", "keep": "1d"})
    await shop.push(await shop.image("one"), "1.0.0")
    await copies(shop, "1.0.0", MANY)
    shop.clock.now_us += 2 * DAY_US
    database = Counting(shop)
    seals = seals_of(shop, database)
    listed = (await seals.expire(ANONYMOUS, dry_run=True)).expired
    left = await tags_left(shop)
    database.writes = 0
    expired = (await seals.expire(ANONYMOUS)).expired

    assert len(left) == MANY + 1
    assert listed == expired
    assert database.writes >= 3
    assert await kinds(shop, EntryKind.TAG_EXPIRED) == MANY + 1
    assert await tags_left(shop) == []
