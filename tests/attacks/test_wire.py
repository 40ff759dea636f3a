"""Attacks on the wire: raw bytes over a socket to a real server, where its HTTP parser reads them first.

What the parser refuses never reaches the registry; what it accepts must be refused there. In each case no tag moves,
no partial content is kept, the answer is correct, and the server continues for other clients.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import httpx2
import pytest

from tests.images import OCI_MANIFEST, Blob, Document, digest_of, image
from tests.polling import wait_until
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

SEALED, EVIL = image("sealed"), image("evil")
LARGE = Blob(bytes(range(256)) * 4096 * 3)
TAG = "/v2/shop/app/manifests/1.4.2"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as received: status (0: the connection was closed without one), headers, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection on which a test sends exact bytes."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._held = b""

    def say(self, *pieces: bytes) -> None:
        """Send these bytes, as many as the other side still accepts."""
        try:
            for piece in pieces:
                self._socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return

    def ask(self, method: str, target: bytes | str, *lines: bytes, body: bytes = b"") -> Reply:
        """Send a request that is well-formed except for this target and these header lines."""
        path = target if isinstance(target, bytes) else target.encode("latin-1")
        length = [b"Content-Length: %d" % len(body)] if body or method in {"PUT", "POST", "PATCH"} else []
        head = [method.encode() + b" " + path + b" HTTP/1.1", b"Host: localhost", *length, *lines, b"", b""]
        self.say(b"\r\n".join(head) + body)
        return self.hear(bodyless=method == "HEAD")

    def hear(self, *, bodyless: bool = False) -> Reply:
        """Return the next answer on this connection."""
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                return Reply(0, {}, self._held)
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        length = 0 if bodyless or status in {204, 304} else int(headers.get("content-length", "0"))
        while len(self._held) < length and self._more():
            pass
        body, self._held = self._held[:length], self._held[length:]
        return Reply(status, headers, body)

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()

    def _more(self) -> bool:
        try:
            got = self._socket.recv(65536)
        except (ConnectionResetError, TimeoutError):
            return False
        self._held += got
        return bool(got)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with a sealed tag, all parts of another image, and a large blob."""
    with boltseal(tmp_path_factory.mktemp("wire") / "data") as running:
        with httpx2.Client(base_url=running.url, trust_env=False) as client:
            for blob in (*SEALED.blobs, *EVIL.blobs, LARGE):
                _push(client, blob)
            _put(client, "1.4.2", SEALED)
        yield running


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    """A connection to the server. Afterwards the sealed tag must have its digest."""
    connection = Wire(server)
    yield connection
    connection.close()
    got = httpx2.get(f"{server.url}{TAG}", trust_env=False)

    assert got.content == SEALED.raw


