"""An image whose files were changed on the disk is not started: by no deploy, `--resume`, or return to what ran before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import servers
from tests.real.compose_project import ENDS, HEALTHY, ComposeProject
from tests.real.engines.changed_layers import plant
from tests.real.registry import Registry
from tests.real.sleeper import SLEEP, publish, sleeper
from tests.real.tools import Docker

pytestmark = pytest.mark.real

SLEEPS = {**HEALTHY, "test": ["CMD", "/busybox", "grep", "-q", "sleep", "/proc/1/cmdline"]}
"""A check that no image succeeds in which ends at once, even if the engine runs it just before that."""
STOP_FIRST = {"deploy": {"update_config": {"order": "stop-first"}}}


@dataclass(frozen=True, slots=True)
class Host:
    """A project of one service on an engine whose store scrub reads. `data`: the folder of the store."""

    shop: ComposeProject
    data: Path

    def publish(self, tag: str, *, bad: bool = False) -> str:
        """Push an image whose layer no other image has; return its digest."""
        made = sleeper(tag, commands=("true", "false", f"only-{tag}"), command=ENDS if bad else SLEEP)
        return publish(self.shop.registry.address, self.shop.repository, tag, made)

    def web(self, tag: str) -> None:
        """Write and lock the project. Its service is stopped before another version is started."""
        self.shop.write({"web": {"image": self.shop.image(tag), "healthcheck": SLEEPS, **STOP_FIRST}})
        self.shop.locked()

    def tamper(self, tag: str) -> None:
        """Change the files of an image on the disk."""
        plant(self.data, f"only-{tag}")

    def replace(self, tag: str, digest: str) -> None:
        """Load the changed image again beside itself."""
        done = self.shop.run("pull", "--replace", f"{self.shop.image(tag)}@{digest}")

        assert (done.code, done.out.split()[0]) == (0, "replaced"), done

    def seen(self) -> tuple[str, bool]:
        """Return the version that runs, and whether its container has the planted file."""
        found = self.shop.containers()["web"]
        inside = self.shop.docker.run("exec", found["Id"], "/busybox", "ls", "/").checked().split()
        return found["Config"]["Labels"]["words"], "planted" in inside


@pytest.fixture(params=["overlay2", "containerd"])
def host(request: pytest.FixtureRequest, registry: Registry, repository: str, tmp_path: Path) -> Iterator[Host]:
    """Docker with either store, and release 1 of a project on image 1."""
    containerd = request.param == "containerd"
    driver = "overlayfs" if containerd else "overlay2"
    with servers.dockerd(tmp_path / "engine", containerd_store=containerd, driver=driver) as engine:
        docker = Docker(engine.address, "own")
        shop = ComposeProject(tmp_path / "project", docker, registry.server, tmp_path / "state", repository)
        yield Host(shop, tmp_path / "engine/data" / ("containerd/daemon" if containerd else "overlay2"))
        shop.down()


def test_a_failed_deploy_puts_back_the_copy_of_an_image_that_was_changed(host: Host) -> None:
    """If the former image was changed and replaced meanwhile, a failed deploy starts its copy and not the changed files."""
    one = host.publish("1")
    host.publish("2", bad=True)
    host.web("1")
    first = host.shop.run("deploy")
    host.tamper("1")
    host.replace("1", one)
    host.web("2")
    failed = host.shop.run("deploy")
    seen = host.seen()
    host.web("1")
    again = host.shop.run("deploy")

    assert (first.code, failed.code) == (0, 1), failed
    assert "failed; release 1 runs again" in failed.out
    assert seen == ("1", False)
    assert again.code == 0
    assert "runs already" in again.out


def test_a_resumed_deploy_starts_the_copy_of_an_image_that_was_changed(host: Host) -> None:
    """If the new image was changed and replaced after the deploy was killed, `--resume` starts its copy."""
    host.publish("1")
    two = host.publish("2")
    host.web("1")
    host.shop.run("deploy")
    host.web("2")
    host.shop.killed(1, "deploy")
    host.tamper("2")
    host.replace("2", two)
    resumed = host.shop.run("deploy", "--resume")

    assert resumed.code == 0, resumed
    assert host.seen() == ("2", False)


def test_a_deploy_replaces_a_running_image_that_was_changed(host: Host) -> None:
    """A container that runs on a changed image is not what the lock says: it is replaced by one of the copy."""
    one = host.publish("1")
    host.web("1")
    host.shop.run("deploy")
    host.tamper("1")
    before = host.seen()
    host.replace("1", one)
    done = host.shop.run("deploy")
    verified, listed = host.shop.run("verify", "--running", "--json"), host.shop.run("ps", "--json")
    (row,) = [each for each in listed.json["results"] if each["project"] == host.shop.name]

    assert before == ("1", True)
    assert [each["status"] for each in verified.json["results"] if each["project"] == host.shop.name] == ["holds"]
    assert (row["status"], row["local"]) == ("holds", False)
    assert (done.code, "runs already" in done.out) == (0, False), done
    assert host.seen() == ("1", False)


def test_a_failed_deploy_that_requires_a_scrub_does_not_start_a_changed_image(host: Host) -> None:
    """With --require-scrub the former image is verified before it is started again; the message has the way out."""
    one = host.publish("1")
    host.publish("2", bad=True)
    host.web("1")
    first = host.shop.run("deploy", "--require-scrub")
    host.tamper("1")
    host.web("2")
    failed = host.shop.run("deploy", "--require-scrub")
    left = {each["Config"]["Labels"]["words"] for each in host.shop.containers().values() if each["State"]["Running"]}
    host.replace("1", one)
    back = host.shop.run("rollback", "1")

    assert (first.code, failed.code) == (0, 1), failed
    assert "could not restore release 1: web: image" in failed.out + failed.err
    assert "differs on disk" in failed.out + failed.err
    assert left == set()
    assert (back.code, host.seen()) == (0, ("1", False)), back


def test_a_resumed_restoration_that_requires_a_scrub_does_not_start_a_changed_image(host: Host) -> None:
    """`--resume --require-scrub` in the middle of a return verifies the image that it returns to."""
    host.publish("1")
    host.publish("2", bad=True)
    host.web("1")
    host.shop.run("deploy")
    host.web("2")
    host.shop.killed(3, "deploy")
    host.tamper("1")
    resumed = host.shop.run("deploy", "--resume", "--require-scrub")

    assert resumed.code == 1, resumed
    assert "could not restore release 1" in resumed.out + resumed.err
    assert not any(each["State"]["Running"] for each in host.shop.containers().values())
