"""`python -m bench.restore`: `admin restore` of many small blobs, beside `cp -a` of the same backup.

    cp -a             copies the files, hashes nothing and leaves the writing to the kernel
    cp -a + sync      copies the files, then waits until the file system has stored them, as a restore must

Each round runs all of them on one backup; a figure is the median of the rounds. The table shows elapsed time and processor
time, which depends less on other programs of the machine. A restore hashes every blob, checks the database and every reference
to a blob, and starts Python.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2

from boltseal.server.storage.backup import back_up
from boltseal.server.store_factory import now_us
from tests.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Document, put, to_json
from tests.serving import serving

LAYERS = 50
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
SIZES = (200, 1_000, 4_000, 10_000)
TOOLS: Mapping[str, Sequence[str]] = {
    "boltseal admin restore": (sys.executable, "-m", "boltseal", "admin", "restore", "{backup}", "--data", "{target}"),
    "cp -a": ("cp", "-a", "{backup}", "{target}"),
    "cp -a + sync": ("sh", "-c", "cp -a {backup} {target} && sync -f {target}"),
}


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.restore", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200, help=f"of {LAYERS} layers each")
    parser.add_argument("--folder", type=Path, help="parent of the scratch folder; default: the temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-restore-", dir=asked.folder) as scratch:
        folder = Path(scratch)
        with tempfile.TemporaryDirectory(prefix="bench-restore-", dir=MEMORY) as quick:
            asyncio.run(publish(Path(quick) / "data", asked.images))
            result = back_up(Path(quick) / "data", folder / "backup", now_us(), lambda *_: None)
        taken: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
        for number in range(asked.rounds):
            for tool, words in TOOLS.items():
                taken[tool].append(_run(words, folder / "backup", folder / f"to{number}"))
    print(f"{result.blobs} blobs, {result.taken_bytes / 1e6:.0f} MB; median of {asked.rounds} rounds\n")
    print(
        "| | elapsed, s | processor, s | elapsed / `cp -a` | processor / `cp -a` |\n| --- | ---: | ---: | ---: | ---: |"
    )
    medians = {tool: [statistics.median(each) for each in zip(*rows, strict=True)] for tool, rows in taken.items()}
    base = medians["cp -a"]
    for tool, (elapsed_s, worked_s) in medians.items():
        print(f"| {tool} | {elapsed_s:.2f} | {worked_s:.2f} | {elapsed_s / base[0]:.2f} | {worked_s / base[1]:.2f} |")
    return 0


async def publish(data: Path, images: int) -> None:
    dice = random.Random(1)  # noqa: S311 - not for secrets
    async with serving(data) as registry:
        for number in range(images):
            layers = [Blob(dice.randbytes(dice.choice(SIZES)), OCI_LAYER) for _ in range(LAYERS)]
            config = Blob(to_json({"architecture": "amd64", "os": "linux", "number": number}), OCI_CONFIG)
            body = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config.descriptor(),
                "layers": [each.descriptor() for each in layers],
            }
            await asyncio.gather(*(_push(registry.client, each) for each in (config, *layers)))
            answer = await put(registry.client, "shop/app", f"1.0.{number}", Document(to_json(body), OCI_MANIFEST))
            assert answer.status_code == 201, answer.text


async def _push(client: httpx2.AsyncClient, blob: Blob) -> None:
    answer = await client.post(
        "/v2/shop/app/blobs/uploads/",
        params={"digest": blob.digest},
        content=blob.data,
        headers={"content-type": "application/octet-stream"},
    )
    assert answer.status_code == 201, answer.text


def _run(words: Sequence[str], backup: Path, target: Path) -> tuple[float, float]:
    """Return how long a tool ran and how much processor time it used, in seconds."""
    argv = [word.format(backup=backup, target=target) for word in words]
    os.sync()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    elapsed_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(target)
    return elapsed_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
