"""Seeded sequences of deploys, failures, kills, prunes and `docker compose up` on real engines: what runs is always as expected."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.cli.program import clean_environment
from tests.real.compose_project import HEALTHY, ILL, KILLED, ComposeProject
from tests.real.tools import run

pytestmark = pytest.mark.real

WAITS = {"job": {"condition": "service_completed_successfully"}}
STEPS = 6


@dataclass
class Sequence:
    """A random sequence of commands; `--anyway`: also after a rollback, which the files do not follow. `runs`: the words of the running services; `log`: what was done, for a failure."""

    shop: ComposeProject
    chance: random.Random
    number: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def version(self, check: dict[str, Any] = HEALTHY, *, job_fails: bool = False) -> dict[str, str]:
        """Publish another version and write it into the file; return the words of what runs once it is deployed."""
        self.number += 1
        words = str(self.number)
        self.shop.publish(words)
        data = {"type": "bind", "source": str(self.shop.root.parent / "data"), "target": "/data"}
        script = f"/busybox echo {words} >> /data/jobs; exit {int(job_fails)}"
        image = self.shop.image(words)
        writes = {"volumes": [data]} if self.chance.random() < 0.5 else {}  # such a service stops first
        self.shop.write(
            {
                "web": {"image": image, "healthcheck": check, "depends_on": WAITS, **writes},
                "job": {"image": image, "command": ["/busybox", "sh", "-c", script], "volumes": [data]},
            }
        )
        return {"web": words}

    def jobs(self) -> list[str]:
        """Return which versions' jobs ran, in order."""
        file = self.shop.root.parent / "data" / "jobs"
        return file.read_text().split() if file.exists() else []

    def deploy_good(self) -> None:
        wanted = self.version()
        self.shop.deployed("--anyway")
        self.runs = wanted

    def deploy_ill(self) -> None:
        self.version(ILL)
        self.shop.locked()
        assert self.shop.run("deploy", "--anyway").code == 1

    def deploy_failed_job(self) -> None:
        self.version(job_fails=True)
        before = self.shop.ids()["web"]
        self.shop.locked()
        assert self.shop.run("deploy", "--anyway").code == 1
        assert self.shop.ids()["web"] == before

    def rollback(self) -> None:
        jobs = self.jobs()
        done = self.shop.run("rollback")
        if done.code == 0:
            self.runs = running(self.shop)
        else:
            assert "no release before the running one" in done.err, done.err
        assert self.jobs() == jobs

    def compose_up(self) -> None:
        self.runs = self.version()
        up = run("docker", "compose", "up", "--detach", env=clean_environment(self.shop.variables), cwd=self.shop.root)
        assert up.ok, up.text

    def killed(self) -> None:
        wanted, before = self.version(), self.runs
        self.shop.locked()
        after = self.chance.randint(1, 5)
        argv = [sys.executable, str(KILLED), str(after), ".release", "deploy", "--anyway"]
        done = subprocess.run(
            argv, env=clean_environment(self.shop.variables), cwd=self.shop.root, capture_output=True, check=False
        )
        how = self.chance.choice(["--resume", "", "rollback"])
        self.log.append(f"killed after {after}, then {how or 'deploy'}")
        if done.returncode != -signal.SIGKILL or how != "rollback":
            unfinished = "unfinished" in self.shop.releases()[-1]["status"]
            result = self.shop.run("deploy", "--resume" if how == "--resume" and unfinished else "--anyway")
            assert result.code == 0, result.err
            self.runs = wanted
            return
        jobs = self.jobs()
        unfinished = "unfinished" in self.shop.releases()[-1]["status"]
        back = self.shop.run("rollback")
        assert back.code == 0, back.err
        assert self.jobs() == jobs
        self.runs = before if unfinished else running(self.shop)

    def prune(self) -> None:
        self.shop.docker.run("image", "prune", "--force").checked()

    def registry_down(self) -> None:
        self.version()
        self.shop.locked()
        for name in ("compose.yaml", "boltseal.lock"):
            path = self.shop.root / name
            path.write_text(path.read_text().replace(self.shop.registry.address, "127.0.0.1:9"))
        assert self.shop.run("deploy", "--anyway").code == 3

    def other_admin(self) -> None:
        self.version(ILL)
        self.shop.locked()
        other = replace(self.shop, state=self.shop.state.with_name("other"))
        assert other.run("deploy", "--anyway").code == 1

    def other_folder(self) -> None:
        other = replace(self.shop, root=self.shop.root.with_name("elsewhere"))
        other.root.mkdir(exist_ok=True)
        for name in ("compose.yaml", "boltseal.lock"):
            if (self.shop.root / name).exists():
                (other.root / name).write_bytes((self.shop.root / name).read_bytes())
        result = other.run("deploy", "--anyway")
        assert result.code != 0 or "runs already" in result.out


def running(shop: ComposeProject) -> dict[str, str]:
    """Return the words of each running service."""
    return {
        name: each["Config"]["Labels"]["words"] for name, each in shop.containers().items() if each["State"]["Running"]
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_what_runs_is_always_as_expected(shop: ComposeProject, seed: int) -> None:
    """After each step, what runs is what the last successful step says, or exactly what ran before."""
    (shop.root.parent / "data").mkdir()
    sequence = Sequence(shop, random.Random(seed))  # noqa: S311 - a sample that can be repeated
    sequence.chance.choice([sequence.deploy_good, sequence.compose_up])()
    steps: list[Callable[[], None]] = [
        sequence.deploy_good,
        sequence.deploy_ill,
        sequence.deploy_failed_job,
        sequence.rollback,
        sequence.compose_up,
        sequence.killed,
        sequence.prune,
        sequence.registry_down,
        sequence.other_admin,
        sequence.other_folder,
    ]
    for step in sequence.chance.sample(steps, STEPS):
        sequence.log.append(step.__name__)
        step()

        assert running(shop) == sequence.runs, sequence.log
