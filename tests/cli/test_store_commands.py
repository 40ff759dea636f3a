"""seal, unseal, purge, expire, fsck and collect: other processes on a data folder that this process has open and writes to."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from boltseal.errors import Precondition, SealedDelete, SealedPut
from boltseal.ledger.entry import Entry, EntryKind, parse
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown
from boltseal.server.registry.seals import ConfirmedPurge
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.protocol import UploadId, UploadKey
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import now_us, open_store, prepare
from tests.cli import program
from tests.cli.terminal import run_on_terminal
from tests.shop import SHOP, Clock, Shop

LATEST = "localhost:5000/shop/app:latest"
VERSION = "localhost:5000/shop/app:1.4.2"
DAY_S = 24 * 3600

pytestmark = pytest.mark.slow  # each starts a process or two


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of the registry that is being worked on."""
    return Settings.model_validate({"server": {"data": tmp_path / "data"}})


@pytest.fixture
def shop(settings: Settings) -> Iterator[Shop]:
    """Its store, open in this process as in a server, on the real clock."""
    prepare(settings)
    with open_store(settings) as store:
        yield Shop(store.registry, store.database, store.blobs, Clock(now_us()))


def verb(shop: Shop, name: str, *arguments: str) -> program.Run:
    """Runs a verb on the shop's folder."""
    return program.run(name, *arguments, "--data", folder(shop))


def tags_of(shop: Shop) -> list[str]:
    """The tags of the shop's repository that resolve to an image now."""
    with closing(sqlite3.connect(folder(shop) / DATABASE_NAME)) as connection:
        rows = connection.execute("SELECT name FROM tag WHERE digest IS NOT NULL ORDER BY name")
        return [name for (name,) in rows]


def folder(shop: Shop) -> Path:
    """The shop's data folder."""
    path = shop.blobs.path(Digest.of(b""))
    assert path is not None
    return path.parents[3]


def make_old(path: Path) -> None:
    """As if it had been written two days ago."""
    os.utime(path, (time.time() - 2 * DAY_S,) * 2)


async def unnamed(shop: Shop, data: bytes) -> Digest:
    """Bytes in the store that no row names."""
    key = UploadKey(SHOP, UploadId.new())
    await shop.blobs.start_upload(key)
    async with shop.blobs.open_upload(key) as writer:
        await writer.write(data)
        await writer.commit(Digest.of(data))
    return Digest.of(data)


def last_entry(shop: Shop) -> Entry:
    """The newest entry of the ledger, as this process sees it."""
    return parse(shop.database.read_and_wait(lambda connection: list(ledger_store.lines(connection)))[-1][1])


# --- tag seal ---


async def test_seal_binds_a_floating_tag_for_the_running_server(shop: Shop) -> None:
    """What was allowed a moment ago is refused by a process that was running all the time."""
    await shop.push(await shop.image("one"), "latest")
    moved = await shop.push(await shop.image("two"), "latest")

    run = verb(shop, "tag", "seal", LATEST, "--reason", "shown to the auditor")

    assert run.code == 0
    assert run.out == f"{LATEST}@{moved.digest}\n"
    assert "sealed now" in run.err
    with pytest.raises(SealedPut):
        await shop.push(await shop.image("three"), "latest")


async def test_a_seal_is_recorded_with_who_and_why(shop: Shop) -> None:
    """The ledger names the account and the reason, for ever."""
    await shop.push(await shop.image("one"), "latest")
    verb(shop, "tag", "seal", LATEST, "--reason", "shown to the auditor")

    entry = last_entry(shop)

    assert (entry.kind, entry.reason) == (EntryKind.TAG_SEALED, "shown to the auditor")
    assert entry.actor.endswith(" (command line)")


async def test_sealing_again_changes_nothing(shop: Shop) -> None:
    """The same command twice is no error and no second entry."""
    await shop.push(await shop.image("one"), "latest")
    first = verb(shop, "tag", "seal", LATEST, "--reason", "x", "--json").json["results"][0]
    second = verb(shop, "tag", "seal", LATEST, "--reason", "x", "--json").json["results"][0]

    assert (first["status"], second["status"]) == ("sealed", "unchanged")
    assert first["entry"] == second["entry"]


