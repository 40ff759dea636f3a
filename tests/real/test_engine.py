"""The door to engines on those that people have: Docker with either store, and Podman behind Docker's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.runtimes.address import EngineAddress
from boltseal.runtimes.engine import Engine, NoSuchImage, Progress, connected
from boltseal.runtimes.inventory import Store
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleeper, sleepers
from tests.real.tools import Docker
from tests.servers import Server

pytestmark = pytest.mark.real


@pytest.fixture(params=Store)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """Each engine in turn."""
    async with connected(_address(request)) as opened:
        assert await opened.store() is request.param
        yield opened


def _address(request: pytest.FixtureRequest) -> EngineAddress:
    if request.param is Store.PODMAN:
        podman: Server = request.getfixturevalue("podman_service")
        return EngineAddress.parse(f"unix://{podman.address}")
    docker: Docker = request.getfixturevalue("docker" if request.param is Store.CLASSIC else "docker_containerd")
    return EngineAddress.parse(docker.host)


def _pushed(registry: Registry, repository: str) -> Reference:
    """An image for two platforms, by tag and digest."""
    digest = publish(registry.host, repository, "1.4.2", sleepers(repository))
    return Reference.parse(f"{registry.host}/{repository}:1.4.2@{digest}")


async def test_a_pull_by_digest_a_name_more_and_a_name_less(
    engine: Engine, registry: Registry, repository: str
) -> None:
    """The digest is kept, a tag is put on it, and the tag that is taken away takes nothing else along."""
    image, told = _pushed(registry, repository), list[Progress]()
    pulled = await engine.pull(image, tell=told.append)
    name, kept = (Reference(image.registry, image.repository, Tag(tag)) for tag in ("1.4.2", "kept"))
    await engine.tag(pulled.id, name)
    await engine.tag(name, kept)
    await engine.untag(name)
    found = await engine.image(kept)

    assert told
    assert image.digest in {each.digest for each in pulled.pulled_as}
    assert (found.id, found.names) == (pulled.id, (kept,))
    with pytest.raises(NoSuchImage):
        await engine.image(name)


async def test_what_an_id_is(engine: Engine, registry: Registry, repository: str) -> None:
    """containerd's store has the index's digest; the others the config's."""
    image = _pushed(registry, repository)
    config = sleeper(repository).config.digest
    pulled = await engine.pull(image)

    expected = str(image.digest) if await engine.store() is Store.CONTAINERD else config
    assert str(pulled.id) == expected
    assert str(pulled.platform) == "linux/amd64"


async def test_an_image_out_and_in(engine: Engine, registry: Registry, repository: str, tmp_path: Path) -> None:
    """By an archive, the same image under the same name."""
    image = _pushed(registry, repository)
    pulled = await engine.pull(image)
    name = Reference(image.registry, image.repository, image.tag)
    await engine.tag(pulled.id, name)
    await engine.save(name, tmp_path / "app.tar")
    await engine.untag(name, even_last=True)
    await engine.load(tmp_path / "app.tar")
    found = await engine.image(name)

    assert found.labels == {"words": repository}


async def test_a_digest_that_no_registry_has(engine: Engine, registry: Registry, repository: str) -> None:
    """Is a miss and not an engine that failed."""
    image = _pushed(registry, repository)
    with pytest.raises(NoSuchImage):
        await engine.pull(Reference(image.registry, image.repository, digest=Digest.of(b"nothing")))


async def test_a_name_that_nothing_has(engine: Engine) -> None:
    """Neither a name nor an ID."""
    for name in (Reference.parse("localhost:5000/shop/none:1"), Digest.of(b"nothing")):
        with pytest.raises(NoSuchImage):
            await engine.image(name)
