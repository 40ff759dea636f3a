"""Garbage collection deletes unreferenced data and nothing else, also beside pushes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.pulls import BlobUnknown
from boltseal.server.registry.store_gauges import StoreGauges
from boltseal.server.registry.uploads import UploadManager
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import StoreBroken, UploadKey
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.garbage_collection import (
    FAILED,
    FAILURES_IN_A_ROW,
    HIDDEN,
    HIDDEN_BLOB,
    REPOSITORY_BLOB,
    UNUSED,
    GarbageItem,
    collect,
)
from boltseal.server.storage.metadata import blob_reviews, full_collection_table, upload_table
from boltseal.server.storage.metadata.full_collection_table import FullCollectionRow
from boltseal.server.storage.metadata.hidden_blobs import HIDDEN_FOR_US
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.protocol import BlobFound
from tests.bare_registry import DAY_US, HOUR_US, SHOP, once
from tests.fakes.disk import FailingDisk
from tests.server.storage.stored import remove

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from boltseal.server.storage.blobs.protocol import StoredBlob
    from boltseal.server.storage.metadata.protocol import Job
    from tests.bare_registry import BareRegistry, Opener

OTHER = Repository("shop/other")


def age(shop: BareRegistry, data: bytes, hours: int) -> None:
    """Set a blob file's time to so many hours ago by the test's clock."""
    path = shop.blobs.path(Digest.of(data))
    assert path is not None
    then = (shop.clock.now_us - hours * HOUR_US) / 1e6
    os.utime(path, (then, then))


def run(shop: BareRegistry, *, dry_run: bool = False, full: bool = False) -> list[GarbageItem]:
    now_us, found = shop.clock.now_us, list[GarbageItem]()
    if full:
        comparison = FullCollection(shop.database, shop.blobs.maintenance, shop.blobs.upkeep, now_us)
        found += comparison.find_all(dry_run=dry_run)
    if full and dry_run:
        return found
    return found + list(
        collect(shop.database, shop.blobs.maintenance, shop.blobs.upload_cleanup, now_us, dry_run=dry_run)
    )


async def in_thread(shop: BareRegistry, *, dry_run: bool = False, full: bool = False) -> list[GarbageItem]:
    return await asyncio.to_thread(lambda: run(shop, dry_run=dry_run, full=full))


async def test_referenced_bytes_stay_whatever_their_age(shop: BareRegistry) -> None:
    """Bytes that a row of any repository references are not deleted, whatever their age."""
    await shop.blob(b"kept")
    age(shop, b"kept", 1000)

    assert await in_thread(shop) == []
    assert shop.blobs.maintenance.look(Digest.of(b"kept")) is not None


async def test_unreferenced_bytes_are_deleted_after_a_day(shop: BareRegistry) -> None:
    """Unreferenced bytes are deleted 24 hours after they were stored, and an hour after their release, with the reason."""
    await shop.blob(b"goes")
    age(shop, b"goes", 30)
    await shop.registry.deletes.blob(SHOP, Digest.of(b"goes"), ANONYMOUS)
    soon = await in_thread(shop)
    shop.clock.now_us += 2 * HOUR_US
    planned = await in_thread(shop, dry_run=True)
    there = shop.blobs.maintenance.look(Digest.of(b"goes"))
    gone = await in_thread(shop)
    reason = "no repository has referred to it for 2 h"

    assert soon == []
    assert planned == gone == [GarbageItem("blob", str(Digest.of(b"goes")), 4, reason)]
    assert there
    assert shop.blobs.maintenance.look(Digest.of(b"goes")) is None
    assert await in_thread(shop) == []


async def test_young_unreferenced_bytes_stay(shop: BareRegistry) -> None:
    """Unreferenced bytes of the last day stay, since a push may be about to write its row."""
    await shop.blob(b"young")
    await shop.registry.deletes.blob(SHOP, Digest.of(b"young"), ANONYMOUS)
    age(shop, b"young", 23)
    shop.clock.now_us += HOUR_US - 1

    assert await in_thread(shop) == []


async def test_bytes_without_a_row_are_not_reused(shop: BareRegistry) -> None:
    """Bytes without a row, which a purge may be deleting, are not used for another push."""
    digest = Digest.of(b"orphan")
    await shop.blob(b"orphan")
    await shop.registry.uploads.add_blob(OTHER, digest, 6, ANONYMOUS)
    for repository in (SHOP, OTHER):
        await shop.registry.deletes.blob(repository, digest, ANONYMOUS)

    assert shop.blobs.maintenance.look(digest) is not None
    with pytest.raises(Unavailable, match="push again"):
        await shop.registry.uploads.add_blob(OTHER, digest, 6, ANONYMOUS)


async def test_purges_beside_pushes_of_the_same_bytes_lose_nothing(shop: BareRegistry) -> None:
    """A concurrent purge and push of the same bytes never lose the bytes of an acknowledged push."""
    digest = Digest.of(b"contested")
    acknowledged = 0

    async def push() -> None:
        nonlocal acknowledged
        with suppress(Unavailable):
            await shop.blob(b"contested")
            acknowledged += 1

    async def purge() -> None:
        with suppress(BlobUnknown):
            await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
        await shop.registry.seals._delete_bytes([digest])

    for turn in range(60):
        shop.clock.now_us += 1
        await asyncio.gather(*(push(), purge()) if turn % 2 else (purge(), push()))
        if await shop.database.lookups.content.blob(SHOP, str(digest)) is not None:
            assert shop.blobs.maintenance.look(digest) is not None

    assert acknowledged > 0


async def test_a_purge_between_the_bytes_and_the_row_of_a_push_refuses_the_push(shop: BareRegistry) -> None:
    """If a purge deletes a push's bytes before its row is written, the push is refused."""
    digest = Digest.of(b"raced")
    await shop.blob(b"raced")
    await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
    upload = await shop.registry.uploads.start(SHOP)

    class Purging:
        """Metadata that deletes the bytes as a purge does, before the push's row is written."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.database, name)

        async def write(self, job: Job[None], *, durable: bool = True, repository: str = "") -> None:
            shop.clock.now_us += 1
            await shop.registry.seals._delete_bytes([digest])
            await shop.database.write(job, durable=durable)

    uploads = UploadManager(Purging(), shop.blobs)  # type: ignore[arg-type]  # the rest by __getattr__
    with pytest.raises(Unavailable, match="push again"):
        await uploads.finish(SHOP, upload, digest, None, None, once(b"raced"))

    assert shop.blobs.maintenance.look(digest) is None
    assert (await shop.registry.pulls.catalog(None, None, may_read=lambda _: True)).items == ()


async def test_a_paused_gc_does_not_hide_a_purge(shop: BareRegistry) -> None:
    """A gc that is paused between two items, as by a pager, does not forget a purge that happened meanwhile."""
    digest = Digest.of(b"raced")
    await shop.blob(b"raced")
    age(shop, b"raced", 25)
    await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
    shop.clock.now_us += 2 * HOUR_US
    collecting = collect(
        shop.database, shop.blobs.maintenance, shop.blobs.upload_cleanup, shop.clock.now_us, dry_run=False
    )
    deleted = await asyncio.to_thread(next, collecting)
    await shop.blob(b"raced")
    upload = await shop.registry.uploads.start(OTHER)

    class Purging:
        """Metadata that purges the blob and continues the gc, before the push's row is written."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.database, name)

        async def write(self, job: Job[None], *, durable: bool = True, repository: str = "") -> None:
            if durable:  # the row of the blob; later writes only end the session
                await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
                await shop.registry.seals._delete_bytes([digest])
                await asyncio.to_thread(list, collecting)
            await shop.database.write(job, durable=durable)

    uploads = UploadManager(Purging(), shop.blobs)  # type: ignore[arg-type]  # the rest by __getattr__
    with pytest.raises(Unavailable, match="push again"):
        await uploads.finish(OTHER, upload, digest, None, None, once(b"raced"))

    assert deleted.name == str(digest)
    assert shop.blobs.maintenance.look(digest) is None


