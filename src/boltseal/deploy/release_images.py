"""The images of a release: brought by digest, proven, and held for as long as the release can be gone back to.

What a service is started as has to mean one image whatever happens to tags meanwhile, and should be read by people: its
name with tag and digest, where the engine knows the image by it; otherwise its keep tag, which is made of the digest. A
local build has no other name that stays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from boltseal.deploy.releases import Release, ReleasedService
from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, NotFound
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import Keeper
from boltseal.host.kept_images import KeptImage
from boltseal.host.pull import Puller, PullOutcome, PullRequest
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

MAX_LABELS: Final = 100
MAX_LABEL: Final = 1000
NOT_PROVEN: Final = "built here: not locked, and not scrubbed: nothing says what it must be"


class ReleaseImageGone(NotFound):
    """An image of an older release is not on this host any more, and can't be had."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image that is here and held. `digest`: the registry's, None for a local build. `pulled`: it was not here before."""

    image: EngineImage
    digest: Digest | None
    started_as: str
    pulled: bool = False
    scrub: str = ""


@dataclass(frozen=True, slots=True)
class PullScrubber:
    """Proves what was pulled before it gets a name, and remembers what was said. `required`: what was here is proven too, and
    doubt raises."""

    host: EngineHost
    required: bool = False
    said: dict[Digest, str] = field(default_factory=dict)

    async def __call__(self, image: EngineImage) -> None:
        """Read all of an image on the disk. ScrubDiffers; NotScrubbed if it is required."""
        from boltseal.host.pulled_check import (  # all readers of stores: only who pulls waits for them
            NotScrubbed,
            scrub_pulled_image,
        )

        try:
            await scrub_pulled_image(self.host, image)
            self.said[image.id] = "scrubbed"
        except NotScrubbed as error:
            if self.required:
                raise
            self.said[image.id] = error.message.partition(";")[0]


@dataclass(frozen=True, slots=True)
class ReleaseImages:
    """Gets images ready on one engine. `scrubs`: what the puller scrubs with, None if it does not."""

    host: EngineHost
    puller: Puller
    scrubs: PullScrubber | None = None

    async def locked(
        self, name: Reference, digest: Digest, known: Collection[Digest], hold_reason: str
    ) -> PreparedImage:
        """An image of a registry, exactly this one. `known`: IDs that the lock knows for it. As `Puller.bring` raises."""
        tagged = name.by_tag
        brought = await self.puller.bring(PullRequest(tagged, digest, locked=True, images=tuple(known)))
        image = await self.host.engine.image(brought.image)
        if self.scrubs is not None and self.scrubs.required and image.id not in self.scrubs.said:
            await self.scrubs(image)
        kept = await self._held(image, tagged, digest, hold_reason)
        named = await self._name(image, replace(tagged, digest=digest), kept)
        said = "" if self.scrubs is None else self.scrubs.said.get(image.id, "")
        return PreparedImage(image, digest, named, brought.outcome is PullOutcome.PULLED, said)

    async def built(self, name: Reference, hold_reason: str) -> PreparedImage | None:
        """An image that was built here, as its name means it now; None where there is none."""
        tagged = name.by_tag
        image = await self.host.image(tagged)
        if image is None:
            return None
        kept = await self._held(image, tagged, None, hold_reason)
        return PreparedImage(image, None, kept.keep_name.familiar(), scrub=NOT_PROVEN)

    async def again(self, service: ReleasedService, hold_reason: str) -> PreparedImage:
        """The image of an older release: from this host, without asking anybody; only if it is gone, by its digest.

        ReleaseImageGone.
        """
        id_, name = Digest.parse(service.image_id), Reference.parse(service.image)
        tagged = name.by_tag
        digest = Digest.parse(service.digest) if service.digest else None
        image = await self.host.image(id_)
        if image is None and digest is not None:
            try:
                return await self.locked(name, digest, [id_], hold_reason)
            except BoltsealError as error:
                raise ReleaseImageGone(
                    f"{service.name}: {tagged.familiar()} of {digest.short} was taken from this host, "
                    f"and can't be pulled: {error.message}"
                ) from error
        if image is None or image.id != id_:
            raise ReleaseImageGone(
                f"{service.name}: {tagged.familiar()}, which was built here, was taken from this host: build it again"
            )
        kept = await self._held(image, tagged, digest, hold_reason)
        if digest is None:
            return PreparedImage(image, None, kept.keep_name.familiar())
        return PreparedImage(image, digest, await self._name(image, replace(tagged, digest=digest), kept))

    async def also(self, services: Sequence[ReleasedService], why: str) -> None:
        """Hold the images of services that a release has and does not touch."""
        for each in services:
            name = Reference.parse(each.image)
            tagged = name.by_tag
            digest = Digest.parse(each.digest) if each.digest else None
            await Keeper(self.host).hold(Digest.parse(each.image_id), tagged, digest, why)

    def let_go(self, releases: Sequence[Release]) -> None:
        """Hold the images of these releases no longer. Nothing is removed by it."""
        for release in releases:
            Keeper(self.host).let_go(hold_reason(release.project, release.number))

    async def _held(self, image: EngineImage, name: Reference, digest: Digest | None, hold_reason: str) -> KeptImage:
        return await Keeper(self.host).hold(image.id, name, digest, hold_reason)

    async def _name(self, image: EngineImage, whole: Reference, kept: KeptImage) -> str:
        """By what Compose finds exactly this image."""
        found = await self.host.image(whole)
        return whole.familiar() if found is not None and found.id == image.id else kept.keep_name.familiar()


def hold_reason(project: str, number: int) -> str:
    """Why a release's images are held."""
    return f"release {project}/{number}"


def labels_of(image: EngineImage) -> dict[str, str]:
    """An image's labels, as many and as long as a record takes."""
    return {key[:MAX_LABEL]: value[:MAX_LABEL] for key, value in sorted(image.labels.items())[:MAX_LABELS]}
