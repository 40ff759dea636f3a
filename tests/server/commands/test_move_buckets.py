"""The owner of a prefix during a move or a restore, and what garbage collection does with objects that were moved, or left by killed runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import obstore
import pytest

from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.commands.move_data import MoveRefused, move_data, undo_move
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.blob_stores import open_bucket
from boltseal.server.storage.bucket_owner import BucketTaken, new_id
from boltseal.server.storage.bucket_reservation import reserve
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.move_target import TargetInUse
from boltseal.server.store_factory import collect_store, examine_store, now_us, open_store, prepare
from tests.bare_registry import DAY_US
from tests.images import Blob, image, push, push_blob
from tests.server.commands import moving
from tests.server.commands.killed_command import run_killed
from tests.server.commands.moving import AWS, NOW_US, push_all, quiet, with_keys_and_mark
from tests.serving import serving_as, settings_of
from tests.storage_servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.files_only("moves a registry of SQLite and files")]


def on_bucket_of(settings: Settings, other: Settings) -> Settings:
    """Return settings with the prefix of other ones."""
    return settings.model_copy(update={"storage": settings.storage.model_copy(update={"blobs": other.storage.blobs})})


def collect_later(settings: Settings, days: float) -> list[str]:
    """Collect garbage as if days had passed, as a server does, without a list. Return what was deleted."""
    later = int(days * DAY_US)
    return [
        f"{each.what} {each.name}" for each in collect_store(settings, dry_run=False, clock=lambda: now_us() + later)
    ]


def test_one_of_many_gets_a_prefix(target: Settings) -> None:
    """Registries that reserve one prefix at the same moment: one gets it, and gets it again; the others are refused."""
    client, ids = open_bucket(target), [new_id() for _ in range(8)]

    def tries(registry: str) -> bool:
        with suppress(BucketTaken):
            reserve(client, registry, "s3://bucket")
            return True
        return False

    with ThreadPoolExecutor(len(ids)) as pool:
        won = [registry for registry, has in zip(ids, pool.map(tries, ids), strict=True) if has]
    again = tries(won[0])

    assert len(won) == 1
    assert again


def test_no_server_and_no_other_move_gets_the_prefix_of_a_move(
    source: Path, target: Settings, place: Callable[[str], Settings], tmp_path: Path, object_server: ObjectServer
) -> None:
    """From the start of a move on, a server on its prefix does not start, another move there is refused, and the move goes on."""
    other, others_source = on_bucket_of(place("other"), target), tmp_path / "others"
    asyncio.run(moving.fill(others_source))
    assert run_killed(move_data, (source, target, quiet), "reserve", "return", AWS)
    with pytest.raises(BucketTaken):
        prepare(other)
    with pytest.raises(MoveRefused, match="not empty"):
        move_data(others_source, on_bucket_of(place("third"), target), quiet)
    reserved = moving.owner(target, object_server)
    moved = move_data(source, target, quiet)
    with pytest.raises(BucketTaken):
        prepare(other)

    assert moved.status == "moved"
    assert moving.owner(target, object_server) == reserved


def test_a_move_does_not_end_in_a_prefix_that_another_registry_took(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """An operator replaced the owner object during a move: the last step notices that, and the database is not opened to servers."""
    assert run_killed(move_data, (source, target, quiet), "copy_in", "call", AWS)
    assert target.storage.blobs is not None
    foreign = b'{"format": 1, "registry": "' + new_id().encode() + b'"}'
    obstore.put(object_server.store(target.storage.blobs.prefix), "owner", foreign)
    with pytest.raises(BucketTaken):
        move_data(source, target, quiet)

    assert not moving.is_open(target)


def test_a_prefix_is_used_again_after_an_undone_move(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """Each move gives the registry a new ID in the bucket, and what an undone move copied is not sent again."""
    first = move_data(source, target, quiet)
    owner = moving.owner(target, object_server)
    undo_move(source, target)
    second = move_data(source, target, quiet)
    prepare(target)

    assert first.blobs.copied > second.blobs.copied == 0
    assert moving.owner(target, object_server) != owner
    assert not examine_store(target, quiet).findings


def test_no_server_gets_the_prefix_of_a_restore(place: Callable[[str], Settings], tmp_path: Path) -> None:
    """From the start of a restore with objects on, a server and another restore on its prefix are refused."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    assert run_killed(restore_backup, (new, tmp_path / "copy", quiet), "reserve", "return", AWS)
    with pytest.raises(BucketTaken):
        prepare(on_bucket_of(place("server"), new))
    with pytest.raises(TargetInUse, match="not empty"):
        restore_backup(on_bucket_of(place("third"), new), tmp_path / "copy", quiet)

    assert not restore_backup(new, tmp_path / "copy", quiet).examined.findings


