"""Deploys on an engine with networks: new containers beside the old ones, and what `docker compose up` says of the result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import clean_environment
from tests.real.compose_project import OFTEN_AT_START, ComposeProject, ProjectOn
from tests.real.engines.bridged import asked, bridged_docker
from tests.real.registry import Registry
from tests.real.tools import CommandResult, Docker, run

pytestmark = pytest.mark.real

PORT = 8080
CHECK = {"test": ["CMD", "/busybox", "wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{PORT}/"], **OFTEN_AT_START}
ILL = {"test": ["CMD", "false"], "interval": "300ms", "retries": 1}


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Docker]:
    """Docker with its own store and with networks."""
    with bridged_docker(tmp_path_factory.mktemp("b"), registry.server) as docker:
        yield docker


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Docker]:
    """Docker with containerd's store and with networks."""
    with bridged_docker(tmp_path_factory.mktemp("c"), registry.server, containerd_store=True) as docker:
        yield docker


@pytest.fixture(params=["classic", "containerd"])
def shop(request: pytest.FixtureRequest, project_on: ProjectOn) -> Iterator[ComposeProject]:
    """A project whose images 1, 2 and so on serve their number by HTTP; all its containers are removed at the end."""
    made = project_on(request.getfixturevalue(request.param))
    for number in ("1", "2", "3"):
        made.publish(number, command=serves(number))
    yield made
    compose(made, "down", "--timeout", "0", "--volumes", "--remove-orphans")


def serves(words: str) -> tuple[str, ...]:
    """Return a command that takes a moment to start and then serves these words."""
    return (
        "/busybox",
        "sh",
        "-c",
        f"echo {words} > /index.html; /busybox sleep 0.5; exec /busybox httpd -f -p {PORT} -h /",
    )


def web(shop: ComposeProject, tag: str, **more: Any) -> dict[str, Any]:
    """Return a service that serves by HTTP."""
    return {"image": shop.image(tag), "healthcheck": CHECK, "stop_grace_period": "0s", **more}


def write(shop: ComposeProject, services: dict[str, Any], **more: Any) -> None:
    """Write a Compose file with Compose's own networks."""
    (shop.root / "compose.yaml").write_text(json.dumps({"name": shop.name, "services": services, **more}, indent=2))


def compose(shop: ComposeProject, *arguments: str) -> CommandResult:
    """Run Docker Compose on the project's files, as a user does."""
    return run("docker", "compose", *arguments, env=clean_environment(shop.variables), cwd=shop.root)


def pinned(shop: ComposeProject) -> None:
    """Lock the project again, and write the digests into its files."""
    shop.locked()
    assert shop.run("pin", "--write").code == 0


def planned_changes(shop: ComposeProject) -> list[str]:
    """Return what `docker compose up -d` would do to containers that differ from the files."""
    text = compose(shop, "--dry-run", "up", "--detach").text
    words = ("Recreate", "Creat", "Stopping", "Removing", "Starting")
    return [line.strip() for line in text.splitlines() if any(each in line.replace("Created", "") for each in words)]


def test_a_client_sees_no_outage(shop: ComposeProject, tmp_path: Path) -> None:
    """New containers start beside the old ones, so that a client of the service's name always gets an answer."""
    client = {"image": shop.image("1"), "command": ["/busybox", "sleep", "1000"], "stop_grace_period": "0s"}
    write(shop, {"web": web(shop, "1"), "client": client})
    pinned(shop)
    first = shop.run("deploy")
    before = shop.ids()
    write(shop, {"web": web(shop, "2"), "client": client})
    pinned(shop)
    with asked(shop.docker, before["client"], "web", PORT, tmp_path) as seen:
        second = shop.run("deploy")
    after = shop.ids()

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert shop.words()["web"] == "2"
    assert after["client"] == before["client"]
    assert (seen[0].failed, seen[0].requests > 10) == (0, True)
    assert planned_changes(shop) == []


def test_a_failed_version_leaves_the_running_containers_alone(shop: ComposeProject) -> None:
    """A version that fails beside the running one is removed, and the running containers were never touched."""
    write(shop, {"web": web(shop, "1", scale=2)})
    pinned(shop)
    shop.run("deploy")
    before = all_ids(shop)
    files = (shop.root / "compose.yaml").read_text()
    write(shop, {"web": web(shop, "2", scale=2, healthcheck=ILL)})
    pinned(shop)
    failed = shop.run("deploy")
    (shop.root / "compose.yaml").write_text(files)

    assert failed.code == 1
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert len(before) == 2
    assert all_ids(shop) == before
    assert planned_changes(shop) == []