def _push(client: httpx2.Client, blob: Blob) -> None:
    answer = client.post("/v2/shop/app/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
    answer.raise_for_status()


def _put(client: httpx2.Client, tag: str, document: Document) -> None:
    answer = client.put(
        f"/v2/shop/app/manifests/{tag}", content=document.raw, headers={"Content-Type": document.media_type}
    )
    answer.raise_for_status()


def held(server: Server, digest: str) -> bool:
    """Return whether shop/app has this blob."""
    return httpx2.head(f"{server.url}/v2/shop/app/blobs/{digest}", trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        b"/v2/shop/app/manifests/%31.4.2",
        b"/v2/shop/%61pp/manifests/1.4.2",
        b"/v2/shop%2Fapp/manifests/1.4.2",
        b"/v2/shop/app%2Fmanifests%2F1.4.2",
        b"/v2/x/../shop/app/manifests/1.4.2",
        b"/v2/x/%2e%2e/shop/app/manifests/1.4.2",
        b"/v2/./shop/app/manifests/1.4.2",
        b"/v2//shop/app/manifests/1.4.2",
        b"//v2/shop/app/manifests/1.4.2",
        b"/v2/shop/app/manifests/1.4.2/",
        b"/v2/shop/app/manifests/1.4.2%00",
        b"/v2/shop/app/manifests/1.4.2%0d%0aX-Evil:1",
        b"/%76%32/shop/app/manifests/1.4.2",
        b"/V2/shop/app/manifests/1.4.2",
        b"/v2/shop/app/manifests/1.4.2;x",
        b"/v2\\shop\\app\\manifests\\1.4.2",
        b"/v2/shop/app/manifests/1.4.2\xff",
        b"/v2/shop/app/manifests/1.4.2\x00",
        b"v2/shop/app/manifests/1.4.2",
        b"*",
        b"/v2/" + b"a" * 100_000,
        b"/v2/shop/app/blobs/..%2f..%2f..%2f..%2fetc%2fpasswd",
        b"/v2/../../../../etc/passwd",
    ],
    ids=lambda target: ascii(target[:40]),
)
def test_another_spelling_of_an_address_is_another_address(wire: Wire, server: Server, target: bytes) -> None:
    """As sent over the wire, no other spelling pulls, overwrites or deletes the sealed tag."""
    pulled = wire.ask("GET", target)
    with closing(Wire(server)) as second, closing(Wire(server)) as third:
        pushed = second.ask("PUT", target, b"Content-Type: " + OCI_MANIFEST.encode(), body=EVIL.raw)
        deleted = third.ask("DELETE", target)

    for reply in (pulled, pushed, deleted):
        assert reply.status in {0, 400, 404, 405, 414, 431}
        assert "x-evil" not in reply.headers


def test_an_absolute_address_is_the_same_address(wire: Wire) -> None:
    """A request with an absolute URL, as for a proxy, is answered by its path, whatever host the URL names."""
    reply = wire.ask("GET", b"http://evil.example" + TAG.encode())

    assert reply.status in {0, 400, 404} or reply.body == SEALED.raw


def test_head_has_a_length_and_no_body(wire: Wire) -> None:
    """HEAD returns the length and no body: the next bytes on the connection are the next answer."""
    manifest = wire.ask("HEAD", TAG)
    blob = wire.ask("HEAD", f"/v2/shop/app/blobs/{LARGE.digest}")
    missing = wire.ask("HEAD", "/v2/shop/app/manifests/9.9.9")
    after = wire.ask("GET", TAG)

    assert manifest.headers["content-length"] == str(len(SEALED.raw))
    assert blob.headers["content-length"] == str(len(LARGE.data))
    assert missing.status == 404
    assert after.body == SEALED.raw


def test_parts_and_the_whole_of_a_large_blob(wire: Wire) -> None:
    """Ranges and whole blobs have the same bytes whether the kernel or the server sends them."""
    url = f"/v2/shop/app/blobs/{LARGE.digest}"
    whole = wire.ask("GET", url)
    part = wire.ask("GET", url, b"Range: bytes=262143-1048577")
    tail = wire.ask("GET", url, b"Range: bytes=-5")
    outside = wire.ask("GET", url, b"Range: bytes=99999999-")

    assert whole.body == LARGE.data
    assert part.status == 206
    assert part.body == LARGE.data[262143:1048578]
    assert part.headers["content-range"] == f"bytes 262143-1048577/{len(LARGE.data)}"
    assert tail.body == LARGE.data[-5:]
    assert outside.status == 416


