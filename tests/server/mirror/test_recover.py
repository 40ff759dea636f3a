"""A mirror restored from an old copy: newer observations are recovered from another copy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.server.settings import Settings
from boltseal.server.store_factory import examine_store
from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import Document, image
from tests.server.mirror.mirrors import NAME, mirror_settings, table_of
from tests.server.mirror.observed import story
from tests.servers import boltseal
from tests.serving import Clock, Serving, serving_as

AT = f"/v2/{NAME}/team/app/manifests/"
TAGS = ("followed", "held", "gone", "accepted", "new")


@dataclass
class Behind:
    """An old data folder in place of the newer one at `lost`. `served`: what the newer one answered last."""

    settings: Settings
    lost: Path
    served: dict[str, tuple[bytes, str]]
    story: list[tuple[str, str, str]]
    images: dict[str, Document]


async def answers(mirror: Serving) -> dict[str, tuple[bytes, str]]:
    """Return the answer for each tag, and the length in a HEAD of it."""
    found = {}
    for tag in TAGS:
        whole = await mirror.client.get(f"{AT}{tag}")
        assert whole.status_code == 200, whole.text
        found[tag] = whole.content, (await mirror.client.head(f"{AT}{tag}")).headers["content-length"]
    return found


def rules(upstream: FakeUpstream) -> dict[str, Any]:
    held = [{"tag": tag, "on_move": "hold"} for tag in ("held", "accepted")]
    return table_of(upstream, fresh="10m", rule=held)


@pytest.fixture
async def behind(tmp_path: Path, upstream: FakeUpstream) -> Behind:
    """A restored mirror; since the copy tags moved, were held, deleted, accepted, and added."""
    settings, clock = mirror_settings(tmp_path / "data", rules(upstream)), Clock(1_795_500_000_000_000)
    shown = {word: image(word) for word in ("first", "a longer second one", "third")}
    for tag in TAGS[:-1]:
        upstream.publish("team/app", tag, shown["first"])
    async with serving_as(settings, clock=clock) as mirror:
        for tag in TAGS[:-1]:
            await mirror.client.get(f"{AT}{tag}")
    shutil.copytree(tmp_path / "data", tmp_path / "old")
    clock.advance(seconds=601)
    for tag in ("followed", "held", "accepted", "new"):
        upstream.publish("team/app", tag, shown["a longer second one"])
    del upstream.manifests["team/app"]["gone"]
    async with serving_as(settings, clock=clock) as mirror:
        await answers(mirror)
        done = program.call("tag", "accept", f"{NAME}/team/app:accepted", "--config", config_of(tmp_path, upstream))
        assert done.code == 0, done.err
        served = await answers(mirror)
    kept = story(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "lost")
    (tmp_path / "old").rename(tmp_path / "data")
    return Behind(settings, tmp_path / "lost", served, kept, shown)


def config_of(folder: Path, upstream: FakeUpstream) -> Path:
    path = folder / "boltseal.toml"
    table = f'[server]\ndata = "{folder}/data"\n[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.authority}"\n'
    path.write_text(table + '[[upstream.rule]]\ntag = "held"\non_move = "hold"\n')
    return path


async def test_observations_are_recovered_from_the_newer_folder(behind: Behind, upstream: FakeUpstream) -> None:
    """Observations are recovered from the newer folder: the log is signed as before, and held tags stay held."""
    data = behind.settings.server.data
    back = program.call("ledger", "recover", "--observations", "--from", behind.lost, "--data", data, "--json")
    again = program.call("ledger", "recover", "--observations", "--from", behind.lost, "--data", data)
    found = [one.problem for one in examine_store(behind.settings, lambda *_: None).findings]
    async with serving_as(behind.settings) as mirror:
        served = await answers(mirror)
        ready = (await mirror.client.get("/readyz")).json()

    assert back.code == 0, back.err
    assert back.json["results"][0]["entries"] == 6
    assert again.code == 2
    assert story(data) == behind.story
    assert served == behind.served
    assert [problem for problem in found if "observation" in problem] == []
    assert "warnings" not in ready


async def test_without_upstream_recovered_tags_are_served_as_before(behind: Behind, upstream: FakeUpstream) -> None:
    """Without upstream, recovered tags are served if all bytes are stored, and else with their former image."""
    data = behind.settings.server.data
    program.call("ledger", "recover", "--observations", "--from", behind.lost, "--data", data)
    first = behind.images["first"].raw
    upstream.answers["*"] = gone_away
    async with serving_as(behind.settings) as mirror:
        held, gone, moved = [await mirror.client.get(f"{AT}{tag}") for tag in ("held", "gone", "followed")]

    assert held.content == gone.content == moved.content == first
    assert "is held until an administrator accepts it" in held.headers["warning"]
    assert "no longer exists" in gone.headers["warning"]
    assert "warning" in moved.headers


async def gone_away(*_: object) -> None:
    """Stop the upstream, which then refuses connections."""


@pytest.mark.slow
async def test_observations_are_recovered_from_a_running_registry(behind: Behind, tmp_path: Path) -> None:
    """Observations are recovered from the old server, which still runs on the newer folder."""
    data = behind.settings.server.data
    shutil.copytree(tmp_path / "data.keys", tmp_path / "lost.keys")
    with boltseal(tmp_path / "lost") as server:
        assert httpx2.get(f"{server.url}/ledger/observations/checkpoint", trust_env=False).status_code == 200
        back = program.call("ledger", "recover", "--observations", "--from", server.url, "--data", data, "--json")

    assert back.code == 0, back.err
    assert back.json["results"][0]["entries"] == 6
    assert story(data) == behind.story


async def test_unsigned_observations_are_refused(behind: Behind) -> None:
    """Entries that are not signed observations, such as the ledger's, are refused."""
    data = behind.settings.server.data
    other = program.call("ledger", "recover", "--from", behind.lost, "--data", data)
    empty = program.call("ledger", "recover", "--observations", "--from", data, "--data", data)

    assert (other.code, empty.code) == (2, 2)
    assert "nothing to restore" in other.err
    assert "are not the ones that were signed" in empty.err