async def test_sealing_what_is_not_there_does_not_hold(shop: Shop) -> None:
    """A name that nobody published can't be sealed."""
    run = verb(shop, "tag", "seal", LATEST, "--reason", "x", "--json")

    assert run.code == 1
    assert (run.json["outcome"], run.json["errors"][0]["code"]) == ("differs", "NOT_FOUND")


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        (
            "shop/app:1.4.2",
            "is an image on Docker Hub; expected one of this registry, such as localhost:5000/shop/app:1.4.2",
        ),
        ("app:1", "is an image on Docker Hub; expected one of this registry, such as localhost:5000/app:1"),
        ("localhost:5000/shop/app", "has no tag; expected one, such as localhost:5000/shop/app:1.4.2"),
        (f"localhost:5000/shop/app@sha256:{'a' * 64}", "only a tag can be sealed"),
        ("localhost:5000/Shop/app:1", "must be lower-case"),
    ],
)
def test_a_reference_that_does_not_name_a_tag_here_is_usage(shop: Shop, ref: str, line: str) -> None:
    """A bare name means Docker Hub everywhere, so it never means this registry."""
    run = verb(shop, "tag", "seal", ref, "--reason", "x")

    assert run.code == 2
    assert line in run.err


def test_another_registrys_name_is_usage(shop: Shop) -> None:
    """Where the public name is known, a reference to another host is a mistake."""
    url = {"BOLTSEAL_SERVER__PUBLIC_URL": "https://registry.example.com"}
    run = program.run(
        "tag", "seal", "other.example.com/shop/app:1", "--reason", "x", "--data", folder(shop), environment=url
    )

    assert run.code == 2
    assert "is an image of another registry; this data folder belongs to registry.example.com" in run.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_without_a_public_name_only_this_machines_names_are_ours(shop: Shop, name: str) -> None:
    """A reference to another host never changes this data folder; any port may lead to it."""
    other = verb(shop, "tag", name, "other:5000/shop/app:1.4.2", "--reason", "x")
    port = verb(shop, "tag", name, "localhost:5055/shop/app:1.4.2", "--reason", "x")

    assert other.code == 2
    assert "is an image of another registry; this data folder belongs to localhost:5000" in other.err
    assert "name the server's configuration with --config" in other.err
    assert "another registry" not in port.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_a_reason_says_something(shop: Shop, name: str) -> None:
    """Blanks are no reason."""
    run = verb(shop, "tag", name, LATEST, "--reason", "  ")

    assert run.code == 2
    assert "--reason is empty" in run.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_a_change_needs_its_reason(shop: Shop, name: str) -> None:
    """Nobody can say later why, if nobody says now."""
    run = verb(shop, "tag", name, LATEST)

    assert run.code == 2
    assert "--reason" in run.err


# --- tag unseal ---


async def test_unseal_lets_a_tag_be_deleted_and_nothing_else(shop: Shop) -> None:
    """The running server lets it go, and still binds its name."""
    await shop.push(await shop.image("one"), "1.4.2")
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, ANONYMOUS)

    run = verb(shop, "tag", "unseal", VERSION, "--reason", "built for another customer")
    await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, ANONYMOUS)

    assert run.code == 0
    assert "can return only with this digest" in run.err
    with pytest.raises(SealedPut):
        await shop.push(await shop.image("two"), "1.4.2")


async def test_unsealing_what_floats_is_usage(shop: Shop) -> None:
    """There is no seal to lift."""
    await shop.push(await shop.image("one"), "latest")
    run = verb(shop, "tag", "unseal", LATEST, "--reason", "x")

    assert run.code == 2
    assert "was never sealed" in run.err


# --- tag purge ---


