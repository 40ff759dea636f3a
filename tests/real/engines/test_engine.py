"""The engine client with real engines: Docker with either store, and Podman behind Docker's API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import Engine, EngineProgress, NoSuchImage, connected
from boltseal.engines.inventory import ContainerHealth, ImageStoreKind, State
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.polling import until_answer
from tests.real.boxes import ended, started
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleeper, sleepers

pytestmark = pytest.mark.real


@pytest.fixture
async def engine(engine_address: EngineAddress, engine_store: ImageStoreKind) -> AsyncIterator[Engine]:
    """A connected engine."""
    async with connected(engine_address) as opened:
        assert await opened.store() is engine_store
        yield opened


@pytest.fixture
def start(engine_address: EngineAddress) -> Iterator[Callable[..., str]]:
    """Start a container, as `started` does. All are removed at the end: a health check that goes on takes a tenth of a processor."""
    ids: list[str] = []

    def start(image: object, *command: str, terminal: bool = False, health: str = "") -> str:
        ids.append(started(engine_address, image, *command, terminal=terminal, health=health))
        return ids[-1]

    yield start
    for id_ in ids:
        ended(engine_address, id_)


def _pushed(registry: Registry, repository: str) -> Reference:
    """Push an image for two platforms; return its tag and digest."""
    digest = publish(registry.host, repository, "1.4.2", sleepers(repository))
    return Reference.parse(f"{registry.host}/{repository}:1.4.2@{digest}")


async def test_a_pulled_digest_is_tagged_and_untagged(engine: Engine, registry: Registry, repository: str) -> None:
    """After a pull by digest, a tag is added and removed, and the image stays."""
    image, reported = _pushed(registry, repository), list[EngineProgress]()
    pulled = await engine.pull(image, progress=reported.append)
    name, kept = (Reference(image.registry, image.repository, Tag(tag)) for tag in ("1.4.2", "kept"))
    await engine.tag(pulled.id, name)
    await engine.tag(name, kept)
    await engine.untag(name)
    found = await engine.image(kept)

    assert reported
    assert image.digest in {each.digest for each in pulled.pulled_as}
    assert (found.id, found.names) == (pulled.id, (kept,))
    with pytest.raises(NoSuchImage):
        await engine.image(name)


async def test_the_kind_of_an_image_id(engine: Engine, registry: Registry, repository: str) -> None:
    """In containerd's store an image ID is the index's digest, in the others the config's."""
    image = _pushed(registry, repository)
    config = sleeper(repository).config.digest
    pulled = await engine.pull(image)

    expected = str(image.digest) if await engine.store() is ImageStoreKind.CONTAINERD else config
    assert str(pulled.id) == expected
    assert str(pulled.platform) == "linux/amd64"


async def test_an_image_is_saved_and_loaded(
    engine: Engine, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An image that is saved and loaded as an archive is the same image under the same name."""
    image = _pushed(registry, repository)
    pulled = await engine.pull(image)
    name = Reference(image.registry, image.repository, image.tag)
    await engine.tag(pulled.id, name)
    await engine.save(name, tmp_path / "app.tar")
    await engine.untag(name, allow_last=True)
    await engine.load(tmp_path / "app.tar")
    found = await engine.image(name)

    assert found.labels == {"words": repository}


async def test_a_digest_that_no_registry_has_is_a_miss(engine: Engine, registry: Registry, repository: str) -> None:
    """A digest that no registry has is a miss, and not an engine failure."""
    image = _pushed(registry, repository)
    with pytest.raises(NoSuchImage):
        await engine.pull(Reference(image.registry, image.repository, digest=Digest.of(b"nothing")))


async def test_an_unknown_name_is_a_miss(engine: Engine) -> None:
    """An unknown name or ID is a miss."""
    for name in (Reference.parse("localhost:5000/shop/none:1"), Digest.of(b"nothing")):
        with pytest.raises(NoSuchImage):
            await engine.image(name)


async def test_containers_have_their_state_and_log(
    engine: Engine, start: Callable[..., str], registry: Registry, repository: str
) -> None:
    """State and log are read of a failed container, one with a terminal, and one with a health check."""
    image = _pushed(registry, repository)
    pulled = await engine.pull(image)
    say = "/busybox printf 'one\\ntwo\\n'; /busybox printf 'oh\\n' >&2; exit 3"
    failed = start(pulled.id, "/busybox", "sh", "-c", say)
    terminal = start(pulled.id, "/busybox", "echo", "hello", terminal=True)
    checked = start(pulled.id, health="/busybox true")
    await _until(engine, failed, State.EXITED)
    await _until(engine, terminal, State.EXITED)
    found = await engine.container(failed)

    assert (found.exit_code, found.health, found.restarts) == (3, ContainerHealth.NONE, 0)
    assert sorted(await engine.logs(failed, 10)) == ["oh", "one", "two"]
    assert len(await engine.logs(failed, 2)) == 2
    assert await engine.logs(terminal, 10) == ("hello",)
    assert (await engine.container(checked)).health is not ContainerHealth.NONE


async def _until(engine: Engine, id_: str, state: State) -> None:
    async def reached() -> bool:
        return (await engine.container(id_)).state is state

    await until_answer(reached, f"the container is {state}")
