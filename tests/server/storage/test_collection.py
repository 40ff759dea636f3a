"""Garbage collection beside everything else, on files and on object stores: it takes nothing that is needed, and leaves nothing.

Pushes, deletes, mounts, referrers, killed uploads and collections follow each other at random, some at the same moment, and
collections fail at random points. In an object store each DELETE is repeated at random, as one that was late.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from boltseal.errors import NotFound, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry import build_registry
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.sequencer import start_ledger
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import ObjectBlobs
from boltseal.server.storage.blobs.protocol import BlobStore, UploadId, UploadKey
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import GarbageItem, collect
from boltseal.server.storage.metadata import blob_keys
from boltseal.server.storage.metadata.protocol import BlobFound
from boltseal.server.storage.metadata_factory import open_metadata, prepare_metadata
from boltseal.server.storage.object_client import ObjectClient
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.bare_registry import DAY_US, HOUR_US, OCI, BareRegistry, Clock, once
from tests.server.storage.flaky import Flaky
from tests.storage_servers import ObjectServer

REPOSITORIES = [Repository("shop/app"), Repository("shop/other")]
POOL = [f"content {number}".encode() for number in range(8)]
STEPS = 400 if os.environ.get("TEST_SCALE") == "full" else 60
FULL_EVERY = 4

STORES = [
    "files",
    pytest.param("objects", marks=pytest.mark.real),
    pytest.param("objects and PostgreSQL", marks=[pytest.mark.real, pytest.mark.slow]),
]


@dataclass
class World:
    """A registry, and what must be there: for each repository its images, and its blobs with the time of the last push."""

    shop: BareRegistry
    flaky: Flaky
    bucket: S3Store | None
    images: dict[tuple[Repository, Digest], list[bytes]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    pushed_us: dict[tuple[Repository, bytes], int] = field(default_factory=dict)

    async def push_blob(self, repository: Repository, content: bytes) -> None:
        """Push a blob, and let its file have the time of the test."""
        await self.shop.blob(content, repository)
        self.pushed_us[repository, content] = self.shop.clock.now_us
        self.date(content)

    def date(self, content: bytes) -> None:
        """Set the time of a blob's file to that of the test."""
        path = self.shop.blobs.path(Digest.of(content))
        if path is not None:
            os.utime(path, ns=(self.shop.clock.now_us * 1000,) * 2)

    async def push_image(self, repository: Repository, contents: list[bytes], subject: Digest | None = None) -> None:
        """Push an image of some blobs. `subject`: it is a referrer of this image."""
        for content in contents:
            await self.push_blob(repository, content)
        layers = [
            {"mediaType": "application/octet-stream", "digest": str(Digest.of(each)), "size": len(each)}
            for each in contents
        ]
        document = {"schemaVersion": 2, "mediaType": OCI, "config": layers[0], "layers": layers[1:]}
        if subject is not None:
            document |= {"subject": {"mediaType": OCI, "digest": str(subject), "size": 1}}
        raw = json.dumps(document).encode()
        await self.shop.push(raw, Digest.of(raw), repository=repository)
        self.images[repository, Digest.of(raw)] = contents

    async def delete_image(self, dice: random.Random) -> None:
        """Delete one of the images; its blobs are kept for a day from now."""
        if self.images:
            repository, digest = dice.choice(sorted(self.images))
            await self.shop.registry.deletes.manifest(repository, digest, UNCONDITIONAL, ANONYMOUS)
            for content in self.images.pop((repository, digest)):
                self.pushed_us[repository, content] = self.shop.clock.now_us

    async def push_referrer(self, dice: random.Random) -> None:
        """Push an image that refers to another one, which may be deleted meanwhile."""
        if self.images:
            repository, subject = dice.choice(sorted(self.images))
            await self.push_image(repository, dice.sample(POOL, 2), subject)

    async def delete_blob(self, repository: Repository, content: bytes) -> None:
        """Delete a blob that no image of the repository needs."""
        if not any(at == repository and content in contents for (at, _), contents in self.images.items()):
            with suppress(NotFound):
                await self.shop.registry.deletes.blob(repository, Digest.of(content), ANONYMOUS)
            self.pushed_us.pop((repository, content), None)

    async def mount(self, content: bytes) -> None:
        """Mount a blob of the first repository into the second."""
        source, target = REPOSITORIES
        if await self.shop.registry.uploads.mount(target, Digest.of(content), source, may_read=lambda _: True):
            self.pushed_us[target, content] = self.shop.clock.now_us

    async def killed_upload(self, repository: Repository, content: bytes, *, stored: bool) -> None:
        """Send a blob in a process that is killed after its bytes were stored and before its row, or while it is sent."""
        key = UploadKey(repository, UploadId.new())
        await self.shop.blobs.uploads.start_upload(key)
        async with self.shop.blobs.uploads.open_upload(key, Digest.of(content)) as writer:
            await writer.write(content)
            await (writer.commit(Digest.of(content)) if stored else writer.flush())
        if stored:
            self.date(content)
        elif (path := next(self.uploads(key), None)) is not None:
            os.utime(path, ns=(self.shop.clock.now_us * 1000,) * 2)

    def uploads(self, key: UploadKey) -> Iterator[Path]:
        """Return the file of a session, where there are files."""
        blob = self.shop.blobs.path(Digest.of(b""))
        if blob is not None:
            yield from (blob.parents[3] / "uploads").glob(f"{key.name}*")

    def delete_late(self) -> None:
        """Repeat all DELETEs of objects that were due ever, as requests that reach the store only now."""
        if self.bucket is not None:
            self.dead.update(
                self.shop.database.read_and_wait(partial(blob_keys.dead, now_us=self.shop.clock.now_us, limit=10_000))
            )
            if self.dead:
                obstore.delete(self.bucket, sorted(self.dead))

    async def collect(self, *, full: bool = False, failing: float = 0.0) -> None:
        """Collect as `admin gc` does; a write that fails ends it, as a kill does."""
        self.flaky.share = failing
        with suppress(Unavailable):
            await asyncio.to_thread(partial(list, self._items(full=full)))
        self.flaky.share = 0.0

    def _items(self, *, full: bool) -> Iterator[GarbageItem]:
        blobs, now_us = self.shop.blobs, self.shop.clock.now_us
        if full:
            yield from FullCollection(self.flaky, blobs.maintenance, blobs.upkeep, now_us).find_all(dry_run=False)
        yield from collect(self.flaky, blobs.maintenance, blobs.upload_cleanup, now_us, dry_run=False)
        if blobs.upkeep is not None:
            blobs.upkeep.run(now_us)

    async def check(self) -> None:
        """Assert that every image is whole, and that no blob of the last day was taken from its repository."""
        needed = {(repository, content) for (repository, _), contents in self.images.items() for content in contents}
        young = {key for key, at_us in self.pushed_us.items() if at_us > self.shop.clock.now_us - DAY_US}
        for repository, content in needed | young:
            digest = Digest.of(content)
            found = await self.shop.database.lookups.content.blob(repository, str(digest))
            assert found == BlobFound(len(content), hidden=False)
            stored = b"".join([piece async for piece in self.shop.blobs.read(digest, 0, len(content))])
            assert stored == content

    async def check_nothing_is_left(self) -> None:
        """Assert that after some days nothing is stored but what images need."""
        for _ in range(5):
            self.shop.clock.now_us += DAY_US + HOUR_US
            await self.collect(full=True)
        needed = {Digest.of(content) for contents in self.images.values() for content in contents}

        assert {each.digest for each in self.shop.blobs.maintenance.walk()} == needed
        assert list(self.shop.blobs.upload_cleanup.abandoned(2**62)) == []
        if self.bucket is not None:
            keys = [each["path"] for page in obstore.list(self.bucket) for each in page]
            kinds = Counter(key.partition("/")[0] for key in keys if not key.startswith("owner"))
            assert kinds == Counter(blobs=len(needed), index=len(needed), manifests=len(self.images))


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """An empty registry on each kind of storage."""
    clock, data, storage, bucket = Clock(), tmp_path / "data", StorageSettings(), None
    if "PostgreSQL" in request.param:
        create: Callable[[], str] = request.getfixturevalue("new_database")
        storage = StorageSettings(database=DatabaseUrl(create()))
    prepare_metadata(data, storage)
    database = open_metadata(data, storage, clock)
    if request.param == "files":
        blobs: BlobStore = LocalBlobs(data)
    else:
        server: ObjectServer = request.getfixturevalue("object_server")
        bucket = server.store(tmp_path.name.replace("_", "-"))
        blobs = ObjectBlobs(database, ObjectClient(bucket, BLOBS), data)
        BucketOwner(database, ObjectClient(bucket, BLOBS), "the bucket").claim()
    rules = parse_rules([])
    database.write_and_wait(
        lambda tx: start_ledger(tx, origin="registry.test", rules=rules.canonical(), actor="boltseal")
    )
    shop = BareRegistry(build_registry(database, blobs, rules), database, blobs, clock)
    yield World(shop, Flaky(database, random.Random(0)), bucket)  # noqa: S311 - not for secrets
    blobs.close()
    database.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_needed_is_taken_and_nothing_else_stays(world: World, seed: int) -> None:
    """After every step all images are whole; in the end nothing is stored that no image needs."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    for step in range(STEPS):
        await (change if dice.random() < 0.6 else collect_beside)(world, dice, full=step % FULL_EVERY == 0)
        world.shop.clock.now_us += dice.choice([1, HOUR_US // 2, HOUR_US, 9 * HOUR_US, DAY_US])
        if step % FULL_EVERY == 1:
            await asyncio.to_thread(world.delete_late)
        await world.check()
    await world.check_nothing_is_left()
    await asyncio.to_thread(world.delete_late)
    await world.check()


async def change(world: World, dice: random.Random, *, full: bool) -> None:
    """Do one thing that clients do."""
    repository, content = dice.choice(REPOSITORIES), dice.choice(POOL)
    match dice.randrange(8):
        case 0:
            await world.push_blob(repository, content)
        case 1 | 2:
            await world.push_image(repository, dice.sample(POOL, 3))
        case 3:
            await world.delete_image(dice)
        case 4:
            await world.delete_blob(repository, content)
        case 5:
            await world.mount(content)
        case 6:
            await world.killed_upload(repository, content, stored=dice.random() < 0.5)
        case _:
            await world.push_referrer(dice)


async def collect_beside(world: World, dice: random.Random, *, full: bool) -> None:
    """Collect, alone and failing, or at the moment in which clients push, mount and delete the same blobs."""
    repository, content = dice.choice(REPOSITORIES), dice.choice(POOL)
    match dice.randrange(4):
        case 0:
            await asyncio.gather(world.collect(full=full), push_beside(world, repository, content))
        case 1:  # the bytes may be found, and be deleted before the row
            await asyncio.gather(world.collect(), push_beside(world, repository, content), mount_beside(world, content))
        case 2:
            await asyncio.gather(world.collect(), world.collect(full=True), world.delete_image(dice))
        case _:
            await world.collect(full=full, failing=0.3)


async def mount_beside(world: World, content: bytes) -> None:
    """Mount a blob beside a collection, which may refuse it."""
    with suppress(Unavailable):
        await world.mount(content)


async def test_the_layers_of_a_deleted_image_are_given_back(world: World) -> None:
    """After a delete the repository loses the image's own layers, and their bytes go; layers that are shared stay."""
    shop, (app, other) = world.shop, REPOSITORIES
    shared, own, elsewhere = b"shared with another image", b"of the deleted image alone", b"also in another repository"
    await world.push_image(app, [shared, own, elsewhere])
    [deleted] = world.images
    await world.push_image(app, [shared, b"kept"])
    await world.push_image(other, [elsewhere, b"kept"])
    shop.clock.now_us += 3 * DAY_US
    await shop.registry.deletes.manifest(*deleted, UNCONDITIONAL, ANONYMOUS)
    del world.images[deleted]
    await world.collect()
    stored = {each.digest for each in shop.blobs.maintenance.walk()}
    for _ in range(3):
        shop.clock.now_us += DAY_US + HOUR_US
        await world.collect()
    left = {each.digest for each in shop.blobs.maintenance.walk()}
    rows = [await shop.database.lookups.content.blob(app, str(Digest.of(each))) for each in (own, elsewhere)]

    assert stored == {Digest.of(each) for each in (shared, own, elsewhere, b"kept")}
    assert left == stored - {Digest.of(own)}
    assert rows == [None, None]
    await world.check()