def all_ids(shop: ComposeProject) -> list[str]:
    """Return the IDs of all the project's containers."""
    wanted = f"label=com.docker.compose.project={shop.name}"
    return sorted(shop.docker.run("ps", "--all", "--quiet", "--no-trunc", "--filter", wanted).checked().split())


def test_compose_and_deploy_do_not_undo_each_other(shop: ComposeProject) -> None:
    """After a deploy of pinned files `docker compose up` changes nothing, and neither does the deploy after it."""
    (shop.root / "e.env").write_text("B=c\n")
    (shop.root / "s.txt").write_text("hush")
    volumes = ["./s.txt:/s.txt:ro", "data:/data"]
    rich = web(
        shop, "1", env_file=["e.env"], secrets=["s"], configs=["c"], volumes=volumes, ports=["127.0.0.1::8080"],
        environment={"A": "x$$y"}, labels={"l": "m"}, develop={"watch": [{"path": ".", "action": "rebuild"}]},
        depends_on={"db": {"condition": "service_healthy"}}, profiles=[],
    )  # fmt: skip
    write(
        shop,
        {"web": rich, "db": web(shop, "1", scale=2)},
        volumes={"data": {}},
        secrets={"s": {"file": "s.txt"}},
        configs={"c": {"file": "s.txt"}},
    )
    pinned(shop)
    deployed = shop.run("deploy")
    before = all_ids(shop)
    planned = planned_changes(shop)
    up = compose(shop, "up", "--detach")
    between = all_ids(shop)
    again = shop.run("deploy")

    assert deployed.code == 0, deployed.err
    assert planned == []
    assert up.ok, up.text
    assert between == before == all_ids(shop)
    assert f"release 1 of {shop.name} runs already" in again.out


def test_a_changed_secret_replaces_its_service_only(shop: ComposeProject) -> None:
    """A service of which only a secret's content changed is replaced; without a change nothing is."""
    (shop.root / "s.txt").write_text("one")
    write(shop, {"web": web(shop, "1", secrets=["s"]), "db": web(shop, "1")}, secrets={"s": {"file": "s.txt"}})
    pinned(shop)
    shop.run("deploy")
    before = shop.ids()
    (shop.root / "s.txt").write_text("two")
    changed = shop.run("deploy")
    after = shop.ids()

    assert changed.code == 0, changed.err
    assert after["web"] != before["web"]
    assert after["db"] == before["db"]
    assert shop.docker.run("exec", after["web"], "/busybox", "cat", "/run/secrets/s").checked() == "two"
    assert planned_changes(shop) == []


@pytest.mark.parametrize("change", ["image", "ports"])
def test_what_compose_started_is_put_back(shop: ComposeProject, change: str) -> None:
    """A bad first release over a project that `docker compose up` started is replaced by exactly what ran."""
    ports = ["127.0.0.1:18080:8080"] if change == "ports" else []
    settings = {"environment": {"A": "b"}, "volumes": ["data:/data"], "ports": ports}
    write(shop, {"web": web(shop, "1", **settings), "db": web(shop, "1")}, volumes={"data": {}})
    assert compose(shop, "up", "--detach").ok
    files, before = (shop.root / "compose.yaml").read_text(), shop.containers()
    write(shop, {"web": web(shop, "2", healthcheck=ILL, ports=ports), "db": web(shop, "1")})
    shop.locked()
    failed = shop.run("deploy")
    after = shop.containers()
    (shop.root / "compose.yaml").write_text(files)

    assert failed.code == 1
    assert "recorded what runs without a release as release 0: db, web" in failed.err
    assert f"release 1 of {shop.name} failed; release 0 runs again" in failed.out
    for name in ("web", "db"):
        assert after[name]["State"]["Running"]
        assert settled(after[name]) == settled(before[name])
    assert planned_changes(shop) == []


