"""`tag purge` deletes an image with its bytes and leaves its tags sealed; `admin expire` deletes tags whose keep time
is over."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.errors import NotFound, SealedDelete
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.policy.rules import parse_rules
from boltseal.server.registry.seals import BytesLeft, PurgeTargetChanged, Seals
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.garbage_collection import collect, finish_purges
from boltseal.server.storage.metadata import unreferenced
from boltseal.server.store_factory import open_store
from tests.bare_registry import SHOP, Opener
from tests.fakes.disk import FailingDisk
from tests.images import Document, error_of, holds_blob, image, index, meaning, push, push_blob, put
from tests.polling import until
from tests.server.seal.admin import ADMIN, APP, RELEASE, bytes_on_disk, seals_of
from tests.serving import FLOATING, Clock, Rule, Serving, serving, settings_of

SECRET, OTHER = image("a password"), image("other")
NOON = 1_700_000_000_000_000
A_YEAR: list[Rule] = [{"mode": "sealed", "keep": "365d"}]


async def purge(registry: Serving) -> None:
    with seals_of(registry.data) as seals:
        await seals.purge(APP, RELEASE, ADMIN, "it holds a password")


async def test_a_purged_image_is_gone_at_once(registry: Serving) -> None:
    """After a purge, a server that has just served tag, manifest and blobs answers 404."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", SECRET)
    paths = ["manifests/1.4.2", f"manifests/{SECRET.digest}"] + [f"blobs/{blob.digest}" for blob in SECRET.blobs]
    before = [(await client.get(f"/v2/shop/app/{path}")).status_code for path in paths]
    await purge(registry)
    after = [(await client.get(f"/v2/shop/app/{path}")).status_code for path in paths]

    assert before == [200] * len(paths)
    assert after == [404] * len(paths)


@pytest.mark.parametrize(("purged", "copied"), [("sha256", "sha256"), ("sha256", "sha512"), ("sha512", "sha512")])
async def test_copies_in_other_repositories_are_listed(registry: Serving, purged: str, copied: str) -> None:
    """A purge lists the image in other repositories, also under another digest of the same bytes."""
    for repository, algorithm in (("shop/app", purged), ("shop/other", copied)):
        for blob in SECRET.blobs:
            await push_blob(registry.client, repository, blob)
        digest = str(Digest.of(SECRET.raw, algorithm))
        assert (await put(registry.client, repository, digest, SECRET)).status_code == 201
    with seals_of(registry.data) as seals:
        done = await seals.purge(APP, Digest.of(SECRET.raw, purged), ADMIN, "it holds a password")

    assert {(copy.repository, str(copy.digest)) for copy in done.elsewhere} == {
        ("shop/other", digest) for digest in (str(Digest.of(SECRET.raw, copied)), *(b.digest for b in SECRET.blobs))
    }


@pytest.mark.parametrize("changed", ["the tag moved to another image", "another tag came to the image"])
async def test_only_the_confirmed_image_and_tags_are_purged(tmp_path: Path, changed: str) -> None:
    """If a push changes the image or adds a tag after the user's confirmation, the purge is refused."""
    async with serving(tmp_path / "data", FLOATING) as registry:
        await push(registry.client, "shop/app", "1.4.2", SECRET)
        with seals_of(registry.data) as seals:
            plan = await seals.plan_purge(APP, RELEASE, ADMIN)
        confirmed = plan.confirmed()
        moved = changed == "the tag moved to another image"
        await push(registry.client, "shop/app", "1.4.2" if moved else "9", OTHER if moved else SECRET)
        with seals_of(registry.data) as seals, pytest.raises(PurgeTargetChanged, match="nothing was deleted"):
            await seals.purge(APP, RELEASE, ADMIN, "password", confirmed=confirmed)
        left = [
            (await registry.client.get(f"/v2/shop/app/manifests/{tag}")).status_code for tag in ("1.4.2", SECRET.digest)
        ]

    assert left == [200, 200]


