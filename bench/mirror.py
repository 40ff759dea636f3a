"""`python -m bench.mirror`: the cost of a mirror for its upstream and its clients, compared with docker-registry's
proxy mode.

    crowd     1,000 clients pull one image that the mirror lacks, all at once, from an upstream that counts
    first     how much later than from upstream itself the first byte of a cold blob comes, one client
    cold      images that the mirror lacks, pulled one after the other
    warm      the same bytes again, and local images: manifests by tag and digest, small blobs, a large one

Both mirrors have the same upstream in the same run, and alternate in each round. Beside the elapsed time, the processor time
of the servers is printed, which hardly depends on other load. The upstream is `tests/fakes/upstream.py` in a process of its
own. A run takes about two minutes; with `--quick` less.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.fakes.upstream import Asked, FakeUpstream
from tests.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Document, push, to_json
from tests.programs import program
from tests.servers import Server, boltseal, docker_registry

REPOSITORY = "team/app"
PREFIX = "up.example/"
TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Mirror:
    """A running mirror. `prefix`: the prefix of upstream's names."""

    name: str
    server: Server
    prefix: str

    def url(self, path: str) -> str:
        return f"{self.server.url}/v2/{self.prefix}{REPOSITORY}/{path}"

    def worked_s(self) -> float:
        """Return the processor time that the mirror has used."""
        return sum(map(_worked_s, _tree(self.server.pid)))


def made(words: str, layers: int, size: int) -> Document:
    """Return an image of random bytes, which can't be compressed."""
    random_bytes = random.Random(words)  # noqa: S311 - the same bytes in every run
    parts = [Blob(json.dumps({"words": words}).encode(), OCI_CONFIG)]
    parts += [Blob(random_bytes.randbytes(size), OCI_LAYER) for _ in range(layers)]
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0].descriptor()}
    return Document(to_json(body | {"layers": [each.descriptor() for each in parts[1:]]}), OCI_MANIFEST, tuple(parts))


def images(count: int) -> list[tuple[str, Document]]:
    """Return the images of the upstream, by tag."""
    found = [
        ("crowd", made("crowd", 4, 256 * 1024)),
        ("warm", made("warm", 2, 10 * 1024)),
        ("big", made("big", 1, 64 * MIB)),
    ]
    found += [(f"cold-{number}", made(f"cold {number}", 4, 2 * MIB)) for number in range(count)]
    return found + [(f"first-{number}", made(f"first {number}", 1, 4 * MIB)) for number in range(count)]


# --- the upstream's process ---