async def test_purge_removes_the_bytes_under_a_running_server(shop: Shop) -> None:
    """Also an answer that the server kept in memory is gone; the tag can return only with the same digest."""
    published = await shop.push(await shop.image("secret"), "1.4.2")
    layer = Digest.of(b"layer secret")
    await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))

    run = verb(shop, "tag", "purge", VERSION, "--reason", "a password was in its second layer", "--yes", "--json")
    statuses = {(result["ref"], result["status"]) for result in run.json["results"]}

    assert run.code == 0
    assert (VERSION, "purged") in statuses
    assert (f"localhost:5000/shop/app@{layer}", "removed") in statuses
    assert await shop.blobs.stat(layer) is None
    with pytest.raises(ManifestUnknown):
        await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))
    with pytest.raises(ManifestUnknown):
        await shop.registry.pulls.manifest(SHOP, published.digest)
    with pytest.raises(BlobUnknown):
        await shop.registry.pulls.blob(SHOP, layer)
    with pytest.raises(SealedPut):
        await shop.push(await shop.image("other"), "1.4.2")


async def test_purge_by_digest_takes_every_tag(shop: Shop) -> None:
    """Two names of one image go together."""
    published = await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = verb(shop, "tag", "purge", f"localhost:5000/shop/app@{published.digest}", "--reason", "x", "--yes")

    assert f"purged  {VERSION}" in run.out
    assert f"purged  {LATEST}" in run.out


async def test_purge_names_every_image_that_still_holds_the_secret(shop: Shop) -> None:
    """What stays, here or behind the wall of another repository, is said with the image it is part of."""
    secret = await shop.image("secret")
    published = await shop.push(secret, "1.4.2")
    other = Repository("other/app")
    await shop.push(await shop.image("secret", other), "2.0.0", repository=other)
    layer = Digest.of(b"layer secret")

    run = verb(shop, "tag", "purge", VERSION, "--reason", "x", "--yes")

    assert f"kept  localhost:5000/other/app@{layer}" in run.out
    assert f"other/app has it too, as part of {published.digest} (tag 2.0.0)" in run.err
    assert "1 manifest and" in run.err
    assert "if a kept part has the secret, purge that too" in run.err


async def test_purge_in_a_dry_run_lists_everything_and_deletes_nothing(shop: Shop) -> None:
    """The other tags of the image are listed, as the ledger and the tags are unchanged."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    layer = Digest.of(b"layer secret")
    before = len(await shop.entries())

    run = verb(shop, "tag", "purge", LATEST, "--reason", "x", "--dry-run", "--json")
    rows = {(row["ref"], row["status"]) for row in run.json["results"]}

    assert run.code == 0
    assert {(VERSION, "would be purged"), (LATEST, "would be purged")} <= rows
    assert (f"localhost:5000/shop/app@{layer}", "would be removed") in rows
    assert len(await shop.entries()) == before
    assert await shop.blobs.stat(layer) is not None
    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))) is not None


async def test_purge_without_a_terminal_needs_yes(shop: Shop) -> None:
    """A script that forgot it deletes nothing, and the message says what to pass."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = verb(shop, "tag", "purge", VERSION, "--reason", "x")

    assert run.code == 2
    assert "pass --yes" in run.err
    assert f"also deletes the tag {LATEST}, which resolves to the same image" in run.err
    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))) is not None


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
async def test_purge_on_a_terminal_names_every_tag_and_asks(shop: Shop, typed: str, code: int) -> None:
    """Only a stated yes deletes; the tag that was not named on the command line is shown before the question."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = await asyncio.to_thread(
        run_on_terminal, "tag", "purge", VERSION, "--reason", "x", "--data", folder(shop), typed=typed
    )
    tags = tags_of(shop)

    assert run.code == code
    assert run.err.index(f"also deletes the tag {LATEST}") < run.err.index("Delete all of this?")
    assert tags == ([] if code == 0 else ["1.4.2", "latest"])


@pytest.mark.parametrize("option", ["-q", "--json"])
async def test_the_list_is_shown_before_the_question_whatever_else_is_silenced(shop: Shop, option: str) -> None:
    """A person confirms only what they have seen: neither -q nor --json hides what would be deleted."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = await asyncio.to_thread(
        run_on_terminal, "tag", "purge", VERSION, "--reason", "x", option, "--data", folder(shop), typed="n\n"
    )

    assert run.code == 1
    assert run.err.index(f"also deletes the tag {LATEST}") < run.err.index("Delete all of this?")
    assert tags_of(shop) == ["1.4.2", "latest"]


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("y\n", 0)])
async def test_gc_on_a_terminal_lists_and_asks_also_with_json(shop: Shop, typed: str, code: int) -> None:
    """The list goes to stderr before the question; stdout has the one object, with what was really removed."""
    await shop.blob(b"left over")
    path = shop.blobs.path(Digest.of(b"left over"))
    assert path is not None
    os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    with closing(sqlite3.connect(folder(shop) / DATABASE_NAME)) as connection, connection:
        connection.execute("DELETE FROM blob")
    run = await asyncio.to_thread(run_on_terminal, "admin", "gc", "--json", "--data", folder(shop), typed=typed)

    assert run.code == code
    assert run.err.index(str(Digest.of(b"left over"))) < run.err.index("Delete 1 item?")
    assert [row["status"] for row in run.json["results"]] == (["removed"] if code == 0 else [])
    assert path.exists() == (code == 1)


