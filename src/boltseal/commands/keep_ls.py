"""List the images that are kept on an engine."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.client.transport import Transport
from boltseal.commands.engine_connection import on_host
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.engines.release_volume import engine_id
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.keeper import Keeper, KeptState, ListedImage
from boltseal.host.kept_images import KeptImage
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class KeptResult:
    """The kept images of an engine, and those whose records were deleted because they are gone."""

    images: tuple[ListedImage, ...]
    forgotten: tuple[KeptImage, ...]

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if an image is gone or not protected from a prune."""
        safe = (KeptState.KEPT, KeptState.ARCHIVED)
        kept = all(each.standing in safe for each in self.images)
        return Outcome.HOLDS if kept else Outcome.DIFFERS


def kept_images(name: Reference | None, host: str | None, options: RegistryOptions, *, forget_gone: bool) -> KeptResult:
    """List kept images, of one name or of all. Raises: EngineUnavailable, StateUnusable.

    `forget_gone`: delete the records of images that are gone; no image is removed.
    """

    async def run(engine: EngineHost, _: Transport) -> KeptResult:
        archive = ImageArchive(options.client.engines / await engine_id(engine.engine))
        keeper = Keeper(engine, archive.ids())
        await engine.images_in_use()  # records which images run
        listed = await keeper.list_kept(name)
        gone = await keeper.forget_gone(listed) if forget_gone else []
        return KeptResult(tuple(each for each in listed if each.kept not in gone), tuple(gone))

    return on_host(options, (), host, run)
