"""Several worker processes on one store: who answers must make no difference to what is true.

Each test talks over many kept-open connections, which the kernel spreads over the workers, and so over all
of them in nearly every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import servers
from tests.real.layout import CONFIG, MANIFEST
from tests.real.registry import short

pytestmark = pytest.mark.real

ROUNDS = 50
PUSHERS = 16
CONNECTIONS = 24

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
    """One connection to one worker, kept open."""

    def __init__(self, address: str) -> None:
        self._http = http.client.HTTPConnection(address, timeout=60)
        self._http.connect()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request and its whole answer."""
        self._http.request(method, path, body, dict(headers or {}))
        answer = self._http.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def push_blob(self, repository: str, data: bytes) -> str:
        """Pushes a blob, and gives its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert answer.status == 201, answer.body
        return digest

    def put_manifest(self, repository: str, tag: str, manifest: bytes) -> Answer:
        """Pushes a manifest under a tag."""
        return self.ask("PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"Content-Type": MANIFEST})

    def close(self) -> None:
        """Closes it."""
        self._http.close()


@contextlib.contextmanager
def connected(address: str, count: int) -> Iterator[Sequence[Connection]]:
    """Many connections."""
    with contextlib.ExitStack() as stack:
        connections = [Connection(address) for _ in range(count)]
        for connection in connections:
            stack.callback(connection.close)
        yield connections


def manifest_of(config: str, size: int, note: str) -> bytes:
    """A manifest without layers; the note makes it another one."""
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
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("workers", [1, 3])
def test_of_racing_first_pushes_exactly_one_gets_the_tag(workers: int, tmp_path: Path) -> None:
    """However many push different images under one free tag at once: one is published, the others are told so."""
    with (
        servers.boltseal(tmp_path / "data", workers=workers) as server,
        connected(server.address, PUSHERS) as connections,
        ThreadPoolExecutor(PUSHERS) as threads,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            tag = f"1.0.{number}"
            manifests = [manifest_of(config, 2, f"{tag} of pusher {pusher}") for pusher in range(PUSHERS)]
            start = threading.Barrier(PUSHERS)

            def push(
                connection: Connection, manifest: bytes, start: threading.Barrier = start, tag: str = tag
            ) -> Answer:
                start.wait()
                return connection.put_manifest("shop/app", tag, manifest)

            answers = list(threads.map(push, connections, manifests))

            assert sorted(answer.status for answer in answers) == [201] + [409] * (PUSHERS - 1)
            (won,) = (digest_of(m) for m, answer in zip(manifests, answers, strict=True) if answer.status == 201)
            assert all(short(won).encode() in answer.body for answer in answers if answer.status == 409)
            means = {
                c.ask("HEAD", f"/v2/shop/app/manifests/{tag}").headers["docker-content-digest"] for c in connections
            }
            assert means == {won}


@pytest.mark.parametrize("workers", [1, 3])
def test_of_racing_pushes_of_one_image_all_succeed(workers: int, tmp_path: Path) -> None:
    """Jobs that publish the same result at the same time don't disturb each other."""
    with (
        servers.boltseal(tmp_path / "data", workers=workers) as server,
        connected(server.address, PUSHERS) as connections,
        ThreadPoolExecutor(PUSHERS) as threads,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        manifest = manifest_of(config, 2, "the one")

        answers = list(threads.map(lambda c: c.put_manifest("shop/app", "1.0.0", manifest), connections))

        assert [answer.status for answer in answers] == [201] * PUSHERS


def test_a_deleted_tag_is_at_once_gone_on_every_worker(tmp_path: Path) -> None:
    """Workers remember what a sealed tag means; a delete by one reaches all before it is acknowledged."""
    with (
        servers.boltseal(tmp_path / "data", workers=3, config=DELETABLE) as server,
        connected(server.address, CONNECTIONS) as connections,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            path = f"/v2/shop/app/manifests/try-{number}"
            connections[0].put_manifest("shop/app", f"try-{number}", manifest_of(config, 2, path))
            assert {c.ask("GET", path).status for c in connections} == {200}

            deleted = connections[number % CONNECTIONS].ask("DELETE", path)

            assert deleted.status == 202, deleted.body
            assert {c.ask("GET", path).status for c in connections} == {404}


def test_a_deleted_manifest_is_at_once_gone_on_every_worker(tmp_path: Path) -> None:
    """The same by digest, which workers remember even longer."""
    with (
        servers.boltseal(tmp_path / "data", workers=3) as server,
        connected(server.address, CONNECTIONS) as connections,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            manifest = manifest_of(config, 2, str(number))
            path = f"/v2/shop/app/manifests/{digest_of(manifest)}"
            connections[0].put_manifest("shop/app", digest_of(manifest), manifest)
            assert {c.ask("GET", path).status for c in connections} == {200}

            deleted = connections[number % CONNECTIONS].ask("DELETE", path)

            assert deleted.status == 202, deleted.body
            assert {c.ask("GET", path).status for c in connections} == {404}


def test_a_moved_tag_means_the_same_on_every_worker(tmp_path: Path) -> None:
    """A floating tag is looked up each time, so nobody reads the displaced image after the push was acknowledged."""
    with (
        servers.boltseal(tmp_path / "data", workers=3) as server,
        connected(server.address, CONNECTIONS) as connections,
    ):
        config = connections[0].push_blob("shop/app", b"{}")
        for number in range(ROUNDS):
            manifest = manifest_of(config, 2, str(number))
            pushed = connections[number % CONNECTIONS].put_manifest("shop/app", "latest", manifest)

            assert pushed.status == 201, pushed.body
            assert {c.ask("GET", "/v2/shop/app/manifests/latest").body for c in connections} == {manifest}


def test_an_upload_goes_on_whichever_worker_answers(tmp_path: Path) -> None:
    """The session is in the store and not in the process that began it."""
    with (
        servers.boltseal(tmp_path / "data", workers=3) as server,
        connected(server.address, CONNECTIONS) as connections,
    ):
        chunks = [os.urandom(100_000 + number) for number in range(CONNECTIONS)]
        location = connections[0].ask("POST", "/v2/shop/app/blobs/uploads/").headers["location"]
        sent = 0
        for connection, chunk in zip(connections, chunks, strict=True):
            answer = connection.ask("PATCH", location, chunk, {"Content-Range": f"{sent}-{sent + len(chunk) - 1}"})
            assert answer.status == 202, answer.body
            location, sent = answer.headers["location"], sent + len(chunk)

        whole = b"".join(chunks)
        mark = "&" if "?" in location else "?"
        done = connections[7].ask("PUT", f"{location}{mark}digest={digest_of(whole)}")

        assert done.status == 201, done.body
        assert {c.ask("GET", f"/v2/shop/app/blobs/{digest_of(whole)}").body for c in connections} == {whole}
