"""`python -m bench.deploy`: the cost of deploying a project that runs already, compared with Compose itself.

A real Docker, a real registry, ten services on two images. In each round, in turn: `docker compose config` (what boltseal has
Compose do in any case), `docker compose up --detach` and `boltseal deploy`, all of a project in which nothing has changed; then
a rollback, with the registry's requests counted. The goal: boltseal's own share, which is what it takes beyond `compose
config`, is under a second; nothing is asked of the registry, and no container is started.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx2

from tests import servers
from tests.real.sleeper import publish, sleeper

SERVICES: Final = 10
GOAL_S: Final = 1.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with servers.boltseal(folder / "data") as registry, servers.dockerd(folder / "docker") as engine:
            return _measured(folder, registry, engine, rounds)


def _measured(folder: Path, registry: servers.Server, engine: servers.Server, rounds: int) -> int:
    project = folder / "project"
    project.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_")}
    environment |= {
        "DOCKER_HOST": f"unix://{engine.address}",
        "BOLTSEAL_STATE": str(folder / "state"),
        "BOLTSEAL_ENGINES": str(folder / "engines"),
    }
    boltseal = (sys.executable, "-m", "boltseal")
    compose = ("docker", "compose")

    def run(*argv: str) -> float:
        started = time.monotonic()
        done = subprocess.run(argv, cwd=project, env=environment, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.decode()}")
        return time.monotonic() - started

    for tag in ("1.0.0", "1.1.0"):
        publish(registry.address, "shop/app", tag, sleeper(tag))
        _write(project, registry.address, tag)
        run(*boltseal, "lock", "--update")
        run(*boltseal, "deploy")
    before, asked = _running(engine), _asked(registry)
    config, deploy = [], []
    for _ in range(rounds):
        config.append(run(*compose, "config", "--format", "json"))
        deploy.append(run(*boltseal, "deploy"))
    same, again = _running(engine) == before, _asked(registry) - asked
    back = run(*boltseal, "rollback")
    backed = _asked(registry) - asked - again
    run(*compose, "up", "--detach")
    up = [run(*compose, "up", "--detach") for _ in range(rounds)]
    _print(config, deploy, up, same=same, again=again, back=back, backed=backed)
    run(*compose, "down", "--timeout", "0")
    return 0


def _write(project: Path, registry: str, tag: str) -> None:
    service = {"image": f"{registry}/shop/app:{tag}", "network_mode": "none", "stop_grace_period": "0s"}
    document = {"name": "bench", "services": {f"s{number}": service for number in range(SERVICES)}}
    (project / "compose.yaml").write_text(json.dumps(document))


def _running(engine: servers.Server) -> frozenset[str]:
    found = subprocess.run(
        ["docker", "-H", f"unix://{engine.address}", "ps", "--quiet", "--no-trunc"], capture_output=True, check=True
    )
    return frozenset(found.stdout.decode().split())


def _asked(registry: servers.Server) -> int:
    """Return the number of requests to the registry about an image."""
    metrics = httpx2.get(f"{registry.url}/metrics", trust_env=False).raise_for_status().text
    lines = [line for line in metrics.splitlines() if line.startswith("boltseal_http_requests_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if 'route="/metrics"' not in line)


def _print(
    config: Sequence[float],
    deploy: Sequence[float],
    up: Sequence[float],
    *,
    same: bool,
    again: int,
    back: float,
    backed: int,
) -> None:
    ours, own, theirs = (statistics.median(each) for each in (deploy, config, up))
    share = ours - own
    print(f"{SERVICES} services, nothing changed, medians of {len(deploy)} rounds; load {os.getloadavg()[0]:.1f}")
    print(f"  docker compose config         {own:6.2f} s")
    print(f"  docker compose up --detach    {theirs:6.2f} s")
    print(f"  boltseal deploy               {ours:6.2f} s   ratio to up {ours / theirs:.2f}")
    print(
        f"  boltseal's own share          {share:6.2f} s   goal {GOAL_S:g} s: {'reached' if share < GOAL_S else 'MISSED'}"
    )
    print(f"  containers left alone: {'yes' if same else 'NO'}; requests to the registry: {again} (goal 0)")
    print(f"  boltseal rollback             {back:6.2f} s   requests to the registry: {backed} (goal 0)")


if __name__ == "__main__":
    sys.exit(main())
