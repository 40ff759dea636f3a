"""Moves of a registry from SQLite and files into PostgreSQL and an object store, on the real servers."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from boltseal.ledger.merkle import MerkleNode, consistency_path, node_hash, prove, verify_consistency
from boltseal.server.commands.move_data import BlobsUnusable, MoveRefused, move_data, plan_move, undo_move
from boltseal.server.commands.rebuild import rebuild_store
from boltseal.server.settings import Settings
from boltseal.server.storage.backup import BackupRefused, back_up
from boltseal.server.storage.bucket_owner import new_id
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.mark_factory import open_keys
from boltseal.server.storage.metadata import move_source
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, FormatInvalid
from boltseal.server.storage.metadata.move_fence import COPYING, MOVED, MOVING, read_fence
from boltseal.server.storage.metadata.move_target import MoveTarget, TargetInUse, WrittenAfterMove
from boltseal.server.storage_settings import DatabaseUrl
from boltseal.server.store_factory import examine_store, open_store, prepare
from tests.images import holds_blob, image, layer, push, push_blob
from tests.polling import until_answer, until_signed
from tests.server.commands import moving
from tests.server.commands.killed_command import run_killed
from tests.server.commands.moving import AWS, quiet
from tests.serving import serving_as, settings_of
from tests.storage_servers import ObjectServer, Postgres

pytestmark = [pytest.mark.slow, pytest.mark.files_only("moves a registry of SQLite and files")]

UNUSED = layer("unused")


def test_a_moved_registry_answers_every_read_as_before(source: Path, target: Settings) -> None:
    """Tags, digests, referrers, blobs, lists and the ledger's proofs are the same bytes on the new storage."""

    async def answers_of(settings: Settings) -> dict[str, tuple[int, bytes, str | None]]:
        async with serving_as(settings) as registry:
            return await moving.answers(registry.client)

    before = asyncio.run(answers_of(settings_of(source)))
    planned = plan_move(source, target)
    moved = move_data(source, target, quiet)
    examined = examine_store(target, quiet)
    after = asyncio.run(answers_of(target))

    assert planned.status == "would be moved"
    assert planned.blobs.copied == moved.blobs.copied > 0
    assert not examined.findings
    assert after == before
    assert {status for status, _, _ in before.values()} == {200, 404}


def test_a_moved_registry_owns_its_bucket_and_can_be_rebuilt_from_it(
    source: Path, target: Settings, postgres_server: Postgres, object_server: ObjectServer
) -> None:
    """The move sets the owner of the bucket and writes the manifests, and a rebuild answers the same without the database."""

    async def answers_of(settings: Settings) -> dict[str, tuple[int, bytes, str | None]]:
        async with serving_as(settings) as registry:
            found = await moving.answers(registry.client)
        return {path: answer for path, answer in found.items() if "/blobs/" not in path}

    move_data(source, target, quiet)
    owner = moving.owner(target, object_server)
    prepare(target)  # as a start does: it compares the owner
    before = asyncio.run(answers_of(target))
    shutil.rmtree(target.server.data)
    settings = moving.with_new_database(target, postgres_server)
    rebuilt = rebuild_store(settings, quiet)

    assert (rebuilt.findings, rebuilt.examined.findings) == ((), ())
    assert asyncio.run(answers_of(settings)) == before
    assert (
        moving.owner(target, object_server) != owner
    )  # a server on the lost database can't start on the bucket any more


def test_the_ledger_and_the_tombstones_continue(source: Path, target: Settings) -> None:
    """The new server adds to the same ledger under the same key, and refuses what the old one refused."""
    move_data(source, target, quiet)

    async def pushes() -> tuple[int, ...]:
        async with serving_as(target) as registry:
            client = registry.client
            other = await push(client, "shop/app", "1.0.0", image("other"))
            deleted = await push(client, "shop/app", "0.9.0", image("other"))
            same = await push(client, "shop/app", "0.9.0", moving.DELETED)
            new = await push(client, "shop/new", "1.0.0", image("new"))
            return other.status_code, deleted.status_code, same.status_code, new.status_code

    statuses = asyncio.run(pushes())
    with open_store(target) as store:
        store.integrator.check()

    assert statuses == (409, 409, 201, 201)
    assert not examine_store(target, quiet).findings


