"""Backups of a registry on PostgreSQL and an object store, made during pushes and garbage collection, and restored elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.settings import Settings
from boltseal.server.storage.backup import BackupFailed, BackupRefused
from boltseal.server.storage.bucket_owner import BucketTaken
from boltseal.server.storage.metadata.move_target import TargetInUse
from boltseal.server.store_factory import collect_store, prepare
from tests.images import image, meaning, push
from tests.server.commands import moving
from tests.server.commands.killed_command import run_killed
from tests.server.commands.moving import AWS, NOW_US, push_all, quiet, with_keys_and_mark
from tests.serving import serving_as
from tests.storage_servers import ObjectServer

pytestmark = pytest.mark.slow
NewPlace = Callable[[str], Settings]


async def resolved(settings: Settings, *tags: str) -> list[str | None]:
    """Return what tags resolve to, after a pull of everything in their images."""
    async with serving_as(settings) as registry:
        for tag in tags:
            for blob in image(tag).blobs:
                assert (await registry.client.get(f"/v2/shop/app/blobs/{blob.digest}")).content == blob.data
        return [await meaning(registry.client, "shop/app", tag) for tag in tags]


@pytest.mark.parametrize("with_objects", [True, False])
def test_a_backup_has_every_push_that_was_answered_before_it(
    place: NewPlace, tmp_path: Path, *, with_objects: bool
) -> None:
    """Made during pushes and garbage collection, it is restored into another database, with objects into another bucket."""
    old, new = place("old"), place("new")

    async def run() -> tuple[list[str], int]:
        tags, during = [f"1.0.{number}" for number in range(3)], 0
        async with serving_as(old) as registry:
            for tag in tags:
                await push(registry.client, "shop/app", tag, image(tag))
            making = asyncio.create_task(
                asyncio.to_thread(make_backup, old, tmp_path / "copy", NOW_US, quiet, with_objects=with_objects)
            )
            collecting = asyncio.create_task(asyncio.to_thread(lambda: list(collect_store(old, dry_run=False))))
            while not (making.done() and collecting.done()) or not during:
                await push(registry.client, "shop/app", f"2.0.{during}", image(f"during {during}"))
                during += 1
            await making
            await collecting
        return tags, during

    tags, during = asyncio.run(run())
    storage = new.storage if with_objects else new.storage.model_copy(update={"blobs": old.storage.blobs})
    new = with_keys_and_mark(new.model_copy(update={"storage": storage}), old)
    restored = restore_backup(new, tmp_path / "copy", quiet)
    found = asyncio.run(resolved(new, *tags))

    assert during > 0
    assert not restored.examined.findings
    assert found == [image(tag).digest for tag in tags]


@pytest.mark.parametrize("with_objects", [True, False])
def test_a_restored_registry_is_the_only_owner_of_its_bucket(
    place: NewPlace, object_server: ObjectServer, tmp_path: Path, *, with_objects: bool
) -> None:
    """In the former bucket the former server may not start any more; in another one both own theirs. Each manifest has an object."""
    old, new = place("old"), place("new")
    prepare(old)
    asyncio.run(push_all(old, "1.0.0"))
    list(collect_store(old, dry_run=False))
    former = moving.owner(old, object_server)
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=with_objects)
    if not with_objects:
        new = new.model_copy(update={"storage": new.storage.model_copy(update={"blobs": old.storage.blobs})})
    new = with_keys_and_mark(new, old)
    restore_backup(new, tmp_path / "copy", quiet)
    prepare(new)

    assert moving.owner(new, object_server) != former
    assert len(moving.stored_manifests(new, object_server)) == 1
    if with_objects:
        prepare(old)
    else:
        with pytest.raises(BucketTaken):
            prepare(old)


def test_an_older_backup_is_behind_its_mark_and_takes_no_push(place: NewPlace, tmp_path: Path) -> None:
    """What was signed after the backup is missed: the restored server serves pulls and takes no push."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    asyncio.run(push_all(old, "1.0.0", "2.0.0"))
    new = with_keys_and_mark(new, old)
    restored = restore_backup(new, tmp_path / "copy", quiet)

    async def tries() -> int:
        async with serving_as(new) as registry:
            return (await moving.tries_to_push(registry.client, "3.0.0")).status_code

    assert restored.behind == 1
    assert asyncio.run(resolved(new, "1.0.0")) == [image("1.0.0").digest]
    assert asyncio.run(tries()) in (405, 503)


def test_a_second_backup_copies_only_new_objects_and_a_complete_one_is_kept(place: NewPlace, tmp_path: Path) -> None:
    """A repeated backup with objects takes only what is new; a folder of another kind is refused."""
    old = place("old")
    asyncio.run(push_all(old, "1.0.0"))
    first = make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    asyncio.run(push_all(old, "1.0.0", "2.0.0"))
    second = make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    with pytest.raises(BackupRefused, match="pass --with-objects"):
        make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "format").write_text("8\n")
    with pytest.raises(BackupRefused, match="SQLite"):
        make_backup(old, tmp_path / "other", NOW_US, quiet, with_objects=False)

    assert first.taken == first.blobs
    assert 0 < second.taken < second.blobs


