"""Several worker processes on one store give the same answers.

Each test uses many persistent connections, of which every worker has some: the kernel distributes them, and
`connected` checks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests import servers
from tests.real.layout import CONFIG, MANIFEST
from tests.real.registry import short
from tests.real.tools import run
from tests.servers import Server

pytestmark = pytest.mark.real

ROUNDS = 50
PUSHERS = 16
CONNECTIONS = 24
WORKERS = 3

#: The command line, as a process beside the server.
BOLTSEAL = (sys.executable, "-m", "boltseal")

Result = TypeVar("Result")

DELETABLE = """\
[[rule]]
tag = "try-*"
mode = "sealed"
keep = "deletable"
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One persistent connection to one worker."""

    def __init__(self, address: str) -> None:
        self._http = http.client.HTTPConnection(address, timeout=60)
        self._http.connect()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request and return its whole answer."""
        self._http.request(method, path, body, dict(headers or {}))
        answer = self._http.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def push_blob(self, repository: str, data: bytes) -> str:
        """Push a blob; return its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    def put_manifest(self, repository: str, tag: str, manifest: bytes) -> Answer:
        """Push a manifest under a tag."""
        return self.ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": MANIFEST})

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@contextlib.contextmanager
def connected(server: Server, count: int, workers: int) -> Iterator[Sequence[Connection]]:
    """Return at least so many connections, and more until each worker has one."""
    with contextlib.ExitStack() as stack:
        connections: list[Connection] = []
        while len(connections) < count or workers_of(server) < workers:
            assert len(connections) < 20 * count, f"not every worker gets connections:\n{server.log_tail()}"
            connection = Connection(server.address)
            stack.callback(connection.close)
            connections.append(connection)
            assert connection.ask("GET", "/v2/").status == 200
        yield connections


def workers_of(server: Server) -> int:
    """Return how many processes of the server have a connection that the test opened."""
    port = int(server.address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    open_now = {f"socket:[{row[9]}]" for row in rows if row[3] == "01" and row[1].endswith(f":{port:04X}")}
    threads = Path(f"/proc/{server.pid}/task").iterdir()
    children = {child for thread in threads for child in (thread / "children").read_text().split()}
    return sum(bool(open_now & _open_files(child)) for child in children)


def _open_files(process: str) -> set[str]:
    """Return the open files of a process; one that is closed at this moment may be missing."""
    links = set()
    for one in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(str(one.readlink()))
    return links


def at_once(
    connections: Sequence[Connection], send: Callable[[Connection, bytes], Result], bodies: Sequence[bytes]
) -> Sequence[Result]:
    """Send one body on each connection, all at the same moment."""
    start = threading.Barrier(len(connections))

    def started(connection: Connection, body: bytes) -> Result:
        start.wait()
        return send(connection, body)

    with ThreadPoolExecutor(len(connections)) as threads:
        return list(threads.map(started, connections, bodies))


def manifest_of(config: str, size: int, note: str) -> bytes:
    """Return a manifest without layers; the note makes it unique."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config, "size": size},
            "layers": [],
            "annotations": {"note": note},
        }
    ).encode()


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def server_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Server]]:
    """Gives the server with so many workers: one for all tests of this module, each of which has a repository of its own."""
    started: dict[int, Server] = {}
    with contextlib.ExitStack() as stack:

        def server_with(workers: int) -> Server:
            if workers not in started:
                data = tmp_path_factory.mktemp("workers") / "data"
                started[workers] = stack.enter_context(servers.boltseal(data, workers=workers))
            return started[workers]

        yield server_with


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_of_racing_first_pushes_exactly_one_gets_the_tag(workers: int, tmp_path: Path) -> None:
    """Of concurrent pushes of different images to one free tag, one succeeds and the others are refused."""
    data = tmp_path / "data"
    with servers.boltseal(data, workers=workers) as server, connected(server, PUSHERS, workers) as connections:
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            tag = f"1.0.{number}"
            manifests = [manifest_of(config, 2, f"{tag} of pusher {pusher}") for pusher in range(len(connections))]

            def push(connection: Connection, manifest: bytes, tag: str = tag) -> Answer:
                return connection.put_manifest("shop/app", tag, manifest)

            answers = at_once(connections, push, manifests)

            assert sorted(answer.status for answer in answers) == [201] + [409] * (len(connections) - 1)
            (won,) = (digest_of(m) for m, answer in zip(manifests, answers, strict=True) if answer.status == 201)
            assert all(short(won).encode() in answer.body for answer in answers if answer.status == 409)
            asked = [c.ask("HEAD", f"/v2/shop/app/manifests/{tag}") for c in connections]
            assert {answer.headers["docker-content-digest"] for answer in asked} == {won}
    assert run(*BOLTSEAL, "admin", "fsck", "--data", str(data)).ok


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_of_racing_pushes_of_one_image_all_succeed(
    workers: int, server_with: Callable[[int], Server], repository: str
) -> None:
    """Concurrent pushes of one image to one tag all succeed."""
    server = server_with(workers)
    with connected(server, PUSHERS, workers) as connections:
        config = connections[0].push_blob(repository, b"{}")
        manifests = [manifest_of(config, 2, "the one")] * len(connections)

        answers = at_once(connections, lambda c, m: c.put_manifest(repository, "1.0.0", m), manifests)

        assert {answer.status for answer in answers} == {201}


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_racing_pushes_of_one_layer_all_succeed(
    workers: int, server_with: Callable[[int], Server], repository: str
) -> None:
    """Concurrent pushes of one layer all succeed."""
    server = server_with(workers)
    with connected(server, PUSHERS, workers) as connections:
        layers = [os.urandom(300_000)] * len(connections)

        digests = at_once(connections, lambda c, layer: c.push_blob(repository, layer), layers)

        (digest,) = set(digests)
        assert {c.ask("GET", f"/v2/{repository}/blobs/{digest}").body for c in connections} == {layers[0]}


