"""Keeping and restoring images on real engines: Docker with either store, and Podman behind Docker's API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import NoSuchImage, connected
from boltseal.engines.inventory import ImageStoreKind
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper, KeepPolicy
from boltseal.host.kept_images import KeptImages, Proof
from boltseal.host.pull import Puller, PullOutcome, PullRequest
from boltseal.host.restore_kept import KeptImageGone, restore
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleeper, sleepers
from tests.real.tools import CommandResult, run

pytestmark = pytest.mark.real


@dataclass(frozen=True, slots=True)
class Stage:
    """An engine, a registry, and a repository that no other test uses."""

    host: EngineHost
    registry: Registry
    repository: str
    transport: Transport

    @property
    def name(self) -> Reference:
        return Reference.parse(f"{self.registry.host}/{self.repository}:latest")

    def publish(self, words: str) -> Digest:
        return Digest.parse(publish(self.registry.host, self.repository, "latest", sleepers(words)))

    def puller(self, policy: KeepPolicy = KeepPolicy()) -> Puller:  # noqa: B008 - frozen
        return Puller(self.host, self.transport, CredentialStore(()), policy=policy)

    def docker(self, *argv: str) -> CommandResult:
        """Run Docker's own client, which all these engines answer."""
        return run("docker", "-H", str(self.host.engine.address), *argv)

    async def words(self) -> str:
        """Return the label text of the image that the name resolves to."""
        return (await self.host.engine.image(self.name)).labels["words"]


@pytest.fixture
async def stage(
    engine_address: EngineAddress, registry: Registry, repository: str, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Each engine."""
    transport = Transport(CredentialStore(()))
    async with connected(engine_address) as engine:
        kept = KeptImages(ClientState(tmp_path / "state"))
        host = await EngineHost.of(engine, kept, lambda: time.time_ns() // 1000)
        yield Stage(host, registry, repository, transport)
    await transport.aclose()


async def test_a_newer_latest_is_pulled_and_the_old_one_restored_offline(stage: Stage) -> None:
    """After a newer `latest` was pulled, the old image is restored offline, and the newer one again."""
    old = stage.publish("old")
    first = await stage.puller().pull(PullRequest.of(stage.name))
    new = stage.publish("new")
    brought = await stage.puller().pull(PullRequest.of(stage.name))
    now = await stage.words()
    await stage.transport.aclose()  # from here on no registry answers
    back = await restore(stage.host, stage.name)
    then = await stage.words()
    forward = await restore(stage.host, stage.name, str(new))

    identical = stage.host.store is ImageStoreKind.CONTAINERD
    assert (first.digest, first.outcome, brought.digest) == (old, PullOutcome.PULLED, new)
    assert brought.kept is not None
    assert (now, then, await stage.words()) == ("new", "old", "new")
    assert (back.digest, back.image, back.proof) == (
        old,
        first.image,
        Proof.IDENTICAL if identical else Proof.MANIFEST,
    )
    assert (str(first.image) == str(old)) is identical
    assert str(first.image) in (str(old), sleeper("old").config.digest)
    assert forward.image == brought.image


async def test_kept_images_survive_a_prune_and_not_a_prune_of_all(stage: Stage) -> None:
    """Kept images survive `docker image prune`, which deletes untagged ones, but not `-a`, which deletes unused ones."""
    stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    stage.publish("new")
    brought = await stage.puller().pull(PullRequest.of(stage.name))
    assert brought.kept is not None
    stage.docker("image", "prune", "--force").checked()
    kept = await stage.host.image(brought.kept.image)
    stage.docker("image", "prune", "--all", "--force").checked()

    assert kept is not None
    with pytest.raises(KeptImageGone, match="prune -a"):
        await restore(stage.host, stage.name)


@pytest.mark.parametrize("how", [("create",), ("run", "--detach")], ids=["stopped", "running"])
async def test_a_prune_of_all_spares_images_of_containers(stage: Stage, how: tuple[str, ...]) -> None:
    """`prune -a` spares images of containers; containerd's store spares only those that the name resolves to."""
    stage.publish(f"old {how[0]}")
    await stage.puller().pull(PullRequest.of(stage.name))
    container = stage.docker(*how, "--network", "none", str(stage.name)).checked().split()[-1]
    stage.publish(f"new {how[0]}")
    brought = await stage.puller().pull(PullRequest.of(stage.name))
    assert brought.kept is not None
    try:
        stage.docker("image", "prune", "--all", "--force").checked()
        found = await stage.host.image(brought.kept.image)
    finally:
        stage.docker("kill", container)  # a stopped container needs no kill
        stage.docker("rm", "--force", container).checked()

    assert (found is None) is (stage.host.store is ImageStoreKind.CONTAINERD)


async def test_removing_the_tag_does_not_remove_the_kept_image(stage: Stage, tmp_path: Path) -> None:
    """Kept images survive `docker rmi`, `docker tag`, and Compose's `down --rmi all`."""
    stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    stage.publish("new")
    brought = await stage.puller().pull(PullRequest.of(stage.name))
    assert brought.kept is not None
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: '{stage.name}', network_mode: none}}}}")
    compose = ("docker-compose", "-p", "kept", "-f", tmp_path / "compose.yaml")
    host = {"DOCKER_HOST": str(stage.host.engine.address)}
    run(*compose, "create", env=host).checked()
    run(*compose, "down", "--rmi", "all", env=host).checked()
    gone = await stage.host.image(stage.name)
    await restore(stage.host, stage.name, "1")
    stage.docker("rmi", str(stage.name)).checked()
    stage.docker("image", "prune", "--force").checked()

    assert gone is None
    assert await stage.host.image(brought.kept.image) is not None
    assert (await restore(stage.host, stage.name)).image == brought.kept.image


