"""Registries inside this process as source and destination of a transfer, each with its own host name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx2

from boltseal.client.credentials import CredentialStore
from boltseal.client.transport import Transport
from boltseal.oci.reference import Repository
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.remote import RepositoryLocation
from tests.asgi import App

SHOP = Repository("shop/app")


class Network(httpx2.AsyncBaseTransport):
    """Applications by host name. `asked` counts `METHOD kind` at each host; `broken`: so many blob PUTs fail first."""

    def __init__(self, hosts: Mapping[str, App]) -> None:
        self._hosts = {host: httpx2.ASGITransport(app=app) for host, app in hosts.items()}
        self.asked: Counter[str] = Counter()
        self.bytes_in = 0
        self.broken = 0
        self.lost = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.netloc.decode()
        kind = next((word for word in ("uploads", "blobs", "manifests") if f"/{word}/" in request.url.path), "other")
        self.asked[f"{request.method} {kind}"] += 1
        if request.method == "PUT" and kind == "uploads":
            if self.broken:
                self.broken -= 1
                raise httpx2.WriteError("broken pipe")
            self.bytes_in += int(request.headers["content-length"])
            body = await request.aread()  # a source that fails does so in the client, and not in the application
            again = httpx2.Request(request.method, request.url, headers=request.headers, content=body)
            answer = await self._hosts[host].handle_async_request(again)
            if self.lost:
                self.lost -= 1
                raise httpx2.ReadError("the answer was lost")
            return answer
        return await self._hosts[host].handle_async_request(request)


def connect(network: Network) -> Transport:
    """Return an anonymous client of these registries."""
    return Transport(CredentialStore([]), app=network)


def repository(
    network: Network, host: str, name: Repository = SHOP, mount_from: Repository | None = None
) -> RepositoryLocation:
    """Return a repository of one of these registries as a source or destination."""
    return RepositoryLocation(connect(network), host, name, mount_from)


def layout(folder: Path) -> LayoutLocation:
    """Return an OCI image layout on disk as a source or destination."""
    return LayoutLocation(folder)
