"""Images that are kept as evidence: a tag on the engine marks them, so that every administrator of the engine sees it.

    REPOSITORY:boltseal-keep-DIGITS            the keep tag of the changed image
    REPOSITORY:boltseal-keep-DIGITS-changed    the mark

A mark is read with the list of images, which changes nothing on the host, from any machine that reaches the engine. It goes when
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
from boltseal.lockfile.container_check import CHANGED_SUFFIX, is_changed_mark
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag

EVIDENCE: Final = "evidence: its files differ on the disk"
"""The reason for which a changed image is kept. A person ends it by removing the image."""


@dataclass(frozen=True, slots=True)
class ChangedImages:
    """The marked images of one engine."""

    host: EngineHost

    async def mark(self, kept: KeptImage) -> None:
        """Mark a kept image as changed. Raises: NoSuchImage and the engine's errors."""
        await self.host.engine.tag(kept.image, mark_of(kept.keep_name))

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
            and mark_of(kept.keep_name) not in names[kept.image]
        }


def mark_of(keep_name: Reference) -> Reference:
    """Return the mark beside a keep tag."""
    return Reference(keep_name.registry, keep_name.repository, Tag(f"{keep_name.tag}{CHANGED_SUFFIX}"))


def marked(images: Iterable[EngineImage]) -> frozenset[Digest]:
    """Return the IDs of the images that have a mark."""
    return frozenset(each.id for each in images if any(map(is_changed_mark, each.names)))