def test_an_image_that_is_purged_during_a_backup_is_not_in_it(place: NewPlace, tmp_path: Path) -> None:
    """The purge deletes bytes after the tables were copied: they are copied again, and the backup can be restored whole."""
    old, new = place("old"), place("new")
    prepare(old)
    asyncio.run(push_all(old, "1.0.0", "2.0.0"))
    steps = list[str]()

    def purge(step: str, done: int, total: int) -> None:
        steps.append(step)
        if (step, done) == ("tables", total) and steps.count("tables") == total:
            moving.unseal_tag_of(old, "localhost:5000/shop/app:2.0.0")
            plan = plan_purge(old, "localhost:5000/shop/app:2.0.0")
            purge_image(old, "localhost:5000/shop/app:2.0.0", "a secret", plan)

    made = make_backup(old, tmp_path / "copy", NOW_US, purge, with_objects=True)
    new = with_keys_and_mark(new, old)
    restored = restore_backup(new, tmp_path / "copy", quiet)

    assert made.blobs == restored.copied.blobs == len(image("1.0.0").blobs)
    assert not restored.examined.findings
    assert asyncio.run(resolved(new, "1.0.0")) == [image("1.0.0").digest]


def test_a_missing_object_is_named_by_restore(place: NewPlace, object_server: ObjectServer, tmp_path: Path) -> None:
    """A backup without objects is restored, and each blob is named whose object is not in the bucket any more."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=False)
    assert old.storage.blobs is not None
    bucket = object_server.store(old.storage.blobs.prefix)
    keys = [each["path"] for page in obstore.list(bucket, "blobs/") for each in page]
    obstore.delete(bucket, keys[0])
    with pytest.raises(BackupRefused, match="has no objects"):
        restore_backup(new, tmp_path / "copy", quiet)
    new = new.model_copy(update={"storage": new.storage.model_copy(update={"blobs": old.storage.blobs})})
    restored = restore_backup(new, tmp_path / "copy", quiet)

    blobs = {blob.digest for blob in image("1.0.0").blobs}
    assert len([finding for finding in restored.examined.findings if finding.what in blobs]) == 1
    assert {finding.what for finding in restored.examined.findings} - blobs <= {keys[0]}


def test_a_damaged_or_incomplete_backup_changes_nothing(place: NewPlace, tmp_path: Path) -> None:
    """A table or a blob with other bytes stops the restore before anything counts; a repaired backup is restored."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    copy = tmp_path / "copy"
    make_backup(old, copy, NOW_US, quiet, with_objects=True)
    table, blob = copy / "tables" / "entry.copy", next((copy / "blobs").glob("*/*/*"))
    good, bytes_of_blob = table.read_bytes(), blob.read_bytes()
    blob.write_bytes(bytes(len(bytes_of_blob)))
    with pytest.raises(BackupFailed, match="damaged"):
        restore_backup(new, copy, quiet)
    blob.write_bytes(bytes_of_blob)
    table.write_bytes(good.replace(b"1.0.0", b"1.0.1"))
    with pytest.raises(BackupFailed, match="the table entry is damaged"):
        restore_backup(new, copy, quiet)
    was_open = moving.is_open(new)
    table.write_bytes(good)
    manifest = (copy / "backup.json").read_bytes()
    (copy / "backup.json").unlink()
    with pytest.raises(BackupRefused, match="no complete backup"):
        restore_backup(new, copy, quiet)
    (copy / "backup.json").write_bytes(manifest)
    restored = restore_backup(new, copy, quiet)
    again = restore_backup(new, copy, quiet)
    make_backup(old, copy, NOW_US, quiet, with_objects=True)
    with pytest.raises(TargetInUse, match="another move or restore"):
        restore_backup(new, copy, quiet)

    assert not was_open
    assert not restored.examined.findings
    assert (restored.copied.was_there, again.copied.was_there) == (False, True)


def test_a_restore_that_is_killed_at_each_step_goes_on(place: NewPlace, tmp_path: Path) -> None:
    """Killed before and after each step, it has not happened or has happened as a whole."""
    old, new = place("old"), place("new")
    asyncio.run(push_all(old, "1.0.0"))
    make_backup(old, tmp_path / "copy", NOW_US, quiet, with_objects=True)
    steps = ("claim", "reserve", "announce", "_one", "record", "copy_in", "take_over", "open_to_servers")
    for step in steps:
        for moment in ("call", "return"):
            assert run_killed(restore_backup, (new, tmp_path / "copy", quiet), step, moment, AWS) or step in (
                "_one",
                "record",
                "announce",
            )
            assert not moving.is_open(new)
    assert run_killed(restore_backup, (new, tmp_path / "copy", quiet), "write_missing", "call", AWS)
    restored = restore_backup(new, tmp_path / "copy", quiet)

    assert not restored.examined.findings
