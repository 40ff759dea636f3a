"""`python -m bench.admission`: what the admission webhook costs for each review, with a registry on this machine.

    digest      a pod by digest: parsing, and the decision
    remembered  a pod by a tag that was proven before
    proven      a pod by a tag that is proven now: the registry's checkpoint, a HEAD and the entries with their proofs
    parse       100 containers by digest in one object

Each line has the median and the slowest hundredth of the rounds, and the processor time of the webhook for a review: without the
registry's, and without TLS and HTTP between API server and webhook.
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
from typing import Final

import httpx2

from boltseal.commands.admission import AdmissionWebhook
from boltseal.commands.admission_images import AdmissionImages, AdmissionTerms, read_trust, trust_ledgers
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import client_paths
from boltseal.server.storage.ledger_key import LedgerKeys
from tests import images
from tests.deploy.kube.reviews import object_of, review
from tests.polling import until_signed
from tests.servers import Server, boltseal

ROUNDS: Final = 200
WITHIN_S: Final = 20.0


def webhook(server: Server, state: Path, *, remembered_s: float) -> AdmissionWebhook:
    """Return a webhook that trusts the server's ledger."""
    key = LedgerKeys(server.folder.with_name(f"{server.folder.name}.keys")).key()
    if key is None:
        raise AssertionError("the server has signed its ledger")
    context = ClientContext(client_paths(), state, lambda: time.time_ns() // 1000, lambda _: None)
    options = RegistryOptions(context, anonymous=True)
    registries = trust_ledgers(options, read_trust(f"{server.address} {key.verifier}\n".encode()))
    terms = AdmissionTerms(registries, remembered_s=remembered_s)
    return AdmissionWebhook(AdmissionImages(options, terms, time.monotonic), lambda *_: None)


def pod(*written: str) -> bytes:
    """Return the review of a pod with these images."""
    return review(
        object_of("Pod", {"containers": [{"name": str(at), "image": each} for at, each in enumerate(written)]})
    )


async def measure(name: str, rounds: int, call: Callable[[], Awaitable[bytes]]) -> str:
    """Return a line with the median and the slowest hundredth of the calls."""
    taken, processor_s = [], time.process_time()
    for _ in range(rounds):
        began = time.perf_counter()
        answer = await call()
        taken.append((time.perf_counter() - began) * 1000)
        if b'"allowed":true' not in answer:
            raise AssertionError(answer)
    processor_ms = (time.process_time() - processor_s) * 1000 / rounds
    slowest = sorted(taken)[-max(1, rounds // 100)]
    return f"{name:12} {statistics.median(taken):8.2f} ms   {slowest:8.2f} ms   {processor_ms:8.2f} ms"


async def run(server: Server, folder: Path, rounds: int) -> None:
    """Push an image and print the figures."""
    document = images.image("the published image")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await images.push(client, "shop/app", "latest", document)
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)
    tag = f"{server.address}/shop/app:latest"
    digest = f"{tag}@{document.digest}"
    remembering = webhook(server, folder / "state", remembered_s=3600)
    asking = webhook(server, folder / "state", remembered_s=0)
    many = pod(*(digest.replace("/app", f"/app{number}") for number in range(100)))
    print(f"{'':12} {'median':>11}   {'p99':>11}   {'processor':>11}")
    print(await measure("digest", rounds, lambda: remembering.mutate(pod(digest), WITHIN_S)))
    print(await measure("remembered", rounds, lambda: remembering.mutate(pod(tag), WITHIN_S)))
    print(await measure("proven", rounds, lambda: asking.mutate(pod(tag), WITHIN_S)))
    print(await measure("parse", rounds, lambda: remembering.mutate(many, WITHIN_S)))


def main() -> int:
    """Run the measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch, boltseal(Path(scratch) / "data") as server:
        asyncio.run(run(server, Path(scratch), rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
