"""Helpers for tests of a running `boltseal serve`: pushes, processes, signals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

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
    """Return whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a server."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition is true; fail after a time-out."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends_within(server: Server, seconds: float, sent: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal and wait until server and workers have ended."""
    workers = workers_of(server.pid)
    os.kill(server.pid, sent)
    wait_for(lambda: not alive(server.pid) and not any(map(alive, workers)), seconds)
