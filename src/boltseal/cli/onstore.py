"""What the verbs that work on the data folder share: whose folder a reference means, who acts, and one event loop."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.settings import Settings
    from boltseal.server.store_factory import OpenStore

T = TypeVar("T")

RefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", show_default=False, help="An image of this registry: localhost:5000/shop/app:1.4.2"),
]


class NotOurs(Invalid):
    """A reference to an image of another registry, or to no image."""


class ReasonMissing(Invalid):
    """What is recorded for ever needs a reason."""


def local_reference(text: str, settings: Settings) -> tuple[Reference, Tag | Digest]:
    """What a reference means in our data folder, and its tag or digest. NotOurs, NameInvalid, TagInvalid, DigestInvalid.

    The host must be given: a bare `app:1.4.2` means Docker Hub everywhere, so it must not mean us here.
    """
    from boltseal.oci.reference import HUB, Reference

    reference = Reference.parse(text)
    ours = _our_names(settings)
    if reference.registry == HUB:
        example = f"{ours[0]}/{reference.familiar()}"
        raise NotOurs(f"{quote(text)} names an image on Docker Hub; for one of this registry write {example}")
    if not _is_ours(reference.registry, ours, settings):
        raise NotOurs(f"{quote(text)} is of another registry; this data folder belongs to {ours[0]}")
    if reference.digest is not None and reference.tag is not None:
        raise NotOurs(f"{quote(text)} has a tag and a digest; name the one or the other")
    named = reference.tag or reference.digest
    if named is None:
        raise NotOurs(f"{quote(text)} has no tag; expected one, such as {reference.name}:1.4.2")
    return reference, named


def given_reason(text: str) -> str:
    """The reason as it will stand in the ledger. ReasonMissing."""
    if not text.strip():
        raise ReasonMissing('--reason is empty; say in a few words why, such as "built for another customer"')
    return text.strip()


def on_store(settings: Settings, call: Callable[[OpenStore], Awaitable[T]]) -> T:
    """Open the data folder, make one call on it, and close it; beside a running server or without one."""
    import asyncio

    from boltseal.server import logs
    from boltseal.server.store_factory import open_store

    logs.configure(settings.server.log_level, as_json=logs.wants_json(settings.server.log_format))

    async def run(store: OpenStore) -> T:
        return await call(store)

    with open_store(settings) as store:
        return asyncio.run(run(store))


def admin() -> Actor:
    """Who acts: the account that may write the data folder may do everything to it; its name is recorded."""
    from boltseal.server.auth.actor import Actor

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return Actor(name=f"{name} (command line)", admin=True)


def _is_ours(registry: str, ours: tuple[str, ...], settings: Settings) -> bool:
    """Whether a host can mean this registry: by its public name, or else as this machine, whatever the port."""
    if registry in ours:
        return True
    server = settings.server
    if server.public_url is not None:
        return False
    host = registry.rpartition(":")[0] or registry
    # A server that listens everywhere and has no public name may be called anything.
    return server.address.any_interface or host in ("localhost", "127.0.0.1", "[::1]", server.address.host)


def _our_names(settings: Settings) -> tuple[str, ...]:
    server = settings.server
    public = () if server.public_url is None else (server.public_url.partition("://")[2],)
    return (*public, f"localhost:{server.address.port}", f"127.0.0.1:{server.address.port}", str(server.address))
