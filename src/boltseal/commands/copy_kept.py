"""Copy images that are about to be replaced to a registry of one's own (`--copy-to`)."""

from __future__ import annotations

from typing import NamedTuple

from boltseal.client.errors import RemoteNotFound
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.image_locations import name_within, opened_transfer
from boltseal.commands.registry_access import ReferenceUnsuitable
from boltseal.errors import quote
from boltseal.host.keeper import keep_tag
from boltseal.host.pull import CopyImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from boltseal.transfer.copy import Copier
from boltseal.transfer.locations import Location


class CopyTarget(NamedTuple):
    """A registry, and the prefix of repositories there: empty, or with a slash at its end."""

    registry: str
    prefix: str


def copy_target(copy_to: str) -> CopyTarget:
    """Parse `--copy-to`.

    Raises: ReferenceUnsuitable, NameInvalid.
    """
    host, _, prefix = copy_to.rstrip("/").partition("/")
    found = Reference.parse(f"{host}/{prefix}/x" if prefix else f"{host}/x")
    if found.registry != host or found.tag is not None or found.digest is not None:
        raise ReferenceUnsuitable(
            f"--copy-to is {quote(copy_to)}; expected a registry and a prefix, registry.example.com/kept"
        )
    return CopyTarget(found.registry, f"{prefix}/" if prefix else "")


def copy_to_registry(copy_to: str, engine: str, client: ClientContext, transport: Transport) -> CopyImage:
    """Return a function that copies an image to a registry: from its own registry, else from the engine.

    `engine`: the engine's address, used where the image's registry no longer has it.
    """
    registry, prefix = copy_target(copy_to)

    async def copied(name: Reference, digest: Digest) -> Reference:
        target = Reference(registry, Repository(prefix + name.repository), keep_tag(digest))
        try:
            source = str(Reference(name.registry, name.repository, digest=digest))
            found = await _copy(client, transport, source, target, engine)
        except RemoteNotFound:
            found = await _copy(client, transport, f"docker-daemon:{name}", target, engine)
        return Reference(target.registry, target.repository, target.tag, found)

    return copied


async def _copy(client: ClientContext, transport: Transport, source: str, target: Reference, engine: str) -> Digest:
    location = Location.parse(source)
    async with opened_transfer(
        client, transport, location, Location.parse(str(target)), force=False, engine=engine
    ) as ends:
        copier = Copier(ends.source, ends.target, within=ends.within)
        done = await copier.image(name_within(location), str(target.tag))
    return done.digest