@pytest.mark.parametrize("needed", [False, True])
async def test_parts_that_a_push_adds_after_the_confirmation_are_not_purged_unseen(data: Path, needed: bool) -> None:
    """A missing child that is pushed after the confirmation refuses the purge, unless another image needs the child by then."""
    both = index(OTHER, SECRET)
    async with serving(data, FLOATING) as registry:
        client = registry.client
        await push(client, "shop/app", OTHER.digest, OTHER)
        assert (await put(client, "shop/app", "1.4.2", both)).status_code == 201
        with seals_of(registry.data) as seals:
            plan = await seals.plan_purge(APP, RELEASE, ADMIN)
        await push(client, "shop/app", "9" if needed else SECRET.digest, SECRET)
        with seals_of(registry.data) as seals:
            try:
                done = await seals.purge(APP, RELEASE, ADMIN, "password", confirmed=plan.confirmed())
            except PurgeTargetChanged as error:
                refused = error.message
            else:
                refused = ""
                assert done.confirmed().parts == plan.confirmed().parts
        left = [(await client.get(f"/v2/shop/app/manifests/{each}")).status_code for each in ("1.4.2", SECRET.digest)]

    assert left == ([404, 200] if needed else [200, 200])
    assert bool(refused) is not needed
    assert needed or SECRET.digest in refused


@pytest.mark.files_only("looks for the files of blobs")
async def test_purged_bytes_are_not_on_the_disk(registry: Serving) -> None:
    """A purge deletes the bytes before the command returns, without waiting for garbage collection."""
    await push(registry.client, "shop/app", "1.4.2", SECRET)
    before = bytes_on_disk(registry.data, SECRET.layers[0].digest).exists()
    await purge(registry)

    assert before
    for blob in SECRET.blobs:
        assert not bytes_on_disk(registry.data, blob.digest).exists()


async def test_a_purged_tag_stays_sealed(registry: Serving) -> None:
    """A purged tag accepts only the same manifest."""
    await push(registry.client, "shop/app", "1.4.2", SECRET)
    await purge(registry)
    refused = await push(registry.client, "shop/app", "1.4.2", OTHER)
    returned = await push(registry.client, "shop/app", "1.4.2", SECRET)

    assert refused.status_code == 409
    assert error_of(refused)[0] == "DENIED"
    assert returned.status_code == 201


async def test_every_tag_of_a_purged_manifest_is_deleted(registry: Serving) -> None:
    """A purge deletes every tag of the manifest, each with its own ledger entry."""
    client = registry.client
    await push(client, "shop/app", "1.4.2", SECRET)
    await put(client, "shop/app", "1.4", SECRET)
    before = await put(client, "shop/app", "latest", SECRET)
    await purge(registry)
    tags = (await client.get("/v2/shop/app/tags/list")).json()["tags"]
    after = await push(client, "shop/app", "2.0.0", OTHER)

    assert tags == []
    assert int(after.headers["Boltseal-Ledger-Index"]) == int(before.headers["Boltseal-Ledger-Index"]) + 4


async def test_an_untagged_manifest_is_purged_by_its_digest(registry: Serving) -> None:
    """An untagged manifest can be purged by its digest."""
    await push(registry.client, "shop/app", SECRET.digest, SECRET)
    with seals_of(registry.data) as seals:
        await seals.purge(APP, Digest.parse(SECRET.digest), ADMIN, "it holds a password")

    assert await meaning(registry.client, "shop/app", SECRET.digest) is None


@pytest.mark.files_only("looks for the files of blobs")
async def test_content_that_another_image_needs_stays(registry: Serving) -> None:
    """A blob that another image shares with the purged one stays, also on the disk."""
    shared = image("a password", layer_count=2)
    await push(registry.client, "shop/app", "1.4.2", SECRET)
    await push(registry.client, "shop/app", "1.4.3", shared)
    common = SECRET.layers[0].digest
    await purge(registry)

    assert shared.layers[0].digest == common
    assert await holds_blob(registry.client, "shop/app", common)
    assert not await holds_blob(registry.client, "shop/app", SECRET.config.digest)
    assert bytes_on_disk(registry.data, common).exists()


