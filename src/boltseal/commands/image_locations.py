"""Opened locations of images: registries, OCI layouts, archives and Docker daemons."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.transfer.connect import TransferContext, open_source, open_target
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.protocols import ImageSource, ImageTarget


class OpenTransfer(NamedTuple):
    """The source and the target of a copy. `within`: whether they are the same repository."""

    source: ImageSource
    target: ImageTarget
    within: bool


def name_within(location: Location) -> str | None:
    """Return the name of an image inside its location; None for a daemon, whose export holds one image."""
    return None if location.kind is LocationKind.DAEMON else location.name


@asynccontextmanager
async def opened_transfer(
    client: ClientContext, transport: Transport, source: Location, target: Location, *, force: bool, engine: str = ""
) -> AsyncIterator[OpenTransfer]:
    """Open the source and the target of a copy. The target is discarded unless the block ends without an error.

    `engine`: address of the daemon; default: DOCKER_HOST.
    """
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        context = _context(client, transport, scratch, engine)
        opened_source = await open_source(source, context)
        mount_from = None
        if source.reference and target.reference and source.reference.registry == target.reference.registry:
            mount_from = source.reference.repository if source.kind == target.kind == "registry" else None
        within = mount_from is not None and target.reference is not None and mount_from == target.reference.repository
        opened_target = open_target(target, context, mount_from, force=force)
        complete = False
        try:
            yield OpenTransfer(opened_source, opened_target, within)
            complete = True
        finally:
            await opened_target.close(complete=complete)


@asynccontextmanager
async def opened_sources(
    client: ClientContext, transport: Transport, *locations: Location
) -> AsyncIterator[tuple[ImageSource, ...]]:
    """Open locations to read from."""
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        context = _context(client, transport, scratch)
        yield tuple([await open_source(location, context) for location in locations])


def _context(client: ClientContext, transport: Transport, scratch: str, engine: str = "") -> TransferContext:
    paths = client.paths
    return TransferContext(transport, Path(scratch), engine or paths.docker_host, paths.docker_certificates)
