"""One engine with boltseal's records of it: what a name resolves to there, by which digest, and which images are in use.

An image has two digests that must not be confused: its ID in the engine, and its digest in the registry. In containerd's
store they are equal. Elsewhere the engine keeps a list, and boltseal keeps its own (`host.kept_images`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from boltseal.engines.api import Engine, Name, NoSuchImage
from boltseal.engines.inventory import EngineContainer, EngineImage, ImageStoreKind
from boltseal.host.kept_images import KeptImages
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class EngineHost:
    """An engine and boltseal's records of it. `now_us`: the clock, in microseconds since 1970."""

    engine: Engine
    store: ImageStoreKind
    kept: KeptImages
    now_us: Callable[[], int]

    @classmethod
    async def of(cls, engine: Engine, kept: KeptImages, now_us: Callable[[], int]) -> EngineHost:
        """Return the host of an engine, after asking which image store it uses."""
        return cls(engine, await engine.store(), kept, now_us)

    @property
    def key(self) -> str:
        """The key of its rows: the engine's address, with the resolved path of its socket."""
        return self.engine.address.key

    @asynccontextmanager
    async def tagging_lock(self) -> AsyncIterator[None]:
        """Hold the lock under which boltseal tags and untags images.

        Raises: KeptBusy.
        """
        async with self.kept.tagging_lock():
            yield

    async def image(self, name: Name) -> EngineImage | None:
        """Return an image; None if there is none."""
        try:
            return await self.engine.image(name)
        except NoSuchImage:
            return None

    def registry_digests(self, image: EngineImage, name: Reference) -> tuple[Digest, ...]:
        """Return an image's digests in the repository of `name`: those of recorded pulls first, then those the engine lists."""
        listed = [each.digest for each in image.pulled_as if each.name == name.name and each.digest is not None]
        if self.store is ImageStoreKind.CONTAINERD:
            listed = [image.id]
        seen = [each.digest for each in self.kept.pulls(self.key, image.id) if each.repository == name.name]
        return tuple(dict.fromkeys([*seen, *reversed(listed)]))  # Podman lists the index's digest last

    async def seen_containers(self) -> tuple[EngineContainer, ...]:
        """Return all containers, running or not, and record which images run."""
        found = await self.engine.containers(all_=True)
        running = {each.image for each in found if each.running and each.image is not None}
        if running:
            self.kept.saw_running(self.key, running, self.now_us())
        return found

    async def images_in_use(self) -> frozenset[Digest]:
        """Return the images that containers use, running or not, and record which of them run."""
        return frozenset(each.image for each in await self.seen_containers() if each.image is not None)
