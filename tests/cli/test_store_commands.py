"""seal, unseal, purge, expire, fsck and gc: other processes on a data folder in which this process writes."""

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
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.protocol import UploadId, UploadKey
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.store_factory import now_us, open_store, prepare
from tests.bare_registry import SHOP, BareRegistry, Clock
from tests.cli import program
from tests.cli.terminal import run_on_terminal

LATEST = "localhost:5000/shop/app:latest"
VERSION = "localhost:5000/shop/app:1.4.2"
DAY_S = 24 * 3600

pytestmark = pytest.mark.slow  # each starts a process or two


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of the registry that the commands work on."""
    return Settings.model_validate({"server": {"data": tmp_path / "data"}})


@pytest.fixture
def shop(settings: Settings) -> Iterator[BareRegistry]:
    """The registry's store, open in this process as in a server, with the real clock."""
    prepare(settings)
    with open_store(settings) as store:
        yield BareRegistry(store.registry, store.database, store.blobs, Clock(now_us()))


def verb(shop: BareRegistry, name: str, *arguments: str) -> program.Run:
    """Return a function that runs a command on the registry's folder."""
    return program.run(name, *arguments, "--data", folder(shop))


def refused(shop: BareRegistry, name: str, *arguments: str) -> program.Run:
    """Runs a verb that is refused before it opens the folder, in this process."""
    return program.call(name, *arguments, "--data", folder(shop))


def tags_of(shop: BareRegistry) -> list[str]:
    """The tags of the shop's repository that resolve to an image now."""
    with closing(sqlite3.connect(folder(shop) / DATABASE_NAME)) as connection:
        rows = connection.execute("SELECT name FROM tag WHERE digest IS NOT NULL ORDER BY name")
        return [name for (name,) in rows]


def folder(shop: BareRegistry) -> Path:
    """The registry's data folder."""
    path = shop.blobs.path(Digest.of(b""))
    assert path is not None
    return path.parents[3]


def make_old(path: Path) -> None:
    """Set a file's time to two days ago."""
    os.utime(path, (time.time() - 2 * DAY_S,) * 2)


async def unnamed(shop: BareRegistry, data: bytes) -> Digest:
    """Store bytes that no row references."""
    key = UploadKey(SHOP, UploadId.new())
    await shop.blobs.uploads.start_upload(key)
    async with shop.blobs.uploads.open_upload(key) as writer:
        await writer.write(data)
        await writer.commit(Digest.of(data))
    return Digest.of(data)


def last_entry(shop: BareRegistry) -> Entry:
    """Return the newest ledger entry that this process reads."""
    return parse(shop.database.read_and_wait(lambda connection: list(ledger_store.lines(connection)))[-1][1])


# --- tag seal ---


async def test_seal_takes_effect_in_a_running_server(shop: BareRegistry) -> None:
    """After `seal`, the running server refuses a move that it allowed before."""
    await shop.push(await shop.image("one"), "latest")
    moved = await shop.push(await shop.image("two"), "latest")

    run = verb(shop, "tag", "seal", LATEST, "--reason", "shown to the auditor")

    assert run.code == 0
    assert run.out == f"{LATEST}@{moved.digest}\n"
    assert "sealed now" in run.err
    with pytest.raises(SealedPut):
        await shop.push(await shop.image("three"), "latest")


async def test_a_seal_is_recorded_with_who_and_why(shop: BareRegistry) -> None:
    """The ledger entry of a seal has the account and the reason."""
    await shop.push(await shop.image("one"), "latest")
    verb(shop, "tag", "seal", LATEST, "--reason", "shown to the auditor")

    entry = last_entry(shop)

    assert (entry.kind, entry.reason) == (EntryKind.TAG_SEALED, "shown to the auditor")
    assert entry.actor.endswith(" (command line)")


async def test_sealing_again_changes_nothing(shop: BareRegistry) -> None:
    """Sealing a sealed tag is a success, and adds no second entry."""
    await shop.push(await shop.image("one"), "latest")
    first = verb(shop, "tag", "seal", LATEST, "--reason", "x", "--json").json["results"][0]
    second = verb(shop, "tag", "seal", LATEST, "--reason", "x", "--json").json["results"][0]

    assert (first["status"], second["status"]) == ("sealed", "unchanged")
    assert first["entry"] == second["entry"]


