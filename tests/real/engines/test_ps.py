"""`ps` and `verify --running` on real engines: every way in which a running image may differ from the lock."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.inventory import ImageStoreKind
from tests import servers
from tests.cli import program
from tests.real.boxes import ended, started
from tests.real.layout import app_tar
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleepers
from tests.real.tools import CommandResult, Docker, run

pytestmark = pytest.mark.real


@dataclass
class RunningProject:
    """A project with one service on one host, and the registry of its image."""

    registry: Registry
    repository: str
    address: EngineAddress
    project: Path
    boxes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the reference in the project's file."""
        return f"{self.registry.host}/{self.repository}:latest"

    def docker(self, *arguments: str) -> CommandResult:
        return run("docker", "-H", str(self.address), *arguments)

    def publish(self, words: str, tag: str = "latest") -> str:
        """Publish a new image for two platforms; return its digest."""
        return publish(self.registry.host, self.repository, tag, sleepers(f"{self.repository} {words}"))

    def lock(self) -> None:
        """Lock the tag, in another second than earlier and later steps, since a lock's times are whole seconds."""
        _wait_for_the_next_second()
        (self.project / "compose.yaml").write_text(f"services: {{web: {{image: '{self.name}'}}}}\n")
        done = program.call("lock", "--update", "--project", self.project)
        assert done.code == 0, done.err
        _wait_for_the_next_second()

    def start(self, image: str = "") -> None:
        """Recreate the service from the image that the tag has on the host."""
        self.stop()
        self.boxes.append(started(self.address, image or self.name))

    def stop(self) -> None:
        while self.boxes:
            ended(self.address, self.boxes.pop())

    def standing(self, *more: str, code: int = 1) -> str:
        """Return the result of `verify --running` for the service's container."""
        where = ("--host", str(self.address), "--project", self.project)
        done = program.call("verify", "--running", "--json", *where, *more)
        (found,) = [each for each in done.json["results"] if each.get("id") == self.boxes[-1]]
        assert done.code == code, done.out + done.err
        assert found["reason"] or code == 0
        return str(found["status"])


def _wait_for_the_next_second() -> None:
    time.sleep(1.01 - time.time() % 1)  # waits for the clock


@pytest.fixture
def shop(
    registry: Registry, repository: str, engine_address: EngineAddress, tmp_path: Path
) -> Iterator[RunningProject]:
    """A project on each engine, whose containers are removed at the end because other tests list all of them."""
    made = RunningProject(registry, repository, engine_address, tmp_path)
    yield made
    made.stop()


def test_each_difference_between_a_host_and_its_lock(shop: RunningProject) -> None:
    """The host falls behind the lock in each possible way, one after the other, with and without the registry."""
    shop.publish("first")
    shop.docker("pull", shop.name).checked()
    shop.lock()
    shop.start()
    result = [shop.standing(code=0)]
    shop.publish("second")
    shop.lock()
    result += [shop.standing(), shop.standing("--offline")]
    shop.start()
    result += [shop.standing(), shop.standing("--offline")]
    shop.docker("pull", shop.name).checked()
    result += [shop.standing(), shop.standing("--offline")]
    shop.start()
    result += [shop.standing(code=0)]
    shop.publish("third")
    shop.docker("pull", shop.name).checked()
    shop.start()
    result += [shop.standing()]

    assert result == [
        "holds",
        *["moved-after-the-pull"] * 2,
        *["recreated-without-a-pull"] * 2,
        *["not-recreated"] * 2,
        "holds",
        "moved-after-the-lock",
    ]


def test_a_local_build_under_the_locked_name_differs(shop: RunningProject) -> None:
    """A local build under the locked name differs, and its registry is asked where the store names everything."""
    shop.publish("first")
    shop.lock()
    run("docker", "-H", str(shop.address), "import", "-", shop.name, stdin=_busybox()).checked()
    shop.boxes.append(started(shop.address, shop.name, "/busybox", "sleep", "100000"))

    assert shop.standing() == "local-build"


