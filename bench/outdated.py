"""`python -m bench.outdated`: which of 1,000 images are based on an old base, compared with "GET every manifest and
compare layers".

1,000 images on 30 tags of a Docker Hub in memory that counts as the real one does: a GET of a manifest is a pull, a HEAD is
none. The other method reads for each image its manifest and its base's by tag; an image is outdated if its layers do not
begin with the base's. Both use the same registries and client in one process, in turn; a figure is the median of the rounds. Three cases are measured: nothing moved; three bases got another layer; three more only lost their uppermost one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from boltseal.client.credentials import CredentialStore
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.mediatype import OCI_MANIFEST
from boltseal.project.bases.freshness import BaseStatus
from tests.project.bases.published import HUB, Published, base_labels

IMAGES, BASES, OWN = 1_000, 30, "reg.test"
AT_ONCE = 16


class Taken(NamedTuple):
    """Elapsed seconds, processor seconds, requests for manifests, and the number of images found outdated."""

    seconds: float
    core_s: float
    hub_heads: int
    hub_gets: int
    own_heads: int
    own_gets: int
    outdated: int


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.outdated", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    every = [asyncio.run(_round()) for _ in range(rounds)]
    print(f"{IMAGES} images on {BASES} base tags; median of {rounds} rounds\n")
    print("| | seconds | of a core | Hub: HEAD | Hub: GET, each a pull | own: HEAD | own: GET | found outdated |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for title in every[0]:
        taken = [found[title] for found in every]
        middle = sorted(taken, key=lambda each: each.core_s)[len(taken) // 2]
        seconds = statistics.median(one.seconds for one in taken)
        print(f"| {title} | {seconds:.2f} | {' | '.join(map(str, (f'{middle.core_s:.2f}', *middle[2:])))} |")
    return 0


async def _round() -> dict[str, Taken]:
    with tempfile.TemporaryDirectory(prefix="bench-outdated-") as folder:
        registry = Published(Path(folder))
        names = _publish(registry)
        transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=registry.hub.transport())
        found: dict[str, Taken] = {}
        for what, happens in (("nothing moved", 0), ("three bases got another layer", 1), ("three lost one", 2)):
            _move(registry, happens)
            if not happens:
                found["boltseal outdated, for the first time"] = await _taken(registry, lambda: _ours(registry, names))
            found[f"boltseal outdated, {what}"] = await _taken(registry, lambda: _ours(registry, names))
            found[f"GET every manifest, {what}"] = await _taken(registry, lambda: _theirs(transport, names))
        await transport.aclose()
        return found


def _publish(registry: Published) -> list[str]:
    bases = [registry.image("library/node", f"16.{number}", f"ab{chr(300 + number)}") for number in range(BASES)]
    for number in range(IMAGES):
        at = number % BASES
        labels = base_labels(f"docker.io/library/node:16.{at}", bases[at])
        registry.image(
            f"team{number % 10}/app", f"{number}", f"ab{chr(300 + at)}{chr(1000 + number)}", annotations=labels
        )
    return [f"{OWN}/team{number % 10}/app:{number}" for number in range(IMAGES)]


def _move(registry: Published, happens: int) -> None:
    for number in range(3) if happens else ():
        at = number + 3 * (happens - 1)
        layers = f"ab{chr(400 + number)}" if happens == 1 else "ab"
        registry.image("library/node", f"16.{at}", layers)


async def _ours(registry: Published, names: list[str]) -> int:
    answers = await registry.look(*names)
    return sum(one.verdict.status is BaseStatus.OUTDATED for one in answers)


async def _theirs(transport: Transport, names: list[str]) -> int:
    """Read two manifests by tag for each image, a few at a time, as the other tool does."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def layers(host: str, repository: str, tag: str) -> list[str]:
        scopes = frozenset({f"repository:{repository}:pull"})
        call = RegistryRequest(
            host, "GET", f"/v2/{repository}/manifests/{tag}", "manifest", scopes, {"accept": OCI_MANIFEST}
        )
        async with gate:
            reply = await transport.request(call)
        return [str(one.digest) for one in parse_manifest(reply.body, OCI_MANIFEST).layers]

    async def outdated(name: str) -> bool:
        repository, _, tag = name.removeprefix(f"{OWN}/").partition(":")
        own = await layers(OWN, repository, tag)
        base = await layers("docker.io", "library/node", f"16.{int(tag) % BASES}")
        return own[: len(base)] != base

    return sum(await asyncio.gather(*map(outdated, names)))


async def _taken(registry: Published, work: Callable[[], Awaitable[int]]) -> Taken:
    registry.hub.counted_at.clear()
    started, worked = time.perf_counter(), time.process_time()
    found = await work()
    seconds, core_s = time.perf_counter() - started, time.process_time() - worked
    hub, own = ((registry.asked("HEAD", host), registry.asked("GET", host)) for host in (HUB, OWN))
    return Taken(seconds, core_s, *hub, *own, found)


if __name__ == "__main__":
    sys.exit(main())
