"""A Compose project with its own engine and registry, deployed as a user does it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.boltseal_process import boltseal_process
from tests.cli.program import Run, call, clean_environment
from tests.polling import wait_until
from tests.real.sleeper import SLEEP, publish, sleeper
from tests.real.tools import Docker
from tests.servers import Server

KILLED = Path(__file__).with_name("killed.py")
OFTEN_AT_START = {"start_period": "30s", "start_interval": "100ms", "interval": "10s"}
"""When Docker runs a check: ten times a second until it succeeds, then rarely, since each run takes a tenth of a second of processor time."""
HEALTHY = {"test": ["CMD", "/busybox", "true"], "retries": 2, **OFTEN_AT_START}
"""A check that succeeds. Without one, a deploy waits until a container has run for five seconds."""
ILL = {"test": ["CMD", "false"], "interval": "300ms", "retries": 1}
ENDS = ("/busybox", "sh", "-c", "/busybox echo it can not start; exit 3")


def succeeds_every(interval: str) -> dict[str, Any]:
    """Return a check that succeeds, and is run for the first time after this interval."""
    return {"test": ["CMD", "/busybox", "true"], "interval": interval, "retries": 2}


@dataclass
class ComposeProject:
    """One Compose project. `files` are written as JSON, which is YAML; commands run in its folder."""

    root: Path
    docker: Docker
    registry: Server
    state: Path
    repository: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the project's name, which is unique on this engine."""
        return self.repository.replace("/", "-")

    def image(self, tag: str) -> str:
        """Return the reference of an image."""
        return f"{self.registry.address}/{self.repository}:{tag}"

    def publish(self, tag: str, words: str = "", *, command: Sequence[str] = SLEEP) -> str:
        """Push an image that has a health check's commands; return its digest."""
        made = sleeper(words or tag, commands=("true", "false"), command=command)
        return publish(self.registry.address, self.repository, tag, made)

    def write(self, services: Mapping[str, Any], name: str = "compose.yaml", **more: Any) -> None:
        """Write a Compose file. No service has a network, because the engine has none."""
        whole = {key: {"network_mode": "none", "stop_grace_period": "0s", **result} for key, result in services.items()}
        self.root.mkdir(exist_ok=True)
        (self.root / name).write_text(json.dumps({"name": self.name, "services": whole, **more}, indent=2))

    @property
    def healthy(self) -> Mapping[str, Any]:
        """Return a check that succeeds soon. Podman has no other interval at the start, and only the deploy runs its checks."""
        return succeeds_every("300ms") if self.docker.name == "podman" else HEALTHY

    def web(self, tag: str, check: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Write a project of one service. `check`: default: one that succeeds soon."""
        self.write({"web": {"image": self.image(tag), "healthcheck": check or self.healthy}}, **more)

    def run(self, *arguments: str | Path) -> Run:
        """Run one boltseal command in this process, in the project's folder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root)
            for name, value in self.variables.items():
                patch.setenv(name, value)
            return call(*arguments)

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables that name the engine and the state folder."""
        return {
            "DOCKER_HOST": self.docker.host,
            "BOLTSEAL_STATE": str(self.state),
            "BOLTSEAL_ENGINES": str(self.state / "engines"),
            **self.environment,
        }

    def locked(self, *arguments: str) -> None:
        """Lock the project again. `--allow-empty`: all services are built locally."""
        result = self.run("lock", "--update", *arguments)
        assert result.code == 0, result.err

    def deployed(self, *arguments: str) -> Run:
        """Lock and deploy, and require success."""
        self.locked()
        result = self.run("deploy", *arguments)
        assert result.code == 0, result.err + result.out
        return result

    def killed(self, after: int, *arguments: str, suffix: str = ".release") -> None:
        """Run a command in a process that kills itself after so many renames to a name with this suffix."""
        done = subprocess.run(
            [sys.executable, str(KILLED), str(after), suffix, *arguments],
            env=clean_environment(self.variables),
            cwd=self.root,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    def releases(self) -> list[dict[str, Any]]:
        """Return the output of `release ls`, oldest first."""
        found: list[dict[str, Any]] = self.run("release", "ls", "--project-name", self.name, "--json").json["results"]
        return found

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return the project's containers on the engine, by service."""
        wanted = f"label=com.docker.compose.project={self.name}"
        ids = self.docker.run("ps", "--all", "--quiet", "--no-trunc", "--filter", wanted).checked().split()
        if not ids:
            return {}
        found = json.loads(self.docker.run("inspect", *ids).checked())
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def words(self) -> dict[str, str]:
        """Return the label text of each service's image."""
        return {name: each["Config"]["Labels"].get("words", "") for name, each in self.containers().items()}

    def ids(self) -> dict[str, str]:
        """Return the container ID of each service."""
        return {name: each["Id"] for name, each in self.containers().items()}

    def down(self) -> None:
        """Remove all containers of the project."""
        if ids := self.ids().values():
            self.docker.run("rm", "--force", "--volumes", *ids)


ProjectOn = Callable[..., ComposeProject]
"""Makes a test's project on an engine, and with a registry other than the shared one if one is given: the fixture `project_on`."""


def started(front: ComposeProject, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a command that continues in the background. `before`: the program that starts it."""
    return boltseal_process(
        arguments,
        before,
        env=clean_environment(front.variables),
        cwd=front.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def until_step(front: ComposeProject, number: int, step: str) -> None:
    """Wait until a release is at a step."""
    wait_until(
        lambda: any(
            f'"step":"{step}"' in each.read_text()
            for each in front.state.glob(f"engines/*/releases/{front.name}/{number}.release")
        ),
        f"release {number} is at the step {step}",
    )
