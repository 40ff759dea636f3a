"""`python -m bench.watch`: the cost of one round over 10,000 watched tags in 500 repositories, for client and registry.

A registry that counts (in a process of its own, with tokens as Docker Hub has them) is checked by `boltseal watch --lock`,
as an installed program, in successive rounds: the first one, one where nothing has changed, one after ten releases moved.
Counted are requests; measured are the command's elapsed time, processor time and peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qs, urlsplit

from boltseal.lockfile.document import Lock, LockedImage
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

REPOSITORIES: Final = 500
TAGS: Final = 10_000
MOVED: Final = 10
WITHIN_S: Final = 60.0
REPOSITORIES_A_TOKEN: Final = 10


@dataclass(slots=True)
class Registry(asyncio.Protocol):
    """One connection to a registry that has every tag, and counts. `shared`: the state of all connections."""

    shared: Shared
    transport: asyncio.Transport | None = None
    waiting: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection."""
        self.transport = cast("asyncio.Transport", transport)
        self.shared.counted["connection"] += 1

    def data_received(self, data: bytes) -> None:
        """Answer requests without bodies, one after the other."""
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
            if self.transport is not None:
                self.transport.write(self.answer(head.decode("latin-1")))

    def answer(self, head: str) -> bytes:
        """Return the registry's answer."""
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        parts = urlsplit(target)
        if parts.path == "/token":
            return self.shared.token(parse_qs(parts.query).get("scope", []))
        if parts.path == "/counts":
            return _response("200 OK", json.dumps(self.shared.counted))
        if parts.path == "/move":
            self.shared.moved = int(parts.query)
            return _response("200 OK", "{}")
        if "/manifests/" not in parts.path:
            return _response("401 Unauthorized", "{}", 'www-authenticate: Bearer realm="REALM"\r\n')
        name, _, tag = parts.path.removeprefix("/v2/").partition("/manifests/")
        if f"repository:{name}:pull" not in self.shared.scopes_of(head):
            self.shared.counted["refused"] += 1
            scope = f'scope="repository:{name}:pull"'
            realm = f"http://127.0.0.1:{self.shared.port}/token"
            body = "" if method == "HEAD" else "{}"
            return _response(
                "401 Unauthorized", body, f'www-authenticate: Bearer realm="{realm}",service="s",{scope}\r\n'
            )
        self.shared.counted[f"{method} manifest"] += 1
        number = int(tag.rpartition(".")[2])
        digest = hashlib.sha256(f"{name}:{tag}:{self.shared.moved > number}".encode()).hexdigest()
        kind = "content-type: application/vnd.oci.image.index.v1+json\r\n"
        return _response("200 OK", "", f"docker-content-digest: sha256:{digest}\r\n{kind}")


@dataclass(slots=True)
class Shared:
    """`moved`: the tags below this number resolve to another image. `tokens`: the scopes of each token."""

    port: int = 0
    moved: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, frozenset[str]] = field(default_factory=dict)

    def token(self, scopes: list[str]) -> bytes:
        """Return a new token for all requested scopes."""
        self.counted["token"] += 1
        text = hashlib.sha256(f"{len(self.tokens)}".encode()).hexdigest()
        self.tokens[text] = frozenset(scopes)
        return _response("200 OK", json.dumps({"token": text, "expires_in": 300}))

    def scopes_of(self, head: str) -> frozenset[str]:
        """Return the scopes of a request's token."""
        for line in head.split("\r\n"):
            if line.lower().startswith("authorization: bearer "):
                return self.tokens.get(line[22:].strip(), frozenset())
        return frozenset()


def _response(status: str, body: str, more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(body)}\r\n\r\n{body}".encode()


def serve(ready: Connection) -> None:
    """Run the registry's process."""

    async def run() -> None:
        shared = Shared()
        server = await asyncio.get_running_loop().create_server(lambda: Registry(shared), "127.0.0.1", 0)
        shared.port = server.sockets[0].getsockname()[1]
        ready.send(shared.port)
        await server.serve_forever()

    asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Took:
    """One round. `worked_s`: processor time, `largest_bytes`: memory of the command's process."""

    code: int
    elapsed_s: float
    worked_s: float
    largest_bytes: int
    counted: dict[str, int]


