"""Read the documents of an image: manifests, config and referrers; its layers only for its packages."""

from __future__ import annotations

from typing import NamedTuple

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.image_contents import ImageContents, read_contents
from boltseal.commands.image_locations import name_within, opened_sources
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.oci.digest import Digest
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource


class InspectedImage(NamedTuple):
    """The documents of an image. `settles`: when its tag is sealed, if the tag is settling; otherwise "".

    `contents`: its packages and files, None if they were not asked for.
    """

    documents: Inspected
    settles: str
    contents: ImageContents | None = None


def inspect_image(
    location: Location, platform: str | None, options: RegistryOptions, *, contents: bool = False
) -> InspectedImage:
    """Return the documents of an image at any location. `platform`: which image of an index, as `linux/amd64`.

    `contents`: read its layers too.

    Raises: RemoteNotFound, LocationInvalid, LedgerBroken and other errors of the location.
    """

    async def read(transport: Transport) -> InspectedImage:
        async with opened_sources(options.client, transport, location) as (source,):
            digest, settles = await _resolved(transport, source, location)
            found = await inspect(source, digest, platform)
            return InspectedImage(found, settles, await read_contents(source, found) if contents else None)

    registries = [] if location.reference is None else [location.reference.registry]
    return ask_followed(options, registries, read)


async def _resolved(transport: Transport, source: ImageSource, location: Location) -> tuple[Digest, str]:
    """Return the digest of the image, and when its tag is sealed if it is settling, from one answer."""
    named = location.reference
    if location.kind is not LocationKind.REGISTRY or named is None or named.tag is None or named.digest is not None:
        return await source.resolve(name_within(location)), ""
    found = await RegistryClient(transport, named.registry).resolve_explained(named.repository, named.tag)
    return found.digest, found.settles
