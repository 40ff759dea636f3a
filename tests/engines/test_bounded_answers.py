"""The HTTP connection to an engine, against servers that send given bytes: limits, cancellation, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import EngineFailed, EngineProgress, EngineUnavailable, connected
from boltseal.engines.inventory import EngineMismatch
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.authority import Authority, authority
from tests.client.listening import Serve, listening
from tests.fakes.engine import FakeEngine, Wrong

APP = Reference.parse("localhost:5000/shop/app:1.4.2")
PULLED = Reference.parse(f"localhost:5000/shop/app:1.4.2@{Digest.of(b'manifest')}")
VERSION = b'{"ApiVersion": "1.45", "Version": "26"}'


def _answer(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@asynccontextmanager
async def _speaking(speak: Serve) -> AsyncIterator[EngineAddress]:
    """Run an engine that answers with its version, and then with the head and whatever `speak` writes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /version "):
            writer.write(_answer(VERSION))
        await speak(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with listening(serve) as port:
        yield EngineAddress.parse(f"tcp://127.0.0.1:{port}")


async def test_progress_is_reported_at_once() -> None:
    """Each progress step of a pull is reported before the engine sends the next, however lines are split."""
    reported, go_on = list[str](), asyncio.Event()

    def report(step: EngineProgress) -> None:
        reported.append(step.status)
        go_on.set()

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(_chunk(b'{"status": "Pull') + _chunk(b'ing"}\r\n{"sta'))
        async with asyncio.timeout(5):
            await go_on.wait()
        writer.write(_chunk(b'tus": "Done"}\n{"error": "disk"}') + b"0\r\n\r\n")

    async with _speaking(speak) as address, connected(address) as engine:
        with pytest.raises(EngineFailed, match="disk"):
            await engine.pull(PULLED, progress=report)

    assert reported == ["Pulling", "Done"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000,
    ],
)
async def test_a_broken_or_malformed_answer_is_an_error(sent: bytes) -> None:
    """A broken or malformed answer is an error, even if its first part could be parsed."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with _speaking(speak) as address, connected(address) as engine:
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await engine.images()


async def test_a_silent_stream_times_out() -> None:
    """A pull fails when the engine sends nothing for the longest permitted time."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()

    async with _speaking(speak) as address, connected(address, silent_s=0.1) as engine:
        with pytest.raises(EngineUnavailable, match="does not answer in time"):
            await engine.pull(PULLED)


async def test_a_cancelled_request_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling a request closes its connection, so the engine ends the pull; nothing is logged."""
    asked, closed = asyncio.Event(), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunk(b'{"status": "Pulling"}\n'))
        asked.set()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        closed.set()

    async with _speaking(speak) as address, connected(address) as engine:
        task = asyncio.create_task(engine.pull(PULLED))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await closed.wait()

    assert [each for each in caplog.records if each.name == "asyncio"] == []


async def test_a_connection_closed_by_the_engine_is_not_reused() -> None:
    """After the engine closed a connection, the next request opens another."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_answer(b"[]"))

    async with _speaking(speak) as address, connected(address) as engine:
        for _ in range(3):
            assert await engine.images() == ()
            await asyncio.sleep(0.05)  # the end of the connection arrives, which the client does not report


async def test_an_archive_is_sent_with_its_length(tmp_path: Path) -> None:
    """An archive is sent completely with its length, also if it is larger than any buffer."""
    archive = tmp_path / "app.tar"
    archive.write_bytes(bytes(range(256)) * 40_000)
    fake = FakeEngine()
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        await engine.load(archive)

    at = fake.asked.index("POST images/load")
    assert fake.loaded == [archive.read_bytes()]
    assert fake.headers[at]["Content-Length"] == str(archive.stat().st_size)
    assert "Transfer-Encoding" not in fake.headers[at]


@pytest.mark.parametrize("to", ["none/app.tar", "/dev/full"])
async def test_a_local_file_error_is_no_engine_error(tmp_path: Path, to: str) -> None:
    """A missing folder or a full disk on the client is not reported as an engine's error."""
    fake = FakeEngine()
    fake.image("app", str(APP))
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        with pytest.raises(OSError, match=r"No such file or directory|No space left on device"):
            await engine.save(APP, tmp_path / to)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308])
