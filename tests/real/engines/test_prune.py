"""Releases survive every prune of an engine: Docker with either store, and Podman."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import NoSuchImage, connected
from boltseal.host.image_archive import ArchiveDiffers, ImageArchive
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests import servers
from tests.ports import free_port
from tests.real.compose_project import ComposeProject
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleepers
from tests.real.tools import Docker
from tests.servers import Server

pytestmark = pytest.mark.real

PRUNES = {
    "image": ("image", "prune", "--all", "--force"),
    "container": ("container", "prune", "--force"),
    "volume": ("volume", "prune", "--all", "--force"),
    "system": ("system", "prune", "--all", "--force", "--volumes"),
}


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the registry that Podman may contact without TLS."""
    return free_port()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Docker]:
    """Podman behind Docker's API."""
    with servers.podman(tmp_path_factory.mktemp("p"), plain_http=[f"127.0.0.1:{port}"]) as server:
        yield Docker(server.address, "podman")


@pytest.fixture(params=["docker", "docker_containerd", "podman"])
def engine(request: pytest.FixtureRequest) -> Docker:
    """Each kind of engine."""
    found: Docker = request.getfixturevalue(request.param)
    return found


def test_a_rollback_works_offline_after_every_prune(engine: Docker, port: int, repository: str, tmp_path: Path) -> None:
    """After each prune by itself, and after all in a row, a rollback restores the former image without its registry."""
    data = tmp_path / "data"
    server = Server("boltseal", f"127.0.0.1:{port}", 0, tmp_path / "data.log", data)
    shop = ComposeProject(tmp_path / "project", engine, server, tmp_path / "state", repository)
    with servers.boltseal(data, port=port):
        for words in ("one", "two"):
            shop.publish("edge", words)
            shop.web("edge")
            last = shop.deployed()
    results: list[tuple[tuple[str, ...], int, str | None]] = []
    for names in (*((name,) for name in PRUNES), tuple(PRUNES)):
        for name in names:
            engine.run(*PRUNES[name])
        number = "1" if len(results) % 2 == 0 else "2"
        back = shop.run("rollback", number)
        results.append((names, back.code, shop.words().get("web")))
        assert back.code == 0, f"{names}: {back.err}"
    shop.down()

    assert "archived the images of the last releases" in last.err
    assert [words for _, _, words in results] == ["one", "two", "one", "two", "one"]


@pytest.mark.parametrize("store", ["docker", "docker_containerd"])
def test_an_administrator_by_ssh_rolls_back_after_every_prune(
    request: pytest.FixtureRequest, store: str, port: int, repository: str, tmp_path: Path
) -> None:
    """With the registry off and everything pruned, a rollback by ssh restores the images from the archive of the administrator's machine."""
    engine: Docker = request.getfixturevalue(store)
    data = tmp_path / "data"
    registry = Server("boltseal", f"127.0.0.1:{port}", 0, tmp_path / "data.log", data)
    with servers.sshd(tmp_path / "sshd") as far:
        by_ssh = {
            "PATH": f"{far.folder}/bin:{os.environ['PATH']}",
            "DOCKER_HOST": f"ssh://root@{far.address}{engine.host.removeprefix('unix://')}",
        }
        laptop = ComposeProject(tmp_path / "project", engine, registry, tmp_path / "laptop", repository, by_ssh)
        other = replace(laptop, state=tmp_path / "other")
        listed = ("release", "ls", "--project-name", laptop.name)
        with servers.boltseal(data, port=port):
            for words in ("one", "two"):
                laptop.publish("edge", words)
                laptop.web("edge")
                last = laptop.deployed()
        seen = other.run(*listed)
        for prune in PRUNES.values():
            engine.run(*prune)
        refused = other.run("rollback")
        pruned = laptop.words()
        back = laptop.run("rollback")
        runs = laptop.words()
        laptop.down()

    assert f"{laptop.name}/2" in seen.out
    assert "archiving 127.0.0.1:" in last.err
    assert "archived the images of the last releases on this machine: " in last.err
    assert refused.code in (1, 3)
    assert "release 1 was deployed by " in " ".join(refused.err.split())
    assert "whose archive may have it" in " ".join(refused.err.split())
    assert pruned["web"] == "two"
    assert back.code == 0, back.err
    assert runs["web"] == "one"


async def test_an_image_comes_back_from_the_archive_with_its_id(
    engine_address: EngineAddress, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An archived image that was removed is loaded under its former ID, shares its blobs, and is verified before."""
    archive = ImageArchive(tmp_path)
    name = Reference.parse(f"{registry.host}/{repository}:1")
    async with connected(engine_address) as engine:
        ids = []
        for words in (f"one of {repository}", f"two of {repository}"):  # an image of other tests would keep the ID
            digest = Digest.parse(publish(registry.host, repository, words.partition(" ")[0], sleepers(words)))
            image = await engine.pull(Reference(name.registry, name.repository, digest=digest))
            await engine.tag(image.id, name)
            ids.append(image.id)
            assert await archive.add(engine, image.id)
            assert not await archive.add(engine, image.id)
            await engine.untag(name, allow_last=True)
            for each in image.pulled_as:
                try:
                    await engine.untag(each, allow_last=True)
                except NoSuchImage:
                    break
        for id_ in ids:
            with pytest.raises(NoSuchImage):
                await engine.image(id_)
            assert await archive.load(engine, id_)
            assert (await engine.image(id_)).id == id_
        assert archive.ids() == frozenset(ids)
        layout = json.loads((archive.folder / "index.json").read_bytes())
        before = archive.size_bytes()
        archive.keep_only([ids[1]])
        assert archive.ids() == {ids[1]}
        assert not await archive.load(engine, ids[0])
        assert archive.size_bytes() < before
        assert len(layout["manifests"]) == 2
        for blob in (archive.folder / "blobs/sha256").iterdir():
            blob.write_bytes(blob.read_bytes() + b" ")
        with pytest.raises(ArchiveDiffers):
            await archive.load(engine, ids[1])