def test_a_client_with_the_former_checkpoint_follows_the_ledger(source: Path, target: Settings) -> None:
    """The new server's checkpoint has the former key's signature, and its tree begins with the one that clients have seen."""
    key = LedgerKeys(source.with_name("old.keys")).key()
    assert key is not None

    async def checkpoint_of(settings: Settings, *, push_first: bool) -> tuple[Checkpoint, list[bytes]]:
        async with serving_as(settings) as registry:
            if push_first:
                await push(registry.client, "shop/new", "1.0.0", image("new"))
                await until_signed(registry.client, 11)
            note = (await registry.client.get("/ledger/checkpoint")).content
            found = open_checkpoint(note, key.verifier).checkpoint
            tile = (await registry.client.get(f"/ledger/tile/0/000.p/{found.size}")).content
            return found, [tile[at : at + 32] for at in range(0, len(tile), 32)]

    before, _ = asyncio.run(checkpoint_of(settings_of(source), push_first=False))
    move_data(source, target, quiet)
    after, hashes = asyncio.run(checkpoint_of(target, push_first=True))

    def hash_of(node: MerkleNode) -> bytes:
        if node.level == 0:
            return hashes[node.offset]
        return node_hash(*(hash_of(MerkleNode(node.level - 1, 2 * node.offset + side)) for side in (0, 1)))

    proof = prove(consistency_path(before.size, after.size), hash_of)

    assert after.size > before.size
    assert after.origin == before.origin
    verify_consistency(before.size, before.root, after.size, after.root, proof)


def test_logins_continue_and_writes_to_the_old_server_get_503(source: Path, target: Settings) -> None:
    """A running old server answers pulls of a user that is logged in, and 503 with the reason to each write, also after a restart."""
    moving.add_user(settings_of(source))
    login = ("ci", "secret")

    async def look(server: Settings, name: str) -> list[int]:
        async with serving_as(server) as registry:
            registry.client.auth = login
            pulled = await registry.client.get("/v2/shop/app/manifests/1.0.0")
            pushed = await moving.tries_to_push(registry.client, f"{name}-1")
            wrong = await registry.client.get("/v2/shop/app/manifests/1.0.0", auth=("ci", "wrong"))
            ready = await registry.client.get("/readyz")
            return [each.status_code for each in (pulled, pushed, wrong, ready)]

    async def run() -> tuple[list[int], httpx2.Response, list[int], list[int]]:
        async with serving_as(settings_of(source)) as old:
            old.client.auth = login
            await asyncio.to_thread(move_data, source, target, quiet)
            pulled = await old.client.get("/v2/shop/app/manifests/1.0.0")
            upload = await old.client.post("/v2/shop/app/blobs/uploads/")
            pushed = await moving.tries_to_push(old.client, "new-1")
        statuses = [pulled.status_code, upload.status_code]
        return statuses, pushed, await look(settings_of(source), "restarted"), await look(target, "new")

    running, pushed, restarted, new = asyncio.run(run())

    assert running == [200, 503]
    assert (pushed.status_code, "Retry-After" in pushed.headers) == (503, True)
    assert "moved to another storage" in pushed.text
    assert restarted == [200, 503, 401, 200]
    assert new == [200, 201, 401, 200]


