"""The measures: what is measured, how, and the goals.

A measure is asked for one peer and one round, and gives one or more figures. `Figure.goals` says by which factor
boltseal is to be better than a peer: more per second, or fewer seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import load
from bench.content import KIB, MANIFEST_TYPE, MIB, REPOSITORY, Content, make_content, write_image
from bench.peers import BOLTSEAL, NGINX, OLAREG, PEERS, REGISTRY, Readable, fresh, readable
from tests.programs import program

#: docker-registry with what it leaves undone counted in: a `sync` of its folder before a push is safe.
REGISTRY_SYNCED = "docker-registry + sync"

LARGE_BYTES = 256 * MIB
PUSH_BYTES = 64 * MIB
RANGE_BYTES = MIB
SMALL_PUSH_BYTES = 4 * KIB
PUSHERS = 4


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a measure. `goals`: peer -> the factor by which boltseal must be better."""

    name: str
    title: str
    unit: str
    less_is_better: bool = False
    goals: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """What the measures of one run share: a folder, the duration of each, and the servers for read tests."""

    folder: Path
    seconds: float
    peers: Sequence[str] = PEERS
    stack: ExitStack = field(default_factory=ExitStack)
    kept: dict[str, Any] = field(default_factory=dict)
    """What a measure has made and wants again in its next round."""
    _standing: dict[str, Readable] = field(default_factory=dict)

    @cached_property
    def content(self) -> Content:
        """Return the content of the servers for read tests."""
        return make_content(LARGE_BYTES)

    @cached_property
    def image(self) -> Path:
        """Return the image that is copied, as a layout on disk."""
        at = self.folder / "image"
        write_image(at)
        return at

    def standing(self, peer: str) -> Readable:
        """Return the server for read tests."""
        if peer not in self._standing:
            self._standing[peer] = self.stack.enter_context(
                readable(peer, self.folder / "standing" / peer, self.content)
            )
        return self._standing[peer]

    def empty(self) -> Path:
        """Return the folder of the next server with an empty store."""
        return self.folder / f"fresh{time.monotonic_ns()}"


@dataclass(frozen=True, slots=True)
class Measure:
    """`take(run, peer)` gives the value of each figure."""

    name: str
    peers: Sequence[str]
    figures: Sequence[Figure]
    take: Callable[[Run, str], Sequence[float]]


# --- reads ------------------------------------------------------------------------------------------------------


def _manifest(path: Callable[[Readable], str]) -> Callable[[Run, str], Sequence[float]]:
    def take(run: Run, peer: str) -> Sequence[float]:
        at = run.standing(peer)
        rate = load.wrk(at.server.url + path(at), run.seconds, [f"Accept: {MANIFEST_TYPE}"])
        return rate.per_second, rate.p99_ms

    return take


def _head(run: Run, peer: str) -> Sequence[float]:
    at = run.standing(peer)
    request = f"HEAD {at.by_tag} HTTP/1.1\r\nHost: {at.server.address}\r\nAccept: {MANIFEST_TYPE}\r\n\r\n"
    return (load.hammer(at.server.address, request.encode(), run.seconds),)


def _small_blob(run: Run, peer: str) -> Sequence[float]:
    at = run.standing(peer)
    return (load.wrk(at.server.url + at.blob(at.content.small), run.seconds).per_second,)


def _large_blob(headers: Sequence[str]) -> Callable[[Run, str], Sequence[float]]:
    def take(run: Run, peer: str) -> Sequence[float]:
        at = run.standing(peer)
        return (load.download(at.server.address, at.blob(at.content.large), run.seconds, headers) / MIB,)

    return take


# --- pushes -----------------------------------------------------------------------------------------------------


def _push(run: Run, peer: str) -> Sequence[float]:
    folder = run.empty()
    registry = REGISTRY if peer == REGISTRY_SYNCED else peer

    def sync() -> None:
        subprocess.run(["sync", "-f", str(folder)], check=True)

    with fresh(registry, folder) as server:
        end = time.monotonic() + run.seconds
        rate = load.push_blobs(
            server.address,
            REPOSITORY,
            PUSH_BYTES,
            until=lambda pushed: pushed >= 3 and time.monotonic() > end,
            after_each=sync if peer == REGISTRY_SYNCED else None,
        )
    return (rate / MIB,)


def _small_pushes(connections: int) -> Callable[[Run, str], Sequence[float]]:
    def take(run: Run, peer: str) -> Sequence[float]:
        with fresh(peer, run.empty()) as server:
            return (load.push_small_blobs(server.address, REPOSITORY, SMALL_PUSH_BYTES, run.seconds, connections),)

    return take


def _beside_pushes(run: Run, peer: str) -> Sequence[float]:
    with readable(peer, run.empty(), make_content(KIB)) as at:
        with load.Pushers(at.server.address, REPOSITORY, PUSH_BYTES, PUSHERS) as pushers:
            time.sleep(0.3)
            rate = load.wrk(at.server.url + at.by_tag, run.seconds, [f"Accept: {MANIFEST_TYPE}"], connections=16)
        return rate.per_second, rate.p99_ms, pushers.bytes_per_second / MIB


