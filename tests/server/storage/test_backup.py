"""Backups: made during pushes, updated, restored; and the folders that are refused."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import bcrypt
import pytest

from boltseal.server.commands.tag_purge import plan_purge, purge_image
from boltseal.server.commands.users import put_user
from boltseal.server.registry.recovery import accept_loss
from boltseal.server.storage.backup import BackupFailed, BackupRefused, back_up, restore
from boltseal.server.storage.metadata.migrate import FormatInvalid, prepare_data
from boltseal.server.storage.metadata.move_fence import Fence, put_fence
from boltseal.server.store_factory import examine_store, open_store
from tests import images
from tests.cli import program
from tests.server.commands.moving import NOW_US, unseal_tag_of
from tests.serving import serving, settings_of
from tests.small_disk import small_disk


def quiet(step: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


async def test_a_backup_has_everything_acknowledged_before_it(tmp_path: Path) -> None:
    """A backup is a complete snapshot of everything acknowledged before it, whatever is pushed meanwhile."""
    async with serving(tmp_path / "data") as registry:
        client = registry.client
        for n in range(5):
            await images.push(client, "shop/app", f"1.0.{n}", images.image(f"before {n}"))
        going, begun = True, asyncio.Event()

        async def push_on() -> int:
            n = 0
            while going:
                await images.push(client, "shop/app", f"2.0.{n}", images.image(f"during {n}"))
                begun.set()
                n += 1
            return n

        pushing = asyncio.create_task(push_on())
        await begun.wait()
        await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "copy", NOW_US, quiet)
        going = False
        pushed = await pushing
    restore(tmp_path / "copy", tmp_path / "new", quiet)
    examined = examine_store(settings_of(tmp_path / "new"), quiet, with_keys=False)
    with open_store(settings_of(tmp_path / "new")) as store:
        accept_loss(store.database, store.keys, "operator", "the disk is gone")
    async with serving(tmp_path / "new") as registry:
        digests = [await images.meaning(registry.client, "shop/app", f"1.0.{n}") for n in range(5)]
        other = await images.put(registry.client, "shop/app", "1.0.0", images.image("before 1"))

    assert pushed > 0
    assert not examined.findings
    assert digests == [images.image(f"before {n}").digest for n in range(5)]
    assert other.status_code == 409  # the seals are restored


async def test_a_second_backup_copies_only_what_is_new(tmp_path: Path) -> None:
    """A second backup copies new content and deletes what is gone, also after an interrupted one."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
        first = back_up(data, copy, NOW_US, quiet)
        (copy / "complete").unlink()
        stray = next((copy / "blobs" / "sha256").iterdir()) / ("0" * 64)
        stray.write_bytes(b"half of a blob")
        await images.push(registry.client, "shop/app", "1.0.1", images.image("two"))
        second = back_up(data, copy, NOW_US, quiet)

    assert first.taken == first.blobs
    assert 0 < second.taken < second.blobs
    assert second.removed == 1
    assert (copy / "complete").exists()
    assert not stray.exists()


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("purged_at", [1, 2])
async def test_an_image_that_is_purged_during_a_backup_is_not_in_it(
    tmp_path: Path, purged_at: int, *, linked: bool
) -> None:
    """Bytes that were deleted after the database was copied are no loss: the backup is whole, and has what was not purged."""
    data = tmp_path / "data"
    kept = images.image("kept")
    purged = next(
        image
        for image in (images.image(f"purged {n}") for n in itertools.count())
        if max(blob.digest for blob in image.blobs) > max(blob.digest for blob in kept.blobs)
    )
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", kept)
        await images.push(registry.client, "shop/app", "2.0.0", purged)
    steps = list[int]()

    def purge(_: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == purged_at:
            unseal_tag_of(settings_of(data), "localhost:5000/shop/app:2.0.0")
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_purge, data, "localhost:5000/shop/app:2.0.0").result()

    with nullcontext(tmp_path) if linked else small_disk(tmp_path / "disk", "size=16m") as disk:
        made = back_up(data, disk / "copy", NOW_US, purge)
        restored = restore(disk / "copy", tmp_path / "new", quiet)
    examined = examine_store(settings_of(tmp_path / "new"), quiet, with_keys=False)

    assert made.blobs == restored.blobs == len(kept.blobs)
    assert not examined.findings


def _purge(data: Path, reference: str) -> None:
    purge_image(settings_of(data), reference, "a secret", plan_purge(settings_of(data), reference))


@pytest.mark.files_only("a move from a data folder")
@pytest.mark.parametrize(
    ("state", "refused"), [("copying", None), ("moving", "is being moved"), ("moved", "was moved")]
)
def test_no_backup_is_made_of_a_folder_that_is_closed_for_a_move(
    tmp_path: Path, state: str, refused: str | None
) -> None:
    """A restored copy would accept writes, and so continue the ledger beside the moved registry; while blobs are copied it is allowed."""
    data = tmp_path / "data"
    prepare_data(data)
    put_fence(data, Fence("a move", "postgresql://host/name", "s3://bucket", state))
    if refused is None:
        back_up(data, tmp_path / "copy", NOW_US, quiet)
        restore(tmp_path / "copy", tmp_path / "new", quiet)
    else:
        with pytest.raises(BackupRefused, match=refused):
            back_up(data, tmp_path / "copy", NOW_US, quiet)

    assert (tmp_path / "copy").exists() is (refused is None)
    assert not (tmp_path / "new" / "moved").exists()


