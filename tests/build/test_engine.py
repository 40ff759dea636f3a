"""A Docker daemon that answers over its socket, also wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest

from boltseal.build.engine import EngineFailed, NoSuchImage, add_tag, image_id
from boltseal.client.engine import EngineAddressInvalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag

APP = Reference.parse("localhost:5000/shop/app:dev")
ID = Digest.of(b"app")


@dataclass
class Daemon:
    """A socket that answers every request with the same, and remembers what was asked."""

    status: int = 200
    body: bytes = b""
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self, folder: Path) -> AsyncIterator[str]:
        path = folder / "docker.sock"
        server = await asyncio.start_unix_server(self.answer, path)
        async with server:
            yield f"unix://{path}"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(unquote(head.decode().split("\r\n", 1)[0]))
        writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\n\r\n".encode() + self.body)
        await writer.drain()
        writer.close()


async def test_the_id_of_an_image(tmp_path: Path) -> None:
    """By the name that docker shows."""
    daemon = Daemon(body=b'{"Id": "%s", "RepoDigests": []}' % str(ID).encode())
    async with daemon.listening(tmp_path) as host:
        found = await image_id(host, APP)

    assert found == ID
    assert daemon.asked == ["GET /images/localhost:5000/shop/app:dev/json HTTP/1.1"]


async def test_one_more_tag(tmp_path: Path) -> None:
    """For the image that was looked at, whatever its name means meanwhile."""
    daemon = Daemon(status=201)
    async with daemon.listening(tmp_path) as host:
        new = await add_tag(host, APP, ID, Tag("id-1"))

    assert new.familiar() == "localhost:5000/shop/app:id-1"
    assert daemon.asked == [f"POST /images/{ID}/tag?repo=localhost:5000/shop/app&tag=id-1 HTTP/1.1"]


async def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    """Is told."""
    async with Daemon(status=404, body=b'{"message": "no such image"}').listening(tmp_path) as host:
        with pytest.raises(NoSuchImage, match="has no image localhost:5000/shop/app:dev; build it first"):
            await image_id(host, APP)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (500, b'{"message": "disk full"}', 'failed: "disk full"'),
        (500, b"\xff", "failed: HTTP 500"),
        (200, b"[]", "does not say which image"),
        (200, b'{"Id": "app"}', "does not say which image"),
    ],
)
async def test_a_daemon_that_fails_is_told(tmp_path: Path, status: int, body: bytes, said: str) -> None:
    """Nothing is taken for an ID that is none."""
    async with Daemon(status, body).listening(tmp_path) as host:
        with pytest.raises(EngineFailed, match=said):
            await image_id(host, APP)


async def test_no_daemon_is_told(tmp_path: Path) -> None:
    """Nobody listens there; or the address is none."""
    with pytest.raises(EngineFailed, match="does not answer"):
        await image_id(f"unix://{tmp_path}/none", APP)
    with pytest.raises(EngineAddressInvalid, match='DOCKER_HOST is "ssh://host"'):
        await image_id("ssh://host", APP)