async def serve_upstream(count: int) -> None:
    """Serve until terminated; print the port, and return at `/counted` the requests since that was read last."""
    upstream = FakeUpstream()
    for tag, image in images(count):
        upstream.publish(REPOSITORY, tag, image)

    async def counted(_: Asked, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(upstream.counted).encode()
        upstream.counted.clear()
        upstream.asked.clear()
        writer.write(f"HTTP/1.1 200 X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)

    upstream.answers["GET /counted"] = counted
    async with upstream.listening():
        print(upstream.port, flush=True)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


@contextmanager
def upstream_process(count: int) -> Iterator[str]:
    """Yield the URL of the upstream."""
    argv = [sys.executable, "-m", "bench.mirror", "--serve", str(count)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def counted(upstream: str) -> dict[str, int]:
    """Return the requests to the upstream since this was called last."""
    found: dict[str, int] = httpx2.get(f"{upstream}/counted", trust_env=False).json()
    return {key: count for key, count in found.items() if key.startswith("GET /v2/") and key != "GET /v2/"}


# --- clients ---


async def get(url: str) -> bytes:
    """Send one GET on a new connection, without a library, because a thousand clients of one would measure the library."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=MIB)
    try:
        writer.write(
            f"GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\naccept: {OCI_MANIFEST}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if " 200 " not in head.partition("\r\n")[0]:
            raise RuntimeError(f"{url}: {head.partition(chr(13))[0]}")
        return await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    finally:
        writer.close()


async def pull(mirror: Mirror, tag: str, image: Document) -> None:
    """Pull the manifest by tag, then every blob, each compared with its digest."""
    if await get(mirror.url(f"manifests/{tag}")) != image.raw:
        raise RuntimeError("another manifest")
    for blob in image.blobs:
        body = await get(mirror.url(f"blobs/{blob.digest}"))
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != blob.digest:
            raise RuntimeError("other bytes")


async def crowd(mirror: Mirror, image: Document, clients: int) -> float:
    """Pull with all clients at once; return the seconds until the last has everything."""
    started = time.perf_counter()
    await asyncio.gather(*(pull(mirror, "crowd", image) for _ in range(clients)))
    return time.perf_counter() - started


async def first_byte_s(url: str) -> float:
    """Return the seconds from the request to the first byte of the body."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port), limit=MIB)
    started = time.perf_counter()
    writer.write(f"GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    await reader.readexactly(1)
    took = time.perf_counter() - started
    await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]) - 1)
    writer.close()
    return took


def load(url: str, seconds: float) -> int:
    """Return the number of answers that wrk got."""
    out = subprocess.run(
        [program("wrk"), "-t1", "-c16", f"-d{seconds:g}s", "-H", f"accept: {OCI_MANIFEST}", url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in out:
        raise RuntimeError(out)
    return int(out.partition(" requests in")[0].split()[-1])


# --- the measures ---


def main() -> int:
    """Run the benchmark and print tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.mirror", description=__doc__)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true", help="one short round with fewer clients")
    asked = parser.parse_args()
    if asked.serve is not None:
        asyncio.run(serve_upstream(asked.serve))
        return 0
    rounds, seconds, clients = (1, 1.0, 100) if asked.quick else (asked.rounds, asked.seconds, asked.clients)
    count = 10 * rounds
    every = dict(images(count))
    with upstream_process(count) as upstream, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ours, theirs = _mirrors(stack, Path(folder), upstream)
        asyncio.run(_own(ours, every["warm"], every["big"]))
        counted(upstream)
        print(f"load {os.getloadavg()[0]:.1f}; boltseal, docker-registry 2.8 as its proxy\n")
        _crowd(ours, theirs, every["crowd"], clients, upstream)
        _first(ours, theirs, every, upstream, count)
        _cold(ours, theirs, every, upstream, count)
        _warm(ours, theirs, every, rounds, seconds)
    return 0


def _mirrors(stack: ExitStack, folder: Path, upstream: str) -> tuple[Mirror, Mirror]:
    config = '[server]\naccess_log = false\nmax_connections = 4096\n[[rule]]\nrepository = "own/floating"\nmode = "floating"\n'
    config += f'[[upstream]]\nname = "up.example"\nurl = "{upstream}"\n'
    ours = stack.enter_context(boltseal(folder / "boltseal", config=config))
    theirs = stack.enter_context(docker_registry(folder / "registry", mirror_of=upstream))
    return Mirror("boltseal", ours, PREFIX), Mirror("docker-registry", theirs, "")


async def _own(ours: Mirror, warm: Document, big: Document) -> None:
    """Push the bytes of the mirrored images to local repositories."""
    async with httpx2.AsyncClient(base_url=ours.server.url, trust_env=False, timeout=120) as client:
        for repository in ("own/sealed", "own/floating"):
            for image, tag in ((warm, "warm"), (big, "big")):
                assert (await push(client, repository, tag, image)).status_code == 201


def _crowd(ours: Mirror, theirs: Mirror, image: Document, clients: int, upstream: str) -> None:
    print(f"{clients} clients at once, one cold image of {len(image.blobs)} blobs")
    for mirror in (ours, theirs):
        worked = mirror.worked_s()
        try:
            took = asyncio.run(crowd(mirror, image, clients))
        except (RuntimeError, OSError, asyncio.IncompleteReadError) as error:
            print(f"  {mirror.name:16} failed: {error}")
            counted(upstream)
            continue
        asked = counted(upstream)
        most = max(asked.values())
        exactly = len(asked) == 1 + len(image.blobs) and most == 1
        print(
            f"  {mirror.name:16} {took:7.2f} s, {mirror.worked_s() - worked:6.2f} s of work; upstream: {sum(asked.values())} "
            f"GETs, each thing at most {most} times{' (exactly once each: reached)' if exactly else ''}"
        )


def _first(ours: Mirror, theirs: Mirror, every: dict[str, Document], upstream: str, count: int) -> None:
    later: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    for number in range(count):
        image = every[f"first-{number}"]
        layer = image.blobs[1]
        direct = asyncio.run(first_byte_s(f"{upstream}/v2/{REPOSITORY}/blobs/{layer.digest}"))
        for mirror in (ours, theirs):
            asyncio.run(get(mirror.url(f"manifests/first-{number}")))
            later[mirror.name].append(asyncio.run(first_byte_s(mirror.url(f"blobs/{layer.digest}"))) - direct)
    counted(upstream)
    print(f"\nfirst byte of a cold blob of 4 MiB, later than from upstream itself ({count} blobs; goal: 20 ms at most)")
    for name, values in later.items():
        print(f"  {name:16} median {statistics.median(values) * 1000:6.1f} ms, worst {max(values) * 1000:6.1f} ms")


def _cold(ours: Mirror, theirs: Mirror, every: dict[str, Document], upstream: str, count: int) -> None:
    took: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    worked = {mirror.name: -mirror.worked_s() for mirror in (ours, theirs)}
    asked: dict[str, int] = {ours.name: 0, theirs.name: 0}
    for number in range(count):
        for mirror in (ours, theirs):
            started = time.perf_counter()
            asyncio.run(pull(mirror, f"cold-{number}", every[f"cold-{number}"]))
            took[mirror.name].append(time.perf_counter() - started)
            asked[mirror.name] += sum(counted(upstream).values())
    for mirror in (ours, theirs):
        worked[mirror.name] += mirror.worked_s()
    print(f"\n{count} cold images of 8 MiB, one after the other, each compared")
    for name, values in took.items():
        print(
            f"  {name:16} {statistics.median(values) * 1000:6.0f} ms an image, {worked[name] / count * 1000:6.0f} ms of work; "
            f"upstream: {asked[name] / count:.1f} GETs an image"
        )
    ratio = statistics.median(took[theirs.name]) / statistics.median(took[ours.name])
    print(f"  {ratio:.2f} x by time, {worked[theirs.name] / worked[ours.name]:.2f} x by work")


def _warm(ours: Mirror, theirs: Mirror, every: dict[str, Document], rounds: int, seconds: float) -> None:
    for mirror in (ours, theirs):
        for tag in ("warm", "big"):
            asyncio.run(pull(mirror, tag, every[tag]))
    own, floating = (
        Mirror("own, sealed", ours.server, "own/sealed"),
        Mirror("own, floating", ours.server, "own/floating"),
    )
    small, big = every["warm"].blobs[1].digest, every["big"].blobs[1].digest
    print("\nwarm: answers a second (us of work for each); in brackets: beside images of our own, goal 0.9")
    for what, path in {
        "manifest, tag": "manifests/warm",
        "manifest, digest": f"manifests/{every['warm'].digest}",
        "blob, 10 KiB": f"blobs/{small}",
        "blob, 64 MiB": f"blobs/{big}",
    }.items():
        per_s: dict[str, list[float]] = {}
        work: dict[str, list[float]] = {}
        for _ in range(rounds):
            for mirror in (ours, own, floating, theirs):
                url = mirror.url(path) if mirror in (ours, theirs) else f"{mirror.server.url}/v2/{mirror.prefix}/{path}"
                worked, started = mirror.worked_s(), time.perf_counter()
                answers = load(url, seconds)
                per_s.setdefault(mirror.name, []).append(answers / (time.perf_counter() - started))
                work.setdefault(mirror.name, []).append((mirror.worked_s() - worked) / answers * 1e6)
        at, of = ({name: statistics.median(values) for name, values in each.items()} for each in (per_s, work))
        counts = ", ".join(f"{name} {at[name]:,.0f} ({of[name]:,.1f})" for name in at)
        by_work = f"{of['own, sealed'] / of['boltseal']:.2f} and {of['own, floating'] / of['boltseal']:.2f} by work"
        print(f"  {what:18} {counts}")
        print(
            f"  {'':18} [{at['boltseal'] / at['own, sealed']:.2f} and {at['boltseal'] / at['own, floating']:.2f}; {by_work}]; "
            f"{at['boltseal'] / at['docker-registry']:.1f} x docker-registry"
        )


def _tree(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in _tree(child))]


def _worked_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


if __name__ == "__main__":
    raise SystemExit(main())