async def test_concurrent_gc_and_pushes_lose_nothing(shop: BareRegistry) -> None:
    """A push that was acknowledged beside a gc keeps its bytes."""
    bodies = [f"blob {n}".encode() for n in range(60)]
    for body in bodies:
        await shop.blob(body)
        age(shop, body, 48)
        await shop.registry.deletes.blob(SHOP, Digest.of(body), ANONYMOUS)
    shop.clock.now_us += 2 * HOUR_US
    collected, *pushed = await asyncio.gather(
        in_thread(shop), *(shop.blob(body) for body in bodies), return_exceptions=True
    )
    acknowledged = [body for body, result in zip(bodies, pushed, strict=True) if not isinstance(result, BaseException)]

    assert not isinstance(collected, BaseException)
    assert all(isinstance(result, dict | Unavailable) for result in pushed)
    assert acknowledged
    for body in acknowledged:
        assert shop.blobs.maintenance.look(Digest.of(body)) is not None


async def test_an_abandoned_upload_is_deleted_after_a_day(shop: BareRegistry) -> None:
    """An upload session that was idle for a day is deleted, and one in use stays."""
    upload = await shop.registry.uploads.start(SHOP)
    await shop.registry.uploads.append(SHOP, upload, None, None, once(b"half"))
    real_now_us = time.time_ns() // 1000
    shop.clock.now_us = real_now_us + DAY_US // 2
    early = await in_thread(shop)
    shop.clock.now_us = real_now_us + DAY_US + HOUR_US
    gone = await in_thread(shop)

    assert early == []
    assert [(item.what, item.size_bytes) for item in gone] == [("upload", 4)]