async def test_sealing_a_missing_tag_is_refused(shop: BareRegistry) -> None:
    """Sealing a missing tag is exit code 1."""
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
        ("localhost:5000/BareRegistry/app:1", "must be lower-case"),
    ],
)
def test_a_reference_without_a_host_is_a_usage_error(shop: BareRegistry, ref: str, line: str) -> None:
    """A reference without a registry host means Docker Hub, so it is refused."""
    run = refused(shop, "tag", "seal", ref, "--reason", "x")

    assert run.code == 2
    assert line in run.err


def test_a_reference_to_another_registry_is_a_usage_error(shop: BareRegistry) -> None:
    """If the public name is configured, a reference to another host is a usage error."""
    url = {"BOLTSEAL_SERVER__PUBLIC_URL": "https://registry.example.com"}
    run = program.call(
        "tag", "seal", "other.example.com/shop/app:1", "--reason", "x", "--data", folder(shop), environment=url
    )

    assert run.code == 2
    assert "is an image of another registry; this data folder belongs to registry.example.com" in run.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_without_a_public_name_only_loopback_names_are_accepted(shop: BareRegistry, name: str) -> None:
    """Without a public name, only loopback names with any port are accepted for this data folder."""
    other = refused(shop, "tag", name, "other:5000/shop/app:1.4.2", "--reason", "x")
    port = refused(shop, "tag", name, "localhost:5055/shop/app:1.4.2", "--reason", "x")

    assert other.code == 2
    assert "is an image of another registry; this data folder belongs to localhost:5000" in other.err
    assert "name the server's configuration with --config" in other.err
    assert "another registry" not in port.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_a_blank_reason_is_refused(shop: BareRegistry, name: str) -> None:
    """A reason of blanks is refused."""
    run = refused(shop, "tag", name, LATEST, "--reason", "  ")

    assert run.code == 2
    assert "--reason is empty" in run.err


@pytest.mark.parametrize("name", ["seal", "unseal", "purge"])
def test_a_change_needs_its_reason(shop: BareRegistry, name: str) -> None:
    """A change without a reason is refused, since it could not be explained later."""
    run = refused(shop, "tag", name, LATEST)

    assert run.code == 2
    assert "--reason" in run.err


# --- tag unseal ---


async def test_unseal_allows_a_delete_and_nothing_else(shop: BareRegistry) -> None:
    """After `unseal`, the running server allows a delete, but the tag can return only with the same digest."""
    await shop.push(await shop.image("one"), "1.4.2")
    with pytest.raises(SealedDelete):
        await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, ANONYMOUS)

    run = verb(shop, "tag", "unseal", VERSION, "--reason", "built for another customer")
    await shop.registry.deletes.tag(SHOP, Tag("1.4.2"), UNCONDITIONAL, ANONYMOUS)

    assert run.code == 0
    assert "can return only with this digest" in run.err
    with pytest.raises(SealedPut):
        await shop.push(await shop.image("two"), "1.4.2")


async def test_unsealing_a_mutable_tag_is_a_usage_error(shop: BareRegistry) -> None:
    """Unsealing a mutable tag is a usage error."""
    await shop.push(await shop.image("one"), "latest")
    run = verb(shop, "tag", "unseal", LATEST, "--reason", "x")

    assert run.code == 2
    assert "was never sealed" in run.err


# --- tag purge ---


async def test_purge_removes_the_bytes_under_a_running_server(shop: BareRegistry) -> None:
    """After `purge` the running server's cached answer is gone too; the tag can return only with the same digest."""
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


async def test_purge_by_digest_deletes_every_tag(shop: BareRegistry) -> None:
    """`purge` by digest deletes every tag of the image."""
    published = await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = verb(shop, "tag", "purge", f"localhost:5000/shop/app@{published.digest}", "--reason", "x", "--yes")

    assert f"purged  {VERSION}" in run.out
    assert f"purged  {LATEST}" in run.out


async def test_purge_names_every_image_that_still_has_the_secret(shop: BareRegistry) -> None:
    """`purge` lists images, also of other repositories, that still have the purged layer."""
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


async def test_purge_in_a_dry_run_lists_everything_and_deletes_nothing(shop: BareRegistry) -> None:
    """A dry run of `purge` lists all tags of the image, and changes neither ledger nor tags."""
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