async def test_a_tag_that_appears_after_the_question_is_not_deleted_unasked(shop: Shop) -> None:
    """The purge compares the tags with those that were listed, in its own transaction."""
    await shop.push(await shop.image("secret"), "1.4.2")
    planned = await shop.registry.seals.plan_purge(SHOP, Tag("1.4.2"), Actor("root", admin=True))
    confirmed = ConfirmedPurge(planned.digest, planned.tags)
    await shop.push(await shop.image("secret"), "latest")

    with pytest.raises(Precondition, match=r"the tags of shop/app have changed: 1\.4\.2, latest would go with it"):
        await shop.registry.seals.purge(SHOP, Tag("1.4.2"), Actor("root", admin=True), "x", confirmed=confirmed)

    assert tags_of(shop) == ["1.4.2", "latest"]


# --- fsck ---


async def test_fsck_of_a_whole_store_holds(shop: Shop) -> None:
    """Beside a process that has it open; the counts say what was read."""
    await shop.push(await shop.image("one"), "1.4.2")
    run = verb(shop, "admin", "fsck", "--json")
    result = run.json["results"][-1]

    assert (run.code, run.json["outcome"], run.err) == (0, "holds", "")
    assert (result["tags"], result["manifests"], result["blobs"]) == (1, 1, 2)
    assert result["status"] == "holds"


async def test_fsck_names_the_blob_that_rotted(shop: Shop) -> None:
    """Exit code 1, and the digest on stdout."""
    await shop.push(await shop.image("one"), "1.4.2")
    layer = Digest.of(b"layer one")
    path = shop.blobs.path(layer)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"layer 0ne")

    run = verb(shop, "admin", "fsck")

    assert run.code == 1
    assert run.out.splitlines()[0].startswith(f"{layer}: the blob's bytes have digest")
    assert "1 problem" in run.out


async def test_fsck_changes_nothing(shop: Shop) -> None:
    """Reading a store leaves every file as it was, but for the table of locks that SQLite shares between processes."""
    await shop.push(await shop.image("one"), "1.4.2")

    def written() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in folder(shop).rglob("*") if p.is_file() and p.suffix != ".db-shm"}

    before = written()
    verb(shop, "admin", "fsck")
    after = written()

    assert after == before


@pytest.mark.parametrize("name", ["fsck", "gc"])
def test_a_folder_that_is_no_store_is_usage(tmp_path: Path, name: str) -> None:
    """A mistyped --data is not a clean bill."""
    run = program.run("admin", name, "--data", tmp_path)

    assert run.code == 2
    assert "is not a boltseal data folder" in run.err
    assert "run this on the registry's machine" in run.err


def test_the_default_folder_that_is_not_there_is_usage(tmp_path: Path) -> None:
    """Nothing is made by a verb that only looks."""
    run = program.run("admin", "fsck", cwd=tmp_path)

    assert run.code == 2
    assert list(tmp_path.iterdir()) == []


# --- admin gc ---


async def test_collect_removes_bytes_that_no_repository_names(shop: Shop) -> None:
    """What a push left that ended between its bytes and its row; what is named stays."""
    await shop.push(await shop.image("one"), "1.4.2")
    stray = await unnamed(shop, b"stray")
    for path in (folder(shop) / "blobs").rglob("*"):
        make_old(path)

    run = verb(shop, "admin", "gc", "--json")

    assert run.code == 0
    assert [(result["ref"], result["status"]) for result in run.json["results"]] == [(str(stray), "removed")]
    assert await shop.blobs.stat(stray) is None
    assert verb(shop, "admin", "fsck").code == 0