def test_a_deleted_tag_is_at_once_gone_on_every_worker(tmp_path: Path) -> None:
    """A delete reaches the cached answers of all workers before it is acknowledged."""
    with (
        servers.boltseal(tmp_path / "data", workers=WORKERS, config=DELETABLE) as server,
        connected(server, CONNECTIONS, WORKERS) as connections,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            path = f"/v2/shop/app/manifests/try-{number}"
            connections[0].put_manifest("shop/app", f"try-{number}", manifest_of(config, 2, path))
            assert {c.ask("GET", path).status for c in connections} == {200}

            deleted = connections[number % CONNECTIONS].ask("DELETE", path)

            assert deleted.status == 202, deleted.body
            assert {c.ask("GET", path).status for c in connections} == {404}


def test_a_deleted_manifest_is_at_once_gone_on_every_worker(
    server_with: Callable[[int], Server], repository: str
) -> None:
    """A delete by digest reaches the cached answers of all workers before it is acknowledged."""
    server = server_with(WORKERS)
    with connected(server, CONNECTIONS, WORKERS) as connections:
        config = connections[0].push_blob(repository, b"{}")
        for number in range(ROUNDS):
            manifest = manifest_of(config, 2, str(number))
            path = f"/v2/{repository}/manifests/{digest_of(manifest)}"
            connections[0].put_manifest(repository, digest_of(manifest), manifest)
            assert {c.ask("GET", path).status for c in connections} == {200}

            deleted = connections[number % CONNECTIONS].ask("DELETE", path)

            assert deleted.status == 202, deleted.body
            assert {c.ask("GET", path).status for c in connections} == {404}


def test_a_purged_image_is_at_once_gone_on_every_worker(server_with: Callable[[int], Server], repository: str) -> None:
    """When `boltseal tag purge`, another process, has ended, no worker serves the image from its cache."""
    server = server_with(WORKERS)
    with connected(server, CONNECTIONS, WORKERS) as connections:
        secret = os.urandom(5000)
        config = connections[0].push_blob(repository, secret)
        manifest = manifest_of(config, len(secret), "holds a secret")
        connections[0].put_manifest(repository, "1.0.0", manifest)
        paths = [
            *(f"/v2/{repository}/manifests/1.0.0", f"/v2/{repository}/manifests/{digest_of(manifest)}"),
            f"/v2/{repository}/blobs/{config}",
        ]
        assert {c.ask("GET", path).status for path in paths for c in connections} == {200}

        run(
            *BOLTSEAL,
            "tag",
            "purge",
            "--data",
            str(server.folder),
            "--reason",
            "leaked",
            "--yes",
            f"{server.address}/{repository}:1.0.0",
        ).checked()

        assert {c.ask("GET", path).status for path in paths for c in connections} == {404}


def test_a_moved_tag_resolves_to_the_same_digest_on_every_worker(
    server_with: Callable[[int], Server], repository: str
) -> None:
    """After a push to a mutable tag was acknowledged, no worker serves the former image."""
    server = server_with(WORKERS)
    with connected(server, CONNECTIONS, WORKERS) as connections:
        config = connections[0].push_blob(repository, b"{}")
        for number in range(ROUNDS):
            manifest = manifest_of(config, 2, str(number))
            pushed = connections[number % CONNECTIONS].put_manifest(repository, "latest", manifest)

            assert pushed.status == 201, pushed.body
            assert {c.ask("GET", f"/v2/{repository}/manifests/latest").body for c in connections} == {manifest}


def test_an_upload_is_resumed_at_any_worker(server_with: Callable[[int], Server], repository: str) -> None:
    """An upload session, which is in the store, is continued by any worker."""
    server = server_with(WORKERS)
    with connected(server, CONNECTIONS, WORKERS) as connections:
        chunks = [os.urandom(100_000 + number) for number in range(len(connections))]
        location = connections[0].ask("POST", f"/v2/{repository}/blobs/uploads/").headers["location"]
        sent = 0
        for connection, chunk in zip(connections, chunks, strict=True):
            answer = connection.ask("PATCH", location, chunk, {"Content-Range": f"{sent}-{sent + len(chunk) - 1}"})
            assert answer.status == 202, answer.body
            location, sent = answer.headers["location"], sent + len(chunk)

        whole = b"".join(chunks)
        mark = "&" if "?" in location else "?"
        done = connections[7].ask("PUT", f"{location}{mark}digest={digest_of(whole)}")

        assert done.status == 201, done.body
        assert {c.ask("GET", f"/v2/{repository}/blobs/{digest_of(whole)}").body for c in connections} == {whole}