async def test_purge_without_a_terminal_needs_yes(shop: BareRegistry) -> None:
    """Without a terminal, `purge` needs --yes, and the message says so."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = verb(shop, "tag", "purge", VERSION, "--reason", "x")

    assert run.code == 2
    assert "pass --yes" in run.err
    assert f"also deletes the tag {LATEST}, which resolves to the same image" in run.err
    assert (await shop.registry.pulls.manifest(SHOP, Tag("1.4.2"))) is not None


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\n", 1), ("y\n", 0)])
async def test_purge_on_a_terminal_names_every_tag_and_asks(shop: BareRegistry, typed: str, code: int) -> None:
    """On a terminal, `purge` shows every tag of the image and deletes only after `yes`."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = await asyncio.to_thread(
        run_on_terminal, "tag", "purge", VERSION, "--reason", "x", "--data", folder(shop), typed=typed
    )
    tags = tags_of(shop)

    assert run.code == code
    assert run.err.index(f"also deletes the tag {LATEST}") < run.err.index("Delete all of this?")
    assert tags == ([] if code == 0 else ["1.4.2", "latest"])


@pytest.mark.parametrize("option", ["-q", "--json"])
async def test_the_list_is_shown_before_the_question_with_every_option(shop: BareRegistry, option: str) -> None:
    """Neither -q nor --json hides the list of what `purge` would delete."""
    await shop.push(await shop.image("secret"), "1.4.2", "latest")
    run = await asyncio.to_thread(
        run_on_terminal, "tag", "purge", VERSION, "--reason", "x", option, "--data", folder(shop), typed="n\n"
    )

    assert run.code == 1
    assert run.err.index(f"also deletes the tag {LATEST}") < run.err.index("Delete all of this?")
    assert tags_of(shop) == ["1.4.2", "latest"]


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("y\n", 0)])
async def test_gc_on_a_terminal_lists_and_asks_also_with_json(shop: BareRegistry, typed: str, code: int) -> None:
    """With --json, `gc` prints its list on stderr before the question, and one object with the deleted bytes on stdout."""
    await shop.blob(b"left over")
    path = shop.blobs.path(Digest.of(b"left over"))
    assert path is not None
    os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    with closing(sqlite3.connect(folder(shop) / DATABASE_NAME)) as connection, connection:
        connection.execute("DELETE FROM blob")
    run = await asyncio.to_thread(
        run_on_terminal, "admin", "gc", "--full", "--json", "--data", folder(shop), typed=typed
    )

    assert run.code == code
    assert run.err.index(str(Digest.of(b"left over"))) < run.err.index("Delete 1 item?")
    assert [row["status"] for row in run.json["results"]] == (["removed"] if code == 0 else [])
    assert path.exists() == (code == 1)


async def test_a_tag_that_appears_after_the_question_is_not_deleted(shop: BareRegistry) -> None:
    """The transaction of `purge` refuses tags that were not in the list before the question."""
    await shop.push(await shop.image("secret"), "1.4.2")
    planned = await shop.registry.seals.plan_purge(SHOP, Tag("1.4.2"), Actor("root", admin=True))
    confirmed = planned.confirmed()
    await shop.push(await shop.image("secret"), "latest")

    with pytest.raises(Precondition, match=r"the tags of shop/app have changed: 1\.4\.2, latest would go with it"):
        await shop.registry.seals.purge(SHOP, Tag("1.4.2"), Actor("root", admin=True), "x", confirmed=confirmed)

    assert tags_of(shop) == ["1.4.2", "latest"]


# --- fsck ---


async def test_fsck_of_an_intact_store_succeeds(shop: BareRegistry) -> None:
    """`fsck` beside a process that has the store open succeeds, and prints how much it read."""
    await shop.push(await shop.image("one"), "1.4.2")
    run = verb(shop, "admin", "fsck", "--json")
    result = run.json["results"][-1]

    assert (run.code, run.json["outcome"], run.err) == (0, "holds", "")
    assert (result["tags"], result["manifests"], result["blobs"]) == (1, 1, 2)
    assert result["status"] == "holds"


async def test_fsck_names_a_damaged_blob(shop: BareRegistry) -> None:
    """`fsck` prints the digest of a damaged blob on stdout: exit code 1."""
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