async def test_pulling_a_present_image_costs_one_head(stage: Stage) -> None:
    """Pulling a present image costs one HEAD, counted by the registry."""
    stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    counted = [_requests(stage.registry)]
    again = await stage.puller().pull(PullRequest.of(stage.name))
    counted.append(_requests(stage.registry))

    assert again.outcome is PullOutcome.HERE
    assert counted[1] - counted[0] == 2  # the HEAD, and the first reading of the metrics


def _requests(registry: Registry) -> int:
    """Return the number of all requests that the registry has answered."""
    text = httpx2.get(f"{registry.server.url}/metrics", timeout=30, trust_env=False).raise_for_status().text
    lines = [line for line in text.splitlines() if line.startswith("boltseal_http_requests_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def test_an_expired_image_is_deleted_with_all_its_names(stage: Stage) -> None:
    """An expired image is deleted with all its names, also in Podman's store."""
    images = []
    for words in ("one", "two", "three"):
        stage.publish(words)
        images.append((await stage.puller(KeepPolicy(keep=1)).pull(PullRequest.of(stage.name))).image)

    assert [await stage.host.image(image) is not None for image in images] == [False, True, True]
    assert [each.number for each in await Keeper(stage.host).list_kept(stage.name)] == [1]


async def test_images_of_containers_are_not_expired(stage: Stage) -> None:
    """Images of running and stopped containers are not expired."""
    stage.publish("one")
    await stage.puller().pull(PullRequest.of(stage.name))
    container = stage.docker("create", "--network", "none", str(stage.name)).checked().split()[-1]
    stage.publish("two")
    brought = await stage.puller(KeepPolicy(keep=0)).pull(PullRequest.of(stage.name))
    stage.docker("rm", "--force", container).checked()

    assert [each.why for each in brought.let_go] == ["a container uses it"]


async def test_a_kept_image_is_restored_after_another_tool_moved_the_tag(stage: Stage) -> None:
    """After `docker pull` moved the tag, the image that boltseal kept is restored."""
    old = stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    await Keeper(stage.host).hold((await stage.host.engine.image(stage.name)).id, stage.name, old, "release shop/1")
    stage.publish("new")
    stage.docker("pull", str(stage.name)).checked()
    stage.docker("image", "prune", "--force").checked()
    now = await stage.words()
    back = await restore(stage.host, stage.name)

    assert (now, back.digest, await stage.words()) == ("new", old, "old")


async def test_a_vanished_upstream_image_leaves_the_tag(stage: Stage) -> None:
    """If an image vanished from its registry, the tag on the engine keeps its image."""
    stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    gone = Digest.of(b"gone")

    with pytest.raises(NoSuchImage, match="no such image"):
        await stage.puller().pull(PullRequest(stage.name, gone))
    assert await stage.words() == "old"


async def test_a_pruned_image_can_be_pulled_by_its_digest(stage: Stage) -> None:
    """A pruned image that is pulled by its recorded digest, as the message says, can be restored."""
    old = stage.publish("old")
    await stage.puller().pull(PullRequest.of(stage.name))
    stage.publish("new")
    await stage.puller().pull(PullRequest.of(stage.name))
    stage.docker("image", "prune", "--all", "--force").checked()
    by_digest = Reference(stage.name.registry, stage.name.repository, digest=old)
    await stage.puller().pull(PullRequest.of(by_digest))

    assert (await restore(stage.host, stage.name)).digest == old
    assert await stage.words() == "old"
