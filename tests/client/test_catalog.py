"""Errors of the client that lists the repositories of a registry."""

from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette

from boltseal.client.catalog import list_repositories
from boltseal.client.credentials import CredentialStore
from boltseal.client.transport import Transport
from boltseal.errors import NotFound


async def test_an_error_names_the_list_of_repositories() -> None:
    """A registry without a catalog is an error that names what was requested."""
    transport = Transport(CredentialStore([]), app=httpx2.ASGITransport(app=Starlette()))

    with pytest.raises(NotFound, match=r"the list of repositories\b"):
        [name async for name in list_repositories(transport, "registry.example.com")]
    await transport.aclose()
