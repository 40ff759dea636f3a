"""A data folder, a ledger and a backup of an earlier revision: served, continued, verified and restored."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.note import VerifierKey
from boltseal.server.settings import Settings
from tests.cli import program
from tests.compatibility.fixtures import (
    COMMANDS,
    CONFIG,
    HERE,
    MIRROR,
    PASSWORDS,
    UPSTREAM_PORT,
    contents,
    copied,
    expected,
    receiver_table,
    witness_table,
)
from tests.fakes.upstream import FakeUpstream
from tests.fakes.witness import FakeWitness
from tests.images import image, meaning, push, push_parts, put, signature, with_digest
from tests.notify.receivers import Inbox, inbox
from tests.polling import until_answer, until_signed
from tests.serving import serving_as

MINUTE_US = 60_000_000


@asynccontextmanager
async def reopened(
    revision: str, data: Path, user: str = "ci", *, config: str = CONFIG, witness: FakeWitness | None = None
) -> AsyncIterator[httpx2.AsyncClient]:
    """Run the present server on a copy, a minute after the fixtures were made; yield a client that is logged in."""
    settings = Settings.model_validate(tomllib.loads(config) | {"server": {"data": data}})
    now_us = expected(revision)["made_us"] + MINUTE_US
    app = None if witness is None else witness.transport()
    async with serving_as(settings, clock=lambda: now_us, witness_app=app) as serving:
        serving.client.auth = (user, PASSWORDS[user])
        yield serving.client


def command(name: str, *arguments: str | Path) -> program.Run:
    return program.call(*COMMANDS[name], *arguments)


async def beside(name: str, *arguments: str | Path) -> program.Run:
    """Run a command while this test's event loop continues."""
    return await asyncio.to_thread(command, name, *arguments)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration as a file."""
    file = tmp_path / "boltseal.toml"
    file.write_text(CONFIG + MIRROR)
    return file


@pytest.mark.slow
async def test_every_tag_resolves_to_the_same_digest_and_bytes(revision: str, data: Path) -> None:
    """Every tag has its recorded digest and bytes, also of a mirrored registry that does not answer."""
    tags = expected(revision)["tags"]
    async with reopened(revision, data, config=CONFIG + MIRROR) as client:
        for name, digest in tags.items():
            repository, _, tag = name.rpartition(":")
            answer = await client.get(f"/v2/{repository}/manifests/{tag}")
            assert answer.status_code == 200, name
            assert answer.headers["docker-content-digest"] == f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
            assert answer.headers["docker-content-digest"] == digest, name
            document = answer.json()
            for each in [document.get("config"), *document.get("layers", ())] if "layers" in document else ():
                blob = await client.get(f"/v2/{repository}/blobs/{each['digest']}")
                assert f"sha256:{hashlib.sha256(blob.content).hexdigest()}" == each["digest"]
        listed = (await client.get("/v2/shop/app/tags/list")).json()["tags"]

    assert set(listed) == {name.partition(":")[2] for name in tags if name.startswith("shop/app:")}


async def test_images_known_by_digest_only_are_served(revision: str, data: Path) -> None:
    """Images known by digest only are served: a former image of a tag, an artifact with a subject, one by sha512."""
    recorded = expected(revision)
    async with reopened(revision, data) as client:
        for digest in (recorded["overwritten"], *recorded["by digest"]):
            assert await meaning(client, "shop/app", digest) == digest
        referrers = (await client.get(f"/v2/shop/app/referrers/{recorded['subject']}")).json()["manifests"]

    assert [each["digest"] for each in referrers] == [recorded["referrer"]]


async def test_refusals_are_unchanged(revision: str, data: Path) -> None:
    """Moves of sealed tags and tombstones, shrunken signature tags and deletions are refused as before."""
    recorded = expected(revision)
    other = image("another image")
    async with reopened(revision, data, "boss") as client:
        for name in recorded["refused"]:
            repository, _, tag = name.rpartition(":")
            await push_parts(client, repository, other)
            assert (await put(client, repository, tag, other)).status_code == 409, name
        less = signature(image("never signed"), "eve")
        tag = recorded["signature tag"].partition(":")[2]
        assert (await push(client, "shop/app", tag, less)).status_code == 409
        for name in ("1.4.2", "edge", tag, recorded["subject"]):
            assert (await client.delete(f"/v2/shop/app/manifests/{name}")).status_code == 405, name
        for name in recorded["tombstones"]:
            repository, _, tag = name.rpartition(":")
            assert await meaning(client, repository, tag) is None


async def test_a_tombstone_accepts_only_its_former_digest(revision: str, data: Path) -> None:
    """A tombstone accepts its former digest and no other."""
    tombstones = expected(revision)["tombstones"]
    async with reopened(revision, data) as client:
        back = await push(client, "archive/app", "0.9.0", image("0.9.0"))
        found = await meaning(client, "archive/app", "0.9.0")

    assert back.status_code == 201
    assert found == tombstones["archive/app:0.9.0"]


async def test_the_ledger_continues(revision: str, data: Path) -> None:
    """Checkpoint and entries are the same bytes, and the next push gets the next index."""
    size = expected(revision)["entries"]
    kept = HERE / revision / "ledger"
    async with reopened(revision, data, "boss") as client:
        checkpoint = await client.get("/ledger/checkpoint")
        before = await client.get(f"/ledger/tile/entries/000.p/{size}")
        pushed = await push(client, "shop/app", "9.0.0", image("9.0.0"))
        await until_signed(client, size + 1)
        after = await client.get(f"/ledger/tile/entries/000.p/{size + 1}")

    assert checkpoint.content == (kept / "checkpoint").read_bytes()
    assert before.content == (kept / "entries").read_bytes()
    assert int(pushed.headers["boltseal-ledger-index"]) == size
    assert after.content.startswith(before.content)


async def test_a_witness_cosigns_what_comes_next(revision: str, data: Path) -> None:
    """A witness verifies that the new checkpoint extends the one it cosigned for the earlier revision."""
    recorded = expected(revision)
    witness = FakeWitness(VerifierKey.parse(recorded["key"]))
    witness.seen = (HERE / revision / "ledger" / "witness.note").read_bytes()
    config = CONFIG + witness_table(str(witness.key.verifier))
    async with reopened(revision, data, "boss", config=config, witness=witness) as client:
        await push(client, "shop/app", "9.0.0", image("9.0.0"))
        await until_signed(client, recorded["entries"] + 1)

        async def cosigned() -> bool:
            checkpoint = (await client.get("/ledger/checkpoint")).text
            return witness.name in checkpoint and checkpoint.split("\n")[1] == str(recorded["entries"] + 1)

        await until_answer(cosigned, "the witness has cosigned the new checkpoint")

    assert witness.seen.split(b"\n")[1] == str(recorded["entries"] + 1).encode()


async def test_an_upload_is_resumed_at_its_offset(revision: str, data: Path) -> None:
    """An upload session of the earlier revision is resumed at its offset."""
    upload = expected(revision)["upload"]
    content = b"".join(b"%06d " % number for number in range(1000))
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    async with reopened(revision, data) as client:
        where = await client.get(upload["location"])
        done = await client.put(with_digest(upload["location"], digest), content=content[upload["received"] :])
        blob = await client.get(f"/v2/shop/app/blobs/{digest}")

    assert where.headers["range"] == f"0-{upload['received'] - 1}"
    assert done.status_code == 201
    assert blob.content == content


async def test_a_held_upstream_tag_stays_held_until_it_is_accepted(revision: str, data: Path, config: Path) -> None:
    """A held upstream tag is served as before, listed by `tag accept`, and released by it."""
    recorded = expected(revision)
    name = "up.example/team/app:reviewed"
    options = ("--data", data, "--config", config)
    listed = await beside("accept", "--json", *options)
    accepted = await beside("accept", name, "--reason", "a test", *options)
    async with FakeUpstream().listening(port=UPSTREAM_PORT) as upstream:
        moved = upstream.publish("team/app", "reviewed", image("upstream reviewed, moved"))
        async with reopened(revision, data, config=CONFIG + MIRROR) as client:
            found = await meaning(client, "up.example/team/app", "reviewed")

    assert [(one["ref"], one["digest"], one["was"]) for one in listed.json["results"]] == [
        (name, recorded["held"], recorded["tags"][name])
    ]
    assert accepted.code == 0, accepted.err
    assert found == recorded["held"] == moved.digest


async def test_an_undecided_push_is_resolved_by_asking_upstream(revision: str, data: Path) -> None:
    """A push whose upstream answer was lost is confirmed upstream, then served and recorded in the ledger."""
    recorded = expected(revision)
    async with FakeUpstream().listening(port=UPSTREAM_PORT) as upstream:
        upstream.publish("team/app", "3.0.0", image("pushed through"))
        async with reopened(revision, data, "boss", config=CONFIG + MIRROR) as client:
            found = await meaning(client, "up.example/team/app", "3.0.0")
            await until_signed(client, recorded["entries"] + 1)

    assert found == recorded["reserved"]


async def test_undelivered_events_are_delivered_later(revision: str, data: Path) -> None:
    """Each undelivered event in the data folder is delivered once."""
    with closing(sqlite3.connect(data / "outbox.db")) as database:
        due = [row[0] for row in database.execute("SELECT id FROM due ORDER BY id")]
    async with inbox() as box, reopened(revision, data, config=CONFIG + receiver_table(box.port)):
        await box.until(len(due), within_s=20)

    assert due
    assert sorted(_ids(box)) == due


def _ids(box: Inbox) -> list[str]:
    return [one["id"] for one in box.events]


def test_fsck_succeeds_and_changes_nothing(revision: str, data: Path, config: Path) -> None:
    """`admin fsck` verifies every byte and changes neither keys nor users."""
    before = contents(data.parent)
    examined = command("fsck", "--data", data, "--config", config)
    key = command("ledger key", "--data", data)
    users = command("user list", "--data", data, "--json")

    assert examined.code == 0, examined.out + examined.err
    assert key.out.strip() == expected(revision)["key"]
    assert [one["ref"] for one in users.json["results"]] == sorted(PASSWORDS)
    assert contents(data.parent) == before


@pytest.mark.slow
async def test_a_backup_is_restored_and_brought_up_to_date(
    revision: str, data: Path, config: Path, tmp_path: Path
) -> None:
    """A restored backup serves its content; a second backup from the data folder adds what is newer."""
    recorded = expected(revision)
    backup = copied(revision, "backup", tmp_path)
    untouched = contents(backup)
    restored = tmp_path / "restored" / "data"
    done = await beside("restore backup", backup, "--data", restored)
    after = contents(backup)
    shutil.copytree(data.with_name("data.keys"), restored.with_name("data.keys"))
    async with reopened(revision, restored) as client:
        found = {tag: await meaning(client, "shop/app", tag) for tag in ("1.4.2", "latest", "1.0.1", "1.5.0")}
        refused = await put(client, "shop/app", "1.5.0", image("another image"))
    again = await beside("backup", backup, "--data", data, "--config", config)
    newer = tmp_path / "newer" / "data"
    once_more = await beside("restore backup", backup, "--data", newer)
    shutil.copytree(data.with_name("data.keys"), newer.with_name("data.keys"))
    async with reopened(revision, newer) as client:
        latest = await meaning(client, "shop/app", "1.5.0")

    assert (done.code, once_more.code) == (0, 0), done.err + once_more.err
    assert after == untouched
    assert found == {
        "1.4.2": recorded["tags"]["shop/app:1.4.2"],
        "latest": recorded["tags"]["shop/app:latest"],
        "1.0.1": None,  # a tombstone
        "1.5.0": None,  # pushed after the backup
    }
    assert refused.status_code == 503  # the backup is behind the checkpoint that its keys have signed
    assert again.code == 0, again.err
    assert latest == recorded["tags"]["shop/app:1.5.0"]
