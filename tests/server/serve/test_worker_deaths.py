"""`boltseal serve` with several workers of which some die: the others serve on, and the dead ones come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.fakes.upstream import Asked, FakeUpstream
from tests.images import image
from tests.polling import is_signed, wait_until
from tests.server.serve.process import (
    alive,
    client_of,
    digest,
    ends_within,
    manifest,
    put,
    upload_is_busy,
    workers_of,
)
from tests.servers import Server, boltseal

pytestmark = pytest.mark.slow

RESTARTS = re.compile(r"^boltseal_worker_restarts_total (\d+)", re.MULTILINE)


def asked(server: Server, path: str) -> str:
    """Return the body of the answer to a GET on a connection of its own, "" if the worker died meanwhile."""
    with contextlib.suppress(httpx2.TransportError), client_of(server) as client:
        return client.get(path).text
    return ""


def running(server: Server) -> list[int]:
    """Return the workers that run and have finished starting: the processes that listen."""
    return [pid for pid in workers_of(server.pid) if alive(pid) and listens(pid)]


def listens(pid: int) -> bool:
    """Return whether a process has a listening socket of its own."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    with contextlib.suppress(OSError):
        return any(str(fd.readlink()) in listening for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


@contextlib.contextmanager
def pinned(server: Server, pid: int) -> Iterator[httpx2.Client]:
    """A client whose connection one chosen worker has accepted. What waits for a worker that was just killed is reset."""
    with contextlib.ExitStack() as clients:
        while True:
            client = clients.enter_context(client_of(server))
            try:
                client.get("/v2/")
            except httpx2.NetworkError:
                continue
            stream = client._transport._pool.connections[0]  # type: ignore[attr-defined]
            port = stream._connection._network_stream.get_extra_info("client_addr")[1]
            if worker_of(server, port) == pid:
                yield client
                return


@contextlib.contextmanager
def on_worker(server: Server, pid: int) -> Iterator[socket.socket]:
    """A bare connection that one chosen worker has accepted."""
    with contextlib.ExitStack() as sockets:
        while True:
            address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
            connection = sockets.enter_context(socket.create_connection(address, timeout=30.0))
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n")
            connection.recv(65_536)
            if worker_of(server, connection.getsockname()[1]) == pid:
                yield connection
                return


def worker_of(server: Server, client_port: int) -> int:
    """Return the worker that has the connection from a client's port."""
    own = int(server.address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    (inode,) = (row[9] for row in rows if row[1].endswith(f":{own:04X}") and row[2].endswith(f":{client_port:04X}"))
    for pid in workers_of(server.pid):
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) == f"socket:[{inode}]" for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    raise AssertionError("no worker has the connection")


class Pushes:
    """A thread that pushes new tags on the connection of one worker, until `stop`."""

    def __init__(self, client: httpx2.Client) -> None:
        self.statuses: list[int] = []
        self._client = client
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ending.set()
        self._thread.join()

    def _push(self) -> None:
        while not self._ending.is_set():
            number = len(self.statuses)
            try:
                answer = put(self._client, f"shop/app:{number}", manifest(self._client, "shop/app", str(number)))
            except httpx2.TransportError:
                self.statuses.append(0)
                return
            self.statuses.append(answer.status_code)


def kill(pid: int) -> None:
    """Kill a worker and wait until it has ended: until then the kernel gives it new connections, which it resets."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the worker has ended", 30.0)


def kill_and_replace(server: Server, pid: int, workers: int) -> None:
    """Kill a worker and wait until there are so many that serve."""
    kill(pid)
    wait_until(lambda: len(running(server)) == workers, "the worker is replaced", 30.0)


def test_workers_that_are_killed_cost_only_their_own_requests(tmp_path: Path) -> None:
    """While one worker serves pushes, the other two are killed five times within seconds; no push fails or is lost."""
    with boltseal(tmp_path / "data", workers=3) as server:
        kept = running(server)[0]
        spared = {kept}
        with pinned(server, kept) as client:
            pushes = Pushes(client)
            for _ in range(5):
                dying = wait_until(lambda: set(running(server)) - spared, "another worker serves", 30.0).pop()
                spared.add(dying)
                os.kill(dying, signal.SIGKILL)
            wait_until(lambda: len(running(server)) == 3, "all workers are back", 30.0)
            pushes.stop()
            signed = wait_until(
                lambda: is_signed(client.get("/ledger/checkpoint"), len(pushes.statuses)), "it is signed"
            )
            # a new worker can serve before the supervisor has counted it
            wait_until(lambda: RESTARTS.findall(client.get("/metrics").text) == ["5"], "all restarts are counted")

        assert set(pushes.statuses) == {201}
        assert signed
        assert server.log.read_text(encoding="utf-8").count('"reason": "signal SIGKILL"') == 5
    assert program.run("admin", "fsck", "--data", tmp_path / "data").code == 0


def test_a_worker_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    """A replacement that is killed before it listens is replaced as well."""
    with boltseal(tmp_path / "data", workers=2) as server:
        for _ in range(2):
            before = running(server)
            os.kill(before[-1], signal.SIGKILL)

            def starting(before: list[int] = before) -> list[int]:
                return [pid for pid in workers_of(server.pid) if pid not in before and alive(pid)]

            os.kill(wait_until(starting, "a replacement is started", 30.0)[0], signal.SIGKILL)
            wait_until(lambda: len(running(server)) == 2, "both workers are back", 30.0)

        assert alive(before[0])


def test_the_server_ends_in_order_while_a_worker_waits_for_its_restart(tmp_path: Path) -> None:
    """SIGTERM during the back-off ends the server at once, with exit code 0."""
    with boltseal(tmp_path / "data", workers=2) as server:
        for _ in range(3):
            kill_and_replace(server, running(server)[-1], 2)
        os.kill(running(server)[-1], signal.SIGKILL)
        wait_until(lambda: len(workers_of(server.pid)) == 1, "one worker is left", 5.0)

        ends_within(server, 3.0)
        assert "the server stopped" not in server.log_tail()


def test_an_upload_goes_on_after_its_worker_was_killed(tmp_path: Path) -> None:
    """After a worker's death another one continues its upload session with every acknowledged byte."""
    first, second = b"a" * 3_000_000, b"b" * 3_000_000
    with boltseal(tmp_path / "data", workers=2) as server:
        dying, other = running(server)
        with pinned(server, dying) as client:
            location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
            client.patch(location, content=first)
        with on_worker(server, dying) as stalled:
            stalled.sendall(f"PATCH {location} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n".encode())
            stalled.sendall(second[:1_500_000])
            wait_until(lambda: upload_is_busy(server, location), "the upload is under way")
            kill(dying)
            with pinned(server, other) as client:
                status = client.get(location)
                there = int(status.headers["range"].partition("-")[2]) + 1
                rest = (first + second)[there:]
                done = client.put(location, params={"digest": digest(first + second)}, content=rest)

    assert there >= len(first)
    assert done.status_code == 201


def test_another_worker_takes_over_the_fetch_of_a_killed_one(tmp_path: Path) -> None:
    """A worker is killed while it fetches a blob from an upstream; the next client gets the blob from another worker."""
    wanted = image(random.Random(1).randbytes(200_000).hex())  # noqa: S311 - not for secrets
    blob = wanted.blobs[-1]
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(blob.data)}\r\n\r\n".encode()
    stalling, killed = threading.Event(), threading.Event()

    async def half(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(head + blob.data[:50_000])
        await writer.drain()
        stalling.set()
        await asyncio.to_thread(killed.wait, 60.0)

    with FakeUpstream().listening_in_thread() as upstream:
        document = upstream.publish("team/app", "1.0.0", wanted)
        path = f"/v2/up.example/team/app/blobs/{blob.digest}"
        config = f'[[upstream]]\nname = "up.example"\nurl = "http://{upstream.authority}"\n'
        with boltseal(tmp_path / "data", config=config, workers=2) as server:
            dying, other = running(server)
            with pinned(server, other) as client:
                assert client.get("/v2/up.example/team/app/manifests/1.0.0").content == document.raw
                upstream.answers[f"GET /v2/team/app/blobs/{blob.digest}"] = half
                with on_worker(server, dying) as waiting:
                    waiting.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                    assert stalling.wait(30.0)
                    upstream.answers.clear()
                    os.kill(dying, signal.SIGKILL)
                    answer = client.get(path)
                    killed.set()

    assert answer.content == blob.data


def test_a_worker_that_cannot_start_is_tried_again_less_and_less_often(tmp_path: Path) -> None:
    """The other worker serves on and /readyz names the reason; when the data is right again, the worker starts."""
    with boltseal(tmp_path / "data", workers=2) as server:
        right = (server.folder / "format").read_text(encoding="ascii")
        (server.folder / "format").write_text("99\n", encoding="ascii")
        os.kill(running(server)[-1], signal.SIGKILL)
        wait_until(lambda: "ended 3 times in a row" in asked(server, "/readyz"), "the worker has failed often", 60.0)
        report = json.loads(asked(server, "/readyz"))
        (server.folder / "format").write_text(right, encoding="ascii")
        wait_until(lambda: len(running(server)) == 2, "the worker is back", 60.0)

    assert report["ready"]
    assert "last by exit code 1" in report["warnings"][0]
    assert "has data format 99" in server.log.read_text(encoding="utf-8")
