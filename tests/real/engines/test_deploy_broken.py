"""A real project is broken in five ways, one after the other, and always comes back: what a new user would try."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.cli.program import Run, clean_environment
from tests.ports import free_port
from tests.real.compose_project import ENDS, OFTEN_AT_START, ComposeProject
from tests.real.engines.bridged import bridged_docker
from tests.real.sleeper import publish, sleeper
from tests.real.tools import run
from tests.servers import Server

pytestmark = pytest.mark.real

PORT = 8080
PUBLISHED = 18081
SERVES = (
    'test "$MODE" != bad || exit 3; '
    'echo "{tag} $MODE $(/busybox cat /conf) $(/busybox cat /run/secrets/token)" > /index.html; '
    f"exec /busybox httpd -f -p {PORT} -h /"
)
MIGRATES = 'echo {tag} >> /data/runs; test "$MIGRATION" != bad'
CHECK = {"test": ["CMD", "/busybox", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{PORT}/"], **OFTEN_AT_START}


@dataclass
class Project:
    """A project of a web service, its migration and a client of the published port. `on`: the running registry."""

    shop: ComposeProject
    on: ExitStack

    def start_registry(self) -> None:
        """Start the registry on its data and port."""
        port = int(self.shop.registry.address.rpartition(":")[2])
        self.on.enter_context(servers.boltseal(self.shop.registry.folder, port=port))

    def publish(self, tag: str, *, bad: bool = False) -> None:
        """Push version `tag` of the service and of its migration."""
        serves = ENDS if bad else ("/busybox", "sh", "-c", SERVES.replace("{tag}", tag))
        migrates = ("/busybox", "sh", "-c", MIGRATES.replace("{tag}", tag))
        for name, command in (("web", serves), ("migrate", migrates)):
            made = sleeper(f"{name} {tag}", command=command)
            publish(self.shop.registry.address, f"{self.shop.repository}/{name}", tag, made)

    def image(self, name: str, tag: str) -> str:
        return f"{self.shop.registry.address}/{self.shop.repository}/{name}:{tag}"

    def write(self, tag: str, *, mode: str = "fast", migration: str = "good") -> None:
        """Write the project's files for a version."""
        root = self.shop.root
        (root / "data").mkdir(exist_ok=True)
        (root / "app.env").write_text(f"MODE={mode}\n")
        (root / "web.conf").write_text(f"conf-{tag}\n")
        (root / "token.txt").write_text(f"token-{tag}\n")
        services: dict[str, Any] = {
            "web": {
                "image": self.image("web", tag),
                "healthcheck": CHECK,
                "stop_grace_period": "0s",
                "env_file": ["app.env"],
                "ports": [f"127.0.0.1:{PUBLISHED}:{PORT}"],
                "secrets": ["token"],
                "configs": [{"source": "conf", "target": "/conf"}],
                "depends_on": {"migrate": {"condition": "service_completed_successfully"}},
            },
            "migrate": {
                "image": self.image("migrate", tag),
                "environment": {"MIGRATION": migration},
                "volumes": ["./data:/data"],
            },
        }
        tops = {"secrets": {"token": {"file": "./token.txt"}}, "configs": {"conf": {"file": "./web.conf"}}}
        (root / "compose.yaml").write_text(json.dumps({"name": self.shop.name, "services": services, **tops}, indent=2))

    def deploy(self, tag: str, **more: str) -> Run:
        """Write, lock and deploy a version."""
        self.write(tag, **more)
        self.shop.locked()
        return self.shop.run("deploy")

    def answer(self) -> str:
        """Return what the published port answers."""
        client = ("run", "--rm", "--pull", "never", "--network", "host", self.client)
        return self.shop.docker.run(
            *client, "/busybox", "wget", "-q", "-O", "-", f"http://127.0.0.1:{PUBLISHED}/"
        ).text.strip()

    @property
    def client(self) -> str:
        """The ID of the image that runs: it is there whatever was pruned."""
        image: str = self.shop.containers()["web"]["Image"]
        return image

    def migrations(self) -> list[str]:
        """Return the versions of the migrations that ran, in order."""
        return (self.shop.root / "data/runs").read_text().split()


@pytest.fixture(params=[False, True], ids=["classic", "containerd"])
def project(request: pytest.FixtureRequest, repository: str, tmp_path: Path) -> Iterator[Project]:
    """The project, its own registry, and Docker with networks and either store."""
    server = Server("boltseal", f"127.0.0.1:{free_port()}", 0, tmp_path / "data.log", tmp_path / "data")
    with ExitStack() as on, bridged_docker(tmp_path / "b", server, containerd_store=request.param) as docker:
        shop = ComposeProject(tmp_path / "project", docker, server, tmp_path / "state", repository)
        shop.root.mkdir()
        made = Project(shop, on)
        made.start_registry()
        yield made
        run("docker", "compose", "down", "--timeout", "0", env=clean_environment(shop.variables), cwd=shop.root)


def test_a_project_that_is_broken_in_five_ways_always_comes_back(project: Project) -> None:
    """After a bad image, a bad setting, a failed migration, removed images and a foreign `compose up` the former version runs."""
    shop = project.shop
    for tag, bad in (("1", False), ("2", False), ("3", True), ("4", False), ("5", False)):
        project.publish(tag, bad=bad)
    first, second = project.deploy("1"), project.deploy("2")
    expected = "2 fast conf-2 token-2"

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert project.answer() == expected
    assert project.migrations() == ["1", "2"]

    image = project.deploy("3")
    assert (image.code, project.answer()) == (1, expected), image.out
    assert f"release 3 of {shop.name} failed; release 2 runs again" in image.out
    assert "it can not start" in image.err
    assert "restore those of release 2 by `boltseal rollback 2 --restore-files`" in image.err

    setting = project.deploy("4", mode="bad")
    assert (setting.code, project.answer()) == (1, expected), setting.out
    restored = shop.run("rollback", "2", "--restore-files")
    assert restored.code == 0, restored.err
    assert (shop.root / "app.env").read_text() == "MODE=fast\n"
    assert "runs already" in restored.out

    before = shop.ids()["web"]
    job = project.deploy("4", migration="bad")
    assert (job.code, project.answer()) == (1, expected), job.out
    assert "migrate" in job.err
    assert shop.ids()["web"] == before
    ran = project.migrations()

    forward = project.deploy("5")
    assert forward.code == 0, forward.err
    project.on.close()  # the registry is off from here on
    removed = [project.image(name, "2") for name in ("web", "migrate")]
    shop.docker.run("image", "rm", "--force", *removed)
    for words in (("container",), ("image", "--all"), ("system", "--all", "--volumes")):
        shop.docker.run(words[0], "prune", "--force", *words[1:]).checked()
    back = shop.run("rollback")
    assert back.code == 0, back.err
    assert (project.answer(), project.migrations()) == (expected, [*ran, "5"])
    listed = shop.run("ps", "--offline", "--json").json["results"]
    assert [each["local"] for each in listed if each["service"] == "web"] == [False]
    project.start_registry()

    project.write("1")
    up = run("docker", "compose", "up", "--detach", env=clean_environment(shop.variables), cwd=shop.root)
    assert up.ok, up.text
    foreign = project.answer()
    behind = shop.run("rollback", "3")
    assert foreign == "1 fast conf-1 token-1"
    assert behind.code == 1, behind.out
    assert project.answer() == foreign
    ended = shop.run("rollback", "2", "--restore-files")
    assert (ended.code, project.answer()) == (0, expected), ended.err