async def test_rows_of_uploads_follow_their_bytes(shop: BareRegistry, tmp_path: Path) -> None:
    """A session that is still written to after a day keeps its row; a row without bytes is deleted an hour later."""
    used, cancelled = [await shop.registry.uploads.start(SHOP) for _ in range(2)]
    await shop.blobs.uploads.cancel_upload(
        UploadKey(SHOP, cancelled)
    )  # as if the process had been killed before the row was deleted
    begun_us = shop.clock.now_us
    await in_thread(shop)
    at_once = shop.database.read_and_wait(upload_table.all_uploads)
    shop.clock.now_us += DAY_US
    written_us = shop.clock.now_us - HOUR_US
    os.utime(next((tmp_path / "data" / "uploads").glob(f"{used}.*")), ns=(written_us * 1000, written_us * 1000))
    items = await in_thread(shop)
    a_day_later = shop.database.read_and_wait(upload_table.all_uploads)
    ended = await shop.registry.uploads.finish(SHOP, used, Digest.of(b"end"), None, None, once(b"end"))

    assert {row.id for row in at_once} == {used, cancelled}
    assert [(row.id, row.begun_us, row.expires_us) for row in a_day_later] == [(used, begun_us, written_us + DAY_US)]
    assert (items, ended) == ([], 3)
    assert shop.database.read_and_wait(upload_table.all_uploads) == []


