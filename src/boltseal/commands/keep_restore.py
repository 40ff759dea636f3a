"""Tag a kept image with its former name again, on an engine."""

from __future__ import annotations

from boltseal.client.transport import Transport
from boltseal.commands.engine_connection import on_host
from boltseal.commands.registry_access import RegistryOptions
from boltseal.engines.inventory import EngineImage
from boltseal.host.engine_images import EngineHost
from boltseal.host.pulled_check import scrub_pulled_image
from boltseal.host.restore_kept import RestoredImage, restore
from boltseal.oci.reference import Reference


def restore_kept(name: Reference, to: str, host: str | None, options: RegistryOptions, *, scrub: bool) -> RestoredImage:
    """Restore a kept image. `to`: its number or digest; "" for the newest. `scrub`: verify it on the disk first.

    Raises: errors of `host.restore_kept.restore`, EngineUnavailable.
    """

    async def run(engine: EngineHost, _: Transport) -> RestoredImage:
        async def verify(image: EngineImage) -> None:
            await scrub_pulled_image(engine, image)

        return await restore(engine, name, to, verify if scrub else None)

    return on_host(options, (), host, run)
