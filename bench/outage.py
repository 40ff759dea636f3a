"""`python -m bench.outage`: how long a client gets no answer while a service is replaced by another version.

A real Docker with networks and a real registry. A client in the project's network asks the service by its name about 50 times
a second, and tries each address that the name resolves to, as programs do. The service needs half a second to start. In each
round, in turn: `docker compose up --detach` without and with a published port, `docker-rollout` (`--rollout FILE`: its script, which is not part of this
repository), `boltseal deploy` where it can start the new container first, and where a published port forbids that.
The goal: no failed request where the new container can start first.

`--clients` compares clients instead: one that tries each address, one that looks the name up once a second and tries the first address
only, and one that keeps an address until a request fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import servers
from tests.real.engines.bridged import Client, Outage, asked, bridged_docker
from tests.real.sleeper import publish, sleeper
from tests.real.tools import Docker

PORT: Final = 8080
CHECK: Final = {"test": ["CMD", "/busybox", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{PORT}/"]}
COMPOSE: Final = "docker compose up"
METHODS: Final = (
    COMPOSE,
    f"{COMPOSE}, with a published port",
    "docker-rollout",
    "boltseal deploy",
    "boltseal deploy, with a published port",
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollout", type=Path, help="the script of docker-rollout")
    parser.add_argument("--clients", action="store_true", help="compare clients instead of methods")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with servers.boltseal(folder / "data") as registry, bridged_docker(folder / "docker", registry) as docker:
            for tag in ("1", "2"):
                publish(registry.address, "shop/app", tag, sleeper(tag, command=_serves(tag)))
            if given.clients:
                return _clients(folder, docker, registry.address, given.rounds)
            seen: dict[str, list[Outage]] = {}
            for method in METHODS:
                if method == "docker-rollout" and given.rollout is None:
                    continue
                project = _Project(
                    folder / f"project{len(seen)}", f"bench{len(seen)}", docker, registry.address, folder
                )
                seen[method] = [project.replaced(method, given.rollout) for _ in range(given.rounds)]
                project.run("docker", "compose", "down", "--timeout", "0")
    print(f"one service replaced, medians of {given.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    for method, outages in seen.items():
        longest = statistics.median(each.longest_s for each in outages)
        failed = sum(each.failed for each in outages)
        print(f"  {method:40} longest time without an answer {longest:5.2f} s   failed requests {failed}")
    with_port = [
        statistics.median(each.longest_s for each in seen[f"{name}, with a published port"])
        for name in ("boltseal deploy", COMPOSE)
    ]
    print(
        f"  with a published port boltseal takes {with_port[0] / with_port[1]:.2f} times as long as docker compose up"
    )
    zero = sum(each.failed for each in seen["boltseal deploy"]) == 0
    print(f"  goal, no failed request where the new container can start first: {'reached' if zero else 'MISSED'}")
    return 0


def _clients(folder: Path, docker: Docker, registry: str, rounds: int) -> int:
    """Measure and print what each kind of client sees."""
    print(f"one service replaced, {rounds} rounds; load {os.getloadavg()[0]:.1f}")
    for method in (COMPOSE, "boltseal deploy"):
        for number, client in enumerate(Client):
            name = f"clients{number}{len(method)}"
            project = _Project(folder / name, name, docker, registry, folder)
            seen = [project.replaced(method, None, client) for _ in range(rounds)]
            project.run("docker", "compose", "down", "--timeout", "0")
            longest = statistics.median(each.longest_s for each in seen)
            failed, requests = sum(each.failed for each in seen), sum(each.requests for each in seen)
            print(
                f"  {method:18} client {client:6} longest time without an answer {longest:5.2f} s   failed {failed} of {requests}"
            )
    return 0


def _serves(words: str) -> tuple[str, ...]:
    script = f"echo {words} > /index.html; /busybox sleep 0.5; exec /busybox httpd -f -p {PORT} -h /"
    return ("/busybox", "sh", "-c", script)


@dataclass
class _Project:
    """A Compose project of a service and its client."""

    root: Path
    name: str
    docker: Docker
    registry: str
    scratch: Path

    def replaced(self, method: str, rollout: Path | None, by: Client = Client.EACH) -> Outage:
        """Replace version 1 by version 2 in one method; return what the client saw."""
        self.root.mkdir(exist_ok=True)
        ports = [f"127.0.0.1::{PORT}"] if "port" in method else []
        self._write("1", ports)
        self.run(*self._command(method if method != "docker-rollout" else COMPOSE, None))
        self._write("2", ports)
        self.run("docker", "compose", "pull", "--quiet")
        command = self._command(method, rollout)
        client = self.run("docker", "compose", "ps", "--quiet", "client").strip()
        with asked(self.docker, client, "web", PORT, self.scratch, by) as seen:
            self.run(*command)
        return seen[0]

    def _write(self, tag: str, ports: list[str]) -> None:
        image = f"{self.registry}/shop/app"
        web: Mapping[str, Any] = {
            "image": f"{image}:{tag}",
            "healthcheck": {**CHECK, "interval": "300ms"},
            "stop_grace_period": "1s",
            "ports": ports,
        }
        client = {"image": f"{image}:1", "command": ["/busybox", "sleep", "10000"], "stop_grace_period": "0s"}
        document = {"name": self.name, "services": {"web": web, "client": client}}
        (self.root / "compose.yaml").write_text(json.dumps(document))

    def _command(self, method: str, rollout: Path | None) -> tuple[str, ...]:
        if method.startswith(COMPOSE):
            return "docker", "compose", "up", "--detach", "--wait"
        if rollout is not None and method == "docker-rollout":
            return "sh", str(rollout), "rollout", "web"
        self.run(sys.executable, "-m", "boltseal", "lock", "--update")
        return sys.executable, "-m", "boltseal", "deploy"

    def run(self, *argv: str) -> str:
        """Run a command in the project's folder; return its output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_")}
        state = self.scratch / "state"
        environment |= {
            "DOCKER_HOST": self.docker.host,
            "BOLTSEAL_STATE": str(state),
            "BOLTSEAL_ENGINES": str(state / "engines"),
        }
        done = subprocess.run(argv, cwd=self.root, env=environment, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.decode()}")
        return done.stdout.decode()


if __name__ == "__main__":
    sys.exit(main())
