"""Images that are kept as evidence: a tag on the engine marks them, so that every administrator of the engine sees it.

    REPOSITORY:boltseal-keep-DIGITS              the keep tag of the changed image
    boltseal.invalid/changed:boltseal-keep-ID    the mark

No registry can have the mark's name, so that no pull marks an image. A mark is read with the list of images, which changes nothing on the host, from any machine that reaches the engine. It goes when
the image goes: the same digest, pulled anew, is unpacked anew. Earlier versions recorded evidence only in the state folder
of the user who replaced the image; `ids` marks those images as long as they have their keep tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.engines.inventory import EngineImage
from boltseal.host.engine_images import EngineHost
from boltseal.host.kept_images import KeptImage
from boltseal.lockfile.container_check import changed_mark, is_changed_mark
from boltseal.oci.digest import Digest

EVIDENCE: Final = "evidence: its files differ on the disk"
"""The reason for which a changed image is kept. A person ends it by removing the image."""


@dataclass(frozen=True, slots=True)
class ChangedImages:
    """The marked images of one engine."""

    host: EngineHost

    async def mark(self, kept: KeptImage) -> None:
        """Mark a kept image as changed. Raises: NoSuchImage and the engine's errors."""
        await self.host.engine.tag(kept.image, changed_mark(kept.image))

    async def unmark(self, image: EngineImage) -> None:
        """Remove the marks of an image whose files match again. Raises: the engine's errors."""
        if not await self.has(image):
            return
        for each in filter(is_changed_mark, (await self.host.engine.image(image.id)).names):
            await self.host.engine.untag(each)
        self.host.kept.let_go(self.host.key, EVIDENCE, [image.id])

    async def has(self, image: EngineImage) -> bool:
        """Return whether an image is one of them; mark it if only this user's records have it."""
        unmarked = self.unmarked([image])
        for kept in unmarked.values():
            await self.mark(kept)
        return bool(unmarked or marked([image]))

    async def ids(self) -> frozenset[Digest]:
        """Return the IDs of the changed images; mark those that only this user's records have."""
        images = await self.host.engine.images()
        unmarked = self.unmarked(images)
        for kept in unmarked.values():
            await self.mark(kept)
        return marked(images) | frozenset(unmarked)

    def unmarked(self, images: Iterable[EngineImage]) -> Mapping[Digest, KeptImage]:
        """Return the changed images that only this user's records have, as kept under a tag that they still have."""
        recorded = {each.image for each in self.host.kept.held(self.host.key) if each.reason == EVIDENCE}
        if not recorded:
            return {}
        names = {each.id: frozenset(each.names) for each in images}
        return {
            kept.image: kept
            for kept in self.host.kept.kept(self.host.key)
            if kept.image in recorded
            and kept.keep_name in names.get(kept.image, ())
            and changed_mark(kept.image) not in names[kept.image]
        }


def marked(images: Iterable[EngineImage]) -> frozenset[Digest]:
    """Return the IDs of the images that have a mark."""
    return frozenset(each.id for each in images if any(map(is_changed_mark, each.names)))