async def test_bytes_that_were_pushed_and_deleted_twice_go_twice(world: World) -> None:
    """Bytes that come back soon after they were deleted are looked at as soon as those of a first push."""
    shop, digest = world.shop, Digest.of(POOL[0])
    for _ in range(2):
        await world.push_blob(REPOSITORIES[0], POOL[0])
        for _ in range(5):
            shop.clock.now_us += DAY_US + HOUR_US
            await world.collect()

        assert digest not in {each.digest for each in shop.blobs.maintenance.walk()}


async def push_beside(world: World, repository: Repository, content: bytes) -> None:
    """Push a blob beside a collection, which may refuse it once.

    The file of its session has the machine's time, so the collection may take it for an abandoned one.
    """
    for _ in range(2):
        with suppress(Unavailable, NotFound):
            await world.push_blob(repository, content)
            return


async def test_a_refused_push_leaves_nothing(world: World) -> None:
    """Bytes whose row was refused, because the blob was deleted meanwhile, are reviewed and deleted, and nothing lists the store."""
    shop, digest = world.shop, Digest.of(b"refused")
    upload = await shop.registry.uploads.start(REPOSITORIES[0])
    await shop.registry.uploads.append(REPOSITORIES[0], upload, None, None, once(b"refused"))
    async with shop.blobs.uploads.open_upload(UploadKey(REPOSITORIES[0], upload), digest) as writer:
        size = await writer.commit(digest)
    with pytest.raises(Unavailable, match="push again"):
        await shop.registry.uploads.add_committed(REPOSITORIES[0], digest, size, ANONYMOUS, 1, upload)
    world.date(b"refused")
    shop.clock.now_us += DAY_US + HOUR_US
    await world.collect()

    assert list(shop.blobs.maintenance.walk()) == []