def test_an_image_loaded_from_an_archive_matches_by_its_id(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An image loaded from an archive has no registry digest, but matches the lock by its image ID."""
    shop = RunningProject(registry, repository, EngineAddress.parse(docker.host), tmp_path)
    shop.publish("first")
    shop.lock()
    shop.docker("pull", shop.name).checked()
    shop.docker("save", "--output", str(tmp_path / "app.tar"), shop.name).checked()
    shop.docker("image", "rm", shop.name).checked()
    shop.docker("load", "--input", str(tmp_path / "app.tar")).checked()
    shop.start()
    result = shop.standing(code=0)
    shop.stop()

    assert result == "holds"


def test_an_image_for_another_platform_differs(shop: RunningProject) -> None:
    """An image of the same tag for another platform differs."""
    shop.publish("first")
    shop.lock()
    shop.docker("pull", "--platform", "linux/arm64", shop.name).checked()
    shop.boxes.append(started(shop.address, shop.name, platform="linux/arm64"))

    assert shop.standing() == "other-platform"


def test_another_tag_of_a_locked_repository_differs(shop: RunningProject) -> None:
    """Another tag of a locked repository differs; a repository outside of the lock is only noted."""
    shop.publish("first")
    shop.lock()
    shop.publish("other", "1.0.0")
    other = shop.name.replace(":latest", ":1.0.0")
    shop.docker("pull", other).checked()
    shop.start(other)

    assert shop.standing() == "unknown"


def test_an_image_whose_record_is_gone_is_identified(
    docker_containerd: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """containerd's store forgets the image of a container whose tag moved, but the container is still identified."""
    shop = RunningProject(registry, repository, EngineAddress.parse(docker_containerd.host), tmp_path)
    shop.publish("first")
    shop.docker("pull", shop.name).checked()
    shop.lock()
    shop.start()
    shop.publish("second")
    shop.docker("pull", shop.name).checked()
    shop.docker("image", "rm", shop.name).checked()
    still = shop.standing(code=0)
    shop.lock()
    gone = shop.standing()
    shop.stop()

    assert (still, gone) == ("holds", "record-gone")


def test_the_row_of_a_container(shop: RunningProject, engine_store: ImageStoreKind) -> None:
    """The row has the container's own image: digests by kind, present and former tags, distance and actor.

    Podman forgets the pulled digest of an image with its last name, and keeps the image ID.
    """
    digest = shop.publish("first")
    publish(shop.registry.host, shop.repository, "1.4.2", sleepers(f"{shop.repository} first"))
    shop.docker("pull", shop.name).checked()
    shop.lock()
    shop.start()
    shop.publish("second")
    newest = shop.publish("third")
    shop.docker("pull", shop.name).checked()
    where = ("--host", str(shop.address), "--project", shop.project)
    done = program.call("ps", "--json", *where)
    (found,) = [each for each in done.json["results"] if each["id"] == shop.boxes[-1]]
    text = program.call("ps", *where).out

    assert done.code == 0
    assert found["status"] == "holds"
    assert found["locked_digest"] == digest
    assert found["image"]["index"] == ([digest] if engine_store is not ImageStoreKind.PODMAN else [])
    assert len(found["image"]["config"]) == (0 if engine_store is ImageStoreKind.CONTAINERD else 1)
    assert (found["resolves_to"], found["moved"], found["behind"]) == (newest, True, 2)
    assert [(tag["tag"], tag["until"] is None) for tag in found["tags"]] == [("1.4.2", True), ("latest", False)]
    assert found["tags_by"] == "ledger"
    assert "1.4.2; was `latest`" in " ".join(text.split())


def test_a_host_through_ssh_is_listed(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A daemon through ssh is listed beside a local one, and an unreachable one is reported."""
    shop = RunningProject(registry, repository, EngineAddress.parse(docker.host), tmp_path)
    shop.publish("first")
    shop.lock()
    with (
        servers.sshd(tmp_path_factory.mktemp("sshd")) as sshd,
        servers.dockerd(tmp_path_factory.mktemp("second")) as second,
    ):
        far = RunningProject(registry, repository, EngineAddress.parse(f"unix://{second.address}"), tmp_path)
        far.docker("pull", far.name).checked()
        far.start()
        path = {"PATH": f"{sshd.folder}/bin:{os.environ['PATH']}"}
        there = f"ssh://{getpass.getuser()}@{sshd.address}{second.address}"
        hosts = ("--host", there, "--host", docker.host)
        result = program.run("ps", *hosts, "--json", cwd=tmp_path, environment=path)
        held = program.run("verify", "--running", "--host", there, cwd=tmp_path, environment=path)
        unknown_user = f"ssh://nobody-here@{sshd.address}{second.address}"
        refused = program.run("verify", "--running", "--host", unknown_user, cwd=tmp_path, environment=path)
        far.stop()
    found = [each for each in result.json["results"] if each["host"] == there]

    assert (result.code, held.code, refused.code) == (0, 0, 3)
    assert [(each["status"], each["started_as"]) for each in found] == [("holds", far.name)]
    assert "Permission denied" in refused.err
    assert "must work without a password prompt" in refused.err


def _busybox() -> bytes:
    import io
    import tarfile

    from tests.programs import program as installed

    buffer = io.BytesIO(app_tar(b"x"))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        content = Path(installed("busybox")).read_bytes()
        entry = tarfile.TarInfo("busybox")
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
