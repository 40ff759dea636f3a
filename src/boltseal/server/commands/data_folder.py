"""An opened data folder for one admin command, beside a running server or without one."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import TypeVar

from boltseal.commands.tag_changes import NamedImage
from boltseal.errors import Invalid, quote
from boltseal.oci.reference import HUB, Reference
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import WORKABLE_FORMAT
from boltseal.server.store_factory import open_store

T = TypeVar("T")


def local_reference(text: str, settings: Settings) -> NamedImage:
    """Parse the reference of an image in this data folder.

    The host is required: `app:1.4.2` is an image on Docker Hub everywhere else.

    Raises: Invalid: another registry, no tag, or a tag and a digest; NameInvalid, TagInvalid, DigestInvalid.
    """
    reference = Reference.parse(text)
    ours = _own_names(settings)
    if reference.registry == HUB:
        example = f"{ours[0]}/{reference.familiar()}"
        raise Invalid(f"{quote(text)} is an image on Docker Hub; expected one of this registry, such as {example}")
    if not _is_own(reference.registry, ours, settings):
        raise Invalid(
            f"{quote(text)} is an image of another registry; this data folder belongs to {ours[0]}; if it is the same, "
            "name the server's configuration with --config"
        )
    return NamedImage.of(reference, text)


def on_store(settings: Settings, call: Callable[[OpenStore], Awaitable[T]], *, oldest: int = WORKABLE_FORMAT) -> T:
    """Open the data folder, run one call on it, and close it. Starts an event loop. `oldest`: as for `open_store`."""

    async def run(store: OpenStore) -> T:
        return await call(store)

    with open_store(settings, oldest=oldest) as store:
        return asyncio.run(run(store))


def local_admin() -> Actor:
    """Return the actor of the command line: an account that can write the data folder has all rights on it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return Actor(name=f"{name} (command line)", admin=True)


def _is_own(registry: str, ours: tuple[str, ...], settings: Settings) -> bool:
    """Return whether a host is this registry: its public name, or without one this machine on any port."""
    if registry in ours:
        return True
    server = settings.server
    if server.public_url is not None:
        return False
    host = registry.rpartition(":")[0] or registry
    # a server that listens on every interface and has no public name may have any name
    return server.address.any_interface or host in ("localhost", "127.0.0.1", "[::1]", server.address.host)


def _own_names(settings: Settings) -> tuple[str, ...]:
    server = settings.server
    public = () if server.public_url is None else (server.public_url.partition("://")[2],)
    return (*public, f"localhost:{server.address.port}", f"127.0.0.1:{server.address.port}", str(server.address))
