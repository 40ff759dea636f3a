"""A rebase that is killed, or loses an answer, at any request: nothing half-made gets the tag, and a second run completes it."""

from __future__ import annotations

import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.cli.program import call, clean_environment
from tests.polling import wait_until
from tests.servers import Server
from tests.tar_images import app_on, base_of, push_document
from tests.thread_server import boltseal_in_thread

pytestmark = [pytest.mark.slow]
OLD = base_of({"usr/lib/tls.so": "tls 1"})
NEW = base_of({"usr/lib/tls.so": "tls 2"})


class Relay(socketserver.ThreadingTCPServer):
    """Forwards connections to a registry. `at`: the beginning of the request that it holds; `forwards`: whether it still
    passes that request on, so that only the answer is lost.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, at: bytes, *, forwards: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port, self.at, self.forwards = port, at, forwards
        self.reached, self.answered, self.released = threading.Event(), threading.Event(), threading.Event()


class _Connection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port)) as registry:
            back = threading.Thread(target=self._answers, args=(registry,), daemon=True)
            self.held = False
            back.start()
            while piece := self._received():
                if self.server.at in piece and not self.server.reached.is_set():
                    self.held = True
                    if self.server.forwards:
                        registry.sendall(piece)
                        continue
                    self.server.reached.set()
                    self.server.released.wait()
                    return
                registry.sendall(piece)
            registry.shutdown(socket.SHUT_RDWR)

    def _received(self) -> bytes:
        try:
            received: bytes = self.request.recv(65536)
        except ConnectionError:
            return b""
        return received

    def _answers(self, registry: socket.socket) -> None:
        try:
            while piece := registry.recv(65536):
                if self.held:
                    self.server.reached.set()
                    return
                self.request.sendall(piece)
        except OSError:
            return


@contextmanager
def relay(server: Server, at: bytes, *, forwards: bool) -> Iterator[Relay]:
    with Relay(int(server.address.rpartition(":")[2]), at, forwards=forwards) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.released.set()
        made.shutdown()
        thread.join()


def arguments(address: str) -> list[str]:
    return ["rebase", f"{address}/shop/app:1", "--onto", f"{address}/base/os:latest", "--tag", "2",
            "--base", f"{address}/base/os@{OLD.digest}"]  # fmt: skip


def kill_at_the_request(between: Relay) -> int:
    """Run a rebase through the relay, kill it when the request is held, and return its exit code."""
    address = f"127.0.0.1:{between.server_address[1]}"
    started = subprocess.Popen(
        [sys.executable, "-m", "boltseal", *arguments(address)],
        env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    reached = between.reached.wait(60)
    started.kill()
    output, _ = started.communicate()
    assert reached, output
    return started.returncode


@pytest.mark.parametrize("forwards", [False, True], ids=["not-done", "answer-lost"])
@pytest.mark.parametrize(
    "at",
    [
        pytest.param(b"GET /v2/shop/app/blobs/", id="reading"),
        pytest.param(b"POST /v2/shop/app/blobs/uploads/", id="first-blob"),
        pytest.param(b"PUT /v2/shop/app/manifests/2", id="tag"),
        pytest.param(b"POST /v2/shop/app/_boltseal/records", id="record"),
    ],
)
def test_a_killed_rebase_tags_all_or_nothing_and_is_completed(at: bytes, *, forwards: bool, tmp_path: Path) -> None:
    """Killed at a request that was not carried out, or was without its answer, a rebase leaves no tag or the whole image."""
    with boltseal_in_thread(tmp_path / "data") as server, httpx2.Client(base_url=server.url, trust_env=False) as client:
        push_document(client, "base/os", "latest", OLD)
        push_document(client, "shop/app", "1", app_on(OLD, {"app/main": "main"}))
        push_document(client, "base/os", "latest", NEW)
        with relay(server, at, forwards=forwards) as between:
            killed = kill_at_the_request(between)
            tagged = client.get("/v2/shop/app/manifests/2", headers={"accept": NEW.media_type})
            recorded = at.endswith(b"records") and forwards
            wait_until(lambda: not recorded or _records(client), "the first record is signed")
            again = call(*arguments(f"127.0.0.1:{between.server_address[1]}"))
        complete = client.get("/v2/shop/app/manifests/2", headers={"accept": NEW.media_type}).json()
        blobs = [client.head(f"/v2/shop/app/blobs/{each['digest']}") for each in complete["layers"]]

        assert killed == -signal.SIGKILL
        assert tagged.status_code == (200 if at.endswith(b"records") or (b"manifests" in at and forwards) else 404)
        assert again.code == 0, again.err
        assert [each.status_code for each in blobs] == [200] * 3
        assert len(_records(client)) == 1


def _records(client: httpx2.Client) -> list[dict[str, object]]:
    found: list[dict[str, object]] = client.get("/v2/shop/app/_boltseal/records").json()["entries"]
    return found