def test_a_push_that_was_answered_before_the_source_was_closed_is_moved(source: Path, target: Settings) -> None:
    """Under pushes during the whole move, each 201 of the old server is true on the new one."""

    async def run() -> tuple[list[str], int]:
        accepted, refused = list[str](), 0
        async with serving_as(settings_of(source)) as old:
            moving_now = asyncio.create_task(asyncio.to_thread(move_data, source, target, quiet))
            number = 0
            while not moving_now.done():
                number += 1
                try:
                    answer = await push(old.client, "shop/busy", f"1.0.{number}", image(f"busy {number}"))
                except AssertionError:  # a blob was refused
                    refused += 1
                    await asyncio.sleep(0.02)
                    continue
                if answer.status_code == 201:
                    accepted.append(f"1.0.{number}")
                else:
                    refused += 1
            await moving_now
        async with serving_as(target) as new:
            for tag in accepted:
                wanted = image(f"busy {tag.rpartition('.')[2]}").digest
                assert (await new.client.head(f"/v2/shop/busy/manifests/{tag}")).headers[
                    "Docker-Content-Digest"
                ] == wanted
        return accepted, refused

    accepted, refused = asyncio.run(run())

    assert accepted
    assert refused
    assert not examine_store(target, quiet).findings


def test_a_move_is_undone_before_the_first_write_only(source: Path, target: Settings) -> None:
    """Undo opens the old server and closes the new one, also while both run; after a push to the new one it is refused."""

    async def run() -> tuple[list[int], bool]:
        statuses = []
        async with serving_as(settings_of(source)) as old:
            await asyncio.to_thread(move_data, source, target, quiet)
            async with serving_as(target) as new:
                statuses.append((await new.client.get("/v2/shop/app/manifests/1.0.0")).status_code)
                await asyncio.to_thread(undo_move, source, target)
                statuses.append((await moving.tries_to_push(old.client, "after-undo-1")).status_code)
                statuses.append((await moving.tries_to_push(new.client, "after-undo-2")).status_code)
            with pytest.raises(FormatInvalid, match="admin migrate"):
                prepare(target)
            again = await asyncio.to_thread(move_data, source, target, quiet)
            async with serving_as(target) as new:
                statuses.append((await moving.tries_to_push(new.client, "written-1")).status_code)
                with pytest.raises(WrittenAfterMove):
                    await asyncio.to_thread(undo_move, source, target)
                statuses.append((await moving.tries_to_push(new.client, "written-2")).status_code)
            statuses.append((await moving.tries_to_push(old.client, "refused-1")).status_code)
        return statuses, again.blobs.copied == 0

    statuses, nothing_copied_again = asyncio.run(run())

    assert statuses[:2] == [200, 201]
    assert statuses[2] in (500, 503)
    assert statuses[3:] == [201, 201, 503]
    assert nothing_copied_again


def test_a_blob_without_a_tag_and_a_user_are_writes(source: Path, target: Settings) -> None:
    """Undo is refused after a write that no tag shows."""
    move_data(source, target, quiet)
    prepare(target)
    moving.add_user(target)
    with pytest.raises(WrittenAfterMove, match="account"):
        undo_move(source, target)

    assert read_fence(source) is not None


def test_a_read_only_server_keeps_the_way_back_and_a_garbage_collection_ends_it(source: Path, target: Settings) -> None:
    """Pulls can be checked with a read-only server before the undo. The first cleanup of another one hides an unused blob: a write."""

    async def run() -> bool:
        async with serving_as(settings_of(source)) as old:
            await push_blob(old.client, "shop/app", UNUSED)
        _make_reviews_due(source)
        await asyncio.to_thread(move_data, source, target, quiet)
        read_only = target.model_copy(update={"server": target.server.model_copy(update={"read_only": True})})
        async with serving_as(read_only) as new:
            held = await holds_blob(new.client, "shop/app", UNUSED.digest)
        await asyncio.to_thread(undo_move, source, target)
        await asyncio.to_thread(move_data, source, target, quiet)
        async with serving_as(target) as new:
            await until_answer(partial(_lacks, new.client), "the unused blob is hidden")
            with pytest.raises(WrittenAfterMove, match="blob"):
                await asyncio.to_thread(undo_move, source, target)
        return held

    assert asyncio.run(run())


