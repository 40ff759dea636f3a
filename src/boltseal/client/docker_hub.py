"""Docker Hub's web API for tags: up to 100 tags with their digests in one request, which does not count as a pull.

This API is not the registry and may lag behind it. Its answer is good enough for "unchanged"; a caller that sees a new
digest asks the registry. Requests are anonymous, so private repositories are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from boltseal.client.errors import RemoteMismatch
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
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


class HubTagPage(NamedTuple):
    """One page of a repository's tags with their digests. `more`: whether another page follows."""

    digests: Mapping[str, Digest]
    more: bool


async def list_tags(transport: Transport, repository: Repository, page: int) -> HubTagPage:
    """Return one page of tags.

    `page` counts from 1; the last pushed tags come first. Tags without a digest are left out.

    Raises: RemoteNotFound, RemoteMismatch, and whatever `Transport.request` raises.
    """
    path = f"/v2/repositories/{repository}/tags?page_size={PAGE}&page={page}&ordering=last_updated"
    reply = await transport.request(RegistryRequest(LIST_HOST, "GET", path, f"the list of tags of {repository}"))
    try:
        found = decode(reply.body, _Page)
        digests = {tag.name: Digest.parse(tag.digest) for tag in found.results if tag.digest}
    except (msgspec.MsgspecError, ValueError, Invalid) as error:
        raise RemoteMismatch(f"{LIST_HOST}: the list of tags of {repository} can't be parsed") from error
    return HubTagPage(digests, found.next is not None)
