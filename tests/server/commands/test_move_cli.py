"""What `admin migrate`, `admin backup` and `admin restore` print, and with which exit code, on the real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from boltseal.server.settings import Settings
from tests.cli import program
from tests.images import image
from tests.server.commands import moving
from tests.server.commands.moving import push_all
from tests.serving import serving_as
from tests.storage_servers import ObjectServer

pytestmark = [pytest.mark.slow, pytest.mark.files_only("moves a registry of SQLite and files")]


def migrate(source: Path, config: Path, *more: str) -> program.Run:
    """Run `admin migrate` in this process."""
    return program.call("admin", "migrate", "--from", source, "--config", config, *more)


def test_a_move_says_what_is_moved_and_what_is_next(source: Path, target: Settings, tmp_path: Path) -> None:
    """The dry run counts, the move reports what it did, a repetition finds it done, and undo says that pushes go on."""
    config = moving.config(tmp_path, target)
    dry, moved, again = (migrate(source, config, *more) for more in (["--dry-run"], [], []))
    undone = migrate(source, config, "--undo")

    assert [each.code for each in (dry, moved, again, undone)] == [0, 0, 0, 0]
    assert dry.out.splitlines()[0] == f"{source}: would be moved"
    assert moved.out.splitlines()[0] == f"{source}: moved"
    assert dry.out.splitlines()[1].endswith("0 users")
    assert dry.out.splitlines()[1].split(",")[:3] == moved.out.splitlines()[1].split(",")[:3]
    assert " to copy (" in dry.out
    assert " copied by this run (" in moved.out
    assert moved.out.splitlines()[2].partition(",")[0] == again.out.splitlines()[2].partition(",")[0]
    assert ", 0 copied by this run (0 B)" in again.out
    assert "to go back before the first write" in moved.err
    assert undone.out == f"{source}: takes pushes again\n"


def test_json_of_a_move_has_the_same_counts(source: Path, target: Settings, tmp_path: Path) -> None:
    """`--json` prints one object that follows its published schema, also when the command is refused."""
    config = moving.config(tmp_path, target)
    dry, moved = migrate(source, config, "--dry-run", "--json").json, migrate(source, config, "--json").json
    (tmp_path / "other").mkdir()
    refused = migrate(tmp_path / "other", config, "--json")

    first, second = dry["results"][0], moved["results"][0]
    assert (first["status"], second["status"]) == ("would-be-moved", "moved")
    assert (first["tags"], first["blobs"], first["copied"]) == (second["tags"], second["blobs"], second["copied"])
    assert refused.code == 2
    assert len(refused.json["errors"]) == 1


def test_each_error_of_a_move_is_one_line_with_its_exit_code(source: Path, target: Settings, tmp_path: Path) -> None:
    """A damaged blob, settings without [storage], a database that does not answer, and undo after a write."""
    config, plain, lost = moving.config(tmp_path, target), tmp_path / "plain.toml", tmp_path / "lost.toml"
    plain.write_text(f'[server]\ndata = "{tmp_path / "x"}"\n')
    lost.write_text(
        config.read_text().replace(str(target.storage.database), "postgresql://boltseal@127.0.0.1:1/boltseal")
    )
    unreachable = migrate(source, lost)
    blob = next((source / "blobs").glob("*/*/*"))
    good = blob.read_bytes()
    blob.write_bytes(good + b"x")
    damaged = migrate(source, config)
    blob.write_bytes(good)
    without = migrate(source, plain)
    moved = migrate(source, config)

    async def write() -> None:
        async with serving_as(target) as registry:
            assert (await moving.tries_to_push(registry.client, "written-1")).status_code == 201

    asyncio.run(write())
    undo = migrate(source, config, "--undo")

    assert (damaged.code, len(damaged.err.splitlines())) == (3, 1)
    assert blob.name in damaged.out
    assert "the source still takes pushes" in damaged.err
    assert (without.code, len(without.err.splitlines())) == (2, 1)
    assert "[storage] database is not set" in without.err
    assert (unreachable.code, len(unreachable.err.splitlines())) == (3, 1), unreachable.err
    assert moved.code == 0
    assert (undo.code, len(undo.err.splitlines())) == (2, 1)
    assert "took its first write" in undo.err


def test_a_backup_and_a_restore_say_where_the_bytes_are(
    place: Callable[[str], Settings], tmp_path: Path, object_server: ObjectServer
) -> None:
    """With and without objects, as text and as JSON; without its objects a restore names each missing blob and ends with 1."""
    old, new, third = place("old"), place("new"), place("third")
    asyncio.run(push_all(old, "1.0.0"))
    config, in_place, whole = moving.config(tmp_path / "old", old), tmp_path / "in-place", tmp_path / "whole"
    backup = program.call("admin", "backup", in_place, "--config", config)
    with_objects = program.call("admin", "backup", whole, "--config", config, "--with-objects", "--json")
    refused = program.call("admin", "backup", whole, "--config", config)
    into = moving.config(tmp_path / "new", new)
    restored = program.call("admin", "restore", whole, "--config", into)
    again = program.call("admin", "restore", whole, "--config", into, "--json")
    third = third.model_copy(update={"storage": third.storage.model_copy(update={"blobs": old.storage.blobs})})
    assert old.storage.blobs is not None
    obstore.delete(object_server.store(old.storage.blobs.prefix), sorted(moving.keys_in(old, object_server, "blobs/")))
    into = moving.config(tmp_path / "third", third)
    missing = program.call("admin", "restore", in_place, "--config", into)
    named = program.call("admin", "restore", in_place, "--config", into, "--json")

    blobs = {blob.digest for blob in image("1.0.0").blobs}
    assert (backup.code, backup.out) == (0, f"{in_place}: complete\n")
    assert f"{len(blobs)} blobs in {old.storage.blobs}, which a restore needs" in backup.err
    assert with_objects.json["results"][0]["taken"] == len(blobs)
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "pass --with-objects" in refused.err
    assert restored.code == 0
    assert restored.out.splitlines()[-1].startswith(f"{new.storage.database}: restored, {len(blobs)} blobs (")
    assert again.json["results"][-1]["status"] == "was-restored-before"
    assert missing.code == 1
    assert all(digest in missing.out for digest in blobs)
    assert f"restored, {len(blobs)} blobs in {old.storage.blobs}\n" in missing.out
    assert {each["ref"] for each in named.json["results"]} >= blobs
    assert "boltseal admin gc --full" in missing.err