async def _lacks(client: httpx2.AsyncClient) -> bool:
    return not await holds_blob(client, "shop/app", UNUSED.digest)


def _make_reviews_due(source: Path) -> None:
    """Let the day of all blobs that no image needs be over."""
    with closing(sqlite3.connect(source / DATABASE_NAME)) as database:
        database.execute("UPDATE blob_review SET due_us = 0")
        database.commit()


def test_a_damaged_blob_is_named_and_stops_the_move(source: Path, target: Settings) -> None:
    """All damaged and missing blobs are named, the source still takes pushes, and after a repair the move goes on."""
    files = sorted((source / "blobs").glob("*/*/*"), key=lambda path: path.stat().st_size)
    damaged, missing = files[-1], files[-2]
    good, lost = damaged.read_bytes(), missing.read_bytes()
    damaged.write_bytes(bytes(len(good)))
    missing.unlink()
    with pytest.raises(BlobsUnusable) as refused:
        move_data(source, target, quiet)
    state = read_fence(source)
    damaged.write_bytes(good)
    missing.write_bytes(lost)
    moved = move_data(source, target, quiet)

    assert [damaged.name in each or missing.name in each for each in refused.value.findings] == [True, True]
    assert state is not None
    assert state.state == COPYING
    assert moved.blobs.copied == 2
    assert not examine_store(target, quiet).findings


def test_a_target_that_is_not_empty_is_refused(
    source: Path, target: Settings, tmp_path: Path, postgres_server: Postgres, object_server: ObjectServer
) -> None:
    """A database with tables, a bucket with objects, and the target of another move are refused, and the source stays open."""
    (tmp_path / "used").mkdir()
    used = moving.target(tmp_path / "used", postgres_server, object_server)
    prepare(used)
    with pytest.raises(TargetInUse, match="not empty"):
        move_data(source, used, quiet)
    used_bucket = target.storage.model_copy(update={"blobs": used.storage.blobs})
    with pytest.raises(MoveRefused, match="not empty"):
        move_data(source, target.model_copy(update={"storage": used_bucket}), quiet)
    with pytest.raises(MoveRefused, match="belongs to another registry"):
        move_data(source, target.model_copy(update={"server": used.server}), quiet)
    with pytest.raises(MoveRefused, match="nothing to undo"):
        undo_move(source, target)
    assert read_fence(source) is None
    move_data(source, target, quiet)
    with pytest.raises(MoveRefused, match="use the settings of that move"):
        move_data(source, moving.target(tmp_path, postgres_server, object_server), quiet)

    with pytest.raises(BackupRefused, match="was moved to"):
        back_up(source, tmp_path / "copy", 0, quiet)

    assert move_data(source, target, quiet).status == "moved"  # it is done already


@pytest.mark.parametrize("newer", ["more entries", "other entries"])
def test_a_newer_mark_is_found_before_the_source_is_closed(source: Path, target: Settings, newer: str) -> None:
    """The source is an old copy of what was moved elsewhere: a plan and a move are refused, and the source still takes pushes."""
    keys = LedgerKeys(source.with_name("old.keys"))
    key, mark = keys.key(), keys.mark()
    assert key is not None
    assert mark is not None
    size = open_checkpoint(mark, key.verifier).checkpoint.size + 1
    stale = Checkpoint(key.name, size if newer == "more entries" else 3, b"r" * 32)
    open_keys(target.keys, target.storage).put_mark(sign_checkpoint(stale, key), before=None)
    for attempt in (plan_move, partial(move_data, progress=quiet)):
        with pytest.raises(MoveRefused, match="the source is an old copy; nothing was changed"):
            attempt(source, target)

    async def pushes() -> int:
        async with serving_as(settings_of(source)) as registry:
            return (await moving.tries_to_push(registry.client, "3.0.0")).status_code

    assert asyncio.run(pushes()) == 201
    assert not (source / "moved").exists()