def look(port: int, lock: Path, state: Path) -> Took:
    """Run the command once; return its cost for client and registry."""
    before = _counts(port)
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "boltseal", "watch", "--lock", lock, "--allow", f"127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "BOLTSEAL_STATE": str(state), "HOME": str(state), "NO_PROXY": "127.0.0.1"},
    )
    assert child.stderr is not None
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode not in (0, 1):
        raise SystemExit(f"boltseal watch ended with {child.returncode}: {errors}")
    after = _counts(port)
    counted = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    worked_s = usage.ru_utime + usage.ru_stime
    return Took(child.returncode, time.perf_counter() - started, worked_s, usage.ru_maxrss * 1024, counted)


def _counts(port: int) -> dict[str, int]:
    import httpx2

    found: dict[str, int] = httpx2.get(f"http://127.0.0.1:{port}/counts", trust_env=False).json()
    return found


def lock_of(port: int, tags: int, repositories: int) -> Iterator[LockedImage]:
    """Return the lock with the watched tags: releases, equally many in each repository."""
    for number in range(tags):
        name = f"127.0.0.1:{port}/team{number % repositories}/app"
        yield LockedImage(Reference.parse(f"{name}:1.0.{number}"), Digest.of(b"any"), 86_400_000_000_000)


def main() -> int:
    """Run the benchmark; return 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tags", type=int, default=TAGS)
    parser.add_argument("--repositories", type=int, default=REPOSITORIES)
    asked = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    registry = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    registry.start()
    missed = []
    try:
        port: int = ours.recv()
        with tempfile.TemporaryDirectory(prefix="bench-watch-") as folder:
            lock, small = Path(folder) / "boltseal.lock", Path(folder) / "small.lock"
            lock.write_text(format_lock(Lock(tuple(lock_of(port, asked.tags, asked.repositories)))))
            small.write_text(format_lock(Lock(tuple(lock_of(port, asked.tags // 10, asked.repositories)))))
            tenth = look(port, small, Path(folder) / "small")
            print(f"{asked.tags:,} tags in {asked.repositories} repositories")
            for number, what in enumerate(("first", "unchanged", "ten moved", "unchanged")):
                if what == "ten moved":
                    _move(port)
                took = look(port, lock, Path(folder) / "state")
                print(_line(what, took, asked.tags))
                missed += _missed(what, took, asked.tags, asked.repositories, alarm=number == 2)
            a_tag = (took.largest_bytes - tenth.largest_bytes) / (asked.tags * 0.9)
            print(f"{took.largest_bytes / 2**20:.0f} MiB at its largest, {a_tag:,.0f} bytes for each tag more")
    finally:
        registry.terminate()
        registry.join()
    for one in missed:
        print(f"MISSED: {one}")
    return 1 if missed else 0


def _move(port: int) -> None:
    import httpx2

    httpx2.get(f"http://127.0.0.1:{port}/move?{MOVED}", trust_env=False).raise_for_status()


def _line(what: str, took: Took, tags: int) -> str:
    counted = ", ".join(f"{number:,} {name}" for name, number in sorted(took.counted.items()) if name != "connection")
    each_us = took.worked_s / tags * 1e6
    return (
        f"{what:<10} exit {took.code}, {took.elapsed_s:5.1f} s by the clock, {took.worked_s:5.1f} s of a core "
        f"({each_us:.0f} us a tag); {counted}; {took.counted.get('connection', 0)} connections"
    )


def _missed(what: str, took: Took, tags: int, repositories: int, *, alarm: bool) -> list[str]:
    bounds = {
        f"more than {tags} HEADs": took.counted.get("HEAD manifest", 0) > tags,
        "a GET of a manifest": "GET manifest" in took.counted,
        f"more than a token for {REPOSITORIES_A_TOKEN} repositories": took.counted.get("token", 0)
        > repositories / REPOSITORIES_A_TOKEN,
        f"longer than {WITHIN_S:.0f} s": took.elapsed_s > WITHIN_S,
        "another exit code than it must have": took.code != int(alarm),
    }
    return [f"{what}: {bound}" for bound, is_missed in bounds.items() if is_missed]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    raise SystemExit(main())