@pytest.mark.parametrize("headers", [{}, {"location": "http://127.0.0.1:1/"}])
async def test_a_redirect_is_not_followed(tmp_path: Path, status: int, headers: dict[str, str]) -> None:
    """A redirect is neither followed nor parsed as an answer."""
    fake = FakeEngine()
    fake.wrong["images/json"] = Wrong(status, b"" if status == 304 else b"[]", headers=headers)
    async with fake.listening(tmp_path) as address, connected(address) as engine:
        with pytest.raises(EngineMismatch, match=rf"redirects \(status {status}\); boltseal does not follow it"):
            await engine.images()


async def test_no_proxy_and_no_netrc_of_the_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables and .netrc do not apply to an engine."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ci password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    fake = FakeEngine()
    async with fake.listening_on_tcp() as address, connected(address) as engine:
        await engine.images()

    assert "authorization" not in fake.headers[-1]


async def test_no_cookie_is_stored_and_nothing_is_decompressed() -> None:
    """Cookies are not stored, and a body is not decompressed."""
    fake = FakeEngine()
    packed = {"set-cookie": "a=1", "content-encoding": "gzip"}
    fake.wrong["images/json"] = Wrong(200, gzip.compress(b"[]"), headers=packed)
    async with fake.listening_on_tcp() as address, connected(address) as engine:
        for _ in range(2):
            with pytest.raises(EngineMismatch, match="can't be parsed"):
                await engine.images()

    assert fake.headers[-1]["accept-encoding"] == "identity"
    assert "cookie" not in fake.headers[-1]


@pytest.mark.parametrize("text", ["tcp://[fe80::1%lo]:1", "tcp://999.1.1.1:1", "tcp://xn--0.example:1"])
async def test_an_impossible_host_is_an_unavailable_engine(text: str) -> None:
    """A well-formed address without a resolvable host is an unavailable engine."""
    with pytest.raises(EngineUnavailable, match=r"does not answer|no engine listens"):
        async with connected(EngineAddress.parse(text)):
            pass


def _docker_cert_path(folder: Path, trusted: Authority, ours: Authority) -> Path:
    folder.mkdir()
    for name, file in (("ca.pem", trusted.ca), ("cert.pem", ours.cert), ("key.pem", ours.key)):
        (folder / name).symlink_to(file)
    return folder


def _asking_for_certificates(server: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    context.load_verify_locations(server.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _authorities(folder: Path) -> tuple[Authority, Authority]:
    for name in ("theirs", "other"):
        (folder / name).mkdir()
    return authority(folder / "theirs", client=True), authority(folder / "other", client=True)


async def test_client_certificates_are_sent(tmp_path: Path) -> None:
    """With `DOCKER_CERT_PATH` the client certificate is sent and the server's is verified."""
    theirs, _ = _authorities(tmp_path)
    certificates = _docker_cert_path(tmp_path / "certs", theirs, theirs)
    fake = FakeEngine()
    async with (
        fake.listening_on_tcp(certificates, _asking_for_certificates(theirs)) as address,
        connected(address) as engine,
    ):
        assert await engine.images() == ()


@pytest.mark.parametrize("who", ["the engine", "we"])
async def test_an_untrusted_certificate_is_an_error(tmp_path: Path, who: str) -> None:
    """An engine with an untrusted certificate gets no request, and the error differs from a forbidden socket."""
    theirs, other = _authorities(tmp_path)
    trusted, ours = (other, theirs) if who == "the engine" else (theirs, other)
    certificates = _docker_cert_path(tmp_path / "certs", trusted, ours)
    fake = FakeEngine()
    async with fake.listening_on_tcp(certificates, _asking_for_certificates(theirs)) as address:
        with pytest.raises(EngineUnavailable, match="does not answer: "):
            async with connected(address):
                pass

    assert fake.asked == []
