"""The client's sockets, with servers whose answers are large, slow, missing, early or aborted."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx2
import pytest

from boltseal.socket_backend import BUFFER_BYTES, SocketClient, SocketTransport
from tests.authority import authority
from tests.client.listening import listening, listening_on_socket

SIZE = 8 * BUFFER_BYTES


def client(timeout_s: float = 30.0, trust: ssl.SSLContext | None = None) -> SocketClient:
    return SocketClient(verify=trust or ssl.create_default_context(), timeout=timeout_s, trust_env=False, reach=None)


async def big(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with eight MiB."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
        for number in range(8):
            writer.write(bytes([number]) * BUFFER_BYTES)
        await writer.drain()


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read the head of a request, and then neither read nor answer."""
    await reader.readuntil(b"\r\n\r\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way to stop reading
    await asyncio.Event().wait()


async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer any bytes as a server without TLS does."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    await asyncio.Event().wait()


async def test_a_body_arrives_completely_and_in_large_chunks() -> None:
    """A large body arrives complete and in order, in chunks as large as what has arrived."""
    async with listening(big) as port, client() as http, http.stream("GET", f"http://127.0.0.1:{port}/") as answer:
        await asyncio.sleep(0.05)  # more than one chunk arrives, which the client does not report
        pieces = [piece async for piece in answer.aiter_raw()]

    assert b"".join(pieces) == b"".join(bytes([number]) * BUFFER_BYTES for number in range(8))
    assert max(map(len, pieces)) > 2 * 65_536


async def test_a_slow_reader_slows_the_sender() -> None:
    """A slow reader stops the sender when the buffer is full, and everything arrives once it reads."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(BUFFER_BYTES))
            sent += BUFFER_BYTES
            await writer.drain()

    async with (
        listening(endless) as port,
        client() as http,
        http.stream("GET", f"http://127.0.0.1:{port}/") as answer,
    ):
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)  # the server sends nothing more for that long
        received = 0
        async for piece in answer.aiter_raw():
            received += len(piece)
            if received > 2 * before:
                break

    assert before < 64 * BUFFER_BYTES
    assert received > 2 * before


async def test_a_connection_is_reused_until_it_is_closed() -> None:
    """Two requests use one connection; after the server closed it, the third gets another."""
    connections = 0

    async def two_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()

    async with listening(two_each) as port, client() as http:
        answers = [(await http.get(f"http://127.0.0.1:{port}/")).text for _ in range(2)]
        await asyncio.sleep(0.05)  # the end of the connection arrives, which the client does not report
        answers.append((await http.get(f"http://127.0.0.1:{port}/")).text)

    assert answers == ["ok"] * 3
    assert connections == 2


async def test_a_silent_server_times_out() -> None:
    """A silent server ends in a time-out, when reading and when sending."""
    async with listening(silent) as port, client(timeout_s=0.2) as http:
        with pytest.raises(httpx2.ReadTimeout):
            await http.get(f"http://127.0.0.1:{port}/")
        with pytest.raises(httpx2.WriteTimeout):
            await http.put(f"http://127.0.0.1:{port}/", content=bytes(64 * BUFFER_BYTES))


async def test_an_answer_that_comes_before_the_body_is_sent_is_read() -> None:
    """An answer that comes before the body is sent, such as a refusal of an upload, is read."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        await writer.drain()
        while await reader.read(65_536):
            pass

    async with listening(early) as port, client() as http:
        answer = await http.put(f"http://127.0.0.1:{port}/", content=bytes(4 * BUFFER_BYTES))

    assert (answer.status_code, answer.text) == (413, "no")


async def test_a_truncated_body_is_an_error() -> None:
    """A truncated body is an error, after the bytes that had arrived."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with (
        listening(half) as port,
        client() as http,
        http.stream("GET", f"http://127.0.0.1:{port}/") as answer,
    ):
        pieces = answer.aiter_raw()
        first = await anext(pieces)
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)

    assert first == b"half"


async def test_a_closed_port_is_a_connect_error() -> None:
    """A closed port is a connect error: for one address, all addresses of a name, or a name without addresses or that no name can be."""
    async with listening(silent) as port:
        pass
    async with client() as http:
        for host in ("127.0.0.1", "localhost", "nobody.invalid", f"{'a' * 64}.invalid", "a..invalid"):
            with pytest.raises(httpx2.ConnectError):
                await http.get(f"http://{host}:{port}/")


async def test_the_next_address_of_a_name_is_tried() -> None:
    """If the first address of a name, such as ::1 of `localhost`, is closed, the next is tried."""
    async with listening(big) as port, client() as http:
        answer = await http.get(f"http://localhost:{port}/")

    assert len(answer.content) == SIZE


async def test_tls_is_verified_and_transfers_large_bodies(tmp_path: Path) -> None:
    """TLS is verified by the given authority, transfers large bodies, and fails with a server without TLS."""
    ca, cert, key = authority(tmp_path)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(cert, key)
    async with listening(big, ours) as port:
        async with client(trust=ssl.create_default_context(cafile=str(ca))) as http:
            answers = [await http.get(f"https://localhost:{port}/") for _ in range(2)]
        async with client() as http:
            with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
                await http.get(f"https://localhost:{port}/")
    async with listening(plain) as port, client() as http:
        with pytest.raises(httpx2.ConnectError, match="WRONG_VERSION"):
            await http.get(f"https://127.0.0.1:{port}/")

    assert [len(answer.content) for answer in answers] == [SIZE, SIZE]


async def test_a_unix_socket_transfers_large_chunks(tmp_path: Path) -> None:
    """A Unix socket is read in large chunks, and a missing one is a connect error."""

    def unix(path: Path) -> httpx2.AsyncClient:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx2.AsyncClient(transport=SocketTransport(context, httpx2.Limits(), reach=None, uds=str(path)))

    async with (
        listening_on_socket(big, tmp_path / "socket"),
        unix(tmp_path / "socket") as http,
        http.stream("GET", "http://localhost/") as answer,
    ):
        await asyncio.sleep(0.05)  # more than one chunk arrives, which the client does not report
        pieces = [piece async for piece in answer.aiter_raw()]
    async with unix(tmp_path / "none") as http:
        with pytest.raises(httpx2.ConnectError, match="No such file or directory"):
            await http.get("http://localhost/")

    assert sum(map(len, pieces)) == SIZE
    assert max(map(len, pieces)) > 2 * 65_536