async def test_another_repository_keeps_its_copy(registry: Serving) -> None:
    """A purge in one repository leaves the same bytes in another."""
    await push(registry.client, "shop/other", "1.0.0", SECRET)
    await push(registry.client, "shop/app", "1.4.2", SECRET)
    await purge(registry)
    got = await registry.client.get(f"/v2/shop/other/blobs/{SECRET.layers[0].digest}")

    assert got.content == SECRET.layers[0].data
    assert not await holds_blob(registry.client, "shop/app", SECRET.layers[0].digest)


@pytest.mark.parametrize("parent", [index(SECRET), index(index(SECRET))], ids=["index", "nested"])
async def test_a_part_of_another_sealed_image_can_not_be_purged_alone(registry: Serving, parent: Document) -> None:
    """A child of a sealed index can't be purged alone."""
    await push(registry.client, "shop/app", "1.4.2", SECRET)
    await push(registry.client, "shop/app", "2.0.0", parent)

    with pytest.raises(SealedDelete, match=r"2\.0\.0"):
        await purge(registry)
    assert await meaning(registry.client, "shop/app", "1.4.2") == SECRET.digest


async def test_purging_an_index_deletes_its_children(registry: Serving) -> None:
    """A purge of an index deletes what only it needs, at every level."""
    await push(registry.client, "shop/app", "1.4.2", index(index(SECRET)))
    await purge(registry)

    assert await meaning(registry.client, "shop/app", SECRET.digest) is None
    assert not bytes_on_disk(registry.data, SECRET.layers[0].digest).exists()


async def test_purging_an_unknown_tag_is_refused(registry: Serving) -> None:
    """A purge of an unknown tag has its own error."""
    await push(registry.client, "shop/app", "1.4.3", OTHER)

    with seals_of(registry.data) as seals, pytest.raises(NotFound):
        await seals.purge(APP, Tag("9.9.9"), ADMIN, "why not")


async def test_an_expired_keep_leaves_the_tag_sealed(data: Path) -> None:
    """`admin expire` deletes only tags whose keep time is over, which can return only with the same digest."""
    clock = Clock(NOON)
    async with serving(data, A_YEAR, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", SECRET)
        await push(registry.client, "shop/app", "latest", OTHER)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.5.0", OTHER)

    expired = await expired_at(data, NOON + 364 * 86_400_000_000)
    expired_later = await expired_at(data, NOON + 366 * 86_400_000_000)
    async with serving(data, clock=Clock(NOON + 367 * 86_400_000_000)) as registry:
        refused = await push(registry.client, "shop/app", "1.4.2", OTHER)
        still_there = await meaning(registry.client, "shop/app", "1.5.0")

    assert expired == []
    assert expired_later == ["1.4.2", "latest"]
    assert refused.status_code == 409
    assert still_there == OTHER.digest


async def expired_at(data: Path, now_us: int) -> list[str]:
    """Return the tags that `admin expire` deletes at this time."""
    with open_store(settings_of(data), clock=Clock(now_us)) as store:
        return [tag for _, tag in (await store.registry.seals.expire(ADMIN)).expired]


KILLED = """
import os, sys
from pathlib import Path
from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.storage.blobs.local_store import LocalBlobs
from tests.serving import settings_of

LocalBlobs.delete = lambda *_: os._exit(9)
settings, image = settings_of(Path(sys.argv[1])), "localhost:5000/shop/app:1.4.2"
purge_image(settings, image, "it holds a password", plan_purge(settings, image))
"""


@pytest.mark.slow
@pytest.mark.files_only("looks for the files of blobs")
async def test_the_next_start_deletes_the_bytes_that_a_killed_purge_left(data: Path) -> None:
    """After a kill between the COMMIT of a purge and its first unlink, the next start deletes the bytes."""
    async with serving(data) as registry:
        await push(registry.client, "shop/app", "1.4.2", SECRET)
    died = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(data)], check=False, capture_output=True
    )
    paths = [bytes_on_disk(data, blob.digest) for blob in SECRET.blobs]
    left = [path.exists() for path in paths]
    async with serving(data) as registry:
        gone = [(await registry.client.get(f"/v2/shop/app/blobs/{blob.digest}")).status_code for blob in SECRET.blobs]
        await until(lambda: not any(path.exists() for path in paths), "the bytes are deleted", 20.0)
    with open_store(settings_of(data)) as store:
        noted = store.database.read_and_wait(unreferenced.purged)

    assert died.returncode == 9, died.stderr
    assert left == [True] * len(paths)
    assert gone == [404] * len(paths)
    assert noted == []