def test_what_killed_moves_and_an_undone_one_left_is_deleted(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """Objects that were written and never named are deleted two days after the move, without a list of the bucket; no other is."""
    for step in ("_one", "record", "_one"):
        run_killed(move_data, (source, target, quiet), step, "return" if step == "_one" else "call", AWS)
    run_killed(move_data, (source, target, quiet), "write_missing", "return", AWS)
    left = len(moving.keys_in(target, object_server, "blobs/"))
    undo_move(source, target)
    blobs = {path.name: path.stat().st_size for path in (source / "blobs").glob("*/*/*")}
    move_data(source, target, quiet)
    collected = collect_later(target, 2.5)
    kept = moving.keys_in(target, object_server)

    assert left > len([size for size in blobs.values() if size])
    assert len({key for key in kept if key.startswith("blobs/")}) == len([size for size in blobs.values() if size])
    assert len({key for key in kept if key.startswith("index/")}) == len(blobs)
    assert not [each for each in collected if each.startswith("object")]
    assert not list(collect_store(target, dry_run=True, full=True))
    assert not examine_store(target, quiet).findings


def test_garbage_collection_goes_on_where_the_data_folder_stopped(
    source: Path, target: Settings, object_server: ObjectServer
) -> None:
    """A blob without an image, and an image deleted before or after the move, are collected; what is tagged is still pulled."""

    async def before() -> None:
        async with serving_as(settings_of(source)) as registry:
            await push_blob(registry.client, "shop/app", Blob(b"no image needs it"))

    async def delete(client: httpx2.AsyncClient) -> int:
        return (await client.delete(f"/v2/shop/app/manifests/{moving.SBOM.digest}")).status_code

    async def after() -> tuple[int, int]:
        async with serving_as(target) as registry:
            deleted = await delete(registry.client)
            return deleted, (await push(registry.client, "shop/app", "3.0.0", image("three"))).status_code

    asyncio.run(before())
    move_data(source, target, quiet)
    stored = len(moving.keys_in(target, object_server, "index/"))
    statuses = asyncio.run(after())
    hidden = collect_later(target, 1.1)
    first, second, third = (collect_later(target, days) for days in (1.2, 1.3, 3))

    async def answers() -> dict[str, tuple[int, bytes, str | None]]:
        async with serving_as(target) as registry:
            return await moving.answers(registry.client)

    found = asyncio.run(answers())
    assert statuses == (202, 201)
    rows = [each for each in first if each.startswith("repository-blob")]
    assert len(rows) == len([each for each in hidden if each.startswith("hidden-blob")]) >= 2
    assert len([each for each in (*first, *second, *third) if each.startswith("blob ")]) == len(rows)
    assert len(moving.keys_in(target, object_server, "index/")) == stored + len(image("three").blobs) - len(rows)
    assert {found[f"/v2/shop/app/manifests/{tag}"][0] for tag in ("1.0.0", "2.0.0", "latest")} == {200}
    assert not examine_store(target, quiet).findings


def test_a_blob_that_is_collected_during_the_copy_does_not_stop_the_move(source: Path, target: Settings) -> None:
    """Bytes that are gone because garbage collection of the old server deleted them are no damage."""
    unneeded = Blob(b"no image needs it")

    async def before() -> None:
        async with serving_as(settings_of(source)) as registry:
            await push_blob(registry.client, "shop/app", unneeded)

    def collect(step: str, done: int, total: int) -> None:
        if step == "copying":
            with open_store(settings_of(source)) as store:
                store.database.write_and_wait(lambda tx: queries.remove_blob(tx, 1, unneeded.digest))

    asyncio.run(before())
    (source / "blobs" / "sha256" / unneeded.digest[7:9] / unneeded.digest[7:]).unlink()
    moved = move_data(source, target, collect)

    assert moved.status == "moved"
    assert not examine_store(target, quiet).findings


def test_a_restore_in_place_leaves_to_a_full_collection_what_only_the_former_database_names(
    place: Callable[[str], Settings], tmp_path: Path, object_server: ObjectServer
) -> None:
    """After a restore into the same bucket `admin gc --full` deletes the objects of later pushes, and none that is referenced."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=False)
    asyncio.run(push_all(old, "2.0.0"))
    new = with_keys_and_mark(on_bucket_of(new, old), old)
    restored = restore_backup(new, tmp_path / "copy", quiet)
    whole = [each.name for each in collect_store(new, dry_run=True, full=True, clock=lambda: now_us() + 2 * DAY_US)]

    named = {f"index/sha256/{blob.digest.partition(':')[2]}" for blob in image("1.0.0").blobs}
    assert not restored.examined.findings
    assert len([name for name in whole if name.startswith("index/")]) == len(image("2.0.0").blobs)
    assert not [name for name in whole if any(name.startswith(each) for each in named)]