async def test_a_backup_has_no_key_and_no_upload(tmp_path: Path) -> None:
    """A backup has no keys and no uploads, so that a thief gains images but no rights."""
    data = tmp_path / "data"
    (tmp_path / "data.keys").mkdir(mode=0o700)
    (tmp_path / "data.keys" / "htpasswd").write_text("")
    async with serving(data) as registry:
        await images.start_upload(registry.client, "shop/app")
        back_up(data, tmp_path / "copy", NOW_US, quiet)

    assert {path.name for path in (tmp_path / "copy").iterdir()} <= {"format", "boltseal.db", "blobs", "complete"}


async def test_a_backup_of_lost_bytes_is_not_complete(tmp_path: Path) -> None:
    """A backup of a store with missing bytes names them, and can't be restored."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
    next((data / "blobs" / "sha256").glob("*/*")).unlink()

    with pytest.raises(BackupFailed, match="are not in"):
        back_up(data, copy, NOW_US, quiet)
    with pytest.raises(BackupRefused, match="no complete backup"):
        restore(copy, tmp_path / "new", quiet)


async def test_damaged_bytes_are_found_by_a_restore(tmp_path: Path) -> None:
    """A restore hashes every blob, and finds damaged bytes."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
    back_up(data, copy, NOW_US, quiet)
    blob = next((copy / "blobs" / "sha256").glob("*/*"))
    whole = blob.read_bytes()
    blob.unlink()  # the link, not the store's bytes
    blob.write_bytes(bytes(len(whole)))

    with pytest.raises(BackupFailed, match="damaged in the source"):
        restore(copy, tmp_path / "new", quiet)


async def test_an_interrupted_restore_is_not_served(tmp_path: Path) -> None:
    """An interrupted restore, whose database names missing bytes, is refused by the server and by another restore."""
    data, copy, new = tmp_path / "data", tmp_path / "copy", tmp_path / "new"
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
    back_up(data, copy, NOW_US, quiet)

    def killed(_what: str, _number: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(copy, new, killed)
    with pytest.raises(FormatInvalid, match=r"boltseal\.db\.unfinished"):
        prepare_data(new)
    with pytest.raises(BackupRefused, match="is not empty"):
        restore(copy, new, quiet)


def test_a_target_inside_or_around_the_data_folder_is_refused(data: Path, tmp_path: Path) -> None:
    """A backup target inside the data folder, around it, or with foreign files is refused."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("hello")

    for target in (data / "backup", data.parent, tmp_path / "letters", data):
        with pytest.raises(BackupRefused):
            back_up(data, target, NOW_US, quiet)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


def test_the_commands_back_up_and_restore(data: Path, tmp_path: Path) -> None:
    """The commands back up and restore, and a second restore into the same folder is refused."""
    made = program.call("admin", "backup", tmp_path / "copy", "--data", data, "--json")
    back = program.call("admin", "restore", tmp_path / "copy", "--data", tmp_path / "new")
    again = program.call("admin", "restore", tmp_path / "copy", "--data", tmp_path / "new")

    assert made.json["results"][0]["status"] == "complete"
    assert (made.code, back.code, again.code) == (0, 0, 2)
    assert "ledger recover --from URL|FOLDER --data" in back.err
    assert "name one with --data FOLDER" in again.err


@pytest.mark.parametrize(
    ("name", "address"), [("DATABASE", "postgresql://db/boltseal"), ("BLOBS", "s3://bucket/prefix")]
)
def test_a_store_outside_of_the_data_folder_is_not_backed_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    """With the metadata in PostgreSQL, or blobs in an object store, both commands refuse before they write anything."""
    back_up(data, tmp_path / "copy", NOW_US, quiet)
    monkeypatch.setenv(f"BOLTSEAL_STORAGE__{name}", address)
    made = program.call("admin", "backup", tmp_path / "other", "--data", data)
    back = program.call("admin", "restore", tmp_path / "copy", "--data", tmp_path / "new")

    assert (made.code, back.code) == (2, 2)
    assert f"[storage] {name.lower()} is set" in made.err
    assert f"[storage] {name.lower()} is set" in back.err
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "new").exists()


async def test_users_are_restored_only_with_the_key_folder(tmp_path: Path) -> None:
    """A backup has no password hashes; without the key folder, a restored registry refuses every request."""
    data, copy, new = tmp_path / "data", tmp_path / "copy", tmp_path / "new"
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4))
    async with serving(data) as registry:
        await images.push(registry.client, "shop/app", "1.0.0", images.image("one"))
    put_user(settings_of(data), "ci", hashed)
    back_up(data, copy, NOW_US, quiet)
    restore(copy, new, quiet)
    answers = []
    for with_keys in (False, True):
        if with_keys:
            shutil.rmtree(new.with_name("new.keys"), ignore_errors=True)
            shutil.copytree(data.with_name("data.keys"), new.with_name("new.keys"))
        async with serving(new) as registry:
            for auth in (None, ("ci", "wrong"), ("ci", "right")):
                answer = await registry.client.get("/v2/shop/app/manifests/1.0.0", auth=auth)
                answers.append(answer.status_code)

    assert answers == [503, 503, 503, 401, 401, 200]
    assert not any(hashed in path.read_bytes() for path in copy.rglob("*") if path.is_file())


def test_a_backup_of_metadata_in_postgresql_is_refused(tmp_path: Path) -> None:
    """`admin backup` refuses a registry with PostgreSQL by a message that names the setting, and creates nothing."""
    config, target = tmp_path / "boltseal.toml", tmp_path / "backup"
    config.write_text('[storage]\ndatabase = "postgresql://ann:very-secret@db/boltseal"\n')
    run = program.call("admin", "backup", "--config", config, "--data", tmp_path / "data", target)

    assert run.code == 2
    assert "[storage] database is set" in run.err
    assert "pg_dump" in run.err
    assert "very-secret" not in run.err
    assert not target.exists()
