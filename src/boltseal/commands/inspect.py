"""Read the documents of an image: manifests, config and referrers, without its layers."""

from __future__ import annotations

from typing import NamedTuple

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.errors import NotFound
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location


class InspectedImage(NamedTuple):
    """The documents of an image. `settles`: when its tag is sealed, if the tag is settling; otherwise ""."""

    documents: Inspected
    settles: str


def inspect_image(location: Location, platform: str | None, options: RegistryOptions) -> InspectedImage:
    """Return the documents of an image at any location. `platform`: which image of an index, as `linux/amd64`.

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the location.
    """

    async def read(transport: Transport) -> InspectedImage:
        async with opened_sources(options.client, transport, location) as (source,):
            found = await inspect(source, name_within(location), platform)
        return InspectedImage(found, await _settles(transport, location))

    registries = [] if location.reference is None else [location.reference.registry]
    return ask_followed(options, registries, read)


async def _settles(transport: Transport, location: Location) -> str:
    named = location.reference
    if named is None or named.tag is None or named.digest is not None:
        return ""
    try:
        return (await RegistryClient(transport, named.registry).resolve(named.repository, named.tag)).settles
    except NotFound:  # deleted since
        return ""
