"""Why an object store failed, in one line each: on real connections, and with an S3 server that answers in a given way."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boltseal.errors import BoltsealError, operators_message
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.bucket_owner import OWNER
from boltseal.server.storage.ledger_mark import MARK
from boltseal.server.storage.object_client import Bucket, Limits, ObjectClient, ObjectUse
from boltseal.server.storage.object_failures import OF_MARK, FailureKind, failure_of
from boltseal.server.storage.object_tiles import TILES
from boltseal.server.store_factory import prepare
from tests.authority import authority
from tests.cli import program
from tests.ports import free_port
from tests.serving import settings_of

KEY = ("KEYIDKEYID", "secretsecret")
USES = (BLOBS, OWNER, TILES, MARK)


def client_of(use: ObjectUse, endpoint: str, *, answer_s: float = 20) -> ObjectClient:
    """Return a client that asks once."""
    limits = Limits(answer_s=answer_s, connect_s=20, retry_s=1, retries=0)
    return Bucket("bucket", "prefix", endpoint, "us-east-1", KEY).connect(
        ObjectUse(use.name, use.failed, limits, use.settings)
    )


def failure(use: ObjectUse, endpoint: str, *, answer_s: float = 20) -> BoltsealError:
    """Return the error of a write."""
    with pytest.raises(BoltsealError) as raised:
        client_of(use, endpoint, answer_s=answer_s).put_and_wait("key", b"content")
    return raised.value


@contextmanager
def answering(status: int, body: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run an HTTP server that always gives this answer; yield its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer()

        def answer(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a handshake that the client refused
            return

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


ANSWERS = [
    (503, "SlowDown", "the S3 server answers 503 (SlowDown)", "see its log"),
    (500, "", "the S3 server answers 500", "see its log"),
    (507, "XMinioStorageFull", "the S3 server answers 507 (XMinioStorageFull)", "see its log"),
    (403, "InvalidAccessKeyId", "the S3 server refuses the access key (InvalidAccessKeyId)", "check "),
    (403, "RequestTimeTooSkewed", "the clock of this machine is wrong", "correct the clock"),
    (404, "NoSuchBucket", "the bucket does not exist", "create it, or correct [storage"),
    (400, "AuthorizationHeaderMalformed", "the S3 server expects another region", "set `region` in [storage."),
]


@pytest.mark.parametrize(("status", "code", "cause", "advice"), ANSWERS)
def test_an_answer_of_the_s3_server_is_one_clear_line(status: int, code: str, cause: str, advice: str) -> None:
    """The status, S3's own code and what to do, without the library's names, an address for clients, or a credential."""
    body = f"<Error><Code>{code}</Code><Message>x</Message></Error>".encode() if code else b"<html>no S3</html>"
    with answering(status, body) as port:
        errors = [failure(use, f"http://127.0.0.1:{port}") for use in USES]
        with pytest.raises(BoltsealError) as listing:
            list(client_of(BLOBS, f"http://127.0.0.1:{port}").listed(""))
        errors.append(listing.value)

    for error in errors:
        check_text(error, cause, advice)
        assert operators_message(error) == f"{error.message} [s3://bucket at http://127.0.0.1:{port}]"


def check_text(error: BoltsealError, cause: str, advice: str) -> None:
    """Check the line of an error."""
    assert cause in error.message
    assert advice in error.message
    assert not re.search(r"\n|Error|127\.0\.0\.1|reqwest|prefix/", error.message.replace("(NoSuchBucket)", ""))
    assert KEY[0] not in operators_message(error)
    assert KEY[1] not in operators_message(error)


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_a_server_that_is_down_is_one_clear_line(use: ObjectUse) -> None:
    """Nothing listens on the port, or the name of the host does not exist."""
    down = failure(use, f"http://127.0.0.1:{free_port()}")
    check_text(down, "the S3 server refuses connections", f"start it, or correct `endpoint` in {use.settings.server}")
    nameless = failure(use, "http://no-such-host.invalid")
    check_text(nameless, "the name of the S3 server is not known", "correct `endpoint`")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("gc", "--full", "--dry-run"), ("fsck",)], ids=lambda words: words[0])
def test_a_command_prints_one_line_with_the_place_and_nothing_of_the_library(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    """The output is one JSON object, and each line for people names cause, remedy, bucket and endpoint."""
    prepare(settings_of(tmp_path / "data"))
    endpoint = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "boltseal.toml"
    config.write_text(
        f'[server]\ndata = "{tmp_path}/data"\n[storage]\nblobs = "s3://bucket/registry"\n[storage.s3]\nendpoint = "{endpoint}"\n',
        encoding="utf-8",
    )
    login = {"AWS_ACCESS_KEY_ID": KEY[0], "AWS_SECRET_ACCESS_KEY": KEY[1]}
    people = program.run("admin", *words, "--config", config, environment=login)
    programs = program.run("admin", *words, "--config", config, "--json", environment=login)
    lines = [line for line in (people.out + people.err).splitlines() if "S3 server" in line]

    assert (people.code, programs.code, programs.json["outcome"]) == (3, 3, "unknown")
    assert "Traceback" not in people.err
    assert "GenericError" not in people.out + people.err
    assert lines
    for line in lines:
        assert "refuses connections" in line
        assert line.endswith(f"[s3://bucket at {endpoint}]")


def test_a_missing_access_key_is_not_a_refused_one() -> None:
    """Without a key obstore asks for the role of the machine; what answers there says nothing about the S3 server."""
    text = "Error performing PUT http://169.254.169.254/latest/api/token in 1ms - Server returned non-2xx status code: 403 Forbidden"
    found = failure_of(ValueError(text), "read", OF_MARK, denied=False)

    assert found == (FailureKind.REFUSED, "read", "there is no access key", "set access_key_file of [storage.mark]")


def test_a_server_that_does_not_answer_is_one_clear_line() -> None:
    """A server that accepts the connection and is silent, and one that ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = failure(BLOBS, f"http://127.0.0.1:{silent.getsockname()[1]}", answer_s=0.5)
    check_text(error, "the S3 server does not answer in time", "check that it runs")


def test_a_certificate_that_is_not_trusted_is_one_clear_line(tmp_path: Path) -> None:
    """The reason is that of the certificate; plain HTTP at a TLS port, and TLS at a plain port, have lines of their own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority(tmp_path)
    context.load_cert_chain(files.cert, files.key)
    with answering(200, b"", context) as port:
        unknown = failure(BLOBS, f"https://127.0.0.1:{port}")
        plain = failure(BLOBS, f"http://127.0.0.1:{port}")
    with answering(200, b"") as port:
        no_tls = failure(BLOBS, f"https://127.0.0.1:{port}")

    check_text(unknown, "the certificate of the S3 server is not trusted (UnknownIssuer)", "SSL_CERT_FILE")
    check_text(plain, "the S3 server closes the connection", "begin `endpoint` in [storage.s3] with https://")
    check_text(no_tls, "the S3 server speaks no TLS", "begin `endpoint` in [storage.s3] with http://")
