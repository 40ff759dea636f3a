"""The trace of requests: one line for each, without secrets."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import httpx2
import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.request_trace import public_url
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.reference import Repository, Tag
from tests.fakes.hub import FakeHub
from tests.ports import free_port

NODE = Repository("library/node")
OCI = "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ghcr.io/v2/a/manifests/1", "https://ghcr.io/v2/a/manifests/1"),
        ("https://ada:secret@ghcr.io:8443/v2/", "https://ghcr.io:8443/v2/"),
        ("https://h/token?service=h&scope=repository:a:pull&scope=repository:b:pull", None),
        (
            "https://cdn/x?X-Amz-Signature=secret&sig=secret&se=secret",
            "https://cdn/x?X-Amz-Signature=***&sig=***&se=***",
        ),
        ("https://cdn/bcdn_token=secret/x", "https://cdn/bcdn_token=***/x"),
        ("https://h/v2/a/blobs/uploads/7?_state=secret&digest=sha256:ab", None),
        ("https://h/x#secret", "https://h/x"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str | None) -> None:
    """A traced URL has no user names, passwords, signatures or unknown parameters, but those of the specifications."""
    public = public_url(httpx2.URL(url))

    assert "secret" not in public
    assert "ada" not in public
    assert shown in (None, public)
    assert ("scope=repository:a:pull" in public) == ("scope=" in url)
    assert ("digest=sha256:ab" in public) == ("digest=" in url)


def test_a_url_can_not_write_to_the_terminal() -> None:
    """A redirect's target with control characters is escaped in the trace."""
    assert "\x1b" not in public_url(httpx2.URL("https://h/v2/?n=%1b%5b31m"))


async def test_each_request_is_one_line(tmp_path: Path) -> None:
    """Challenge, token and answer are each a line with method, URL, status and time."""
    hub = FakeHub(users={"ada": "secret"})
    hub.publish("library/node", "16.13", b"{}", OCI)
    lines: list[str] = []
    login = tmp_path / "config.json"
    login.write_text(json.dumps({"auths": {"docker.io": {"username": "ada", "password": "secret"}}}))
    transport = Transport(CredentialStore([login]), TransportOptions(trace=lines.append), app=hub.transport())
    await RegistryClient(transport, "docker.io").resolve(NODE, Tag("16.13"))
    await transport.aclose()

    manifest = "https://registry-1.docker.io/v2/library/node/manifests/16.13"
    realm = "https://auth.test/token?scope=repository:library/node:pull&service=hub.test"
    assert [re.sub(r"[0-9]+ ms$", "N ms", line) for line in lines] == [
        f"HEAD {manifest} 401 N ms",
        f"GET {realm} 200 N ms",
        f"HEAD {manifest} 200 N ms",
    ]


async def test_a_header_that_is_not_http_is_not_quoted() -> None:
    """An invalid header, which may have a signed URL, is not quoted in the error."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        registry = f"127.0.0.1:{bound.getsockname()[1]}"

        def answer() -> None:
            with bound.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 307 x\r\nLocation: https://cdn/?sig=sesame\x00\r\n\r\n")

        server = threading.Thread(target=answer)
        server.start()
        options = TransportOptions(attempts=1, plain_http=frozenset({registry}))
        transport = Transport(CredentialStore(()), options)
        with pytest.raises(RemoteUnavailable, match=r": illegal header line$"):
            await RegistryClient(transport, registry).resolve(NODE, Tag("16.13"))
        await transport.aclose()
        server.join()


async def test_a_request_without_an_answer_is_a_line_too() -> None:
    """A request without an answer is a line with its failure."""
    lines: list[str] = []
    transport = Transport(CredentialStore(()), TransportOptions(trace=lines.append, attempts=1))
    with pytest.raises(RemoteUnavailable):
        await RegistryClient(transport, f"127.0.0.1:{free_port()}").resolve(NODE, Tag("16.13"))
    await transport.aclose()

    assert any("ConnectError" in line for line in lines), lines
