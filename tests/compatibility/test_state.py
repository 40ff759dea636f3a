"""A client's state, locks, receipts and releases of an earlier revision: read, continued, left unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli import program
from tests.compatibility.fixtures import (
    COMMANDS,
    ENGINE,
    HERE,
    REGISTRY,
    UPSTREAM_PORT,
    contents,
    copied,
    expected,
    receiver_table,
)
from tests.fakes.engine import FakeEngine
from tests.fakes.upstream import FakeUpstream
from tests.images import image
from tests.notify.receivers import inbox
from tests.servers import Server

PROJECTS = ("actions", "compose", "dockerfile", "kubernetes")


def command(name: str, *arguments: str | Path) -> program.Run:
    return program.call(*COMMANDS[name], *arguments)


async def beside(name: str, *arguments: str | Path) -> program.Run:
    """Run a command while this process serves the registry of the fixtures."""
    return await asyncio.to_thread(command, name, *arguments)


# --- locks ---


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_is_verified_without_its_registry(revision: str, state: Path, tmp_path: Path, name: str) -> None:
    """`verify --offline` reads lock and files, and changes neither them nor the state."""
    project = copied(revision, "projects", tmp_path) / name
    before = (contents(project), contents(state))
    done = command("verify", "--offline", "--project", project, "--json")

    assert done.code == 0, done.out
    assert done.json["results"]
    assert (contents(project), contents(state)) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_locking_again_changes_no_byte(revision: str, registry: Server, state: Path, tmp_path: Path, name: str) -> None:
    """`lock` changes no byte if no tag has moved, and the project still verifies."""
    project = copied(revision, "projects", tmp_path) / name
    before = contents(project)
    locked = command("lock", "--project", project)
    held = command("verify", "--project", project)

    assert (locked.code, held.code) == (0, 0), locked.err + held.out
    assert "unchanged" in locked.err
    assert contents(project) == before


# --- stored checkpoints of ledgers ---


@pytest.mark.slow
def test_a_ledger_is_followed_from_the_stored_checkpoint(revision: str, registry: Server, state: Path) -> None:
    """A ledger with its pinned key is checked from the stored checkpoint, which the newest one replaces."""
    recorded = expected(revision)
    (note,) = (state / "checkpoints").glob("*18765.note")
    old = int(note.read_text().split("\n")[1])
    done = command("digest", f"{REGISTRY}/shop/app:1.4.2")

    assert (done.code, done.out.strip()) == (0, recorded["tags"]["shop/app:1.4.2"]), done.err
    assert "first use" not in done.err
    assert old < int(note.read_text().split("\n")[1]) == recorded["entries"]


def test_trusted_keys_are_listed(revision: str, state: Path) -> None:
    """The pinned key is listed with its last checkpoint, and listing changes nothing."""
    before = contents(state)
    done = command("trust", "--json")
    (found,) = [one for one in done.json["results"] if one["ref"] == REGISTRY]

    assert (found["key"], found["status"], found["origin"]) == (expected(revision)["key"], "given", "registry.test")
    assert found["size"] == expected(revision)["entries seen"]
    assert contents(state) == before


@pytest.mark.slow
def test_a_truncated_ledger_is_found_by_the_stored_checkpoint(
    revision: str, registry: Server, state: Path, tmp_path: Path
) -> None:
    """A truncated ledger contradicts the stored checkpoint; new evidence is stored beside the old."""
    (note,) = (state / "checkpoints").glob("*18765.note")
    (older,) = (state / "evidence").iterdir()
    kept = contents(older)
    note.write_bytes(note.read_bytes().replace(b"\n", b"\n9", 1))  # it claims nine hundred entries and is not signed
    done = command("digest", f"{REGISTRY}/shop/app:1.4.2")

    assert done.code == 1, done.err
    assert len(list((state / "evidence").iterdir())) == 2
    assert contents(older) == kept


@pytest.mark.slow
def test_the_monitor_continues_where_it_stopped(revision: str, registry: Server, state: Path) -> None:
    """The monitor reads only entries after its stored progress."""
    recorded = expected(revision)
    done = command("ledger monitor", f"http://{REGISTRY}", "--json")
    (found,) = done.json["results"]

    assert done.code == 0, done.out
    assert (found["size"], found["read"]) == (recorded["entries"], recorded["entries"] - recorded["entries monitored"])


def test_a_receipt_is_verified_without_its_registry(revision: str, state: Path, tmp_path: Path) -> None:
    """A receipt is verified offline with manifests and configs beside it, and nothing is changed."""
    recorded = expected(revision)
    folder = copied(revision, "receipts", tmp_path)
    before = contents(folder)
    done = command("receipt verify", folder / "app-1.4.2.tlog-proof", "--key", recorded["key"], "--json")
    (found,) = done.json["results"]

    assert done.code == 0, done.out
    assert (found["digest"], found["manifests"], found["configs"]) == (recorded["tags"]["shop/app:1.4.2"], 3, 2)
    assert contents(folder) == before


@pytest.mark.slow
def test_the_history_of_a_tag_is_unchanged(revision: str, registry: Server, state: Path) -> None:
    """The history of a mutable tag is proven by the ledger, that of a mirrored one by the observation log."""
    recorded = expected(revision)
    for name, events in recorded["histories"].items():
        done = command("history", f"{REGISTRY}/{name}", "--json")
        assert done.code == 0, done.out + done.err
        assert [[one["status"], one["digest"]] for one in done.json["results"]] == events


# --- watched tags ---


async def test_the_history_of_a_watched_tag_is_read(revision: str, state: Path) -> None:
    """The history of a watched tag is read from the state, which stays unchanged."""
    before = contents(state)
    async with FakeUpstream().listening(port=UPSTREAM_PORT):
        for ref, history in expected(revision)["watched"].items():
            done = await beside("history", ref, "--json")
            assert done.code == 0, done.out + done.err
            assert [[one["status"], one["digest"]] for one in done.json["results"]] == history

    assert contents(state) == before


async def test_a_later_run_reports_a_move(revision: str, state: Path, tmp_path: Path) -> None:
    """`watch` continues from the stored head, and an alarm reaches its receiver through the stored outbox."""
    recorded = expected(revision)
    release, gone, floating = recorded["watched"]
    async with inbox() as box, FakeUpstream().listening(port=UPSTREAM_PORT) as upstream:
        settings = tmp_path / "home" / "boltseal" / "boltseal.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(receiver_table(box.port))
        newest = upstream.publish("team/tool", "1.0.0", image("tool, the third 1.0.0"))
        upstream.publish("team/tool", "latest", image("tool second latest"))
        head = recorded["watch log"]["head"]
        done = await beside("watch", release, gone, floating, "--extends", head, "--json")
        await box.until(1, within_s=20)
    found = {one["ref"]: (one["status"], one.get("was")) for one in done.json["results"] if one["status"] != "log"}
    delivered = [one for one in box.events if one["subject"] == release and one["data"]["digest"] == newest.digest]

    assert done.code == 1, done.err
    assert found[release] == ("moved", recorded["watched"][release][-1][1])
    assert found[floating] == ("same", recorded["watched"][floating][-1][1])
    assert found[gone][0] in ("gone", "absent")
    assert delivered


# --- rebuilds, releases, kept images ---


def test_requested_rebuilds_are_listed(revision: str, state: Path) -> None:
    """Recorded rebuild requests are listed with their results, and listing changes nothing."""
    before = contents(state)
    lines = [json.loads(line) for line in (state / "rebuilds.jsonl").read_text().splitlines()]
    done = command("outdated", "--log", "--json")
    keys = ("ref", "status", "reason", "base", "resolves_to")

    assert done.code == 0, done.out
    assert [each["outcome"] for each in lines] == ["asked", "done"]
    assert [tuple(one[key] for key in keys) for one in done.json["results"]] == [
        tuple(each[key] for key in ("image", "outcome", "told", "base", "digest")) for each in lines
    ]
    assert contents(state) == before


@pytest.mark.slow
def test_a_requested_rebuild_is_not_requested_again(
    revision: str, registry: Server, state: Path, tmp_path: Path
) -> None:
    """A rebuild that was requested for the present base is not requested again."""
    settings = tmp_path / "home" / "boltseal" / "boltseal.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[on_outdated]]\ncommand = ["/bin/touch", "{tmp_path / "rebuilt"}"]\n')
    before = (state / "rebuilds.jsonl").read_bytes()
    done = command("outdated", f"{REGISTRY}/shop/app:2.0.0", "--rebuild", "--json")
    outdated = [one["ref"] for one in done.json["results"] if one["status"] == "outdated"]

    assert (done.code, outdated) == (1, [f"{REGISTRY}/shop/app:2.0.0"]), done.err
    assert (state / "rebuilds.jsonl").read_bytes() == before
    assert not (tmp_path / "rebuilt").exists()


async def test_releases_are_listed_with_their_results(revision: str, state: Path) -> None:
    """Releases are listed as recorded: healthy, restored, rolled back, failed or unfinished; listing changes nothing."""
    before = contents(state)
    for project, ends in expected(revision)["releases"].items():
        async with engine(revision):
            done = await beside("releases", "--project-name", project, "--json")
        assert done.code == 0, done.err
        for one, (number, status, of, image_id) in zip(done.json["results"], ends, strict=True):
            record = json.loads((state / "releases" / project / str(number) / "release.json").read_text())
            assert (one["ref"], one["status"], one["of"]) == (f"{project}/{number}", status, of)
            assert [one[key] for key in ("who", "kind", "reason", "engine")] == [
                record[key] for key in ("who", "kind", "reason", "engine")
            ]
            (service,), (recorded,) = one["services"], record["services"]
            assert [service[key] for key in ("service", "image", "digest", "id", "state")] == [
                recorded[key] for key in ("name", "image", "digest", "image_id", "state")
            ]
            assert service["id"] == image_id

    assert contents(state) == before


def test_two_releases_are_compared(revision: str, state: Path) -> None:
    """Two recorded releases are compared by images, environment, and HMACs of secrets; no value is shown."""
    before = contents(state)
    done = command("release difference", "1", "3", "--project-name", "demo-shop", "--json")
    same = command("release difference", "1", "4", "--project-name", "demo-shop")

    assert done.code == 1, done.err
    assert {one["status"].partition(" ")[0] for one in done.json["results"]} >= {"image", "digest"}
    assert "token" not in done.out
    assert same.code == 0, same.out
    assert contents(state) == before


def test_the_plan_of_a_rollback_is_read(revision: str, state: Path) -> None:
    """A rollback reads the recorded text, variables, files and lock of the former release."""
    plan = rollback_plan(state, "demo-shop")

    assert (plan["left"], plan["back to"], plan["next"]) == ([5], 4, 6)
    assert plan["environment"] == {"TOKEN": "a test's token of 1.0.0"}
    assert json.loads(plan["compose"])["services"]["web"]["environment"] == {"MODE": "one"}
    assert sorted(plan["files"]) == [".env", "compose.yaml"]
    assert b"demo/shop:1.0.0" in plan["lock"]


def rollback_plan(state: Path, project: str) -> dict[str, Any]:
    """Return what `rollback` reads before it asks an engine; no command prints only that."""
    from boltseal.deploy.release_store import ReleaseFolder
    from boltseal.deploy.releases import rollback_target

    folder = ReleaseFolder(state, project)
    found = folder.all()
    target = rollback_target(found)
    assert target is not None
    recorded = folder.contents(target.number)
    return {
        "left": [each.number for each in found if each.unfinished],
        "back to": target.number,
        "next": folder.next_number(),
        "compose": recorded.compose,
        "environment": json.loads(recorded.environment),
        "files": recorded.files,
        "lock": recorded.lock,
    }


@asynccontextmanager
async def engine(revision: str) -> AsyncIterator[FakeEngine]:
    """Run an engine at the recorded address with its recorded images."""
    ENGINE.parent.mkdir(parents=True, exist_ok=True)
    fake = FakeEngine()
    for each in expected(revision)["engine images"]:
        fake.images[each["Id"]] = {**each, "Config": {"Labels": None}}
    async with fake.listening(ENGINE.parent) as address:
        ENGINE.unlink(missing_ok=True)
        os.link(address.path, ENGINE)
        try:
            yield fake
        finally:
            ENGINE.unlink()
    with contextlib.suppress(OSError):  # they may have other entries
        ENGINE.parent.rmdir()
        ENGINE.parent.parent.rmdir()


async def test_kept_images_are_read(revision: str, state: Path) -> None:
    """Kept images have their recorded digest, keep tag and the release that holds them."""
    recorded = expected(revision)["kept images"]
    async with engine(revision):
        done = await beside("kept images", "--json")
    fields = ("ref", "status", "digest", "image", "tag", "kept", "held", "recorded", "current")

    assert done.code == 0, done.out + done.err
    assert [{key: one[key] for key in fields} for one in done.json["results"]] == [
        {key: one[key] for key in fields} for one in recorded
    ]


def test_there_are_fixtures_and_each_says_how_it_was_made() -> None:
    """Fixtures exist, each with a README, since without them every other test would pass."""
    sets = [path for path in HERE.iterdir() if path.is_dir()]

    assert sets
    assert all(path.name in (HERE / "README.md").read_text() for path in sets)