def settled(container: dict[str, Any]) -> dict[str, Any]:
    """Return what a container was created with."""
    networks = {
        name: sorted(each for each in endpoint["Aliases"] if each != container["Id"][:12])
        for name, endpoint in container["NetworkSettings"]["Networks"].items()
    }
    config = {key: each for key, each in container["Config"].items() if key != "Hostname"}
    host = {key: each for key, each in container["HostConfig"].items() if key != "Binds"}
    return {
        "config": config,
        "host": host,
        "networks": networks,
        "name": container["Name"],
        "image": container["Image"],
    }


@pytest.mark.parametrize("shop", ["containerd"], indirect=True)
def test_what_runs_without_its_image_is_put_back(shop: ComposeProject) -> None:
    """A service whose image a prune removed is part of release 0: left alone if it runs, else started from its registry."""
    write(shop, {"web": web(shop, "1"), "db": web(shop, "2")})
    pinned(shop)
    assert compose(shop, "up", "--detach").ok
    before = shop.ids()
    shop.docker.run("image", "prune", "--all", "--force").checked()
    left = shop.docker.run("image", "ls", "--quiet").checked().split()
    write(shop, {"web": web(shop, "3", healthcheck=ILL, ports=["127.0.0.1::8080"]), "db": web(shop, "2")})
    shop.locked()
    failed = shop.run("deploy")

    assert left == []
    assert failed.code == 1
    assert "their images are not on this engine any more: db, web" in failed.err
    assert "web: stopped before its new version starts: it publishes ports" in failed.err
    assert f"release 1 of {shop.name} failed; release 0 runs again" in failed.out
    assert shop.words() == {"web": "1", "db": "2"}
    assert shop.ids()["db"] == before["db"]


def test_a_rollback_returns_to_what_compose_started(shop: ComposeProject) -> None:
    """A good release over such a project can be rolled back to what ran before it, and forward again."""
    write(shop, {"web": web(shop, "1")})
    assert compose(shop, "up", "--detach").ok
    before = shop.containers()["web"]
    write(shop, {"web": web(shop, "2")})
    shop.deployed()
    second = shop.words()
    back = shop.run("rollback")
    after = shop.containers()["web"]
    forward = shop.run("rollback", "1")

    assert second == {"web": "2"}
    assert back.code == 0, back.err
    assert f"release 2 of {shop.name} runs, as release 0 did" in back.out
    assert settled(after) == settled(before)
    assert forward.code == 0, forward.err
    assert shop.words() == {"web": "2"}
    assert [each["kind"] for each in shop.releases()] == ["found", "deploy", "rollback", "rollback"]


def test_what_compose_changed_meanwhile_is_put_back(shop: ComposeProject) -> None:
    """After a `docker compose up` of another version, a failed deploy puts that version back, not the older release."""
    write(shop, {"web": web(shop, "1")})
    shop.deployed()
    write(shop, {"web": web(shop, "2")})
    assert compose(shop, "up", "--detach").ok
    before = shop.containers()["web"]
    write(shop, {"web": web(shop, "3", healthcheck=ILL, ports=["127.0.0.1::8080"])})
    shop.locked()
    failed = shop.run("deploy")
    after = shop.containers()["web"]

    assert failed.code == 1
    assert f"release 3 of {shop.name} failed; release 2 runs again" in failed.out
    assert shop.words() == {"web": "2"}
    assert settled(after) == settled(before)


@pytest.mark.parametrize("shop", ["classic"], indirect=True)
@pytest.mark.parametrize("by_hand", [False, True], ids=["deployed", "compose"])
def test_a_project_of_the_same_name_elsewhere_is_not_replaced(shop: ComposeProject, by_hand: bool) -> None:
    """A project of this name that runs from another folder is refused without --take-over, and nothing is touched."""
    write(shop, {"web": web(shop, "1"), "db": web(shop, "1")})
    if by_hand:
        assert compose(shop, "up", "--detach").ok
    else:
        shop.deployed()
    before = shop.ids()
    other = replace(shop, root=shop.root.with_name("other"))
    other.root.mkdir()
    write(other, {"web": web(other, "2")})
    other.locked()
    refused = other.run("deploy")
    between = shop.ids()
    taken = other.run("deploy", "--take-over")

    assert refused.code == 2
    assert f"runs from another folder (got {other.root}, expected {shop.root})" in refused.err
    assert "--take-over" in refused.err
    assert between == before
    assert taken.code == 0, taken.err
    assert other.words() == {"web": "2"}
