"""One-shot jobs (`service_completed_successfully`) of a Compose project during a rollback, on real engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.polling import wait_until
from tests.programs import program
from tests.real.compose_project import ComposeProject, ProjectOn, started
from tests.real.registry import Registry
from tests.real.sleeper import SLEEP
from tests.real.tools import Docker
from tests.servers import Server

pytestmark = pytest.mark.real

WAITS = {"migrate": {"condition": "service_completed_successfully"}}
DIES = ["/busybox", "sh", "-c", "/busybox echo it can not start; exit 3"]


@pytest.fixture
def podman(podman_service: Server) -> Docker:
    """Podman, through Docker's API."""
    return Docker(podman_service.address, "podman")


@pytest.fixture(scope="module")
def slow_podman(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Podman on a machine so loaded that it cleans up a container only seconds after the container's process has ended."""
    yield from podman_with(f'exec {program("conmon")} --exit-delay 3 "$@"', registry, tmp_path_factory.mktemp("slow"))


@pytest.fixture(scope="module")
def unclean_podman(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Podman whose processes that clean up after a container all fail."""
    script = f"""\
for each in "$@"; do
  [ "$last" = --exit-command ] && each=/bin/false
  set -- "$@" "$each"; shift; last=$each
done
exec {program("conmon")} "$@"
"""
    yield from podman_with(script, registry, tmp_path_factory.mktemp("unclean"))


def podman_with(conmon: str, registry: Registry, folder: Path) -> Iterator[Docker]:
    """Run Podman with a shell script in place of conmon."""
    file = folder / "conmon"
    file.write_text(f"#!/bin/sh\n{conmon}\n")
    file.chmod(0o755)
    with servers.podman(folder / "podman", plain_http=[registry.host], conmon=file) as server:
        yield Docker(server.address, "podman")


@pytest.fixture(params=["docker", "podman"])
def shop(request: pytest.FixtureRequest, project_on: ProjectOn, tmp_path: Path) -> ComposeProject:
    """A project on each engine whose images have the tags 1.0.0 to 3.0.0."""
    made = project_on(request.getfixturevalue(request.param))
    (tmp_path / "data").mkdir()
    for tag in ("1.0.0", "2.0.0", "3.0.0"):
        made.publish(tag)
    return made


def migrates(to: int) -> list[str]:
    """Return a migration to a schema version, which fails on a newer schema and records that it ran."""
    newer = f"[ ! -e /data/schema{to + 1} ] || exit 1"
    return ["/busybox", "sh", "-c", f"/busybox echo {to} >> /data/runs; {newer}; /busybox touch /data/schema{to}"]


def job(shop: ComposeProject, version: int, **more: Any) -> dict[str, Any]:
    """Return the service that migrates, for one version."""
    data = {"type": "bind", "source": str(shop.root.parent / "data"), "target": "/data"}
    return {"image": shop.image(f"{version}.0.0"), "command": migrates(version), "volumes": [data], **more}


def web(shop: ComposeProject, version: int, **more: Any) -> dict[str, Any]:
    """Return the service that runs after the migration, for one version."""
    return {"image": shop.image(f"{version}.0.0"), "healthcheck": shop.healthy, "depends_on": WAITS, **more}


def runs(shop: ComposeProject) -> list[str]:
    """Return which versions of the migration ran, in order."""
    return (shop.root.parent / "data" / "runs").read_text().split()


def running(shop: ComposeProject) -> dict[str, str]:
    """Return the running services with the version of their image."""
    return {
        name: each["Config"]["Labels"]["words"] for name, each in shop.containers().items() if each["State"]["Running"]
    }


def chain(shop: ComposeProject, version: int, **more: Any) -> dict[str, dict[str, Any]]:
    """Return jobs that depend on each other, one of them not waited for, and services that are replaced in two ways after them."""

    def notes(name: str, **fields: Any) -> dict[str, Any]:
        return job(
            shop, version, command=["/busybox", "sh", "-c", f"/busybox echo {version}-{name} >> /data/runs"], **fields
        )

    seed = {"seed": {"condition": "service_started"}}
    after = {"second": WAITS["migrate"], **seed}
    return {
        "seed": notes("seed"),
        "first": notes("first", depends_on=seed),
        "second": notes("second", depends_on={"first": WAITS["migrate"], **seed}),
        "api": job(shop, version, command=list(SLEEP), healthcheck=shop.healthy, depends_on=after),
        "web": web(shop, version, depends_on={**after, "api": {"condition": "service_started"}}, **more),
    }


@pytest.mark.parametrize("shop", ["docker", "docker_containerd", "podman", "slow_podman"], indirect=True)
def test_each_job_runs_once_in_a_deploy(shop: ComposeProject) -> None:
    """Each job runs once in a deploy, also if the services that depend on it are started one after another."""
    shop.write(chain(shop, 1))
    shop.deployed()
    first = sorted(runs(shop))
    shop.write(chain(shop, 2))
    shop.deployed()
    second = sorted(runs(shop))[len(first) :]
    shop.write(chain(shop, 3, command=DIES))
    shop.locked()
    failed = shop.run("deploy")

    assert first == ["1-first", "1-second", "1-seed"]
    assert second == ["2-first", "2-second", "2-seed"]
    assert f"release 3 of {shop.name} failed; release 2 runs again" in failed.out
    assert sorted(runs(shop)) == [*first, *second, "3-first", "3-second", "3-seed"]
    assert running(shop) == {"api": "2.0.0", "web": "2.0.0"}


@pytest.mark.parametrize("shop", ["unclean_podman"], indirect=True)
def test_a_job_that_podman_does_not_clean_up_after_is_not_run_again(shop: ComposeProject) -> None:
    """The container of a completed job that Podman never cleans up after is removed, since Compose would start it again."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    first = shop.deployed()

    assert f"{shop.name}-migrate-1: removed, since Podman did not clean up after it in 10 s" in first.err
    assert runs(shop) == ["1"]
    assert running(shop) == {"web": "1.0.0"}


def test_a_failed_deploy_is_rolled_back_without_the_older_migration(shop: ComposeProject) -> None:
    """After a failed deploy the former release is restored without its migration, which would fail on the newer schema."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    shop.write({"web": web(shop, 2, command=DIES), "migrate": job(shop, 2)})
    shop.locked()
    failed = shop.run("deploy")

    assert failed.code == 1
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert "not run again: migrate (completed in release 1)" in failed.err
    assert running(shop) == {"web": "1.0.0"}
    assert runs(shop) == ["1", "2"]


def test_a_rollback_does_not_run_the_older_migration(shop: ComposeProject) -> None:
    """A rollback restores the former release without its migration, and a later deploy works."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    shop.write({"web": web(shop, 2), "migrate": job(shop, 2)})
    shop.deployed()
    back = shop.run("rollback")
    after = running(shop)
    again = shop.run("rollback", "1")
    forward = shop.run("rollback", "2")

    assert back.code == 0, back.err
    assert "not run again: migrate (completed in release 1)" in back.err
    assert after == {"web": "1.0.0"}
    assert "runs already" in again.out
    assert forward.code == 0, forward.err
    assert running(shop) == {"web": "2.0.0"}
    assert runs(shop) == ["1", "2"]


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_running_migration_is_stopped_and_the_rest_is_left_alone(shop: ComposeProject) -> None:
    """A running migration is stopped; other jobs are not run again, and unchanged services keep their containers."""
    noted = ["/busybox", "sh", "-c", "/busybox echo seeded >> /data/runs"]
    steady = {"image": shop.image("1.0.0")}
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1), "seed": job(shop, 1, command=noted), "db": steady})
    shop.deployed()
    before = shop.ids()
    hangs = ["/busybox", "sh", "-c", "/busybox echo hangs >> /data/runs; /busybox sleep 1000"]
    silent = {"seed": job(shop, 1, command=["/busybox", "true"]), "db": steady}
    shop.write({"web": web(shop, 2), "migrate": job(shop, 2, command=hangs), **silent})
    shop.locked()
    failed = shop.run("deploy", "--wait", "8s")
    after = shop.ids()
    states = {each["service"]: each["state"] for each in shop.releases()[0]["services"]}
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1), "seed": job(shop, 1, command=noted), "db": steady})
    shop.locked()
    again = shop.run("deploy")

    assert failed.code == 1
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert "not run again: migrate (completed in release 1), seed (completed in release 1)" in failed.err
    assert running(shop) == {"web": "1.0.0", "db": "1.0.0"}
    assert sorted(runs(shop)) == ["1", "hangs", "seeded"]
    assert after["db"] == before["db"]
    assert states == {"web": "healthy", "db": "healthy", "migrate": "completed", "seed": "completed"}
    assert f"release 1 of {shop.name} runs already" in again.out


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_migration_of_a_failed_release_that_completed_is_not_run_again(shop: ComposeProject) -> None:
    """A rollback to a release whose service failed after its migration does not run that migration again."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    shop.write({"web": web(shop, 2, command=DIES), "migrate": job(shop, 2)})
    shop.locked()
    shop.run("deploy")
    retried = shop.run("rollback", "2")

    assert retried.code == 1
    assert f"release 3 of {shop.name} failed; release 1 runs again" in retried.out
    assert "not run again: migrate (completed in release 2)" in retried.err
    assert running(shop) == {"web": "1.0.0"}
    assert runs(shop) == ["1", "2"]


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_migration_that_failed_is_run_again(shop: ComposeProject) -> None:
    """A rollback to a release whose migration failed runs it again, and nothing that ran was touched by the failure."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    before = shop.ids()["web"]
    fails = ["/busybox", "sh", "-c", "/busybox echo fails >> /data/runs; exit 1"]
    shop.write({"web": web(shop, 2), "migrate": job(shop, 2, command=fails)})
    shop.locked()
    failed = shop.run("deploy")
    after = shop.ids()["web"]
    retried = shop.run("rollback", "2")

    assert (failed.code, retried.code) == (1, 1)
    assert "exited with code 1" in failed.err
    assert after == before == shop.ids()["web"]
    assert runs(shop) == ["1", "fails", "fails"]


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_migration_runs_while_the_former_version_serves(shop: ComposeProject) -> None:
    """A job runs before anything is replaced: the former container runs until the job has ended."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    before = shop.ids()["web"]
    waits = ["/busybox", "sh", "-c", "while [ ! -e /data/go ]; do /busybox sleep 0.1; done"]
    shop.write({"web": web(shop, 2), "migrate": job(shop, 2, command=waits)})
    shop.locked()
    one = started(shop, "deploy")
    running_job = f"label=com.docker.compose.project={shop.name}", "label=com.docker.compose.service=migrate"
    filters = [part for each in running_job for part in ("--filter", each)]
    wait_until(lambda: shop.docker.run("ps", "--quiet", *filters).checked().strip(), "the migration runs")
    during = shop.containers()["web"]
    (shop.root.parent / "data" / "go").touch()
    _, err = one.communicate(timeout=60)

    assert one.returncode == 0, err
    assert (during["Id"], during["State"]["Running"]) == (before, True)
    assert running(shop) == {"web": "2.0.0"}


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_migration_that_completed_is_not_run_again_by_a_resumed_deploy(shop: ComposeProject) -> None:
    """`deploy --resume` after a kill does not run a migration again that has completed."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    shop.write({"web": web(shop, 2), "migrate": job(shop, 2)})
    shop.locked()
    shop.killed(3, "deploy")
    left = shop.releases()[1]["status"]
    resumed = shop.run("deploy", "--resume")

    assert left == "unfinished: starting"
    assert resumed.code == 0, resumed.err
    assert running(shop) == {"web": "2.0.0"}
    assert runs(shop) == ["1", "2"]


@pytest.mark.parametrize("shop", ["docker"], indirect=True)
def test_a_killed_restoration_is_resumed_without_the_migration(shop: ComposeProject) -> None:
    """`deploy --resume` of an interrupted restoration leaves out the same migrations."""
    shop.write({"web": web(shop, 1), "migrate": job(shop, 1)})
    shop.deployed()
    shop.write({"web": web(shop, 2, command=DIES), "migrate": job(shop, 2)})
    shop.locked()
    shop.killed(5, "deploy")
    left = shop.releases()[1]["status"]
    resumed = shop.run("deploy", "--resume")

    assert left == "unfinished: returning"
    assert f"release 2 of {shop.name} failed; release 1 runs again" in resumed.out
    assert running(shop) == {"web": "1.0.0"}
    assert runs(shop) == ["1", "2"]
