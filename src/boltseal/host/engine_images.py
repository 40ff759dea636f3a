"""One engine, and what is remembered of it: which image a name means there, by which digest, and what its containers use.

An image goes by two digests that must not be confused: its ID, which is the engine's, and the registry's. In
containerd's store the one is the other; elsewhere the engine keeps a list, and we keep our own beside it (`host.kept_images`).
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
    """An engine that answers, and our memory of it. `now_us` is the clock, in microseconds since 1970."""

    engine: Engine
    store: ImageStoreKind
    kept: KeptImages
    now_us: Callable[[], int]

    @classmethod
    async def of(cls, engine: Engine, kept: KeptImages, now_us: Callable[[], int]) -> EngineHost:
        """Ask which store it is, once."""
        return cls(engine, await engine.store(), kept, now_us)

    @property
    def key(self) -> str:
        """Under what its rows stand: the address, by the socket that it really is."""
        return self.engine.address.key

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While nobody else of us gives names to images. KeptBusy."""
        async with self.kept.alone():
            yield

    async def image(self, name: Name) -> EngineImage | None:
        """An image, None where there is none."""
        try:
            return await self.engine.image(name)
        except NoSuchImage:
            return None

    def registry_digests(self, image: EngineImage, name: Reference) -> tuple[Digest, ...]:
        """By which digests the repository of `name` knows an image, the surest first: what we saw come, then what the engine says."""
        listed = [each.digest for each in image.pulled_as if each.name == name.name and each.digest is not None]
        if self.store is ImageStoreKind.CONTAINERD:
            listed = [image.id]
        seen = [each.digest for each in self.kept.came(self.key, image.id) if each.repository == name.name]
        return tuple(dict.fromkeys([*seen, *reversed(listed)]))  # Podman lists the index's digest last

    async def seen_containers(self) -> tuple[EngineContainer, ...]:
        """All containers, running or not; on which images they run is remembered."""
        found = await self.engine.containers(all_=True)
        running = {each.image for each in found if each.running and each.image is not None}
        if running:
            self.kept.saw_running(self.key, running, self.now_us())
        return found

    async def images_in_use(self) -> frozenset[Digest]:
        """The images that containers stand on, running or not. Which of them run is remembered."""
        return frozenset(each.image for each in await self.seen_containers() if each.image is not None)
