"""Helpers for tests of a running `boltseal serve`: pushes, processes, signals."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.polling import wait_until
from tests.servers import Server

OCI = "application/vnd.oci.image.manifest.v1+json"
MIB = 1024 * 1024
ENDS_WITHIN_S = 5.0


def digest(data: bytes) -> str:
    """`sha256:hex`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def push_blob(client: httpx2.Client, repository: str, data: bytes) -> dict[str, Any]:
    """Push a blob and return its descriptor."""
    start = client.post(f"/v2/{repository}/blobs/uploads/")
    assert start.status_code == 202
    url = httpx2.URL(start.headers["location"]).copy_merge_params({"digest": digest(data)})
    done = client.put(url, content=data)
    assert done.status_code == 201, done.text
    return {"mediaType": "application/octet-stream", "digest": digest(data), "size": len(data)}


def manifest(client: httpx2.Client, repository: str, words: str) -> bytes:
    """Return the manifest of an image whose blobs were pushed."""
    config = push_blob(client, repository, json.dumps({"words": words}).encode())
    layer = push_blob(client, repository, words.encode())
    return json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer]}).encode()


def put(client: httpx2.Client, name: str, body: bytes) -> httpx2.Response:
    """Push a manifest under `repository:tag`."""
    repository, _, tag = name.partition(":")
    return client.put(f"/v2/{repository}/manifests/{tag}", content=body, headers={"content-type": OCI})


def client_of(server: Server) -> httpx2.Client:
    """Return a client of this server that ignores proxy variables."""
    return httpx2.Client(base_url=server.url, trust_env=False, timeout=30.0)


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not, but for one of which other threads still end: they hold its sockets."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" or threads > 1


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a server."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def upload_is_busy(server: Server, location: str) -> bool:
    """Return whether a request is sending to this upload session, by the lock on the session's file."""
    name = location.partition("?")[0].rpartition("/")[2]
    (session,) = (server.folder / "uploads").glob(f"{name}*")
    with session.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def reloaded(server: Server, times: int = 1) -> None:
    """Wait until the log reports so many reloads of the configuration, one for each worker."""
    wait_until(
        lambda: server.log_tail().count("configuration reloaded") >= times, "the configuration is reloaded", 10.0
    )


def replaced(server: Server, first: Sequence[int]) -> None:
    """Wait until a worker runs that is none of the first ones."""
    wait_until(lambda: any(map(alive, set(workers_of(server.pid)) - set(first))), "a new worker runs", 10.0)


def ends_within(server: Server, seconds: float, sent: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal and wait until server and workers have ended."""
    workers = workers_of(server.pid)
    os.kill(server.pid, sent)
    wait_until(lambda: not alive(server.pid) and not any(map(alive, workers)), "the server has ended", seconds)


@contextlib.contextmanager
def started(*arguments: str | Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a server in its own process group, as from a terminal, and end it with the test."""
    with BoltsealProcess(
        ["serve", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=program.clean_environment(environment),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=ENDS_WITHIN_S)


def read_greeting(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines printed at the start."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("  stop"):
            break
    return lines
