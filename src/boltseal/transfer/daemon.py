"""A Docker daemon as a place: by its API, one archive at a time (`GET /images/NAME/get`, `POST /images/load`).

The daemon's classic store keeps no manifest, so an image read from it gets one made of its config and layers, and has
another digest than the registry's; with containerd's image store the digest is kept. Reading changes nothing there. The
archive lies in the scratch folder meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import quote as quote_path

import httpx2

from boltseal.client.engine import engine_client, engine_said
from boltseal.errors import quote
from boltseal.oci.reference import Reference
from boltseal.transfer.archive import ArchiveSource, ArchiveTarget
from boltseal.transfer.holders import PlaceNotFound, PlaceUnavailable

PIECE_BYTES: Final = 1024 * 1024


async def daemon_source(reference: Reference, docker_host: str, scratch: Path) -> ArchiveSource:
    """Fetch an image from the daemon. PlaceNotFound, PlaceUnavailable."""
    title, archive = f"docker-daemon:{reference.familiar()}", scratch / "from-daemon.tar"
    async with engine_client(docker_host) as client:
        try:
            name = quote_path(reference.familiar(), safe="")
            async with client.stream("GET", f"/images/{name}/get") as response:
                if response.status_code != 200:
                    raise _failure(title, response.status_code, await response.aread())
                with archive.open("wb") as file:
                    async for piece in response.aiter_raw(PIECE_BYTES):
                        await asyncio.to_thread(file.write, piece)
        except (httpx2.HTTPError, OSError) as error:
            raise PlaceUnavailable(f"{title}: the Docker daemon does not answer: {error or type(error)}") from error
    source = await ArchiveSource.open(archive, scratch, title)
    archive.unlink()
    return source


def daemon_target(reference: Reference, docker_host: str, scratch: Path) -> ArchiveTarget:
    """An archive that is loaded into the daemon when it is whole."""
    return _DaemonTarget(reference, docker_host, scratch)


class _DaemonTarget(ArchiveTarget):
    def __init__(self, reference: Reference, docker_host: str, scratch: Path) -> None:
        self._loaded = scratch / "to-daemon.tar"
        self._host = docker_host
        super().__init__(self._loaded, title=f"docker-daemon:{reference.familiar()}")

    async def close(self, *, complete: bool) -> None:
        await super().close(complete=complete)
        if complete:
            await self._load()

    async def _load(self) -> None:
        headers = {"content-type": "application/x-tar", "content-length": str(self._loaded.stat().st_size)}
        async with engine_client(self._host) as client:
            try:
                response = await client.post("/images/load?quiet=1", content=_pieces(self._loaded), headers=headers)
            except httpx2.HTTPError as error:
                raise PlaceUnavailable(f"{self.title}: the Docker daemon does not answer: {error}") from error
        if response.status_code != 200:
            raise _failure(self.title, response.status_code, response.content)
        for line in response.content.splitlines():
            said = engine_said(line)
            if said:
                raise PlaceUnavailable(f"{self.title}: the Docker daemon did not take it: {quote(said, 300)}")


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def _failure(title: str, status: int, body: bytes) -> PlaceNotFound | PlaceUnavailable:
    said = engine_said(body)
    reason = quote(said, 300) if said else f"HTTP {status}"
    if status == 404:
        return PlaceNotFound(f"{title}: the Docker daemon has no such image: {reason}")
    return PlaceUnavailable(f"{title}: the Docker daemon failed: {reason}")