def test_expect_100_continue_is_answered(wire: Wire) -> None:
    """`Expect: 100-continue` is answered first, and then the request itself."""
    blob = Blob(b"asked first")
    wire.say(
        b"POST /v2/shop/app/blobs/uploads/?digest=%s HTTP/1.1\r\n" % blob.digest.encode(),
        b"Host: localhost\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n",
    )
    first = wire.hear()
    wire.say(blob.data)
    second = wire.hear() if first.status == 100 else first

    assert second.status == 201


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("how", ["post", "put"])
def test_a_connection_that_breaks_in_the_body_publishes_nothing(server: Server, how: str, chunked: bool) -> None:
    """A body that is cut off is never stored as complete, even if the received part has the digest."""
    data = f"cut off {how} {chunked}".encode()
    target = f"/v2/shop/app/blobs/uploads/?digest={digest_of(data)}"
    if how == "put":
        location = httpx2.post(f"{server.url}/v2/shop/app/blobs/uploads/", trust_env=False).headers["Location"]
        target = f"{location}?digest={digest_of(data)}"
    wire = Wire(server)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (len(data) + 1)
    wire.say(
        f"{how.upper()} {target} HTTP/1.1\r\nHost: localhost\r\n".encode() + framing + b"\r\n\r\n",
        b"%x\r\n%s\r\n" % (len(data), data) if chunked else data,
    )
    wire.close()

    assert not held(server, digest_of(data))
    assert httpx2.get(f"{server.url}/v2/", trust_env=False).status_code == 200
    assert not held(server, digest_of(data))


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 4", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 4"),
        (b"Content-Length: 4", b"Content-Length: 400"),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding : chunked",),
        (b"Transfer-Encoding:\x0bchunked",),
        (b" Transfer-Encoding: chunked",),
        (b"Content-Length: +4",),
        (b"Content-Length: 0x4",),
        (b"Content-Length: 4 4",),
    ],
    ids=lambda lines: ascii(b" / ".join(lines))[:50],
)
def test_a_smuggled_request_passes_no_seal(server: Server, lines: tuple[bytes, ...]) -> None:
    """An ambiguous body length is refused, or what follows it is checked as an ordinary request."""
    hidden = b"DELETE %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % TAG.encode()
    wire = Wire(server)
    wire.say(
        b"\r\n".join([b"POST /v2/shop/smuggled/blobs/uploads/ HTTP/1.1", b"Host: localhost", *lines, b"", b""]),
        b"0\r\n\r\n" + hidden,
    )
    replies: list[int] = []
    while (reply := wire.hear()).status and len(replies) < 4:
        replies.append(reply.status)
    wire.close()

    assert all(status in {100, 202, 400, 404, 405, 411, 501} for status in replies)
    assert httpx2.get(f"{server.url}{TAG}", trust_env=False).content == SEALED.raw


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"f" * 19 + b"\r\nabc\r\n0\r\n\r\n",
        b"3;" + b"x" * 100_000 + b"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcXX0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nno trailer\x00\r\n\r\n",
        b"3\r\nabc\r\n0\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
    ],
    ids=["word", "negative", "overflow", "extension", "unended", "trailer", "long-trailer"],
)
@pytest.mark.parametrize("target", ["manifest", "blob", "session", "record", "accept"])
def test_malformed_chunks_are_400_and_close_the_connection(server: Server, target: str, body: bytes) -> None:
    """Malformed chunks are refused as the spec formats errors, and what follows them on the connection is not a request."""
    log_after(server, server.log.stat().st_size, b"/v2/the-first-one")  # a former test's line can come late
    before = server.log.stat().st_size
    location = httpx2.post(f"{server.url}/v2/shop/app/blobs/uploads/", trust_env=False).headers["Location"]
    method, path = {
        "manifest": ("PUT", "/v2/shop/app/manifests/7.7.7"),
        "blob": ("POST", f"/v2/shop/app/blobs/uploads/?digest={digest_of(b'abc')}"),
        "session": ("PATCH", location),
        "record": ("POST", "/v2/shop/app/_boltseal/records"),
        "accept": ("POST", "/api/v1/accept"),
    }[target]
    hidden = b"DELETE %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % TAG.encode()
    wire = Wire(server)
    wire.say(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n".encode(),
        b"Content-Type: application/json\r\n\r\n",
        body + hidden,
    )
    refused, after = wire.hear(), wire.hear()
    wire.close()
    lines = map(json.loads, log_after(server, before, b"/v2/the-last-one"))
    noted = [line for line in lines if line["status"] == 400]

    assert (refused.status, after.status) == (400, 0)
    assert json.loads(refused.body)["errors"][0]["code"] == "SIZE_INVALID"
    assert refused.headers["connection"] == "close"
    assert [line["method"] for line in noted] == [method]
    assert noted[0]["fault"].endswith('(transfer-encoding "chunked")')
    assert httpx2.get(f"{server.url}{TAG}", trust_env=False).content == SEALED.raw
    assert not held(server, digest_of(b"abc"))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_manifest_over_the_limit_is_answered_while_it_is_sent(server: Server, chunked: bool) -> None:
    """The client reads 413 although it is still sending, and the server does not store what it sends."""
    body = b" " * (6 * 1024 * 1024)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    answer = httpx2.put(
        f"{server.url}/v2/shop/app/manifests/9.9.9",
        content=pieces() if chunked else body,
        headers={"Content-Type": OCI_MANIFEST},
        trust_env=False,
    )

    assert answer.status_code == 413


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50,
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\n\x00: \x00\r\n\r\n",
        bytes(range(256)) * 40,
    ],
    ids=["tls", "http2", "short", "blank", "version", "many", "long", "nul", "noise"],
)
def test_input_that_is_not_http_affects_only_its_connection(wire: Wire, server: Server, noise: bytes) -> None:
    """Other protocols, endless headers and noise end their own connection and affect nothing else."""
    wire.say(noise)
    wire.close()

    assert httpx2.get(f"{server.url}/v2/", trust_env=False).status_code == 200


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "BREW"])
def test_an_unknown_method_is_refused(wire: Wire, method: str) -> None:
    """A method that no route has gets 405 or 400, and is never handled as another."""
    reply = wire.ask(method, TAG)

    assert reply.status in {0, 400, 404, 405, 501}
    assert SEALED.raw not in reply.body


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    """Requests sent at once on one connection are answered in order, each with its own answer."""
    one = f"GET {TAG} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    two = b"GET /v2/shop/app/manifests/9.9.9 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wire.say(one + two + one)

    assert wire.hear().body == SEALED.raw
    assert wire.hear().status == 404
    assert wire.hear().body == SEALED.raw


