"""Releases of an administrator without root: a member of the group that may use the engine's socket."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.cli.program import Run
from tests.cli.program import run as run_program
from tests.programs import program
from tests.real.compose_project import HEALTHY, ComposeProject, started, succeeds_every, until_step
from tests.real.registry import Registry
from tests.real.tools import Docker

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]

UID = 64321
GROUP = 64322
"""The group of the engine's socket, which the user has besides their own."""


@dataclass
class OtherUser(ComposeProject):
    """The project as another user deploys it, with an own home and state folder."""

    def run(self, *arguments: str | Path) -> Run:
        """Run one boltseal command as the user, in the project's folder."""
        return run_program(*arguments, environment=self.variables, cwd=self.root, before=self.before)

    @property
    def before(self) -> tuple[str, ...]:
        """Return the program that starts a command as the user."""
        return program("setpriv"), f"--reuid={UID}", f"--regid={UID}", f"--groups={GROUP}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that all users can reach, as the temporary folder of a test is not."""
    with tempfile.TemporaryDirectory(prefix="boltseal-users-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "containerd"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Docker]:
    """Docker with each store, whose socket a group may use."""
    at = folder / ("containerd" if request.param else "classic")
    with servers.dockerd(at, containerd_store=request.param) as server:
        at.chmod(0o755)
        os.chown(server.address, 0, GROUP)
        yield Docker(server.address, at.name)


@pytest.fixture
def shop(engine: Docker, registry: Registry, repository: str, folder: Path, tmp_path: Path) -> Iterator[ComposeProject]:
    """A project of root in a folder that the user can read."""
    root = Path(tempfile.mkdtemp(dir=folder))
    root.chmod(0o755)
    made = ComposeProject(root, engine, registry.server, tmp_path / "state", repository)
    yield made
    made.down()


@pytest.fixture
def user(shop: ComposeProject, folder: Path) -> OtherUser:
    """Another administrator of the project `shop`."""
    home = tempfile.mkdtemp(dir=folder)
    os.chown(home, UID, UID)
    own = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "TMPDIR"), home)
    return OtherUser(shop.root, shop.docker, shop.registry, Path(home) / "state", shop.repository, own)


def with_settings(shop: ComposeProject, value: str, tag: str = "1.0.0") -> None:
    """Write a project with an environment file, a secret that only root can read, and a configuration file."""
    web = {
        "image": shop.image(tag),
        "healthcheck": HEALTHY,
        "env_file": ["app.env"],
        "secrets": ["token"],
        "configs": [{"source": "conf", "target": "/conf"}],
    }
    tops: dict[str, Any] = {"secrets": {"token": {"file": "./token.txt"}}, "configs": {"conf": {"file": "./web.conf"}}}
    shop.write({"web": web, "db": {"image": shop.image(tag), "healthcheck": HEALTHY}}, **tops)
    for name in ("app.env", "token.txt", "web.conf"):
        (shop.root / name).write_text(f"VALUE={value}\n")
    (shop.root / "token.txt").chmod(0o600)


def test_an_unchanged_project_is_not_changed_by_a_user_without_root(shop: ComposeProject, user: OtherUser) -> None:
    """A user without root deploys what root has deployed: the releases are seen, and no container is replaced."""
    shop.publish("1.0.0")
    with_settings(shop, "one")
    shop.deployed()
    before = shop.ids()
    same = user.run("deploy")
    listed = user.run("release", "ls", "--project-name", shop.name, "--json")
    again = shop.run("deploy")

    assert same.code == 0, same.err
    assert f"release 1 of {shop.name} runs already" in same.out
    assert [each["ref"] for each in listed.json["results"]] == [f"{shop.name}/1"]
    assert f"release 1 of {shop.name} runs already" in again.out
    assert shop.ids() == before


def test_a_user_without_root_rolls_back_what_root_deployed(shop: ComposeProject, user: OtherUser) -> None:
    """A user without root rolls back to a release of root: the services have its secret, and root's next deploy goes on."""
    shop.publish("1.0.0")
    shop.publish("2.0.0")
    with_settings(shop, "one")
    shop.deployed()
    with_settings(shop, "two", "2.0.0")
    shop.deployed()
    back = user.run("rollback")
    mounted = secret_of(shop)
    listed = shop.releases()

    assert back.code == 0, back.err
    assert shop.words()["web"] == "1.0.0"
    assert mounted == "VALUE=one\n"
    assert [(each["ref"], each["runs"]) for each in listed][-1] == (f"{shop.name}/3", True)