async def test_fsck_begins_with_a_position_that_is_not_there_yet(shop: BareRegistry, tmp_path: Path) -> None:
    """The first run with `--position FILE` creates the file, and removes it at its end."""
    position = tmp_path / "position"
    await shop.push(await shop.image("one"), "1.4.2")
    run = verb(shop, "admin", "fsck", "--position", str(position))

    assert run.code == 0
    assert not position.exists()


def test_fsck_refuses_a_position_with_rebuild(shop: BareRegistry, tmp_path: Path) -> None:
    """`--position` would have no effect on a rebuild, so the two are refused together: exit code 2."""
    run = refused(shop, "admin", "fsck", "--rebuild", "--position", str(tmp_path / "position"))

    assert run.code == 2
    assert "--rebuild and --position exclude each other" in run.err


async def test_fsck_changes_nothing(shop: BareRegistry) -> None:
    """`fsck` changes no file, except for SQLite's shared table of locks."""
    await shop.push(await shop.image("one"), "1.4.2")

    def written() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in folder(shop).rglob("*") if p.is_file() and p.suffix != ".db-shm"}

    before = written()
    verb(shop, "admin", "fsck")
    after = written()

    assert after == before


@pytest.mark.parametrize("name", ["fsck", "gc"])
def test_a_folder_that_is_no_store_is_a_usage_error(tmp_path: Path, name: str) -> None:
    """A --data folder that is no store is a usage error, not a success."""
    run = program.call("admin", name, "--data", tmp_path)

    assert run.code == 2
    assert "is not a boltseal data folder" in run.err
    assert "run this on the registry's machine" in run.err


def test_a_missing_default_folder_is_a_usage_error(tmp_path: Path) -> None:
    """A read-only command does not create a missing default folder."""
    run = program.call("admin", "fsck", cwd=tmp_path)

    assert run.code == 2
    assert list(tmp_path.iterdir()) == []


# --- admin gc ---


async def test_gc_deletes_unreferenced_bytes(shop: BareRegistry) -> None:
    """`gc --full` deletes the bytes of a push that was killed before its row, and keeps referenced ones."""
    await shop.push(await shop.image("one"), "1.4.2")
    stray = await unnamed(shop, b"stray")
    for path in (folder(shop) / "blobs").rglob("*"):
        make_old(path)

    run = verb(shop, "admin", "gc", "--full", "--json")

    assert run.code == 0
    assert [(result["ref"], result["status"]) for result in run.json["results"]] == [(str(stray), "removed")]
    assert await shop.blobs.stat(stray) is None
    assert verb(shop, "admin", "fsck").code == 0


async def test_gc_keeps_what_a_pull_may_still_be_reading(shop: BareRegistry) -> None:
    """`gc` keeps blobs for an hour after their last reference was deleted, because a pull may be reading them."""
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


async def test_gc_lists_first_what_it_would_delete(shop: BareRegistry) -> None:
    """`gc --dry-run` lists an upload that was idle for a day, and `gc` then deletes it."""
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


async def test_expire_deletes_tags_whose_keep_ended(settings: Settings) -> None:
    """`expire` deletes tags whose `keep` ended, which can return only with the same digest; a dry run lists them."""
    data, then_us = settings.server.data, now_us() - 31 * DAY_S * 1_000_000
    kept = Settings.model_validate({"server": {"data": data}, "rule": [{"tag": "1.4.2", "keep": "30d"}]})
    prepare(kept, clock=lambda: then_us)
    with open_store(kept, clock=lambda: then_us) as store:
        shop = BareRegistry(store.registry, store.database, store.blobs, Clock(then_us))
        await shop.push(await shop.image("one"), "1.4.2")
        await shop.push(await shop.image("two"), "1.4.3")
        planned = verb(shop, "admin", "expire", "--dry-run")
        done = verb(shop, "admin", "expire", "--json")
        again = verb(shop, "admin", "expire")
        entries = await shop.entries()

    assert (planned.code, planned.out) == (0, "shop/app:1.4.2\n")
    assert [item["ref"] for item in done.json["results"]] == ["shop/app:1.4.2"]
    assert (again.out, again.err) == ("", "0 tags expired\n")
    assert entries[-1].kind == EntryKind.TAG_EXPIRED


# --- the log of observations ---


