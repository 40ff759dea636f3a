"""`deploy` and `rollback` on Podman, and on engines behind ssh where no Docker program is installed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import servers
from tests.cli.program import clean_environment
from tests.ports import free_port
from tests.programs import program
from tests.real.compose_project import ENDS, ILL, ComposeProject, started, succeeds_every, until_step
from tests.real.tools import Docker, run
from tests.servers import Server

pytestmark = pytest.mark.real

PLACES = ["podman", "podman-by-ssh", "docker-by-ssh"]


@pytest.fixture(scope="module")
def port() -> int:
    """The port of the registry that Podman may contact without TLS."""
    return free_port()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Server]:
    """Podman behind Docker's API."""
    with servers.podman(tmp_path_factory.mktemp("p"), plain_http=[f"127.0.0.1:{port}"]) as server:
        yield server


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An ssh server on a host that has `cat` and no program of any engine."""
    with servers.sshd(tmp_path_factory.mktemp("far"), programs=["cat"]) as server:
        yield server


@pytest.fixture(params=PLACES)
def shop(request: pytest.FixtureRequest, repository: str, tmp_path: Path, port: int) -> Iterator[ComposeProject]:
    """A project on an engine whose started containers are removed at the end. Its `registry` does not run yet."""
    place: str = request.param
    found: Docker | Server = request.getfixturevalue(place.partition("-")[0])
    docker = found if isinstance(found, Docker) else Docker(found.address, "podman")
    registry = Server("boltseal", f"127.0.0.1:{port}", 0, tmp_path / "data.log", tmp_path / "data")
    made = ComposeProject(tmp_path / "project", docker, registry, tmp_path / "state", repository)
    if place.endswith("by-ssh"):
        far: Server = request.getfixturevalue("far")
        made.environment["PATH"] = f"{far.folder}/bin:{os.environ['PATH']}"
        made.environment["DOCKER_HOST"] = f"ssh://root@{far.address}{docker.host.removeprefix('unix://')}"
    yield made
    made.down()


@pytest.fixture
def registry(shop: ComposeProject) -> Iterator[Callable[[], None]]:
    """The project's registry; calling it stops it."""
    context = servers.boltseal(shop.registry.folder, port=int(shop.registry.address.rpartition(":")[2]))
    context.__enter__()
    on = [context]

    def off() -> None:
        while on:
            on.pop().__exit__(None, None, None)

    yield off
    off()


def test_a_rollback_restores_the_first_release_without_the_registry(
    shop: ComposeProject, registry: Callable[[], None]
) -> None:
    """A rollback works on other engines as on this host's Docker, and an unchanged deploy does nothing."""
    shop.publish("edge", "the first")
    shop.web("edge")
    shop.deployed()
    first = shop.ids()
    again = shop.run("deploy")
    kept = shop.ids()
    shop.publish("edge", "the second")
    shop.deployed()
    second = shop.words()
    registry()
    back = shop.run("rollback")

    assert again.out == f"release 1 of {shop.name} runs already: nothing was pulled, started or stopped\n"
    assert kept == first
    assert second == {"web": "the second"}
    assert back.code == 0, back.err
    assert shop.words() == {"web": "the first"}


def test_a_service_that_can_not_start_is_replaced_by_the_former_release(
    shop: ComposeProject, registry: Callable[[], None]
) -> None:
    """A service that can't start is replaced by the former release, with its last log lines from that engine."""
    shop.publish("1.0.0")
    shop.publish("1.1.0", command=ENDS)
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0")
    shop.locked()
    failed = shop.run("deploy")

    assert failed.code == 1
    assert "    web | it can not start\n" in failed.err
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert shop.words() == {"web": "1.0.0"}