async def test_bytes_that_were_pushed_again_since_the_look_stay(shop: BareRegistry) -> None:
    """Bytes that were pushed again between the look at them and the decision are new and stay."""
    digest = Digest.of(b"again")
    await shop.blob(b"again")
    await shop.registry.deletes.blob(SHOP, digest, ANONYMOUS)
    age(shop, b"again", 48)
    shop.clock.now_us += 2 * HOUR_US

    class PushedAgain:
        """A store to which the blob is pushed again right after it was looked at."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def look(self, digest: Digest, *, by_row: bool = False) -> StoredBlob | None:
            found = shop.blobs.maintenance.look(digest, by_row=by_row)
            age(shop, b"again", 0)
            return found

    items = await asyncio.to_thread(
        lambda: list(collect(shop.database, PushedAgain(), shop.blobs.upload_cleanup, shop.clock.now_us, dry_run=False))  # type: ignore[arg-type]  # the rest by __getattr__
    )

    assert items == []
    assert shop.blobs.maintenance.look(digest) is not None


async def test_bytes_that_never_had_a_row_are_deleted_after_a_day(shop: BareRegistry, tmp_path: Path) -> None:
    """Bytes of a push that was killed before its row are in no queue: a full collection deletes them after a day."""
    await shop.blob(b"refused")
    age(shop, b"refused", 25)
    change(tmp_path, "DELETE FROM blob")
    change(tmp_path, "DELETE FROM blob_review")
    by_queue = await in_thread(shop)
    planned = await in_thread(shop, full=True, dry_run=True)
    gone = await in_thread(shop, full=True)

    assert by_queue == []
    assert planned == gone
    assert [item.reason for item in gone] == ["no repository ever referred to it, and it was stored 25 h ago"]


async def test_unreferenced_manifest_bytes_are_deleted(shop: BareRegistry, tmp_path: Path) -> None:
    """Unreferenced manifest bytes are deleted; referenced ones stay, also under another algorithm."""
    kept, lost = await shop.image("kept"), await shop.image("lost")
    await shop.push(kept, Digest.of(kept, "sha512"))
    await shop.push(lost, Digest.of(lost))
    change(tmp_path, "DELETE FROM link WHERE parent = ?", str(Digest.of(lost)))
    change(tmp_path, "DELETE FROM manifest WHERE digest = ?", str(Digest.of(lost)))
    planned = await in_thread(shop, dry_run=True, full=True)
    gone = await in_thread(shop, full=True)

    assert planned == gone == [GarbageItem("manifest", str(Digest.of(lost)), len(lost), "no repository refers to it")]
    assert await in_thread(shop) == []
    assert (await shop.registry.pulls.manifest(SHOP, Digest.of(kept, "sha512"))).raw == kept


async def test_a_dry_run_waits_for_no_lock_and_writes_nothing(shop: BareRegistry, tmp_path: Path) -> None:
    """A dry run of gc neither waits for the write lock nor writes."""
    await shop.blob(b"goes")
    await shop.registry.deletes.blob(SHOP, Digest.of(b"goes"), ANONYMOUS)
    age(shop, b"goes", 48)
    shop.clock.now_us += 2 * HOUR_US
    with closing(sqlite3.connect(tmp_path / "data" / DATABASE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        planned = await in_thread(shop, dry_run=True)

    assert len(planned) == 1
    assert shop.blobs.maintenance.look(Digest.of(b"goes")) is not None


async def test_a_blob_that_cannot_be_deleted_does_not_keep_the_others(open_shop: Opener, tmp_path: Path) -> None:
    """If the third unlink fails, that blob is reported with the reason and tried again an hour later; all others are deleted."""
    shop, disk = await with_released_blobs(open_shop, 5), FailingDisk()
    disk.fail("unlink", errno.EIO, skip=2)
    first = await collect_from(shop, tmp_path, disk)
    left = shop.database.read_and_wait(blob_reviews.failed)
    metric = [each.values for each in StoreGauges(tmp_path / "data", shop.database)._undeleted_blobs()]
    at_once = await in_thread(shop)
    shop.clock.now_us += HOUR_US
    again = await in_thread(shop)

    assert Counter(item.what for item in first) == {"blob": 4, FAILED: 1}
    assert [(each.digest, "can't be deleted" in each.problem) for each in left] == [(again[0].name, True)]
    assert metric == [{"": 1}]
    assert at_once == []
    assert [item.what for item in again] == ["blob"]
    assert not list(shop.blobs.maintenance.walk())
    assert shop.database.read_and_wait(blob_reviews.failed) == []


async def test_a_store_that_fails_for_everything_ends_the_run(open_shop: Opener, tmp_path: Path) -> None:
    """A run ends with the store's error after some failures in a row; the next one begins with the blobs that were not tried."""
    number = FAILURES_IN_A_ROW + 5
    shop, disk = await with_released_blobs(open_shop, number), FailingDisk()
    disk.fail("unlink", errno.EIO, times=FAILURES_IN_A_ROW)
    with pytest.raises(StoreBroken, match="can't be deleted"):
        await collect_from(shop, tmp_path, disk)
    shop.clock.now_us += 2 * HOUR_US
    left = {each.digest for each in shop.database.read_and_wait(blob_reviews.failed)}
    rest = [item.name for item in await in_thread(shop)]

    assert len(left) == FAILURES_IN_A_ROW
    assert set(rest[5:]) == left
    assert len(rest) == number


async def with_released_blobs(open_shop: Opener, number: int) -> BareRegistry:
    """Return a registry with so many blobs whose bytes are to be deleted now."""
    shop = open_shop()
    for each in range(number):
        await shop.blob(f"{each}".encode())
        await shop.registry.deletes.blob(SHOP, Digest.of(f"{each}".encode()), ANONYMOUS)
        age(shop, f"{each}".encode(), 48)
    shop.clock.now_us += 2 * HOUR_US
    return shop


async def collect_from(shop: BareRegistry, tmp_path: Path, disk: FailingDisk) -> list[GarbageItem]:
    """Collect with a disk that fails."""
    blobs = LocalBlobs(tmp_path / "data", disk=disk)
    now_us = shop.clock.now_us
    run = partial(collect, shop.database, blobs.maintenance, blobs.upload_cleanup, now_us, dry_run=False)
    try:
        return await asyncio.to_thread(lambda: list(run()))
    finally:
        blobs.close()


