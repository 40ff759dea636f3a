"""`python -m bench.bodies`: the fastest way in which granian sends a file, by size, without boltseal.

The methods: `inline` reads the file and sends one body; `pathsend` leaves it to granian; `piece-N` reads and sends N at
a time, as a range has to; `thread-N` reads in a thread. boltseal's choice is based on these figures (README).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import load
from bench.content import KIB, MIB
from bench.peers import LOAD_CORE, ON_SERVER_CORE
from tests import servers

SIZES = (4 * KIB, 10 * KIB, 64 * KIB, 256 * KIB, MIB, 16 * MIB, 256 * MIB)
METHODS = ("inline", "pathsend", "piece-64", "piece-256", "piece-1024", "thread-256", "thread-1024")
FOLDER = "BENCH_BODIES_FOLDER"

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


async def app(scope: Mapping[str, Any], _receive: object, send: Send) -> None:
    """`/WAY/SIZE`: send a file of that size in that way."""
    if scope["type"] != "http":
        return
    _, way, size = scope["path"].split("/")
    path = Path(os.environ[FOLDER]) / size
    headers = [(b"content-length", size.encode()), (b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if way == "inline":
        await send({"type": "http.response.body", "body": path.read_bytes()})
    elif way == "pathsend":
        await send({"type": "http.response.pathsend", "path": str(path)})
    else:
        kind, _, kibibytes = way.partition("-")
        await _in_pieces(path, int(size), int(kibibytes) * KIB, threaded=kind == "thread", send=send)


async def _in_pieces(path: Path, size: int, piece: int, *, threaded: bool, send: Send) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        for at in range(0, size, piece):
            body = await asyncio.to_thread(os.pread, file, piece, at) if threaded else os.pread(file, piece, at)
            await send({"type": "http.response.body", "body": body, "more_body": at + piece < size})
    finally:
        os.close(file)


def main() -> int:
    """Measure every way at every size that is useful for it."""
    parser = argparse.ArgumentParser(prog="python -m bench.bodies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    asked = parser.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    folder = Path(tempfile.mkdtemp())
    for size in SIZES:
        (folder / str(size)).write_bytes(os.urandom(size))
    try:
        with servers.asgi("bench.bodies:app", folder, {FOLDER: str(folder)}, before=ON_SERVER_CORE) as server:
            rows = [_row(server.address, size, asked.rounds, asked.seconds) for size in SIZES]
    finally:
        shutil.rmtree(folder)
    print(f"| MiB/s | {' | '.join(METHODS)} |")
    print(f"| --- |{' ---: |' * len(METHODS)}")
    for size, row in zip(SIZES, rows, strict=True):
        name = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        print(f"| {name} | {' | '.join(row)} |")
    return 0


def _row(address: str, size: int, rounds: int, seconds: float) -> Sequence[str]:
    taken: dict[str, list[float]] = {way: [] for way in METHODS if _makes_sense(way, size)}
    for _ in range(rounds):
        for way, rates in taken.items():
            rates.append(_rate(address, f"/{way}/{size}", size, seconds))
    return [f"{statistics.median(taken[way]):,.0f}" if way in taken else "" for way in METHODS]


def _makes_sense(way: str, size: int) -> bool:
    _, _, kibibytes = way.partition("-")
    return size > int(kibibytes) * KIB if kibibytes else not (way == "inline" and size > 16 * MIB)


def _rate(address: str, path: str, size: int, seconds: float) -> float:
    """Return MiB per second: small files on many connections, large ones on one."""
    if size <= 256 * KIB:
        return load.wrk(f"http://{address}{path}", seconds).per_second * size / MIB
    return load.download(address, path, seconds) / MIB


if __name__ == "__main__":
    sys.exit(main())
