"""Loads an image again beside the one of the same digest whose files differ, and removes nothing.

Engines do not unpack a layer that they have, so a pull of the same digest changes nothing, even after its name was removed.
The steps of a replacement:

1. Resolve the digest, as any pull does.
2. If the image is on the engine, verify its files. If they match, there is nothing to replace: it is pulled as always.
3. Fetch the image's manifest, config and layers from the registry.
4. Let the engine load a copy with an empty layer below, so that all its layers are unpacked anew (`fresh_copy`).
5. Verify the files of the copy. If they differ too, load one with one more empty layer.
6. Keep the image that the name resolves to, and tag the copy, as `pull` does.

The changed image stays under its keep tag, marked as evidence (`changed_images`), so that no later pull releases it or gives it a
name; containers on it keep running.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.client.registry_client import RegistryClient
from boltseal.engines.api import NoSuchImage
from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import BoltsealError, Invalid, Mismatch
from boltseal.host.changed_images import ChangedImages, marked
from boltseal.host.fresh_copy import CopyArchive, FetchedImage, fetch_image, platform_manifest, write_archive
from boltseal.host.keeper import Keeper
from boltseal.host.kept_images import Proof, PullRecord
from boltseal.host.pull import PulledImage, Puller, PullOutcome, PullRequest, PullResult, ScrubImage
from boltseal.host.pulled_check import ScrubDiffers
from boltseal.lockfile.container_check import is_keep_tag
from boltseal.oci.fresh_layers import MAX_EMPTY_LAYERS
from boltseal.oci.reference import Reference, Tag

LOADED_PREFIX: Final = "boltseal-copy-"


@dataclass(frozen=True, slots=True)
class Replacer:
    """Replaces images of one engine. `scrub`: verifies the files of an image; `scratch`: a folder for the copy's layers."""

    puller: Puller
    scrub: ScrubImage
    scratch: Path
    notice: Callable[[str], None] = lambda _: None

    async def replace(self, wanted: PullRequest) -> PullResult:
        """Do all steps. Raises: Mismatch: files or layers differ; NotScrubbed; Invalid: no copy can be made; errors of a pull."""
        puller, host, name = self.puller, self.puller.host, wanted.name
        if name.tag is None:
            raise Invalid(f"{name.familiar()} has no tag: the copy needs a name; write NAME:TAG@DIGEST")
        digest = (await puller.resolved(wanted)).digest  # 1
        pinned = PullRequest(name, digest, platform=wanted.platform)
        by_digest = Reference(name.registry, name.repository, digest=digest)
        before = await host.image(name)
        if before is None or digest not in host.registry_digests(before, name):
            before = await host.image(by_digest)
        if before is not None and is_keep_tag(name) and marked([before]):
            raise Invalid(f"{name.familiar()} is kept as evidence: name the image by its own tag, NAME:TAG@DIGEST")
        if before is not None and await self._holds(before):  # 2
            await ChangedImages(host).unmark(before)
            return await puller.pull(pinned)
        client = RegistryClient(puller.transport, name.registry)
        platform = host.engine.about.platform if before is None else before.platform
        manifest = await platform_manifest(
            client, name.repository, digest, platform, before.id if before else None
        )  # 3
        fetched = await fetch_image(client, name.repository, manifest, self.scratch)
        copy = await self._copy(fetched, pinned)  # 4, 5
        if before is not None:
            await Keeper(host).hold_as_evidence(before.id, name, digest)  # whatever --keep and --keep-for say later
        host.kept.record_pull(host.key, PullRecord(copy.id, digest, name.name, "", Proof.COPY, host.now_us()))
        done = await puller.apply_tag(PulledImage(pinned, digest, copy, PullOutcome.REPLACED, Proof.COPY))  # 6
        await self._drop_loaded_names(copy)
        return done

    async def _holds(self, image: EngineImage) -> bool:
        try:
            await self.scrub(image)
        except ScrubDiffers:
            return False
        return True

    async def _copy(self, fetched: FetchedImage, wanted: PullRequest) -> EngineImage:
        """Return a loaded copy whose files match. Raises: Mismatch."""
        for count in range(1, MAX_EMPTY_LAYERS + 1):
            assert wanted.digest is not None  # noqa: S101 - `replace` resolved it
            loaded = Reference(
                wanted.name.registry, wanted.name.repository, Tag(f"{LOADED_PREFIX}{wanted.digest.hex[:12]}-{count}")
            )
            written = await write_archive(fetched, count, loaded, self.scratch / "copy.tar")
            await self.puller.host.engine.load(written.path, progress=self.puller.progress)
            image = await self._loaded(written)
            try:
                if await self._holds(image):
                    return image
            except BoltsealError:
                await self._drop_loaded_names(image, allow_last=True)
                raise
            self.notice(
                f"a copy with {count} empty layers below has layers that were changed before; the next has one more"
            )
            await self._drop_loaded_names(
                image, allow_last=True
            )  # its layers are those of an earlier copy, which stays
        raise Mismatch(
            f"each of {MAX_EMPTY_LAYERS} new copies of {wanted.name.familiar()} differs on disk: files are changed while or "
            "after the engine unpacks them; the tag was not changed. Check the disk and who can write to it"
        )

    async def _loaded(self, written: CopyArchive) -> EngineImage:
        """Return the image of an archive that was loaded. Raises: NoSuchImage."""
        id_ = written.manifest if self.puller.host.store is ImageStoreKind.CONTAINERD else written.config
        image = await self.puller.host.image(id_)
        if image is None:
            raise NoSuchImage(f"the engine did not load the copy {id_}")
        return image

    async def _drop_loaded_names(self, copy: EngineImage, *, allow_last: bool = False) -> None:
        """Remove the names under which archives were loaded; Podman makes a repository of a tag."""
        host = self.puller.host
        async with host.tagging_lock():
            now = await host.image(copy.id)
            for each in () if now is None else now.names:
                if LOADED_PREFIX in f"{each.repository}:{each.tag}":
                    try:
                        await host.engine.untag(each, allow_last=allow_last)
                    except BoltsealError as error:
                        self.notice(f"{each.familiar()} was not removed: {error.message}")