STEPS = (
    *("put_fence", "claim", "reserve", "announce", "_one", "record", "close_to_writes", "integrate", "_copy_keys"),
    *(
        "_publish",
        "_set_mark",
        "copy_in",
        "take_over",
        "open_to_servers",
        "complete",
        "prepare_metadata",
        "write_missing",
    ),
)


def test_a_move_that_is_killed_at_each_step_goes_on(source: Path, target: Settings) -> None:
    """Killed before and after each step, both sides are never open at once, and the last run ends with an equal registry."""

    async def answers_of(settings: Settings) -> dict[str, tuple[int, bytes, str | None]]:
        async with serving_as(settings) as registry:
            return await moving.answers(registry.client)

    before = asyncio.run(answers_of(settings_of(source)))
    killed, open_targets = [], []
    for step in STEPS:
        for moment in ("call", "return"):
            if run_killed(move_data, (source, target, quiet), step, moment, AWS):
                killed.append((step, moment))
            fence = read_fence(source)
            if moving.is_open(target):
                open_targets.append((step, moment))
                assert fence is not None
                assert fence.state in (MOVING, MOVED)
    result = move_data(source, target, quiet)
    after = asyncio.run(answers_of(target))

    assert {step for step, _ in killed} >= {*STEPS} - {"integrate"}
    assert open_targets
    assert open_targets[0] == ("complete", "return")
    assert result.status == "moved"
    assert after == before
    assert not examine_store(target, quiet).findings


def test_an_undo_that_is_killed_at_each_step_goes_on(source: Path, target: Settings) -> None:
    """Killed before and after each step of going back, the source is closed as long as the target is open."""
    move_data(source, target, quiet)
    for step in ("undo", "drop_tables", "remove_fence"):
        for moment in ("call", "return"):
            assert run_killed(undo_move, (source, target), step, moment, AWS) or read_fence(source) is None
            assert read_fence(source) is not None or not moving.is_open(target)
            if read_fence(source) is None:
                move_data(source, target, quiet)
    undo_move(source, target)

    assert read_fence(source) is None
    assert not moving.is_open(target)


def test_without_the_database_of_the_move_the_source_stays_closed(
    source: Path, target: Settings, postgres_server: Postgres
) -> None:
    """An empty database of the same name, or one that was restored since, does not show that the registry took no write."""
    move_data(source, target, quiet)
    database = str(target.storage.database)
    name = database.rpartition("/")[2]
    postgres_server.drop_database(name)
    postgres_server.execute(f"CREATE DATABASE {name}")
    with pytest.raises(TargetInUse, match="nothing of this move"):
        undo_move(source, target)
    with pytest.raises(MoveRefused, match="nothing of the move"):
        move_data(source, target, quiet)
    MoveTarget(DatabaseUrl.parse(database), uuid.uuid4().hex).claim(new_id())  # as a restore does
    with pytest.raises(TargetInUse, match="nothing of this move"):
        undo_move(source, target)
    fence = read_fence(source)

    assert fence is not None
    assert fence.state == MOVED


def test_what_is_written_with_an_open_transaction_is_moved(source: Path, target: Settings) -> None:
    """The source is closed only between two transactions: the fence waits for the one that is under way."""
    began, goes_on = threading.Event(), threading.Event()
    with open_store(settings_of(source)) as store:

        def job(tx: object) -> None:
            began.set()
            goes_on.wait(5)

        writer = threading.Thread(target=lambda: store.database.write_and_wait(job, limited=False))
        writer.start()
        began.wait(5)
        closing = threading.Thread(target=lambda: move_source.close_to_writes(source, moving.fence_of(target)))
        closing.start()
        closing.join(0.3)
        waited = closing.is_alive() and read_fence(source) is None
        goes_on.set()
        writer.join()
        closing.join()

    assert waited
    assert read_fence(source) is not None