async def test_collect_spares_what_a_pull_may_still_be_reading(shop: Shop) -> None:
    """Old bytes whose last name went a moment ago stay for an hour."""
    await shop.blob(b"layer")
    layer = Digest.of(b"layer")
    await shop.registry.deletes.blob(SHOP, layer, ANONYMOUS)
    for path in (folder(shop) / "blobs").rglob("*"):
        make_old(path)

    run = verb(shop, "admin", "gc", "--json")

    assert run.json["results"] == []
    stored = await shop.blobs.stat(layer)
    assert stored is not None
    assert stored.size == 5


async def test_collect_says_first_what_it_would_do(shop: Shop) -> None:
    """An upload that nobody went on with for a day is named, kept by a dry run, and then removed."""
    upload = await shop.registry.uploads.start(SHOP)
    session = next((folder(shop) / "uploads").iterdir())
    make_old(session)

    dry = verb(shop, "admin", "gc", "--dry-run")
    stood = session.exists()
    wet = verb(shop, "admin", "gc")

    assert dry.code == 0
    assert f"upload {session.name} (0 B): not written to for 48 h" in dry.out
    assert "1 item would be removed" in dry.err
    assert upload in session.name
    assert stood
    assert "1 item removed" in wet.err
    assert not session.exists()


async def test_expire_takes_tags_whose_time_is_over_and_leaves_others(shop: Shop) -> None:
    """A keep that ran out ends the tag; it can return only with the same digest, and a dry run only names it."""
    await shop.push(await shop.image("one"), "1.4.2")
    await shop.push(await shop.image("two"), "1.4.3")
    by_hand = sqlite3.connect(folder(shop) / DATABASE_NAME)
    by_hand.execute("UPDATE tag SET keep = '30d', keep_until_us = 1 WHERE name = '1.4.2'")
    by_hand.commit()
    by_hand.close()
    planned = verb(shop, "admin", "expire", "--dry-run")
    done = verb(shop, "admin", "expire", "--json")
    again = verb(shop, "admin", "expire")

    assert (planned.code, planned.out) == (0, "shop/app:1.4.2\n")
    assert [item["ref"] for item in done.json["results"]] == ["shop/app:1.4.2"]
    assert (again.out, again.err) == ("", "0 tags expired\n")
    assert (await shop.entries())[-1].kind == EntryKind.TAG_EXPIRED


# --- the log of observations ---


def test_the_observations_have_a_key_that_is_shown_rotated_and_replaced(tmp_path: Path) -> None:
    """With --observations; the ledger's stays what it is."""
    data, config = tmp_path / "data", tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{data}"\n[[upstream]]\nname = "docker.io"\n')
    none = program.call("ledger", "key", "--observations", "--config", config)
    prepare(Settings.model_validate({"server": {"data": data}, "upstream": [{"name": "docker.io"}]}))
    first = program.call("ledger", "key", "--observations", "--config", config)
    ledgers = program.call("ledger", "key", "--config", config)
    why = ("--reason", "once a year", "--config", config)
    rotated = program.call("ledger", "rotate", "--observations", *why)
    refused = program.call("ledger", "recover", "--observations", "--from", tmp_path, "--config", config)
    lost = program.call("ledger", "recover", "--observations", "--accept-loss", *why)

    assert none.code == 1
    assert first.out.startswith("localhost:5000/observations+")
    assert rotated.out.startswith("localhost:5000/observations+")
    assert refused.code == 2
    assert lost.out.startswith("localhost:5000/observations/2+")
    assert len({first.out, rotated.out, lost.out, ledgers.out}) == 4
    assert program.call("ledger", "key", "--config", config).out == ledgers.out


def test_the_key_of_a_folder_without_a_ledger_is_not_found(tmp_path: Path) -> None:
    """The message names the folder, which may be a mistyped one."""
    run = program.call("ledger", "key", "--data", tmp_path / "data")

    assert (run.code, run.out) == (1, "")
    assert f"no ledger was signed in {tmp_path / 'data'} yet" in run.err
    assert run.err.endswith("; name another data folder with --data\n")
