"""Tests over sockets: every way to send bytes, and responses to clients that are still sending."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from tests.images import Blob, digest_of, error_of, in_pieces, push_blob
from tests.polling import until_answer
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024
SIZES = [0, 1, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, MIB, 5 * MIB + 3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server process for all tests of this module; no test changes what another test uses."""
    with boltseal(tmp_path_factory.mktemp("wire") / "data") as running:
        yield running


@pytest.fixture
async def over_tcp(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of the server process."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30.0) as client:
        yield client


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_is_returned(over_tcp: httpx2.AsyncClient, size: int) -> None:
    """Blobs of every size, from memory or as a file, and around the limit between both, are returned unchanged."""
    blob = Blob(os.urandom(size))
    await push_blob(over_tcp, "shop/app", blob)
    url = f"/v2/shop/app/blobs/{blob.digest}"
    whole, again, head = await over_tcp.get(url), await over_tcp.get(url), await over_tcp.head(url)

    assert whole.content == again.content == blob.data
    assert head.headers["Content-Length"] == str(size)
    assert head.content == b""


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (1, MIB), (256 * KIB, 512 * KIB - 1), (3, 3 * MIB), (3 * MIB, 4 * MIB - 1)]
)
async def test_every_range_is_returned(over_tcp: httpx2.AsyncClient, first: int, last: int) -> None:
    """Every range of a blob, in one chunk or several, is returned."""
    blob = Blob(os.urandom(4 * MIB))
    await push_blob(over_tcp, "shop/app", blob)
    part = await over_tcp.get(f"/v2/shop/app/blobs/{blob.digest}", headers={"Range": f"bytes={first}-{last}"})

    assert part.status_code == 206
    assert part.content == blob.data[first : last + 1]


async def test_a_connection_stays_usable_after_every_kind_of_answer(over_tcp: httpx2.AsyncClient) -> None:
    """After every kind of answer the connection works, since a wrong length would corrupt the next one."""
    blob = Blob(os.urandom(MIB))
    await push_blob(over_tcp, "shop/app", blob)
    url = f"/v2/shop/app/blobs/{blob.digest}"
    asked = [
        over_tcp.build_request("HEAD", url),
        over_tcp.build_request("GET", url, headers={"If-None-Match": f'"{blob.digest}"'}),
        over_tcp.build_request("GET", url, headers={"Range": "bytes=0-700000"}),
        over_tcp.build_request("GET", url, headers={"Range": "bytes=9999999-"}),
        over_tcp.build_request("HEAD", "/v2/shop/app/manifests/none"),
        over_tcp.build_request("POST", "/v2/shop/app/blobs/uploads/"),
        over_tcp.build_request("DELETE", "/v2/"),
        over_tcp.build_request("PATCH", "/v2/shop/app/blobs/uploads/none", content=b"x" * MIB),
        over_tcp.build_request("GET", "/v2/"),
    ]
    statuses = [(await over_tcp.send(request)).status_code for request in asked]

    assert statuses == [200, 304, 206, 416, 404, 202, 405, 404, 200]


def answer_to(server: Server, head: str, body_bytes: int) -> tuple[int, bytes]:
    """Send a request head and a body of zeros before reading; return the number of sent bytes and the response."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        sent = 0
        try:
            while sent < body_bytes:
                connection.sendall(bytes(64 * KIB))
                sent += 64 * KIB
        except OSError:
            return sent, b""
        return sent, connection.recv(KIB)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("PUT /v2/shop/app/manifests/1.4.2", b"413"),
        ("PATCH /v2/shop/app/blobs/uploads/none", b"404"),
        ("PUT /v2/shop/App/manifests/1.4.2", b"400"),
        ("POST /v2/shop/app/manifests/1.4.2", b"405"),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(server: Server, path: str, status: bytes) -> None:
    """A client that sends its whole body before it reads gets the refusal, because the body is drained."""
    sent, answer = answer_to(server, f"{path} HTTP/1.1\nhost: localhost\ncontent-length: {6 * MIB}\n", 6 * MIB)

    assert sent == 6 * MIB
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_a_client_that_sends_without_an_end_is_disconnected(server: Server) -> None:
    """A client that sends without an end after a refusal is disconnected."""
    sent, _ = answer_to(
        server, f"PATCH /v2/a/blobs/uploads/none HTTP/1.1\nhost: localhost\ncontent-length: {999 * MIB}\n", 99 * MIB
    )

    assert sent < 32 * MIB


def test_a_client_that_expects_100_continue_is_refused_without_a_body(server: Server) -> None:
    """With `Expect: 100-continue`, a refusal comes before the body is sent."""
    head = f"PUT /v2/a/manifests/1 HTTP/1.1\nhost: localhost\ncontent-length: {6 * MIB}\nexpect: 100-continue\n"
    _, answer = answer_to(server, head, 0)

    assert answer.startswith(b"HTTP/1.1 413")


async def test_a_chunked_document_over_the_limit_is_refused(over_tcp: httpx2.AsyncClient) -> None:
    """A chunked document without a Content-Length is refused at the limit, and the client can read the error."""
    answer = await over_tcp.put("/v2/shop/app/manifests/1.4.2", content=in_pieces(b" " * (5 * MIB), 64 * KIB))

    assert answer.status_code == 413
    assert error_of(answer)[0] == "SIZE_INVALID"


async def test_an_interrupted_upload_is_resumed(over_tcp: httpx2.AsyncClient, server: Server) -> None:
    """After an interruption the next chunk continues at the range that the session reports."""
    data = os.urandom(2 * MIB)
    location = (await over_tcp.post("/v2/shop/app/blobs/uploads/")).headers["Location"]
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port))) as dying:
        dying.sendall(
            f"PATCH {location} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data[:MIB]
        )

    async def continued() -> bool:
        held = _held((await over_tcp.get(location)).headers["Range"])
        chunk = {"Content-Range": f"{held}-{len(data) - 1}"}
        return (await over_tcp.patch(location, content=data[held:], headers=chunk)).status_code == 202

    await until_answer(continued, "the server has noticed that the first writer is gone")
    done = await over_tcp.put(f"{location}?digest={digest_of(data)}")

    assert done.status_code == 201


def _held(value: str) -> int:
    """Return the number of bytes of a session from its Range header."""
    last = int(value.removeprefix("0-"))
    return last + 1 if last else 0
