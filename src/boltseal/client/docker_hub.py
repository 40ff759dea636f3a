"""Docker Hub's own list of tags: up to a hundred, with what they mean, in one request that is no pull.

It is another service than the registry and may lag behind it. What it says is good enough for "as it was"; whoever hears
of something new asks the registry. It is asked without a login: for private repositories it is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from boltseal.client.errors import RemoteMismatch
from boltseal.client.transport import RegistryRequest, Transport
from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Repository

LIST_HOST: Final = "hub.docker.com"
PAGE: Final = 100


class _Tag(msgspec.Struct):
    name: str
    digest: str | None = None


class _Page(msgspec.Struct):
    results: list[_Tag]
    next: str | None = None


async def list_tags(transport: Transport, repository: Repository, page: int) -> tuple[Mapping[str, Digest], bool]:
    """One page, counted from 1, of those pushed last first: tag -> digest; and whether there is another page.

    A tag whose digest is not told is left out. RemoteNotFound, RemoteMismatch, and what `Transport.request` raises.
    """
    path = f"/v2/repositories/{repository}/tags?page_size={PAGE}&page={page}&ordering=last_updated"
    reply = await transport.request(RegistryRequest(LIST_HOST, "GET", path, f"the list of tags of {repository}"))
    try:
        found = decode(reply.body, _Page)
        digests = {one.name: Digest.parse(one.digest) for one in found.results if one.digest}
    except (msgspec.MsgspecError, ValueError, Invalid) as error:
        raise RemoteMismatch(f"{LIST_HOST}: the list of tags of {repository} can't be read") from error
    return digests, found.next is not None