async def test_records_of_released_blobs_are_deleted(shop: BareRegistry, tmp_path: Path) -> None:
    """Rows about released blobs are deleted when the blob is gone or referenced again."""
    for data in (b"purged", b"returned", b"waiting"):
        await shop.blob(data)
        await shop.registry.deletes.blob(SHOP, Digest.of(data), ANONYMOUS)
    remove(shop.blobs, Digest.of(b"purged"))
    await shop.blob(b"returned")
    shop.clock.now_us += 2 * HOUR_US
    await in_thread(shop)
    soon = notes(tmp_path)
    shop.clock.now_us += 31 * DAY_US
    await in_thread(shop)

    assert soon == {str(Digest.of(data)) for data in (b"purged", b"waiting")}
    assert str(Digest.of(b"purged")) not in notes(tmp_path)


def notes(tmp_path: Path) -> set[str]:
    """Return the blobs of which is recorded when their last row was removed."""
    with closing(sqlite3.connect(tmp_path / "data" / DATABASE_NAME)) as connection:
        return {row[0] for row in connection.execute("SELECT digest FROM released")}


# What images leave


async def test_layers_of_a_deleted_image_are_deleted(shop: BareRegistry) -> None:
    """A day after an image was deleted the blobs that no other image needs are hidden, then leave the repository, then their bytes go."""
    one, other = await shop.image("one"), await shop.image("other")
    shared = json.loads(other)
    shared["layers"] += json.loads(one)["layers"]
    other = json.dumps(shared).encode()
    for body in (one, other):
        await shop.push(body, Digest.of(body))
    for name in (b'{"salt":"one"}', b"layer one"):
        age(shop, name, 48)
    shop.clock.now_us += 2 * DAY_US
    nothing = await in_thread(shop)
    await shop.registry.deletes.manifest(SHOP, Digest.of(one), UNCONDITIONAL, ANONYMOUS)
    shop.clock.now_us += DAY_US - 1
    early = await in_thread(shop)
    shop.clock.now_us += 1
    planned = [await in_thread(shop, dry_run=True)]
    hidden = await in_thread(shop)
    shop.clock.now_us += HIDDEN_FOR_US - 1
    early += await in_thread(shop)
    shop.clock.now_us += 1
    planned.append(await in_thread(shop, dry_run=True))
    rows = await in_thread(shop)
    shop.clock.now_us += HOUR_US
    gone = await in_thread(shop)

    config = Digest.of(b'{"salt":"one"}')
    assert nothing == early == []
    assert planned == [hidden, rows]
    assert hidden == [GarbageItem(HIDDEN_BLOB, f"{SHOP}@{config}", 14, HIDDEN)]
    assert rows == [GarbageItem(REPOSITORY_BLOB, f"{SHOP}@{config}", 14, UNUSED)]
    assert [(item.what, item.name) for item in gone] == [("blob", str(config))]
    assert shop.blobs.maintenance.look(Digest.of(b"layer one")) is not None  # the other image needs it


async def test_a_blob_that_was_only_a_subject_is_deleted(shop: BareRegistry) -> None:
    """A blob to which a manifest referred in another way than as config or layer is reviewed after that manifest was deleted, too."""
    body = await shop.image("one", subject=await shop.blob(b"subject"))
    await shop.push(body, Digest.of(body))
    shop.clock.now_us += 2 * DAY_US
    nothing = await in_thread(shop)
    await shop.registry.deletes.manifest(SHOP, Digest.of(body), UNCONDITIONAL, ANONYMOUS)
    shop.clock.now_us += DAY_US
    hidden = await in_thread(shop)

    assert nothing == []
    assert f"{SHOP}@{Digest.of(b'subject')}" in [item.name for item in hidden]


async def test_blobs_of_a_push_without_a_manifest_are_deleted(shop: BareRegistry) -> None:
    """Blobs whose manifest never came are deleted after a day; a mount or another push of them begins the day anew."""
    for name in (b"left", b"mounted"):
        await shop.blob(name)
        age(shop, name, 48)
    shop.clock.now_us += DAY_US - 1
    await shop.registry.uploads.mount(OTHER, Digest.of(b"mounted"), SHOP, may_read=lambda _: True)
    shop.clock.now_us += HOUR_US
    hidden = await in_thread(shop)
    shop.clock.now_us += 2 * HOUR_US
    rows = await in_thread(shop)
    shop.clock.now_us += 2 * HOUR_US
    gone = await in_thread(shop)

    assert [item.what for item in hidden] == [HIDDEN_BLOB] * 2
    assert {item.name for item in rows} == {f"{SHOP}@{Digest.of(name)}" for name in (b"left", b"mounted")}
    assert [item.name for item in gone] == [str(Digest.of(b"left"))]
    assert await shop.database.lookups.content.blob(OTHER, str(Digest.of(b"mounted"))) == BlobFound(7, hidden=False)


