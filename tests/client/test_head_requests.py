"""Many HEAD requests to a real server: few tokens, few connections, constant memory."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal import socket_backend
from boltseal.client.credentials import CredentialStore
from boltseal.client.head_requests import AT_ONCE, resolve_tags
from boltseal.client.transport import Transport
from boltseal.oci.reference import Reference
from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from boltseal.socket_backend import BUFFER_BYTES
from tests import images
from tests.client.listening import listening
from tests.servers import Server
from tests.soak.scale import POLLED_REPOSITORIES

pytestmark = pytest.mark.slow

TAGS = 20
LOGIN = "ci:correct horse"


def repositories() -> Iterator[str]:
    return (f"team{number % 10}/app{number}" for number in range(POLLED_REPOSITORIES))


def tags() -> list[str]:
    return [f"1.0.{number}" for number in range(TAGS)]


async def publish(server: Server) -> None:
    """Push one small image to every repository under twenty tags; afterwards the registry requires logins."""
    image = images.image("one")
    headers = {"content-type": images.OCI_MANIFEST}
    query = "&".join(f"tag={tag}" for tag in tags())
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        for name in repositories():
            await images.push_parts(client, name, image)
            put = await client.put(f"/v2/{name}/manifests/{image.digest}?{query}", content=image.raw, headers=headers)
            put.raise_for_status()
    users = UserFile(server.folder.with_name(f"{server.folder.name}.keys") / "htpasswd")
    users.put("ci", hash_password(LOGIN.partition(":")[2]))


def counted(server: Server, start: str) -> int:
    """Return a value of the server's metrics."""
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).text
    return sum(int(float(number)) for number in re.findall(rf"^{re.escape(start)}.* ([0-9.]+)$", text, re.MULTILINE))


def used_bytes() -> tuple[int, int]:
    """Return the memory that the receive buffers of connections use, and all other; what waits for the garbage collector is neither."""
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()  # before the snapshot, which needs memory itself
    buffers = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, socket_backend.__file__)])
    of_buffers = sum(trace.size for trace in buffers.traces)
    return of_buffers, used - of_buffers


async def test_thousands_of_heads_with_a_login(server: Server, tmp_path: Path) -> None:
    """Thousands of HEADs need at most one token per ten repositories, one password check and constant memory."""
    await publish(server)
    logins = tmp_path / "config.json"
    auth = base64.b64encode(LOGIN.encode()).decode()
    logins.write_text(json.dumps({"auths": {server.address: {"auth": auth}}}))
    transport = Transport(CredentialStore([logins]))
    references = [Reference.parse(f"{server.address}/{name}:{tag}") for name in repositories() for tag in tags()]
    answered, early = 0, 0
    tracemalloc.start()
    try:
        async for answer in resolve_tags(transport, references):
            assert answer.error is None
            answered += 1
            if answered == len(references) // 10:
                _, early = used_bytes()
        of_buffers, late = used_bytes()
    finally:
        tracemalloc.stop()
        await transport.aclose()

    assert answered == POLLED_REPOSITORIES * TAGS
    assert 0 < counted(server, 'boltseal_http_requests_total{method="GET",route="/token"') <= POLLED_REPOSITORIES // 10
    assert counted(server, "boltseal_password_checks_total") == 1
    assert (
        counted(
            server, 'boltseal_http_requests_total{method="HEAD",route="/v2/{name}/manifests/{reference}",status="200"'
        )
        == answered
    )
    assert late - early < 512 * 1024
    assert of_buffers < (AT_ONCE + 1) * (BUFFER_BYTES + 4096)


async def test_heads_reuse_connections() -> None:
    """Connections are reused, because bodies of refusals are read to their end."""
    connections = 0

    async def registry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /token"):
                answer_bytes = b'200 OK\r\ncontent-length: 13\r\n\r\n{"token":"t"}'
            elif b"Bearer t" not in head and b"bearer t" not in head:
                realm = f'www-authenticate: Bearer realm="http://127.0.0.1:{port}/token"'.encode()
                body = b"" if head.startswith(b"HEAD") else b"{}"
                answer_bytes = b"401 Unauthorized\r\n" + realm + b"\r\ncontent-length: 2\r\n\r\n" + body
            else:
                answer_bytes = b"200 OK\r\ndocker-content-digest: sha256:%b\r\ncontent-length: 7\r\n\r\n" % (b"0" * 64)
            writer.write(b"HTTP/1.1 " + answer_bytes)
            await writer.drain()

    async with listening(registry) as port:
        transport = Transport(CredentialStore([]))
        references = [Reference.parse(f"127.0.0.1:{port}/team/app:{number}") for number in range(200)]
        answers = [answer async for answer in resolve_tags(transport, references)]
        await transport.aclose()

    assert all(answer.resolved for answer in answers)
    assert connections <= AT_ONCE + 1
