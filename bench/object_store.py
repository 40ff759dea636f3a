"""`python -m bench.object_store`: blobs in an object store, beside the S3 server itself and docker-registry on the same server.

SeaweedFS and each registry run as in the tests, on any core; boltseal with its metadata in PostgreSQL. Large blobs: push and pull of
64 MiB, beside a put and a get of the same bytes by the S3 client that boltseal uses; a pull is also measured where boltseal redirects
clients to the S3 server. Small blobs: 4 KiB at 16 connections. A figure is the median of the rounds, in which the peers alternate.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import obstore

from bench import load
from bench.content import KIB, MIB, REPOSITORY, DistinctBlobs
from bench.shared_storage import LOGIN, config
from tests import servers
from tests.servers import Server
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres, seaweedfs
from tests.storage_servers import postgres as postgres_server

LARGE_BYTES = 64 * MIB
SMALL_BYTES = 4 * KIB
CONNECTIONS = 16
PUSHES = 3


@dataclass(frozen=True, slots=True)
class Compared:
    """A median of boltseal's, the S3 server's own and docker-registry's, which is NaN where there is none. `unit`: of all."""

    name: str
    unit: str
    boltseal: float
    store: float
    registry: float


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.object_store", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-objects-") as scratch,
        seaweedfs() as store,
        postgres_server() as database,
    ):
        print(f"load: {os.getloadavg()[0]:.0f}, {given.rounds} rounds\n")
        compare(Path(scratch), database, store, given.rounds, given.seconds)
        print(f"\nload: {os.getloadavg()[0]:.0f}")
    return 0


def compare(folder: Path, database: Postgres, store: ObjectServer, rounds: int, seconds: float) -> list[Compared]:
    """Measure, print a table, and return its rows."""
    driver = (
        f"s3: {{region: us-east-1, regionendpoint: '{store.endpoint}', bucket: {BUCKET}, accesskey: {ACCESS_KEY}, "
        f"secretkey: {SECRET_KEY}, secure: false, v4auth: true, rootdirectory: /registry}}"
    )
    configs = {}
    for name in ("streams", "redirects"):
        (folder / name).mkdir()
        url = database.url(database.create_database())
        configs[name] = config(folder / name, url, store, redirect=name == "redirects")
    with (
        servers.boltseal(folder / "streams/data", config=configs["streams"], settings=LOGIN) as ours,
        servers.boltseal(folder / "redirects/data", config=configs["redirects"], settings=LOGIN) as redirects,
        servers.docker_registry(folder / "theirs", driver=driver) as theirs,
    ):
        return _table(store, ours, redirects, theirs, rounds, seconds)


def _table(
    store: ObjectServer, ours: Server, redirects: Server, theirs: Server, rounds: int, seconds: float
) -> list[Compared]:
    nothing = float("nan")
    rows: Sequence[tuple[str, str, tuple[Callable[[], float], ...]]] = (
        ("push, 64 MiB", "MiB/s", (lambda: _push(ours), lambda: _put(store), lambda: _push(theirs))),
        ("pull, 64 MiB", "MiB/s", (lambda: _pull(ours), lambda: _get(store), lambda: _pull(theirs))),
        ("pull, 64 MiB, redirected", "MiB/s", (lambda: _pull(redirects), lambda: _get(store), lambda: _pull(theirs))),
        (
            "push, 4 KiB, 16 connections",
            "/s",
            (lambda: _small(ours, seconds), lambda: nothing, lambda: _small(theirs, seconds)),
        ),
    )
    print("| | boltseal | the S3 server itself | docker-registry |\n| --- | ---: | ---: | ---: |")
    compared = []
    for title, unit, takes in rows:
        figures = [[take() for take in takes] for _ in range(rounds)]
        row = Compared(title, unit, *(statistics.median(each) for each in zip(*figures, strict=True)))
        compared.append(row)
        others = (
            "" if math.isnan(other) else f"{other:,.0f} {unit} ({row.boltseal / other:.2f} x)"
            for other in (row.store, row.registry)
        )
        print(f"| {title} | {row.boltseal:,.0f} {unit} | {' | '.join(others)} |", flush=True)
    return compared


def _push(server: Server) -> float:
    return load.push_blobs(server.address, REPOSITORY, LARGE_BYTES, until=lambda pushed: pushed >= PUSHES) / MIB


def _small(server: Server, seconds: float) -> float:
    return load.push_small_blobs(server.address, REPOSITORY, SMALL_BYTES, seconds, CONNECTIONS)


def _put(store: ObjectServer) -> float:
    client = store.store("bench")
    blobs = iter(DistinctBlobs.of(LARGE_BYTES))
    contents = [b"".join(next(blobs)[:2]) for _ in range(PUSHES)]
    started = time.perf_counter()
    for content in contents:
        obstore.put(client, uuid.uuid4().hex, content)
    return PUSHES * 64 / (time.perf_counter() - started)


def _get(store: ObjectServer) -> float:
    client = store.store("bench")
    key = uuid.uuid4().hex
    head, tail, _ = next(iter(DistinctBlobs.of(LARGE_BYTES)))
    obstore.put(client, key, head + tail)
    started = time.perf_counter()
    for _ in range(PUSHES):
        for piece in obstore.get(client, key).stream():
            assert piece
    return PUSHES * 64 / (time.perf_counter() - started)


def _pull(server: Server) -> float:
    head, tail, digest = next(iter(DistinctBlobs.of(LARGE_BYTES)))
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=120) as client:
        begun = client.post(f"/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
        joint = "&" if "?" in begun else "?"
        assert client.put(f"{begun}{joint}digest={digest}", content=head + tail).status_code == 201
        started = time.perf_counter()
        for _ in range(PUSHES):
            received = 0
            with client.stream("GET", f"/v2/{REPOSITORY}/blobs/{digest}", follow_redirects=True) as answer:
                for piece in answer.iter_raw():
                    received += len(piece)
            assert received == LARGE_BYTES
        return PUSHES * 64 / (time.perf_counter() - started)


if __name__ == "__main__":
    raise SystemExit(main())