async def test_a_manifest_that_comes_before_the_review_keeps_its_blobs(shop: BareRegistry) -> None:
    """A blob to which a manifest of the repository refers stays, and what the mirror fetched is left to its retention."""
    await shop.push(await shop.image("kept"), "1.0.0")
    digest = Digest.of(b"of a mirror")
    mirror = Actor(f"{MIRROR_ACTOR}hub")
    await shop.blob(b"of a mirror")
    await shop.registry.uploads.add_blob(OTHER, digest, 11, mirror)
    shop.clock.now_us += 3 * DAY_US
    rows = await in_thread(shop, full=True)

    assert [item.name for item in rows if item.what == HIDDEN_BLOB] == [f"{SHOP}@{digest}"]
    assert await shop.database.lookups.content.blob(OTHER, str(digest)) == BlobFound(11, hidden=False)


@pytest.mark.slow
async def test_a_collection_that_is_killed_is_done_by_the_next(shop: BareRegistry, tmp_path: Path) -> None:
    """`admin gc --full` that is killed (kill -9) after ten items leaves the rest to the next run, which ends it."""
    await shop.push(await shop.image("kept"), "1.0.0")
    left = [f"left {number}".encode() for number in range(40)]
    for name in left:
        await shop.blob(name)
        age(shop, name, 24 * 365)
    change(tmp_path, "DELETE FROM blob WHERE size < 8")
    change(tmp_path, "DELETE FROM blob_review")
    command = [sys.executable, "-m", "boltseal", "admin", "gc", "--full", "--yes", "--data", str(tmp_path / "data")]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    first = await asyncio.to_thread(lines_before_kill, command, environment, 10)
    there = [name for name in left if shop.blobs.maintenance.look(Digest.of(name)) is not None]
    change(tmp_path, "UPDATE released SET released_us = 0")  # the rest of the batch would be deleted an hour later
    ended = await asyncio.to_thread(partial(subprocess.run, command, env=environment, check=False))

    assert all(line.startswith("blob sha256:") for line in first)
    assert ended.returncode == 0
    assert 0 < len(there) <= 30
    assert {each.digest for each in shop.blobs.maintenance.walk()} == {
        Digest.of(b'{"salt":"kept"}'),
        Digest.of(b"layer kept"),
    }


def lines_before_kill(command: list[str], environment: dict[str, str], number: int) -> list[str]:
    """Run a command until it has printed so many lines, kill it, and return them."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(number)]
        process.kill()
    return lines


async def test_a_full_collection_continues_where_it_was_killed(shop: BareRegistry) -> None:
    """A run that ends in the middle is continued at its last page; after a day it begins again."""
    seen: list[str] = []

    class Noting:
        """Maintenance that notes from where on it is walked through."""

        def __getattr__(self, name: str) -> object:
            return getattr(shop.blobs.maintenance, name)

        def walk(self, after: str = "") -> Iterator[StoredBlob]:
            seen.append(after)
            return shop.blobs.maintenance.walk(after)

    def full(now_us: int) -> None:
        list(FullCollection(shop.database, Noting(), None, now_us).find_all(dry_run=False))  # type: ignore[arg-type]  # the rest by __getattr__

    await shop.blob(b"one")
    digest = str(Digest.of(b"one"))
    killed = FullCollectionRow("blobs", digest, shop.clock.now_us)
    await shop.database.write(lambda tx: full_collection_table.put(tx, killed))
    await asyncio.to_thread(full, shop.clock.now_us + HOUR_US)
    ended = await shop.database.read(full_collection_table.find)
    await shop.database.write(lambda tx: full_collection_table.put(tx, killed))
    await asyncio.to_thread(full, shop.clock.now_us + DAY_US)

    assert seen == [digest, ""]
    assert ended is None


def change(tmp_path: Path, sql: str, *values: object) -> None:
    """Change the database directly, without the registry."""
    with closing(sqlite3.connect(tmp_path / "data" / DATABASE_NAME)) as connection:
        assert connection.execute(sql, values).rowcount > 0
        connection.commit()