# --- a real client ----------------------------------------------------------------------------------------------


def _copies(run: Run, peer: str) -> Sequence[float]:
    inside, out = run.image, run.folder / "out"
    with fresh(peer, run.empty()) as server:
        name = f"docker://{server.address}/{REPOSITORY}:{time.monotonic_ns()}"
        pushed = _timed("--dest-tls-verify=false", f"oci:{inside}:image", name)
        os.sync()
        pulled = _timed("--src-tls-verify=false", name, f"oci:{out}:image")
        shutil.rmtree(out)
    return pushed, pulled


def _timed(*argv: str) -> float:
    started = time.perf_counter()
    subprocess.run([program("skopeo"), "--insecure-policy", "copy", "--quiet", *argv], check=True)
    return time.perf_counter() - started


# --- all of them ------------------------------------------------------------------------------------------------

_PER_SECOND, _MS, _MIB, _SECONDS = "/s", "ms", "MiB/s", "s"
_REGISTRIES = (BOLTSEAL, REGISTRY)


def measures() -> Iterator[Measure]:
    """Every measure, in the order in which they run."""
    yield Measure(
        "manifest-tag",
        PEERS,
        (
            Figure("manifest-tag", "manifest GET, sealed tag", _PER_SECOND, goals={REGISTRY: 15, OLAREG: 1}),
            Figure("manifest-p99", "the same, 99th percentile", _MS, less_is_better=True, goals={REGISTRY: 10}),
        ),
        _manifest(lambda at: at.by_tag),
    )
    yield Measure(
        "manifest-floating",
        PEERS,
        (
            Figure("manifest-floating", "manifest GET, floating tag", _PER_SECOND, goals={REGISTRY: 15}),
            Figure("floating-p99", "the same, 99th percentile", _MS, less_is_better=True, goals={REGISTRY: 10}),
        ),
        _manifest(lambda at: at.by_floating_tag),
    )
    yield Measure(
        "manifest-digest",
        PEERS,
        (
            Figure("manifest-digest", "manifest GET, digest", _PER_SECOND, goals={REGISTRY: 15}),
            Figure("digest-p99", "the same, 99th percentile", _MS, less_is_better=True, goals={REGISTRY: 10}),
        ),
        _manifest(lambda at: at.by_digest),
    )
    yield Measure(
        "manifest-head",
        PEERS,
        (Figure("manifest-head", "manifest HEAD, sealed tag", _PER_SECOND, goals={REGISTRY: 15, OLAREG: 1}),),
        _head,
    )
    yield Measure(
        "blob-10k",
        PEERS,
        (Figure("blob-10k", "blob GET, 10 KiB", _PER_SECOND, goals={REGISTRY: 20, OLAREG: 1}),),
        _small_blob,
    )
    yield Measure(
        "blob-256m",
        PEERS,
        (Figure("blob-256m", "blob GET, 256 MiB", _MIB, goals={REGISTRY: 1, NGINX: 0.9, OLAREG: 1}),),
        _large_blob(()),
    )
    yield Measure(
        "range-1m",
        PEERS,
        (Figure("range-1m", "blob GET, 1 MiB out of 256 MiB", _MIB, goals={REGISTRY: 1}),),
        _large_blob((f"Range: bytes={100 * MIB + 1}-{100 * MIB + RANGE_BYTES}",)),
    )
    yield Measure(
        "range-rest",
        PEERS,
        (Figure("range-rest", "blob GET, 256 MiB without its first byte", _MIB, goals={REGISTRY: 1}),),
        _large_blob(("Range: bytes=1-",)),
    )
    yield Measure(
        "push-64m",
        (BOLTSEAL, REGISTRY, REGISTRY_SYNCED),
        (Figure("push-64m", "push, 64 MiB blobs", _MIB, goals={REGISTRY: 0.8, REGISTRY_SYNCED: 1}),),
        _push,
    )
    yield Measure(
        "push-4k-1",
        _REGISTRIES,
        (Figure("push-4k-1", "push, 4 KiB blobs, 1 connection", _PER_SECOND, goals={REGISTRY: 1}),),
        _small_pushes(1),
    )
    yield Measure(
        "push-4k-16",
        _REGISTRIES,
        (Figure("push-4k-16", "push, 4 KiB blobs, 16 connections", _PER_SECOND, goals={REGISTRY: 4}),),
        _small_pushes(16),
    )
    yield Measure(
        "skopeo",
        _REGISTRIES,
        (
            Figure("skopeo-in", "skopeo copy in, 12 layers, 299 MiB", _SECONDS, less_is_better=True),
            Figure("skopeo-out", "skopeo copy out, the same image", _SECONDS, less_is_better=True),
        ),
        _copies,
    )
    yield Measure(
        "beside-pushes",
        _REGISTRIES,
        (
            Figure("beside-pushes", "manifest GET beside four pushes", _PER_SECOND, goals={REGISTRY: 3}),
            Figure("beside-p99", "the same, 99th percentile", _MS, less_is_better=True),
            Figure("beside-rate", "the four pushes meanwhile", _MIB),
        ),
        _beside_pushes,
    )