@pytest.mark.parametrize("shop", ["podman"], indirect=True)
def test_health_checks_are_run_where_no_systemd_runs_them(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """On Podman without systemd the health check of a service is run: a good one is healthy, a bad one is rolled back."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    good = shop.deployed()
    shop.web("1.1.0", ILL)
    shop.locked()
    bad = shop.run("deploy")

    assert good.code == 0, good.err
    assert bad.code == 1
    assert "is unhealthy by its health check" in bad.err
    assert shop.words() == {"web": "1.0.0"}


@pytest.mark.parametrize("shop", ["docker-by-ssh"], indirect=True)
def test_a_build_runs_on_the_engine_of_the_deploy(shop: ComposeProject) -> None:
    """A remote engine builds the image from files of this machine."""
    shop.root.mkdir()
    (shop.root / "Dockerfile").write_text("FROM scratch\nCOPY busybox /busybox\nLABEL words=built\n")
    (shop.root / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (shop.root / "busybox").chmod(0o755)
    shop.write({"made": {"build": ".", "command": ["/busybox", "sleep", "1000"]}})
    shop.locked("--allow-empty")
    done = shop.run("deploy", "--build")

    assert done.code == 0, done.err
    assert shop.words() == {"made": "built"}


@pytest.mark.parametrize("shop", ["docker-by-ssh"], indirect=True)
def test_the_error_of_a_broken_connection_says_how_to_resume(
    shop: ComposeProject, registry: Callable[[], None]
) -> None:
    """A broken connection is exit code 3 with one reason and the command that resumes."""
    shop.publish("1.0.0")
    shop.web("1.0.0", succeeds_every("8s"))
    shop.locked()
    one = started(shop, "deploy")
    until_step(shop, 1, "waiting")
    for child in Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    _, err = one.communicate(timeout=60)
    shop.web("1.0.0")
    resumed = shop.run("deploy", "--resume", "--wait", "60s")

    assert one.returncode == 3
    assert f"release 1 of {shop.name} was left waiting: `boltseal deploy --resume" in err.decode()
    assert len([line for line in err.decode().splitlines() if line.startswith("boltseal: ssh to ")]) == 1
    assert resumed.code == 0, resumed.err


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_release_of_one_engine_is_not_restored_on_another(
    shop: ComposeProject, registry: Callable[[], None], docker_containerd: Docker
) -> None:
    """A first release on a second engine has no former one, and is its number 1, whatever ran on the first engine."""
    shop.publish("1.0.0")
    shop.publish("1.1.0", command=ENDS)
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0")
    shop.locked()
    there = replace(shop, docker=docker_containerd)
    failed = there.run("deploy")
    back = there.run("rollback", "1")
    words = there.words()
    there.down()

    assert failed.code == 1
    assert "there is no previous release to restore" in failed.out
    assert back.code == 1
    assert "1.0.0" not in back.out + back.err
    assert words == {"web": "1.1.0"}
    assert shop.words() == {"web": "1.0.0"}


@pytest.mark.parametrize("shop", ["docker-by-ssh"], indirect=True)
def test_an_unproven_image_is_not_started(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """With --require-scrub an unproven image is exit code 3; without it, the reason is printed."""
    why = "is on another host"
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.locked()
    refused = [shop.run("deploy", "--require-scrub") for _ in range(2)]
    found = shop.containers()
    output = shop.run("deploy").err

    assert [each.code for each in refused] == [3, 3]
    assert all("not scrubbed: " in each.err and why in each.err for each in refused)
    assert found == {}
    assert "web: not scrubbed: " in output
    assert why in output


@pytest.mark.parametrize("shop", ["podman"], indirect=True)
def test_an_image_in_a_store_of_the_driver_vfs_is_proven(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """With --require-scrub an image that Podman stores with the driver vfs is verified and started."""
    shop.publish("1.0.0")
    shop.write({"web": {"image": shop.image("1.0.0")}})
    shop.locked()
    done = shop.run("deploy", "--require-scrub")

    assert done.code == 0, done.err
    assert "not scrubbed" not in done.err
    assert shop.words() == {"web": "1.0.0"}


@pytest.mark.parametrize("shop", ["podman"], indirect=True)
def test_a_check_that_no_systemd_runs_is_run_by_the_deploy(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """Podman runs health checks only by systemd's timers; without systemd the deploy has them run, and ends healthy."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.locked()
    done = shop.run("deploy", "--wait", "20s")

    assert done.code == 0, done.err


@pytest.mark.parametrize("shop", ["podman"], indirect=True)
def test_podmans_releases_and_containers_are_reported(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """With --report, `deploy` and `ps` send what runs on Podman to the registry, which lists it by digest."""
    digest = shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.locked()
    to = ("--report", shop.registry.address, "--report-as", "a-podman-host")
    sent = [json.loads(shop.run(command, "--json", *to).out)["report"]["error"] for command in ("deploy", "ps")]

    def read(name: str) -> list[dict[str, Any]]:
        url = f"http://{shop.registry.address}/api/v1/{name}"
        items: list[dict[str, Any]] = httpx2.get(url, params={"host": to[-1]}, trust_env=False).json()["items"]
        return items

    (release,) = read("releases")
    runs = [each["image"] for each in read("hosts/images") if each["kind"] == "ps"]

    assert sent == [None, None]
    assert (release["release"]["number"], release["release"]["end"]) == (1, "healthy")
    assert digest in str(release["images"])
    assert [(each["service"], digest in each["digests"]) for each in runs] == [("web", True)]


@pytest.mark.parametrize("shop", ["podman"], indirect=True)
def test_what_compose_started_on_podman_is_put_back(shop: ComposeProject, registry: Callable[[], None]) -> None:
    """A bad first release on Podman over what `docker compose up` started is replaced by exactly that, as release 0."""
    shop.publish("1.0.0")
    shop.publish("2.0.0", command=ENDS)
    run("docker", "-H", shop.docker.host, "pull", shop.image("1.0.0")).checked()
    fields = {"environment": {"A": "b"}, "volumes": ["./data:/data"], "labels": {"team": "shop"}}
    shop.write({"web": {"image": shop.image("1.0.0"), **fields}, "db": {"image": shop.image("1.0.0")}})
    (shop.root / "data").mkdir()
    run("docker", "compose", "up", "--detach", env=clean_environment(shop.variables), cwd=shop.root).checked()
    before = shop.containers()
    shop.write({"web": {"image": shop.image("2.0.0"), **fields}, "db": {"image": shop.image("1.0.0")}})
    shop.locked()
    failed = shop.run("deploy")
    after = shop.containers()

    assert failed.code == 1, failed.out
    assert "recorded what runs without a release as release 0: db, web" in failed.err
    assert f"release 1 of {shop.name} failed; release 0 runs again" in failed.out
    for name in ("web", "db"):
        assert after[name]["State"]["Running"]
        assert after[name]["Image"] == before[name]["Image"]
        assert sorted(after[name]["Config"]["Env"]) == sorted(before[name]["Config"]["Env"])
        assert after[name]["Config"]["Labels"] == before[name]["Config"]["Labels"]
        assert [each["Source"] for each in after[name]["Mounts"]] == [each["Source"] for each in before[name]["Mounts"]]
