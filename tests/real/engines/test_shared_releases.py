"""Releases that several administrators of an engine share, on Docker with either store and on Podman."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from boltseal.deploy.release_copy import EngineCopy, LockOwner, this_process
from boltseal.deploy.release_store import AnotherDeploys, ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents, ReleaseEnd
from boltseal.engines.address import EngineAddress
from tests.deploy.samples import release
from tests.real.tools import run

pytestmark = pytest.mark.real

TEXT = b'{"name": "shop", "services": {"app": {"image": "x"}, "db": {"image": "y"}}}'
CONTENTS = ReleaseContents(TEXT, b'{"TOKEN": "x"}', {"compose.yaml": b"services:\n"}, b"lock")
Admin = Callable[..., ReleaseFolder]


@pytest.fixture
def admin(engine_address: EngineAddress, tmp_path: Path, repository: str) -> Iterator[Admin]:
    """Makes the releases of one project as an administrator has them; each kind of engine."""
    notices: list[str] = []

    def made(name: str, *, authoritative: bool = False, process: str | None = None) -> ReleaseFolder:
        owner = LockOwner(f"{name}@web1", "deploy", 1, this_process() if process is None else process)
        project = repository.replace("/", "-")
        copy = EngineCopy(engine_address, project, owner, notices.append, authoritative=authoritative)
        return ReleaseFolder(tmp_path / name, project, address=str(engine_address), copy=copy)

    yield made
    for left in docker(engine_address, "ps", "--all", "--quiet", "--filter", "name=boltseal-deploying").split():
        docker(engine_address, "rm", left)


def docker(address: EngineAddress, *argv: str) -> str:
    """Run Docker's own client on an engine, and return its output."""
    return run("docker", "-H", str(address), *argv).checked()


def numbered(folder: ReleaseFolder, number: int, end: ReleaseEnd | None = ReleaseEnd.HEALTHY) -> Release:
    """Return a release of a folder's project."""
    return replace_project(release(number, end), folder.project)


def replace_project(made: Release, project: str) -> Release:
    """Return a release as one of another project."""
    return msgspec.structs.replace(made, project=project)


def test_another_administrator_sees_the_releases_and_goes_on(admin: Admin) -> None:
    """What one administrator deployed, another one with an own state folder reads whole, and continues its numbers."""
    ann, bob = admin("ann"), admin("bob")
    with ann.deploying():
        ann.begin(numbered(ann, 1), CONTENTS)
        secret = ann.hmac("TOKEN=x")
    with bob.deploying():
        read = bob.all()
        bob.begin(numbered(bob, bob.next_number()), CONTENTS)
        bob.write(replace_project(release(2, ReleaseEnd.FAILED), bob.project))
    with ann.deploying():
        seen = ann.all()

    assert [each.number for each in read] == [1]
    assert bob.contents(1) == CONTENTS
    assert bob.hmac("TOKEN=x") == secret
    assert [(each.number, each.end) for each in seen] == [(1, ReleaseEnd.HEALTHY), (2, ReleaseEnd.FAILED)]


def test_one_deploy_at_a_time_per_engine(admin: Admin) -> None:
    """While one administrator deploys, another one is refused; the message names the first, since when, and how to break the lock."""
    ann, bob = admin("ann"), admin("bob")
    with ann.deploying(), pytest.raises(AnotherDeploys) as caught, bob.deploying():
        raise AssertionError("both deploy")
    with bob.deploying():
        pass

    assert "is being deployed by ann@web1 since 1970-01-01T00:00:00Z (boltseal deploy)" in caught.value.message
    assert f"`boltseal release unlock --project-name {ann.project}`" in caught.value.message


def test_the_lock_of_a_killed_process_of_this_machine_is_removed(admin: Admin, engine_address: EngineAddress) -> None:
    """The lock of a process of this machine that no longer runs is removed by the next deploy; that of another machine is not."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = this_process().split("/")
    gone = "/".join([*here[:3], str(ended.pid), here[4]])
    dead, far = admin("dead", process=gone), admin("far", process="/".join(["elsewhere", *here[1:]]))
    assert dead.copy is not None
    dead.copy.lock()  # its process is killed here
    with admin("bob").deploying():
        pass
    assert far.copy is not None
    far.copy.lock()
    with pytest.raises(AnotherDeploys), admin("bob").deploying():
        raise AssertionError("the lock of another machine was broken")
    far.copy.unlock()


def test_a_pruned_volume_is_written_again(admin: Admin, engine_address: EngineAddress) -> None:
    """After a prune of all volumes the next deploy of any administrator who has the releases writes them again."""
    ann = admin("ann")
    with ann.deploying():
        ann.begin(numbered(ann, 1), CONTENTS)
    docker(engine_address, "volume", "rm", "boltseal-releases")
    with ann.deploying():
        pass
    bob = admin("bob")
    with bob.deploying():
        pass

    assert bob.contents(1) == CONTENTS


def test_a_container_prune_during_a_deploy_does_not_end_it(admin: Admin, engine_address: EngineAddress) -> None:
    """`docker container prune` during a deploy takes the lock, which is taken again with the next step of the release."""
    ann, bob = admin("ann"), admin("bob")
    with ann.deploying():
        ann.begin(numbered(ann, 1, None), CONTENTS)
        docker(engine_address, "container", "prune", "--force")
        ann.write(numbered(ann, 1))
        with pytest.raises(AnotherDeploys), bob.deploying():
            raise AssertionError("both deploy")
    with bob.deploying():
        assert [each.end for each in bob.all()] == [ReleaseEnd.HEALTHY]


def test_nothing_but_the_volume_is_left(admin: Admin, engine_address: EngineAddress) -> None:
    """After a deploy the engine has the volume with the releases, but neither a container nor an image of boltseal."""
    ann = admin("ann")
    with ann.deploying():
        ann.begin(numbered(ann, 1), CONTENTS)
    left = docker(engine_address, "ps", "--all", "--quiet", "--filter", "name=boltseal")
    images = docker(engine_address, "images", "--format", "{{.Repository}}")

    assert left == ""
    assert "boltseal/releases" not in images
    assert "boltseal-releases" in docker(engine_address, "volume", "ls", "--quiet")
