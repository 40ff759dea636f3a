"""A connection to a container engine, with what this user's client has kept on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask
from boltseal.engines.api import connected
from boltseal.errors import quote
from boltseal.host.engine_images import EngineHost
from boltseal.host.kept_images import KeptImages
from boltseal.oci.reference import Reference

T = TypeVar("T")


@asynccontextmanager
async def connected_host(client: ClientContext, host: str | None) -> AsyncIterator[EngineHost]:
    """Connect to an engine. `host`: its address; default: DOCKER_HOST.

    Raises: EngineAddressInvalid, EngineUnavailable, Denied, SshFailed.
    """
    async with connected(client.engine_address(host)) as engine:
        yield await EngineHost.of(engine, KeptImages(client.state), client.now_us)


def on_host(
    options: RegistryOptions,
    registries: Iterable[str],
    host: str | None,
    call: Callable[[EngineHost, Transport], Awaitable[T]],
) -> T:
    """Run one call on an engine, with connections to these registries. Raises: as `connected_host`."""

    async def run(transport: Transport) -> T:
        async with connected_host(options.client, host) as engine:
            return await call(engine, transport)

    return ask(options, registries, run)


def tag_name(text: str) -> Reference:
    """Parse the name of an image on an engine; the tag is `latest` where none is given. Raises: ReferenceUnsuitable."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise ReferenceUnsuitable(f"{quote(text)} has a digest; expected a name with a tag, and the digest in --to")
    return reference.by_tag
