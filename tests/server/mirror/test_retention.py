"""Which mirrored images are deleted, and which never."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import insert, update

from boltseal.oci.jsontext import decode
from boltseal.policy.host_report import ReportDocument, parse_report
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.server.auth.actor import Actor
from boltseal.server.mirror.retention import DAY_US, RetentionUnit, plan, retain
from boltseal.server.settings import Settings
from boltseal.server.storage.garbage_collection import ROWS_AT_ONCE, collect_reviewed
from boltseal.server.storage.metadata import mirrored, queries
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.schema import foreign_tag, manifest, tag
from boltseal.server.store_factory import collect_store, open_store
from tests.fakes.upstream import FakeUpstream
from tests.host_documents import report, running
from tests.images import Document, artifact, digest_of, image, index, push
from tests.polling import until
from tests.server.mirror.mirrors import NAME, mirror_settings, table_of
from tests.serving import Clock, serving_as

NOW_US = 1_795_500_000_000_000


def unit(root: str, used_days_ago: float, *parts: str, kept: bool = False) -> RetentionUnit:
    return RetentionUnit("up/app", root, frozenset({root, *parts}), NOW_US - int(used_days_ago * DAY_US), kept)


def roots(units: list[RetentionUnit], sizes: dict[str, int], **limits: int | None) -> list[str]:
    retention = {"keep_for_us": None, "keep_bytes": None} | limits
    deleted = plan(units, sizes, NOW_US, **retention)
    return [each.unit.root for each in deleted]


# --- the rule ---


def test_images_not_pulled_for_keep_for_are_deleted() -> None:
    """Images that were not pulled for `keep_for` are deleted, the least recently used first."""
    units = [unit("a", 91), unit("b", 90), unit("c", 400)]

    assert roots(units, {}, keep_for_us=90 * DAY_US) == ["c", "a"]


def test_the_least_recently_used_are_deleted_until_the_rest_fits() -> None:
    """The least recently used images are deleted until the rest fits, and no more."""
    units = [unit("a", 3), unit("b", 2), unit("c", 1)]

    assert roots(units, {"a": 10, "b": 10, "c": 10}, keep_bytes=20) == ["a"]
    assert roots(units, {"a": 10, "b": 10, "c": 10}, keep_bytes=19) == ["a", "b"]
    assert roots(units, {"a": 10, "b": 10, "c": 10}, keep_bytes=30) == []


def test_a_shared_layer_counts_once_and_is_freed_with_its_last_image() -> None:
    """A layer of two images counts once, and its size is freed only with the last of them."""
    units = [unit("a", 3, "layer"), unit("b", 2, "layer"), unit("c", 1)]

    assert roots(units, {"a": 1, "b": 1, "c": 1, "layer": 100}, keep_bytes=103) == []
    assert roots(units, {"a": 1, "b": 1, "c": 1, "layer": 100}, keep_bytes=50) == ["a", "b"]


def test_needed_images_stay_whatever_their_age_and_size() -> None:
    """Needed images stay whatever their age and size, and the others are deleted as far as necessary."""
    units = [unit("a", 300, kept=True), unit("b", 2)]

    assert roots(units, {"a": 100, "b": 1}, keep_for_us=DAY_US, keep_bytes=10) == ["b"]


def test_a_recently_used_image_is_not_deleted_for_its_size() -> None:
    """A recently used image is not deleted for its size, since a client may be pulling it."""
    assert roots([unit("a", 0.01)], {"a": 100}, keep_bytes=10) == []


def test_without_limits_nothing_is_deleted() -> None:
    """Without limits, the default, nothing is deleted."""
    assert roots([unit("a", 10_000)], {"a": 10**12}) == []


# --- on a store ---


class World:
    """A mirror with a clock, which is opened for each step."""

    def __init__(self, data: Path, upstream: FakeUpstream) -> None:
        self.data = data
        self.upstream = upstream
        self.clock = Clock(NOW_US)

    def settings(self, **terms: Any) -> Settings:
        return mirror_settings(self.data, table_of(self.upstream, **terms))

    async def pull(self, *documents: Document, repository: str = "team/app", blobs: bool = True) -> None:
        """Pull images by digest, with everything that they reference."""
        async with serving_as(self.settings(), clock=self.clock) as serving:
            for document in documents:
                await self._pull(serving.client, repository, document, blobs=blobs)

    async def _pull(self, client: Any, repository: str, document: Document, *, blobs: bool) -> None:
        self.upstream.publish(repository, None, document)
        path = f"/v2/{NAME}/{repository}"
        assert (await client.get(f"{path}/manifests/{document.digest}")).status_code == 200
        for blob in document.blobs if blobs else ():
            assert (await client.get(f"{path}/blobs/{blob.digest}")).status_code == 200
        for child in document.children:
            await self._pull(client, repository, child, blobs=blobs)

    def retain(self, *, dry_run: bool = False, **terms: Any) -> list[str]:
        """Return the digests that retention deletes."""
        settings = self.settings(**terms)
        with open_store(settings, clock=self.clock) as store:
            found = retain(store.database, settings.upstreams, self.clock(), dry_run=dry_run)
            return [item.name.partition("@")[2] for item in found]

    def change(self, job: Callable[[Any], object]) -> None:
        with open_store(self.settings(), clock=self.clock) as store:
            store.database.write_and_wait(job)


@pytest.fixture
def world(data: Path, upstream: FakeUpstream, whole_store: None) -> World:
    """A mirror whose store is checked by fsck after retention."""
    return World(data, upstream)


def digests(*documents: Document) -> set[str]:
    return {digest for each in documents for digest in (each.digest, *(blob.digest for blob in each.blobs))}


def without_shared(deleted: Document, stays: Iterable[Document]) -> set[str]:
    return digests(deleted) - digests(*stays)


async def test_an_unused_image_is_deleted_completely(world: World) -> None:
    """An unused image is deleted with manifest, config and layers; a pulled one stays, even if it was stored longer."""
    old, pulled = image("old"), image("pulled")
    await world.pull(old, pulled)
    world.clock.advance(days=60)
    await world.pull(pulled, blobs=False)
    world.clock.advance(days=60)

    assert world.retain(keep_for="90d", dry_run=True) == world.retain(keep_for="90d", dry_run=True)
    assert set(world.retain(keep_for="90d")) == without_shared(old, [pulled])
    assert world.retain(keep_for="90d") == []


async def test_the_children_and_the_signatures_of_an_image_that_is_pulled_stay(world: World) -> None:
    """Children and signatures of a pulled image stay although they are never pulled, and are deleted with it."""
    child, other = image("amd64"), image("arm64", architecture="arm64")
    whole = index(child, other)
    signature = artifact("signature", subject=whole)
    await world.pull(whole, signature)
    world.clock.advance(days=80)
    await world.pull(index(child, other), blobs=False)
    world.clock.advance(days=80)
    kept = world.retain(keep_for="90d")
    world.clock.advance(days=80)

    assert kept == []
    assert set(world.retain(keep_for="90d")) == digests(whole, child, other, signature)


async def test_a_layer_that_another_image_needs_stays(world: World) -> None:
    """A layer that another image needs stays."""
    one = image("same", annotations={"n": "1"})
    await world.pull(one)
    world.clock.advance(days=100)
    two = image("same", annotations={"n": "2"})
    await world.pull(two)

    assert world.retain(keep_for="90d") == [one.digest]


async def test_an_image_of_a_local_tag_is_never_deleted(world: World) -> None:
    """An image of a local tag, sealed or mutable, is never deleted."""
    sealed, plain = image("sealed"), image("plain")
    await world.pull(sealed, plain)

    def seal(tx: Any) -> None:
        holdings = mirrored.content_of(tx, f"{NAME}/team/app")
        assert holdings is not None
        row = {"digest": sealed.digest, "canonical": sealed.digest, "media_type": sealed.media_type}
        by = {"entry_index": 0, "changed_us": NOW_US, "changed_by": "ann"}
        tx.sql.connection.execute(tag.insert().values(repository_id=holdings.repository_id, name="1.4.2", **row, **by))

    world.change(seal)
    world.clock.advance(days=1000)
    gone = world.retain(keep_for="90d", keep_bytes="1")
    world.change(lambda tx: tx.sql.connection.execute(tag.delete()))  # so that fsck finds the ledger as it was

    assert set(gone) == without_shared(plain, [sealed])


async def test_the_image_of_a_held_tag_is_never_deleted(world: World) -> None:
    """The old image of a tag whose move is held is never deleted."""
    held = image("held")
    await world.pull(held)
    row = {"asked_us": 0, "entry_index": 0, "changes": 1, "changes_since_us": 0, "held_digest": image("new").digest}
    values = {"repository": f"{NAME}/team/app", "name": "1.4.2", "digest": held.digest, **row}
    world.change(lambda tx: tx.sql.connection.execute(foreign_tag.insert().values(**values)))
    world.clock.advance(days=1000)
    gone = world.retain(keep_for="90d")
    world.change(lambda tx: tx.sql.connection.execute(foreign_tag.delete()))

    assert gone == []


async def test_what_a_host_runs_is_never_deleted_and_a_dry_run_names_the_host(world: World) -> None:
    """By the digest of its manifest, its index or its configuration, and however old the report is."""
    child, other = image("amd64"), image("arm64", architecture="arm64")
    whole, by_config, plain = index(child, other), image("config"), image("plain")
    await world.pull(whole, by_config, plain)
    ran = [child.digest, by_config.blobs[0].digest]
    document = report("web-1", *(running(f"{NAME}/team/app", digest) for digest in ran))
    parsed = parse_report(decode(msgspec.json.encode(document), ReportDocument))
    with open_store(world.settings(), clock=world.clock) as store:
        await store.registry.host_reports.accept(parsed, Actor("ops"))
    world.clock.advance(days=1000)
    planned = world.retain(dry_run=True, keep_for="90d", keep_bytes="1")
    gone = world.retain(keep_for="90d", keep_bytes="1")
    with open_store(world.settings(), clock=world.clock) as store:
        await store.registry.host_reports.forget("web-1", Actor("ops"), dry_run=False)
    after = world.retain(keep_for="90d")

    assert set(gone) == without_shared(plain, [whole, child, other, by_config])
    assert set(planned) == {*gone, whole.digest, by_config.digest}
    assert set(after) == digests(whole, child, other, by_config)


async def test_a_pushed_image_is_no_mirrored_image(world: World) -> None:
    """Neither images of local repositories nor images pushed into mirrored ones are deleted."""
    await world.pull(image("mirrored"))
    ours = image("ours")
    async with serving_as(world.settings(), clock=world.clock) as serving:
        await push(serving.client, "shop/app", "1.4.2", ours)
    world.clock.advance(days=1000)
    world.retain(keep_for="1d", keep_bytes="1")
    async with serving_as(world.settings(), clock=world.clock) as serving:
        answer = await serving.client.get("/v2/shop/app/manifests/1.4.2")

    assert answer.content == ours.raw


async def test_the_size_limit_counts_all_repositories_of_an_upstream(world: World) -> None:
    """`keep_bytes` counts all repositories of an upstream, and the least recently used image of all is deleted."""
    first, second = image("first"), image("second")
    await world.pull(first, repository="team/a")
    world.clock.advance(days=1)
    await world.pull(second, repository="team/b")
    world.clock.advance(days=1)
    size = len(second.raw) + sum(len(blob.data) for blob in second.blobs)

    assert set(world.retain(keep_bytes=str(size))) == without_shared(first, [second])


async def test_a_blob_without_a_manifest_expires_by_its_own_age(world: World) -> None:
    """A blob that was fetched without a manifest expires by its own age."""
    layer = image("alone").layers[0]
    world.upstream.blobs[layer.digest] = layer.data
    async with serving_as(world.settings(), clock=world.clock) as serving:
        await serving.client.get(f"/v2/{NAME}/team/app/blobs/{layer.digest}")
    world.clock.advance(days=91)

    assert world.retain(keep_for="90d") == [layer.digest]


async def test_a_deleted_image_is_fetched_again(world: World) -> None:
    """A deleted image is fetched again on request."""
    shown = image("shown")
    await world.pull(shown)
    world.clock.advance(days=91)
    world.retain(keep_for="90d")
    await world.pull(shown)

    assert world.upstream.gets("/manifests/") == 2


@pytest.mark.files_only("the age of a file is real, that of an object is by the clock of the test")
async def test_gc_applies_retention_and_deletes_the_bytes_an_hour_later(world: World) -> None:
    """`gc` applies retention first and deletes the bytes an hour later, like those of every blob."""
    shown = image("shown")
    await world.pull(shown)
    world.clock.advance(days=91)
    settings = world.settings(keep_for="90d")
    retention = list(collect_store(settings, dry_run=True, clock=world.clock))
    first = list(collect_store(settings, dry_run=False, clock=world.clock))
    there = [path for path in (world.data / "blobs").rglob("*") if path.is_file()]

    assert {item.name.partition("@")[2] for item in retention if "@" in item.name} == digests(shown)
    assert retention[0].reason == "not pulled for 91 days"
    assert {item.what for item in first} >= {"manifest", "blob"}
    assert len(there) == len(shown.blobs)


@pytest.mark.slow
async def test_a_running_server_applies_retention_by_itself(world: World) -> None:
    """A running server deletes rows when their time is over, and bytes an hour later."""
    import time

    shown = image("shown")
    await world.pull(shown)
    world.clock.now_us = time.time_ns() // 1000 + 400 * DAY_US
    async with serving_as(world.settings(keep_for="90d"), clock=world.clock, janitor_every_s=0.05):
        await asyncio.sleep(0.5)  # rows are deleted meanwhile, but no bytes
        world.clock.advance(hours=2)
        await until(
            lambda: not any(path.is_file() for path in (world.data / "blobs").rglob("*")), "no blob is left", 20.0
        )
        with open_store(world.settings(), clock=world.clock) as store:
            found = store.database.read_and_wait(lambda found: mirrored.content_of(found, f"{NAME}/team/app"))

    assert found is not None
    assert (found.manifests, found.blobs) == ((), ())


async def test_bytes_that_are_referenced_again_are_not_deleted(world: World) -> None:
    """Bytes that are fetched again within the hour are not deleted."""
    shown = image("shown")
    await world.pull(shown)
    world.clock.advance(days=91)
    world.retain(keep_for="90d")
    await world.pull(shown)
    world.clock.advance(days=2)
    with open_store(world.settings(), clock=world.clock) as store:
        assert not list(collect_reviewed(store.database, store.blobs.maintenance, world.clock()))


class Racing:
    """A database in which something happens before each write of a retention. `writes`: their number."""

    def __init__(self, database: Metadata, happens: Callable[[UnitOfWork], object]) -> None:
        self._database = database
        self._happens = happens
        self.writes = 0

    def read_and_wait(self, query: Callable[[Any], Any]) -> Any:
        return self._database.read_and_wait(query)

    def write_and_wait(self, job: Callable[[UnitOfWork], Any], **options: Any) -> Any:
        self.writes += 1
        self._database.write_and_wait(self._happens)
        return self._database.write_and_wait(job, **options)


def racing(world: World, happens: Callable[[UnitOfWork], object]) -> tuple[list[str], int]:
    """Return the digests that a retention deletes while something happens, and how many transactions it takes."""
    settings = world.settings(keep_for="90d")
    with open_store(settings, clock=world.clock) as store:
        database = Racing(store.database, happens)
        found = retain(cast("Metadata", database), settings.upstreams, world.clock(), dry_run=False)
        return [item.name.partition("@")[2] for item in found], database.writes


def pulled_again(document: Document, tx: UnitOfWork) -> None:
    mirrored.note_pulled(tx, [mirrored.LastPull(f"{NAME}/team/app", document.digest, tx.now_us)])


def tagged(document: Document, tx: UnitOfWork) -> None:
    tx.sql.connection.execute(
        insert(tag)
        .prefix_with("OR REPLACE")
        .values(
            repository_id=queries.ensure_repository(tx, f"{NAME}/team/app", None),
            name="held",
            digest=document.digest,
            canonical=document.digest,
            media_type=document.media_type,
            entry_index=0,
            changed_us=0,
            changed_by="somebody",
        )
    )


def pushed_by_a_client(document: Document, tx: UnitOfWork) -> None:
    query = update(manifest).where(manifest.c.digest == document.digest)
    tx.sql.connection.execute(query.values(pushed_by="somebody"))


def part_of_a_new_index(document: Document, tx: UnitOfWork) -> None:
    place = queries.ensure_repository(tx, f"{NAME}/team/app", None)
    queries.add_link(tx, place, "sha256:new", document.digest, "child")


@pytest.mark.parametrize("happens", [pulled_again, tagged, pushed_by_a_client, part_of_a_new_index])
async def test_an_image_that_is_used_after_the_plan_stays_whole(
    data: Path, upstream: FakeUpstream, happens: Callable[[Document, UnitOfWork], None]
) -> None:
    """The transaction that deletes rows finds a use that began after the snapshot, and keeps the image with its parts."""
    world = World(data, upstream)
    used, unused = image("used"), image("unused")
    await world.pull(used, unused)
    world.clock.advance(days=100)
    deleted, _ = racing(world, partial(happens, used))

    assert unused.digest in deleted
    assert not set(deleted) & digests(used)


async def test_a_great_many_images_are_deleted_in_several_transactions(world: World) -> None:
    """Rows that expire together are not removed together, since other writes wait for a transaction."""
    actor = f"{MIRROR_ACTOR}{NAME}"
    await world.pull(image("one"))

    def add(tx: UnitOfWork) -> None:
        place = queries.ensure_repository(tx, f"{NAME}/team/app", None)
        for number in range(2 * ROWS_AT_ONCE + 50):
            queries.add_blob(tx, place, digest_of(b"%d" % number), 1, actor)

    world.change(add)
    world.clock.advance(days=100)
    deleted, writes = racing(world, lambda _: None)

    assert len(deleted) >= 2 * ROWS_AT_ONCE + 50
    assert writes == 3
    assert world.retain(keep_for="90d") == []
