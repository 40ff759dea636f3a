"""`python -m bench.pin`: pinning a large project, compared with pindock on the same tree and registry in the same run.

1,000 Compose files and Dockerfiles with 5,000 references to 200 images, which a boltseal on this machine serves. Each tool
gets a fresh copy of the tree in each round, in turn; a figure is the median. Requests are counted in the registry's own
access log. pindock is installed into an environment of its own, beside the results and outside of this repository, by
pip as it is configured here; without it, that is printed and boltseal is measured alone.

The last figures are of boltseal without any network: everything is scanned and rewritten, by an existing lock.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx2

from bench.content import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, Blob
from tests import servers
from tests.servers import Server

FILES, PER_FILE, IMAGES = 1_000, 5, 200
PINDOCK = "pindock==1.1.3"
BOLTSEAL = (sys.executable, "-m", "boltseal")
GOAL_S = 3.0


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.pin", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-pin-") as scratch:
        folder = Path(scratch)
        pindock = _pindock(folder / "pindock")
        with servers.boltseal(folder / "data", settings={"BOLTSEAL_SERVER__LOG_FORMAT": "json"}) as server:
            _publish(server)
            tree = folder / "tree"
            _plant(tree, server.address)
            print(f"{FILES} files, {FILES * PER_FILE} references, {IMAGES} images; median of {rounds} rounds\n")
            print("| | seconds | of a core | HEAD | GET | |\n| --- | ---: | ---: | ---: | ---: | --- |")
            ours = _taken(server, tree, rounds, lambda at: _run(*BOLTSEAL, "pin", "--write", "--project", at))
            _row("boltseal pin --write, no lock", ours)
            if pindock is not None:
                theirs = _taken(server, tree, rounds, lambda at: _run(str(pindock), "run", "-C", at))
                _row("pindock run", theirs, f"boltseal takes {ours.seconds / theirs.seconds:.1f} x its time")
            _row("boltseal lock", _taken(server, tree, rounds, lambda at: _run(*BOLTSEAL, "lock", "--project", at)))
            _run(*BOLTSEAL, "lock", "--project", str(tree))
            _row("boltseal verify", _taken(server, tree, rounds, lambda at: _run(*BOLTSEAL, "verify", "--project", at)))
            for title, arguments in (
                ("boltseal verify --offline", ("verify", "--offline")),
                ("boltseal pin, by the lock", ("pin",)),
                ("boltseal pin --write, by the lock", ("pin", "--write")),
            ):
                alone = _taken(server, tree, rounds, lambda at, a=arguments: _run(*BOLTSEAL, *a, "--project", at))  # type: ignore[misc]  # the words of this turn
                reached = f"goal {GOAL_S:g} s: {'reached' if alone.seconds < GOAL_S else 'MISSED'}"
                _row(title, alone, reached)
    return 0


def _pindock(at: Path) -> Path | None:
    venv.create(at, with_pip=True)
    done = subprocess.run([at / "bin/pip", "install", "--quiet", PINDOCK], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return at / "bin/pindock"
    print(f"{PINDOCK} can't be had, so boltseal is measured alone: {done.stderr.strip().splitlines()[-1:]}\n")
    return None


def _publish(server: Server) -> None:
    """Push an image with its own layer to each repository."""
    with httpx2.Client(base_url=server.url, trust_env=False) as client:
        for number in range(IMAGES):
            blobs = [(Blob(f"{number} {kind}".encode()), kind) for kind in (CONFIG_TYPE, LAYER_TYPE)]
            parts = [{"mediaType": kind, "digest": blob.digest, "size": len(blob.data)} for blob, kind in blobs]
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": parts[0], "layers": parts[1:]}
            for blob, _ in blobs:
                client.post(
                    f"/v2/{_name(number)}/blobs/uploads/",
                    params={"digest": blob.digest},
                    content=blob.data,
                    headers={"content-type": "application/octet-stream"},
                ).raise_for_status()
            client.put(
                f"/v2/{_name(number)}/manifests/1.0.{number}",
                content=json.dumps(manifest),
                headers={"content-type": MANIFEST_TYPE},
            ).raise_for_status()


def _name(number: int) -> str:
    return f"team{number % 10}/app{number}"


def _plant(tree: Path, address: str) -> None:
    """Write about two Compose files for each Dockerfile, in folders as projects have them."""
    for number in range(FILES):
        folder = tree / f"part{number % 50}" / f"service{number}"
        folder.mkdir(parents=True)
        images = [(number * PER_FILE + offset) % IMAGES for offset in range(PER_FILE)]
        written = [f"{address}/{_name(each)}:1.0.{each}" for each in images]
        if number % 3:
            services = "".join(f"  web{at}:\n    image: {name}  # one of many\n" for at, name in enumerate(written))
            (folder / "compose.yaml").write_text(f"services:\n{services}")
        else:
            stages = "".join(f"FROM {name} AS stage{at}\nRUN make\n" for at, name in enumerate(written))
            (folder / "Dockerfile").write_text(stages)


class Taken(NamedTuple):
    """Medians of elapsed and processor seconds, and the requests of the last round."""

    seconds: float
    core_s: float
    asked: Counter[str]


def _taken(server: Server, tree: Path, rounds: int, work: Callable[[str], None]) -> Taken:
    """Measure a tool on a copy of the tree."""
    seconds, core_s, asked = [], [], Counter[str]()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="bench-tree-") as at:
            shutil.copytree(tree, at, dirs_exist_ok=True)
            before = _settled(server)
            started, worked = time.perf_counter(), _core_s()
            work(at)
            seconds.append(time.perf_counter() - started)
            core_s.append(_core_s() - worked)
            asked = _settled(server) - before
    return Taken(statistics.median(seconds), statistics.median(core_s), asked)


def _core_s() -> float:
    """Return the processor seconds of started programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _settled(server: Server) -> Counter[str]:
    """Return the requests once the registry has logged everything that it has answered."""
    found = _asked(server)
    while True:
        time.sleep(0.3)
        now = _asked(server)
        if now == found:
            return found
        found = now


def _asked(server: Server) -> Counter[str]:
    """Return the requests in the registry's log so far, by method."""
    found = Counter[str]()
    for line in server.log.read_text(encoding="utf-8").splitlines():
        try:
            method = json.loads(line).get("method")
        except ValueError:
            continue
        if method is not None:
            found[str(method)] += 1
    return found


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[-4:])} ended with {done.returncode}: {done.stderr[-400:]}")


def _row(title: str, taken: Taken, note: str = "") -> None:
    asked = taken.asked
    cells = (title, f"{taken.seconds:.2f}", f"{taken.core_s:.2f}", asked["HEAD"], asked["GET"], note)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
