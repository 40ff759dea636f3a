"""A test host: an in-memory engine with any image store, pulling from an in-memory registry; both count requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltseal.client.credentials import SingleLogin
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport, TransportOptions
from boltseal.engines.api import connected
from boltseal.engines.inventory import ImageStoreKind
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper
from boltseal.host.kept_images import KeptImages
from boltseal.host.pull import Puller
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.fakes.engine import SNAPSHOTTER, FakeEngine
from tests.fakes.hub import FakeHub
from tests.images import Document, image, index
from tests.serving import Clock

REGISTRY = "hub.test"
APP = Reference.parse(f"{REGISTRY}/shop/app:latest")
DAY_US = 86_400_000_000
NOW_US = 1_795_000_000_000_000


@dataclass
class Hosting:
    """A host and its registry. `puller` may be called again for one with other options."""

    hub: FakeHub
    fake: FakeEngine
    host: EngineHost
    clock: Clock
    transport: Transport
    _made: dict[Digest, str] = field(default_factory=dict)

    @property
    def keeper(self) -> Keeper:
        return Keeper(self.host)

    def puller(self, **more: Any) -> Puller:
        return Puller(self.host, self.transport, SingleLogin(REGISTRY), **more)

    def publish(self, words: str, name: Reference = APP) -> Digest:
        """Publish an image for two platforms under a tag; the engine can pull it by its digest."""
        children = (image(words), image(f"{words} arm", architecture="arm64"))
        document = index(*children)
        for each in (*children, document):
            self._put(name, each, name.tag if each is document else each.digest)
        digest = Digest.parse(document.digest)
        id_ = document.digest if self.host.store is ImageStoreKind.CONTAINERD else children[0].config.digest
        pulled = [f"{name.name}@{digest}"]
        if self.host.store is ImageStoreKind.PODMAN:
            pulled.insert(0, f"{name.name}@{children[0].digest}")
        made = {"Id": id_, "RepoTags": [], "RepoDigests": pulled, "Os": "linux", "Architecture": "amd64"}
        self.fake.pullable[pulled[-1]] = made
        self._made[digest] = id_
        return digest

    def id_of(self, digest: Digest) -> Digest:
        """Return the ID that the engine gives to the published image."""
        return Digest.parse(self._made[digest])

    def meaning(self, name: Reference = APP) -> Digest | None:
        """Return the image that a name resolves to on the engine."""
        found = self.fake.find(str(name))
        return None if found is None else Digest.parse(found["Id"])

    def run(self, name: str, id_: Digest) -> str:
        """Add a container that runs an image."""
        return self.fake.container(name, str(APP), str(id_))

    def _put(self, name: Reference, document: Document, tag: str | None) -> None:
        self.hub.publish(name.repository, str(tag), document.raw, document.media_type)


@asynccontextmanager
async def hosting(
    folder: Path, store: ImageStoreKind = ImageStoreKind.CLASSIC, state: Path | None = None
) -> AsyncIterator[Hosting]:
    """Yield a host without images. `folder`: for its socket; `state`: for the client state."""
    fake = FakeEngine(
        podman=store is ImageStoreKind.PODMAN, driver_status=SNAPSHOTTER if store is ImageStoreKind.CONTAINERD else []
    )
    hub, clock = FakeHub(), Clock(NOW_US)
    transport = Transport(SingleLogin(REGISTRY), TransportOptions(attempts=1), app=hub.transport())
    async with fake.listening(folder) as address, connected(address) as engine:
        host = await EngineHost.of(engine, KeptImages(ClientState(state or folder / "state")), clock)
        yield Hosting(hub, fake, host, clock, transport)
    await transport.aclose()