@pytest.mark.parametrize("host", [b"Host: evil.example", b"Host:", b"Host: a\r\nHost: b", b"X-No-Host: 1"])
def test_the_host_header_decides_nothing(server: Server, host: bytes) -> None:
    """Without users, a request with no Host, a wrong one or two is refused unless it names this machine."""
    wire = Wire(server)
    wire.say(b"POST /v2/shop/app/blobs/uploads/ HTTP/1.1\r\n" + host + b"\r\nContent-Length: 0\r\n\r\n")
    reply = wire.hear()
    wire.close()

    assert reply.status == 403
    assert "location" not in reply.headers


def test_nothing_that_is_sent_forges_a_line_of_the_log(server: Server) -> None:
    """Line ends and escape sequences in paths, methods, hosts and users stay inside one JSON object of the log."""
    before = server.log.stat().st_size
    forged = b'{"time":"2026-01-01","event":"forged"}'
    user = base64.b64encode(b"eve\n" + forged + b"\x1b[2J:password")
    requests = [
        b"GET /v2/x%0a" + forged.replace(b'"', b"%22") + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v2/\x1b[31m\xe2\x80\xa8" + forged + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v2/\n" + forged + b"\n HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v2/shop/app/tags/list?n=%0a" + b"&x=\x1b]0;x\x07 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\x1b[2J" + forged + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic " + user + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUser-Agent: " + forged + b"\r\n\tfolded\r\n\r\n",
        b"EVIL\x1b" + forged + b" /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    for request in requests:
        wire = Wire(server)
        wire.say(request)
        wire.hear()
        wire.close()
    lines = log_after(server, before, b"/v2/the-last-one")
    events = [json.loads(line) for line in lines]

    assert {event["event"] for event in events} == {"request"}
    assert any(event["path"].startswith("/v2/x%0a{") for event in events)
    assert all(32 <= byte < 127 for line in lines for byte in line)


def log_after(server: Server, start: int, last: bytes) -> list[bytes]:
    """Return the log's lines after `start`, once the line of a final request is there."""
    httpx2.get(f"{server.url}{last.decode()}", trust_env=False)
    wait_until(lambda: last in server.log.read_bytes()[start:], "the last request is in the log")
    return server.log.read_bytes()[start:].splitlines()
