"""List the repositories of a registry (`_catalog`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import msgspec

from boltseal.client.errors import RemoteMismatch
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import NameInvalid, Repository

MAX_PAGES: Final = 100_000
SCOPES: Final = frozenset({"registry:catalog:*"})
"""The scope of a token for the list (Docker token specification)."""


class _Names(msgspec.Struct):
    repositories: list[str] | None = None


async def list_repositories(transport: Transport, registry: str) -> AsyncIterator[Repository]:
    """Yield every repository that the registry lists, over all pages.

    Raises: RemoteNotFound: the registry has no catalog; RemoteDenied; RemoteMismatch: a page can't be parsed.
    """
    last = ""
    for _ in range(MAX_PAGES):
        path = f"/v2/_catalog?n=1000{f'&last={quote(last)}' if last else ''}"
        reply = await transport.request(RegistryRequest(registry, "GET", path, "the list of repositories", SCOPES))
        try:
            names = [Repository(name) for name in decode(reply.body, _Names).repositories or ()]
        except (ValueError, NameInvalid) as error:  # msgspec's are ValueErrors
            reason = error.message if isinstance(error, BoltsealError) else error
            raise RemoteMismatch(f"{registry}: the list of repositories can't be parsed: {reason}") from error
        for name in names:
            yield name
        if 'rel="next"' not in reply.headers.get("link", "") or not names or names[-1] <= last:
            return
        last = names[-1]