@pytest.mark.files_only("a disk refuses to delete the files of blobs")
async def test_bytes_that_were_pushed_again_after_a_killed_purge_stay(open_shop: Opener, tmp_path: Path) -> None:
    """After a killed purge, bytes that were pushed again meanwhile stay."""
    shop = open_shop()
    raw = await shop.image("a password")
    await shop.push(raw, RELEASE)
    disk = FailingDisk()
    disk.fail("unlink", errno.EIO)
    blobs = LocalBlobs(tmp_path / "data", disk=disk)
    with pytest.raises(BytesLeft):
        await Seals(shop.database, blobs, TagWriter(parse_rules([]))).purge(SHOP, RELEASE, ADMIN, "it holds a password")
    blobs.close()
    await shop.push(await shop.image("a password"), RELEASE)
    deleted = await asyncio.to_thread(lambda: list(finish_purges(shop.database, shop.blobs.maintenance)))

    assert deleted == []
    assert len(list(shop.blobs.maintenance.walk())) == 2
    assert shop.database.read_and_wait(unreferenced.purged) == []


@pytest.mark.files_only("a disk refuses to delete the files of blobs")
async def test_a_failure_to_delete_one_blob_deletes_the_others(open_shop: Opener, tmp_path: Path) -> None:
    """If one blob of a purge can't be deleted the others are, and the error names it."""
    shop = open_shop()
    raw = await shop.image("a password")
    await shop.push(raw, RELEASE)
    disk = FailingDisk()
    disk.fail("unlink", errno.EIO)
    blobs = LocalBlobs(tmp_path / "data", disk=disk)
    seals = Seals(shop.database, blobs, TagWriter(parse_rules([])))
    with pytest.raises(BytesLeft) as caught:
        await seals.purge(SHOP, RELEASE, ADMIN, "it holds a password")
    blobs.close()
    left = [str(stored.digest) for stored in shop.blobs.maintenance.walk()]

    assert len(left) == 1
    assert left[0] in caught.value.message
    assert "`boltseal admin gc`" in caught.value.message


@pytest.mark.files_only("a disk refuses to delete the files of blobs")
async def test_gc_deletes_at_once_what_a_purge_left(open_shop: Opener, tmp_path: Path) -> None:
    """`gc` deletes what a purge could not, without waiting for a day, and leaves what fails again."""
    shop = open_shop()
    await shop.push(await shop.image("a password"), RELEASE)
    disk = FailingDisk()
    blobs = LocalBlobs(tmp_path / "data", disk=disk)
    runs = []
    disk.fail("unlink", errno.EIO)
    with pytest.raises(BytesLeft):
        await Seals(shop.database, blobs, TagWriter(parse_rules([]))).purge(SHOP, RELEASE, ADMIN, "it holds a password")
    for fails in (True, False):
        if fails:
            disk.fail("unlink", errno.EIO)
        found = await asyncio.to_thread(
            lambda: list(
                collect(shop.database, blobs.maintenance, blobs.upload_cleanup, shop.clock.now_us, dry_run=False)
            )
        )
        runs.append([item.reason for item in found])
    blobs.close()

    assert runs == [[], ["it was purged"]]
    assert list(shop.blobs.maintenance.walk()) == []
