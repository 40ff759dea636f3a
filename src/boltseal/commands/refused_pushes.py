"""Ask a boltseal registry which pushes it refused, over its admin API."""

from __future__ import annotations

from typing import Final

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.client.errors import RemoteNotFound
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask
from boltseal.errors import Unavailable
from boltseal.oci.reference import Reference

_NAME: Final = "refused"


class RefusedPush(msgspec.Struct, frozen=True):
    """Pushes that were refused alike, as the registry reports them (docs/reference/admin-api.md).

    `pushed` and `digest`: of the refused manifest, and what the tag resolved to; None where the registry does not know it.
    `address` None: not shown to this user.
    """

    repository: str
    tag: str | None
    reason: str
    pushed: str | None
    digest: str | None
    by: str
    extra: dict[str, str]
    address: str | None
    free: list[str]
    first: str
    last: str
    times: int


def refused_pushes(reference: Reference, options: RegistryOptions) -> list[RefusedPush]:
    """Return the refused pushes to a tag, or without one to all tags of a repository, the newest first.

    Raises: ReferenceUnsuitable: the reference has a digest; Unavailable: the registry records none; errors of the registry.
    """
    if reference.digest is not None:
        expected = f"{reference.name} or {reference.name}:{reference.tag or 'TAG'}"
        raise ReferenceUnsuitable(f"refused pushes are those to a tag; expected {expected}")
    query = {"repository": str(reference.repository)} | ({"tag": str(reference.tag)} if reference.tag else {})

    async def read(transport: Transport) -> list[RefusedPush]:
        client = AdminClient(transport, reference.registry)
        try:
            return [item async for item in client.items(_NAME, "refused pushes", RefusedPush, query)]
        except RemoteNotFound as missing:
            raise Unavailable(f"{reference.registry} records no refused pushes: {missing.message}") from missing

    return ask(options, [reference.registry], read)
