"""A Docker engine in a network namespace of its own, where Compose's networks, service names and published ports work."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests import servers
from tests.programs import program
from tests.real.tools import Docker
from tests.servers import Server

FORWARD = """
import asyncio, sys
at, target = sys.argv[1:]
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    try:
        if target.isdigit():
            to, from_ = await asyncio.open_connection("127.0.0.1", int(target))
        else:
            to, from_ = await asyncio.open_unix_connection(target)
    except OSError:  # the registry is off
        writer.close()
        return
    await asyncio.gather(pump(reader, from_), pump(to, writer))
async def main():
    if at.isdigit():
        server = await asyncio.start_server(serve, "127.0.0.1", int(at))
    else:
        server = await asyncio.start_unix_server(serve, at)
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
"""Forwards a port, or a Unix socket, to another port or socket. All network namespaces share the sockets."""

PROBE = """
import json, socket, struct, sys, time
name, port, seconds, mode = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[5]
def addresses():
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0)
    query += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + bytes([0]) + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.sendto(query, ("127.0.0.11", 53))
        answer = udp.recv(4096)
    found, at = [], len(query)
    for _ in range(struct.unpack(">H", answer[6:8])[0]):
        while answer[at] and answer[at] < 192:
            at += answer[at] + 1
        at += 2 if answer[at] else 1
        size = struct.unpack(">H", answer[at + 8:at + 10])[0]
        found.append(".".join(map(str, answer[at + 10:at + 10 + size])))
        at += 10 + size
    return found
known, looked_up = [], 0.0
def wanted():
    global known, looked_up
    now = time.monotonic()
    if mode == "each" or not known or (mode == "first" and now - looked_up > 1):
        known, looked_up = addresses(), now
    return known if mode == "each" else known[:1]
def get():
    global known
    try:
        found = wanted()
    except OSError:
        return ""
    for address in found:
        try:
            with socket.create_connection((address, port), 0.3) as tcp:
                tcp.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                tcp.settimeout(1)
                answer = b""
                while piece := tcp.recv(4096):
                    answer += piece
                if b" 200 " in answer:
                    return "answered"
        except OSError:
            continue
    if mode == "kept":
        known = []
    return ""
print("ready", flush=True)
until, last, worst, failed, count = time.monotonic() + seconds, time.monotonic(), 0.0, 0, 0
import os
while time.monotonic() < until and not os.path.exists(sys.argv[4]):
    answer = get()
    now = time.monotonic()
    count += 1
    if answer:
        worst = max(worst, now - last)
        last = now
    else:
        failed += 1
    time.sleep(0.01)
print(json.dumps({"outage_s": worst, "failed": failed, "requests": count}))
"""
"""Asks a service by its name as a `Client` does, and measures the longest time without an answer."""


class Client(StrEnum):
    """What a client does with the addresses of a name.

    `EACH`: looks the name up for each request and tries each address. `FIRST`: looks it up once a second and tries the first address only.
    `KEPT`: keeps one address until a request fails.
    """

    EACH = "each"
    FIRST = "first"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Outage:
    """What a client saw. `longest_s`: the longest time between two answers; `failed`: requests without an answer."""

    longest_s: float
    failed: int
    requests: int


@contextlib.contextmanager
def bridged_docker(folder: Path, registry: Server, *, containerd_store: bool = False) -> Iterator[Docker]:
    """Run a Docker daemon in a network namespace of its own, which reaches the registry under the same address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = int(registry.address.rpartition(":")[2])
    before = (program("unshare"), "--net", program("sh"), "-c", 'ip link set lo up; exec "$@"', "sh")
    driver = None if containerd_store else "overlay2"
    with (
        servers.dockerd(folder / "engine", before=before, containerd_store=containerd_store, driver=driver) as engine,
        _forwarded(folder, engine, port),
    ):
        yield Docker(engine.address, "bridged")


@contextlib.contextmanager
def _forwarded(folder: Path, engine: Server, port: int) -> Iterator[None]:
    at = str(folder / "registry.sock")
    with running(FORWARD, at, str(port)), in_network(engine.pid, FORWARD, str(port), at):
        yield


@contextlib.contextmanager
def in_network(pid: int, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code in the network namespace of a process, as `running` does."""
    with running(code, *arguments, before=(program("nsenter"), f"--net=/proc/{pid}/ns/net")) as process:
        yield process


@contextlib.contextmanager
def running(code: str, *arguments: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that prints a line when it is ready, in a process that is killed at the end. `before`: what starts it."""
    argv = [*before, sys.executable, "-c", code, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def asked(
    docker: Docker, container: str, name: str, port: int, folder: Path, client: Client = Client.EACH
) -> Iterator[list[Outage]]:
    """Ask a service from a container's network until the end of the block; then the list has what the client saw."""
    pid = int(docker.run("inspect", "--format", "{{.State.Pid}}", container).checked())
    end = folder / f"end-{name}"
    found: list[Outage] = []
    with in_network(pid, PROBE, name, str(port), "300", str(end), client) as process:
        yield found
        end.touch()
        assert process.stdout is not None
        seen = json.loads(process.stdout.readline())
    end.unlink()
    found.append(Outage(seen["outage_s"], seen["failed"], seen["requests"]))