def secret_of(shop: ComposeProject) -> str:
    """Return what the service's secret has, read where the engine mounts it from."""
    mounts = {each["Destination"]: each["Source"] for each in shop.containers()["web"]["Mounts"]}
    return Path(mounts["/run/secrets/token"]).read_text()


def test_a_user_without_root_restores_their_own_files_only(shop: ComposeProject, user: OtherUser) -> None:
    """`--restore-files` without root restores the files of this user, and names those that belong to another one."""
    shop.publish("1.0.0")
    shop.publish("2.0.0")
    with_settings(shop, "one")
    shop.root.chmod(0o777)
    os.chown(shop.root / "web.conf", UID, UID)
    shop.deployed()
    with_settings(shop, "two", "2.0.0")
    shop.deployed()
    back = user.run("rollback", "--restore-files")
    stopped = user.run("deploy")
    texts = {name: (shop.root / name).read_text() for name in ("web.conf", "token.txt", "app.env")}
    image = shop.image("2.0.0") in (shop.root / "compose.yaml").read_text()
    shop.run("rollback", "3", "--restore-files")
    same = shop.run("deploy")

    assert back.code == 0, back.err
    assert "restored files: web.conf" in back.err
    assert "belong to another user: app.env, boltseal.lock, compose.yaml, token.txt" in " ".join(back.err.split())
    assert texts == {"web.conf": "VALUE=one\n", "token.txt": "VALUE=two\n", "app.env": "VALUE=two\n"}
    assert image
    assert stopped.code == 1
    assert "token.txt (this user can't read it)" in " ".join(stopped.err.split())
    assert "VALUE" not in back.err + back.out + stopped.err
    assert "runs already" in same.out, same.err


def test_a_changed_file_that_the_user_cannot_read_is_not_replaced_by_its_former_content(
    shop: ComposeProject, user: OtherUser
) -> None:
    """After root has changed a secret, a deploy by a user who can't read it is refused, and changes nothing."""
    shop.publish("1.0.0")
    with_settings(shop, "one")
    shop.deployed()
    before = shop.ids()
    (shop.root / "token.txt").write_text("VALUE=two\n")
    refused = user.run("deploy")

    assert refused.code == 2
    assert "token.txt, which a service mounts, can't be read by this user" in " ".join(refused.err.split())
    assert shop.ids() == before


def test_a_user_without_root_deploys_a_new_version_with_the_secret_of_root(
    shop: ComposeProject, user: OtherUser
) -> None:
    """A new image is deployed with the unchanged secret that only root can read; root's next deploy and rollback go on."""
    shop.publish("1.0.0")
    shop.publish("2.0.0")
    with_settings(shop, "one")
    shop.deployed()
    compose = json.loads((shop.root / "compose.yaml").read_text())
    compose["services"]["web"]["image"] = shop.image("2.0.0")
    (shop.root / "compose.yaml").write_text(json.dumps(compose))
    shop.locked()
    deployed = user.run("deploy")
    before = shop.ids()
    same = shop.run("deploy")
    between = shop.ids()
    shutil.rmtree(user.state)
    back = shop.run("rollback")
    forward = shop.run("rollback", "2")

    assert deployed.code == 0, deployed.err
    assert "token.txt: only another user can read it" in " ".join(deployed.err.split())
    assert f"release 2 of {shop.name} runs already" in same.out, same.err
    assert between == before
    assert (back.code, forward.code) == (0, 0), back.err + forward.err
    assert secret_of(shop) == "VALUE=one\n"


def test_one_of_two_users_deploys_at_a_time(shop: ComposeProject, user: OtherUser) -> None:
    """While root deploys, a deploy of another user is refused with root's name, by the lock on the engine; and the reverse."""
    shop.publish("1.0.0")
    shop.web("1.0.0", succeeds_every("9s"))
    shop.locked()
    first = started(shop, "deploy")
    until_step(shop, 1, "waiting")
    refused = user.run("deploy")
    first.communicate()
    shop.web("1.0.0", succeeds_every("10s"))
    second = started(user, "deploy", before=user.before)
    until_step(user, 2, "starting")
    reverse = shop.run("deploy")
    second.communicate()

    assert (first.returncode, second.returncode) == (0, 0)
    assert refused.code == reverse.code == 3
    assert f"{shop.name} is being deployed by root@" in refused.err
    assert f"{shop.name} is being deployed by " in reverse.err
    assert [each["status"] for each in shop.releases()] == ["healthy", "healthy"]
