"""Prepare a rebase: the images of each platform, and the manifests and configs of the result. Reads no layers.

The result depends on these documents only, so that its digest is known before anything is compared or pushed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from boltseal.build.labels import REBASED_FROM
from boltseal.build.layer_changes import NotCompared
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.platform import Platform
from boltseal.oci.rebased_image import ImageParts, NotCarried, RebasedImage, rebased_image, rebased_index
from boltseal.oci.reference import Reference, Tag
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import (
    BASE_WAS,
    IMAGE,
    INPUTS,
    REVISION_OF,
    ImageFacts,
    NotAnImage,
    NotRead,
    config_of,
)
from boltseal.project.bases.index_children import images_of_index


class PlatformImage(NamedTuple):
    """One platform's image of the image to rebase. `digest`: of its manifest."""

    digest: Digest
    facts: ImageFacts

    @property
    def platform(self) -> Platform:
        """The platform by the config of the image."""
        return self.facts.platform


@dataclass(frozen=True, slots=True)
class PlatformRebase:
    """The result for one platform. `old`, `new`: its bases. `current`: whether the new base is the image's base already."""

    platform: Platform
    digest: Digest
    image: ImageParts
    old: ImageParts
    new: ImageParts
    current: bool
    result: RebasedImage


@dataclass(frozen=True, slots=True)
class RebaseTarget:
    """What is replaced by what. `image`, `old`, `new`: by digest; the new base also has the tag that it is recorded by.

    `name`: what the result is pushed as; None if it is not. `revision_of`: the sealed tag that its tag is a revision of.
    """

    image: Reference
    new: Reference
    name: Reference | None
    revision_of: Tag | None = None

    @property
    def labels(self) -> dict[str, str | None]:
        """Labels of the result, with None for those to remove: they are about the build of the former image or of a base."""
        return {
            BASE_NAME: str(self.new.by_tag),
            BASE_DIGEST: str(self.new.digest),
            REBASED_FROM: str(self.image.digest),
            IMAGE: None if self.name is None else str(self.name),
            INPUTS: None,
            REVISION_OF: self.revision_of,
            BASE_WAS: None,
        }

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations of the result's manifests."""
        return {BASE_NAME: str(self.new.by_tag), BASE_DIGEST: str(self.new.digest)}


class RebaseDocuments:
    """Reads the documents of a rebase, and makes those of the result."""

    def __init__(self, documents: ImageDocuments, target: RebaseTarget) -> None:
        self._documents = documents
        self._target = target
        self._image = remote_of(target.image)
        self._new = remote_of(target.new)

    async def top(self) -> Manifest:
        """Return the manifest or index of the image."""
        return await self._documents.manifest(self._image, digest_of(self._target.image))

    async def platforms(self) -> list[PlatformImage]:
        """Return the images of all platforms. Raises: NotCarried: it has an entry that is no image."""
        top, digest = await self.top(), digest_of(self._target.image)
        found = []
        for child in [each.digest for each in images_of_index(top)] if top.is_index else [digest]:
            try:
                found.append(PlatformImage(child, await self._documents.facts(self._image, child)))
            except NotRead as error:
                raise NotCompared(error.message) from error
            except NotAnImage as error:
                raise NotCarried(
                    f"{self._target.image.familiar()}: {error.message}; a rebase needs images only"
                ) from error
        if not found:
            raise NotCarried(f"{self._target.image.familiar()} has no image of any platform")
        return found

    async def rebase(self, image: PlatformImage, old: Reference) -> PlatformRebase:
        """Return the result for one platform. `old`: its old base, by digest. Raises: NotCarried, and remote errors."""
        was = await self._base(old, image.platform, "the old base")
        now = await self._base(self._target.new, image.platform, "the new base")
        parts = await self._parts(self._image, image.digest)
        old_parts = await self._parts(remote_of(old), was.manifest)
        new_parts = await self._parts(self._new, now.manifest)
        labels = self._target.labels | {BASE_WAS: str(digest_of(old))}
        result = rebased_image(parts, old_parts, new_parts, labels, self._target.annotations)
        return PlatformRebase(
            image.platform, image.digest, parts, old_parts, new_parts, was.config == now.config, result
        )

    async def whole(self, parts: Mapping[Digest, PlatformRebase]) -> Manifest:
        """Return the manifest that the result's tag will resolve to. `parts`: by digest of the former image."""
        top = await self.top()
        if not top.is_index:
            return parts[digest_of(self._target.image)].result.manifest
        children = {digest: part.result.manifest for digest, part in parts.items()}
        return rebased_index(top, children, self._target.annotations)

    async def _base(self, base: Reference, platform: Platform, whose: str) -> ImageFacts:
        try:
            found = await self._documents.facts_for(remote_of(base), digest_of(base), platform)
        except NotAnImage as error:
            raise NotCarried(f"{whose}: {error.message}") from error
        except NotRead as error:
            raise NotCompared(error.message) from error
        if found is None:
            raise NotCarried(f"{whose} {base.familiar()} has no image for {platform}")
        return found

    async def _parts(self, remote: RemoteRepository, digest: Digest) -> ImageParts:
        manifest = await self._documents.manifest(remote, digest)
        config, size = config_of(manifest, digest)
        return ImageParts(manifest, await self._documents.blob(remote, config, size))


def remote_of(reference: Reference) -> RemoteRepository:
    """Return the repository of a reference."""
    return RemoteRepository(reference.registry, reference.repository)


def digest_of(reference: Reference) -> Digest:
    """Return the digest of a reference that has one."""
    if reference.digest is None:
        raise AssertionError(f"{reference} has no digest")
    return reference.digest
