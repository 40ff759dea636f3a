"""A registry that sends wrong bytes over a real connection: none are used or stored."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteMismatch
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from tests.cli import program
from tests.images import Blob, image, push, push_blob
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

SHOP = Repository("shop/app")
# The server compares blobs of up to 256 KiB with their digests itself, so a larger layer is what a client gets wrong.
IMAGE = image(os.urandom(300 * 1024).hex())
LARGE = Blob(os.urandom(3 * 1024 * 1024))


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Server]:
    """A registry whose disk has other bytes of the same length under the digests of a layer and a large blob."""
    data = tmp_path / "data"
    with boltseal(data) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            await push(client, SHOP, "1.4.2", IMAGE)
            await push_blob(client, SHOP, LARGE)
        for blob in (IMAGE.layers[0], LARGE):
            digest = Digest.parse(blob.digest)
            path = data / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex
            path.write_bytes(blob.data[:-1] + bytes([blob.data[-1] ^ 1]))
        yield server


async def test_a_blob_with_wrong_bytes_is_never_complete(hostile: Server, tmp_path: Path) -> None:
    """The error names the wrong blob, whose last chunk is never yielded."""
    transport = Transport(CredentialStore([tmp_path / "none.json"]), TransportOptions())
    client = RegistryClient(transport, hostile.address)
    received: list[bytes] = []

    async def fetch() -> None:
        async for piece in client.blob(SHOP, Digest.parse(LARGE.digest), len(LARGE.data)):
            received.append(piece)  # noqa: PERF401 - chunks before the error are compared

    with pytest.raises(RemoteMismatch) as refused:
        await fetch()
    await transport.aclose()

    assert f"blob {Digest.parse(LARGE.digest).short} of shop/app does not match its digest" in refused.value.message
    assert 0 < len(b"".join(received)) < len(LARGE.data)


async def test_a_copy_stores_nothing_of_a_blob_with_wrong_bytes(hostile: Server, tmp_path: Path) -> None:
    """After a copy of a wrong blob, the target has neither the blob, nor a part of it, nor the tag."""
    target = tmp_path / "copied"
    run = program.run("copy", f"{hostile.address}/shop/app:1.4.2", f"oci:{target}:1.4.2")
    kept = {path.name for path in target.rglob("*") if path.is_file() and path.parent.name == "sha256"}
    arriving = list(target.rglob(".arriving-*"))

    assert run.code == 3
    assert f"blob {Digest.parse(IMAGE.layers[0].digest).short} of shop/app does not match its digest" in run.err
    assert Digest.parse(IMAGE.layers[0].digest).hex not in kept
    assert arriving == []
    assert not (target / "index.json").exists()