def test_the_key_of_the_observation_log_is_managed_separately(tmp_path: Path) -> None:
    """--observations shows, rotates and replaces the observation log's key, and not the ledger's."""
    data, config = tmp_path / "data", tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{data}"\n[[upstream]]\nname = "docker.io"\n')
    none = program.call("ledger", "key", "--observations", "--config", config)
    prepare(Settings.model_validate({"server": {"data": data}, "upstream": [{"name": "docker.io"}]}))
    first = program.call("ledger", "key", "--observations", "--config", config)
    ledgers = program.call("ledger", "key", "--config", config)
    why = ("--reason", "once a year", "--config", config)
    rotated = program.call("ledger", "rotate", "--observations", *why)
    refused = program.call("ledger", "recover", "--observations", "--from", tmp_path, "--config", config)
    whole = program.call("ledger", "recover", "--observations", "--accept-loss", *why)
    (tmp_path / "data.keys" / "observations.mark").unlink()
    lost = program.call("ledger", "recover", "--observations", "--accept-loss", *why)

    assert none.code == 1
    assert whole.code == 2
    assert "the log observations is not in doubt" in whole.err
    assert first.out.startswith("localhost:5000/observations+")
    assert rotated.out.startswith("localhost:5000/observations+")
    assert refused.code == 2
    assert lost.out.startswith("localhost:5000/observations/2+")
    assert len({first.out, rotated.out, lost.out, ledgers.out}) == 4
    assert program.call("ledger", "key", "--config", config).out == ledgers.out


def test_no_loss_of_a_ledger_that_lost_nothing_can_be_accepted(tmp_path: Path) -> None:
    """A new origin, which every client with the old key refuses, is not begun by mistake."""
    data = tmp_path / "data"
    prepare(Settings.model_validate({"server": {"data": data}}))
    key = program.call("ledger", "key", "--data", data).out
    refused = program.call("ledger", "recover", "--accept-loss", "--reason", "to be sure", "--data", data)

    assert refused.code == 2
    assert "the log ledger is not in doubt" in refused.err
    assert "boltseal ledger rotate" in refused.err
    assert program.call("ledger", "key", "--data", data).out == key


def test_logs_from_the_future_go_on_after_the_clock_is_confirmed(tmp_path: Path) -> None:
    """Before it nothing is recorded, not even the acceptance of a loss of nothing; after it origin and keys are the same."""
    data, config = tmp_path / "data", tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{data}"\n[[upstream]]\nname = "docker.io"\n')
    settings = Settings.model_validate({"server": {"data": data}, "upstream": [{"name": "docker.io"}]})
    prepare(settings, clock=lambda: now_us() + 400 * 24 * 3600 * 1_000_000)
    key = program.call("ledger", "key", "--config", config).out
    refused = program.call("ledger", "rotate", "--reason", "once a year", "--config", config)
    done = program.call("ledger", "recover", "--clock", "--json", "--config", config)
    again = program.call("ledger", "recover", "--clock", "--config", config)
    both = program.call("ledger", "recover", "--clock", "--accept-loss", "--reason", "why", "--config", config)
    rotated = program.call("ledger", "rotate", "--reason", "once a year", "--config", config)

    assert refused.code == 3
    assert "boltseal ledger recover --clock" in refused.err
    (result,) = done.json["results"]
    assert (result["status"], result["stepped_back"]) == ("clock confirmed", ["ledger", "observations"])
    assert f"{result['key']}\n" == key
    assert (again.code, both.code, rotated.code) == (0, 2, 0)
    assert program.call("admin", "fsck", "--data", data).code == 0


def test_a_confirmed_clock_does_not_hide_another_doubt(tmp_path: Path) -> None:
    """The command says that nothing is written if the ledger takes no entry for another reason."""
    data = tmp_path / "data"
    prepare(Settings.model_validate({"server": {"data": data}}))
    (tmp_path / "data.keys" / "ledger.mark").unlink()
    run = program.call("ledger", "recover", "--clock", "--data", data)

    assert run.code == 0
    assert (
        "nothing is written, because the ledger is in doubt: the ledger's key is there, but its high-water mark"
        in run.err
    )
    assert "writes again" not in run.err


def test_the_key_of_a_folder_without_a_ledger_is_not_found(tmp_path: Path) -> None:
    """For a folder without a ledger, the message names the folder, which may be mistyped."""
    run = program.call("ledger", "key", "--data", tmp_path / "data")

    assert (run.code, run.out) == (1, "")
    assert f"no ledger was signed in {tmp_path / 'data'} yet" in run.err
    assert run.err.endswith("; name another data folder with --data\n")
