"""Prepares the images of a release: pulled by digest, verified, and protected from prune while the release is kept.

A service is started by a name that resolves to one image however tags move, and that people can read: its name with tag
and digest, if the engine knows the image by that; otherwise its keep tag, which is derived from the digest. A local build
has no other stable name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from boltseal.deploy.releases import Release, ReleasedService
from boltseal.engines.api import NoSuchImage
from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, NotFound, Precondition
from boltseal.host.changed_images import ChangedImages
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.keeper import Keeper
from boltseal.host.kept_images import KeptImage
from boltseal.host.pull import PulledImageChanged, Puller, PullOutcome, PullRequest
from boltseal.loading import deferred
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    from boltseal.host import pulled_check
    from boltseal.host import unchanged_copy as copies
else:  # they import store readers, which a deploy needs if something was pulled or changed
    pulled_check = deferred("boltseal.host.pulled_check")
    copies = deferred("boltseal.host.unchanged_copy")

MAX_LABELS: Final = 100
MAX_LABEL: Final = 1000
NOTHING_TOUCHED: Final = "nothing was started or stopped"
"""What messages about images say where a release has not begun."""
NOT_PROVEN: Final = "built here: not locked, and not scrubbed, as no digest is expected"


class ImageChanged(Precondition):
    """An image is kept as evidence, because its files were changed on the disk, and no copy replaces it."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image on the host that is protected from prune. `digest`: the registry's, None for a local build.

    `started_as`: the name that Compose starts it by. `pulled`: whether it was not on the host before. `scrub`: the result
    of scrubbing it, "" if it was not scrubbed.
    """

    image: EngineImage
    digest: Digest | None
    started_as: str
    pulled: bool = False
    scrub: str = ""


@dataclass(frozen=True, slots=True)
class PullScrubber:
    """Scrubs pulled images before they are tagged. `required`: also scrub images that were here, and fail if one can't be.

    `results`: by image ID.
    """

    host: EngineHost
    required: bool = False
    results: dict[Digest, str] = field(default_factory=dict)

    async def __call__(self, image: EngineImage) -> None:
        """Verify every byte of an image on disk.

        Raises: ScrubDiffers; NotScrubbed: if `required`.
        """
        try:
            await pulled_check.scrub_pulled_image(self.host, image)
            self.results[image.id] = "scrubbed"
        except pulled_check.NotScrubbed as error:
            if self.required:
                raise
            self.results[image.id] = error.message.partition(";")[0]


async def scrub_services(scrubs: PullScrubber, services: Sequence[ReleasedService]) -> dict[str, str]:
    """Scrub the images of these services, which are on the host already, each once. Return the result for each service.

    Raises: ScrubDiffers; NotScrubbed: one can't be scrubbed, or is gone.
    """
    results = {each.name: NOT_PROVEN for each in services if not each.digest}
    for each in (each for each in services if each.digest):
        id_ = Digest.parse(each.image_id)
        try:
            if id_ not in scrubs.results:
                image = await scrubs.host.image(id_)
                if image is None:
                    raise pulled_check.NotScrubbed(f"not scrubbed: the engine has no image {id_} any more")
                await scrubs(image)
        except (pulled_check.ScrubDiffers, pulled_check.NotScrubbed) as error:
            reason = error.message.partition(f"; {pulled_check.TAG_UNCHANGED}")[0]
            raise type(error)(f"{each.name}: {reason}; {NOTHING_TOUCHED}") from error
        results[each.name] = scrubs.results[id_]
    return results


@dataclass(frozen=True, slots=True)
class ReleaseImages:
    """Prepares images on one engine.

    `scrubs`: what the puller scrubs with, None if it does not. `archive`: of the last releases' images, on this machine. `archiving`:
    whether to add to it.
    """

    host: EngineHost
    puller: Puller
    scrubs: PullScrubber | None = None
    archive: ImageArchive | None = None
    archiving: bool = True

    async def locked(self, name: Reference, digest: Digest, known: Collection[Digest], reason: str) -> PreparedImage:
        """Prepare exactly this image of a registry. `known`: its image IDs in the lock.

        Raises: what `Puller.pull` raises; ImageChanged.
        """
        tagged = name.by_tag
        try:
            pulled = await self.puller.pull(PullRequest(tagged, digest, locked=True, images=tuple(known)))
        except PulledImageChanged as error:
            raise ImageChanged(f"{error.message}; {NOTHING_TOUCHED}") from error
        image = await self._unchanged(await self.host.engine.image(pulled.image), tagged, digest)
        if self.scrubs is not None and self.scrubs.required and image.id not in self.scrubs.results:
            await self.scrubs(image)
        kept = await self._protect(image, tagged, digest, reason)
        named = await self._start_name(image, replace(tagged, digest=digest), kept)
        results = "" if self.scrubs is None else self.scrubs.results.get(image.id, "")
        return PreparedImage(image, digest, named, pulled.outcome is PullOutcome.PULLED, results)

    async def built(self, name: Reference, reason: str) -> PreparedImage | None:
        """Prepare the locally built image that a name resolves to now; None if there is none."""
        tagged = name.by_tag
        image = await self.host.image(tagged)
        if image is None:
            return None
        kept = await self._protect(image, tagged, None, reason)
        return PreparedImage(image, None, kept.keep_name.familiar(), scrub=NOT_PROVEN)

    async def restore(self, service: ReleasedService, reason: str) -> PreparedImage:
        """Prepare the image of an older release, from this host; pull it by digest only if it is gone.

        Raises: NotFound: if it can't be pulled; ImageChanged.
        """
        id_, name = Digest.parse(service.image_id), Reference.parse(service.image)
        tagged = name.by_tag
        digest = Digest.parse(service.digest) if service.digest else None
        image = await self.host.image(id_)
        if image is None and self.archive is not None and await self.archive.load(self.host.engine, id_):
            image = await self.host.image(id_)
        if image is None and digest is not None:
            try:
                return await self.locked(name, digest, [id_], reason)
            except BoltsealError as error:
                raise NotFound(
                    f"{service.name}: {tagged.familiar()} of {digest.short} was removed from this host and can't be pulled: "
                    f"{error.message}"
                ) from error
        if image is None or image.id != id_:
            raise NotFound(
                f"{service.name}: {tagged.familiar()}, a local build, was removed from this host; build it again"
            )
        image = await self._unchanged(image, tagged, digest)
        kept = await self._protect(image, tagged, digest, reason)
        if digest is None:
            return PreparedImage(image, None, kept.keep_name.familiar())
        return PreparedImage(image, digest, await self._start_name(image, replace(tagged, digest=digest), kept))

    async def startable(self, release: Release, names: Collection[str]) -> Release:
        """Return a recorded release with the images that these services may be started from now; others are left as they are.

        A recorded image stays, if its name still resolves to it and its files were not changed on the disk. Otherwise it is
        prepared as by `restore`: from the archive, from its registry, or as the copy of a changed image.

        Raises: NotFound, ImageChanged; with a required scrub: ScrubDiffers, NotScrubbed.
        """
        services = [each for each in release.services if each.name in names]
        changed = await ChangedImages(self.host).ids()
        found = []
        for each in services:
            id_ = Digest.parse(each.image_id)
            if id_ in changed or not await self._resolves(each.started_as, id_):
                new = await self.restore(each, hold_reason(release.project, release.number))
                each = msgspec.structs.replace(each, image_id=str(new.image.id), started_as=new.started_as, scrub="")
            found.append(each)
        if self.scrubs is not None and self.scrubs.required:
            await scrub_services(self.scrubs, found)
        return release.with_services(found)

    async def _resolves(self, name: str, id_: Digest) -> bool:
        """Return whether the name that a service is started by resolves to its image."""
        try:
            image = await self.host.image(id_ if name == str(id_) else Reference.parse(name))
        except BoltsealError:  # a shortened ID
            return False
        return image is not None and image.id == id_

    async def protect_unchanged(self, services: Sequence[ReleasedService], why: str) -> tuple[str, ...]:
        """Protect from prune the images of services that a release has but does not start; return those whose image is gone."""
        gone = []
        for each in services:
            name = Reference.parse(each.image)
            tagged = name.by_tag
            digest = Digest.parse(each.digest) if each.digest else None
            try:
                await Keeper(self.host).hold(Digest.parse(each.image_id), tagged, digest, why)
            except NoSuchImage:
                gone.append(each.name)
        return tuple(gone)

    def let_go(self, releases: Sequence[Release]) -> None:
        """Stop protecting the images of these releases. Removes nothing."""
        for release in releases:
            Keeper(self.host).let_go(hold_reason(release.project, release.number))

    async def _unchanged(self, image: EngineImage, name: Reference, digest: Digest | None) -> EngineImage:
        """Return the image, or the copy that `pull --replace` made of it because its files were changed on the disk.

        Raises: ImageChanged: if there is no such copy.
        """
        if not await ChangedImages(self.host).has(image):
            return image
        copy = await copies.unchanged_copy(self.host, self.puller.transport, image, name, digest)
        if copy is not None:
            return copy
        again = f"; load it again by `boltseal pull --replace {name.familiar()}@{digest}`" if digest is not None else ""
        raise ImageChanged(
            f"{name.familiar()}: the files of image {image.id} were changed on this disk, and it is kept as evidence; "
            f"{NOTHING_TOUCHED}{again}"
        )

    async def _protect(self, image: EngineImage, name: Reference, digest: Digest | None, reason: str) -> KeptImage:
        return await Keeper(self.host).hold(image.id, name, digest, reason)

    async def _start_name(self, image: EngineImage, whole: Reference, kept: KeptImage) -> str:
        """Return the name by which Compose finds exactly this image."""
        found = await self.host.image(whole)
        return whole.familiar() if found is not None and found.id == image.id else kept.keep_name.familiar()


def hold_reason(project: str, number: int) -> str:
    """Return the reason that is recorded for protecting a release's images."""
    return f"release {project}/{number}"


def labels_of(image: EngineImage) -> dict[str, str]:
    """Return an image's labels, limited to MAX_LABELS of MAX_LABEL characters."""
    return {key[:MAX_LABEL]: value[:MAX_LABEL] for key, value in sorted(image.labels.items())[:MAX_LABELS]}
