"""Read the documents of an image: manifests, config and referrers, without its layers."""

from __future__ import annotations

from boltseal.client.transport import Transport
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location


def inspect_image(location: Location, platform: str | None, options: RegistryOptions) -> Inspected:
    """Return the documents of an image at any location. `platform`: which image of an index, as `linux/amd64`.

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the location.
    """

    async def read(transport: Transport) -> Inspected:
        async with opened_sources(options.client, transport, location) as (source,):
            return await inspect(source, name_within(location), platform)

    registries = [] if location.reference is None else [location.reference.registry]
    return ask_followed(options, registries, read)
