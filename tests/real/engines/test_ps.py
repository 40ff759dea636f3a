"""What runs, and whether it is what is locked, on the engines that people have: every way in which it may not be."""

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
from tests.real.tools import Docker, Said, run
from tests.servers import Server

pytestmark = pytest.mark.real


@pytest.fixture(params=ImageStoreKind)
def store(request: pytest.FixtureRequest) -> ImageStoreKind:
    """Each kind of engine in turn."""
    found: ImageStoreKind = request.param
    return found


@pytest.fixture
def address(request: pytest.FixtureRequest, store: ImageStoreKind) -> EngineAddress:
    """Where such an engine listens."""
    if store is ImageStoreKind.PODMAN:
        podman: Server = request.getfixturevalue("podman_service")
        return EngineAddress.parse(f"unix://{podman.address}")
    docker: Docker = request.getfixturevalue("docker" if store is ImageStoreKind.CLASSIC else "docker_containerd")
    return EngineAddress.parse(docker.host)


@dataclass
class Shop:
    """A project with one service, on one host, and the registry that its image comes from."""

    registry: Registry
    repository: str
    address: EngineAddress
    project: Path
    boxes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What its file names."""
        return f"{self.registry.host}/{self.repository}:latest"

    def docker(self, *arguments: str) -> Said:
        return run("docker", "-H", str(self.address), *arguments)

    def publish(self, words: str, tag: str = "latest") -> str:
        """Publish a new image, for two platforms; its digest."""
        return publish(self.registry.host, self.repository, tag, sleepers(f"{self.repository} {words}"))

    def lock(self) -> None:
        """Lock the tag, in another second than what came before and after: the times of a lock are whole seconds."""
        _wait_for_the_next_second()
        (self.project / "compose.yaml").write_text(f"services: {{web: {{image: '{self.name}'}}}}\n")
        done = program.call("lock", "--update", "--project", self.project)
        assert done.code == 0, done.err
        _wait_for_the_next_second()

    def start(self, image: str = "") -> None:
        """Start the service anew, from what its name means on the host."""
        self.stop()
        self.boxes.append(started(self.address, image or self.name))

    def stop(self) -> None:
        while self.boxes:
            ended(self.address, self.boxes.pop())

    def standing(self, *more: str, code: int = 1) -> str:
        """What `verify --running` says of the service's container."""
        where = ("--host", str(self.address), "--project", self.project)
        done = program.call("verify", "--running", "--json", *where, *more)
        (found,) = [each for each in done.json["results"] if each.get("id") == self.boxes[-1]]
        assert done.code == code, done.out + done.err
        assert found["reason"] or code == 0
        return str(found["status"])


def _wait_for_the_next_second() -> None:
    time.sleep(1.01 - time.time() % 1)  # the clock is what this waits for


@pytest.fixture
def shop(registry: Registry, repository: str, address: EngineAddress, tmp_path: Path) -> Iterator[Shop]:
    """One on each engine. What it started goes with it: other tests look at all that runs."""
    made = Shop(registry, repository, address, tmp_path)
    yield made
    made.stop()


def test_each_way_in_which_a_host_falls_behind_its_lock(shop: Shop) -> None:
    """As the same host meets them, one after the other; with and without its registry's word."""
    shop.publish("first")
    shop.docker("pull", shop.name).checked()
    shop.lock()
    shop.start()
    told = [shop.standing(code=0)]
    shop.publish("second")
    shop.lock()
    told += [shop.standing(), shop.standing("--offline")]
    shop.start()
    told += [shop.standing(), shop.standing("--offline")]
    shop.docker("pull", shop.name).checked()
    told += [shop.standing(), shop.standing("--offline")]
    shop.start()
    told += [shop.standing(code=0)]
    shop.publish("third")
    shop.docker("pull", shop.name).checked()
    shop.start()
    told += [shop.standing()]

    assert told == [
        "holds",
        *["moved-after-the-pull"] * 2,
        *["recreated-without-a-pull"] * 2,
        *["not-recreated"] * 2,
        "holds",
        "moved-after-the-lock",
    ]


def test_a_local_build_under_the_locked_name(shop: Shop) -> None:
    """Is not what is locked, and no registry has it: where the store names everything, its registry is asked."""
    shop.publish("first")
    shop.lock()
    run("docker", "-H", str(shop.address), "import", "-", shop.name, stdin=_busybox()).checked()
    shop.boxes.append(started(shop.address, shop.name, "/busybox", "sleep", "100000"))

    assert shop.standing() == "local-build"


def test_an_image_that_was_loaded_from_an_archive(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """No digest of a registry is left of it, and by its image ID it is what is locked."""
    shop = Shop(registry, repository, EngineAddress.parse(docker.host), tmp_path)
    shop.publish("first")
    shop.lock()
    shop.docker("pull", shop.name).checked()
    shop.docker("save", "--output", str(tmp_path / "app.tar"), shop.name).checked()
    shop.docker("image", "rm", shop.name).checked()
    shop.docker("load", "--input", str(tmp_path / "app.tar")).checked()
    shop.start()
    told = shop.standing(code=0)
    shop.stop()

    assert told == "holds"


def test_another_machines_image(shop: Shop) -> None:
    """Of the same tag."""
    shop.publish("first")
    shop.lock()
    shop.docker("pull", "--platform", "linux/arm64", shop.name).checked()
    shop.boxes.append(started(shop.address, shop.name, platform="linux/arm64"))

    assert shop.standing() == "other-platform"


def test_another_tag_of_what_is_locked(shop: Shop) -> None:
    """Unknown, whatever it is; what the lock does not name at all is only noted."""
    shop.publish("first")
    shop.lock()
    shop.publish("other", "1.0.0")
    other = shop.name.replace(":latest", ":1.0.0")
    shop.docker("pull", other).checked()
    shop.start(other)

    assert shop.standing() == "unknown"


def test_a_record_that_is_gone(docker_containerd: Docker, registry: Registry, repository: str, tmp_path: Path) -> None:
    """containerd's store forgets an image whose name moves on, though a container runs it: what it is, is still known."""
    shop = Shop(registry, repository, EngineAddress.parse(docker_containerd.host), tmp_path)
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


def test_the_fields_of_a_container(shop: Shop, store: ImageStoreKind) -> None:
    """By its own image: digests by kind, tags that mean and meant it, how far behind, by whom; the host's name is no guide.

    Podman forgets the digest that an image was pulled by with its last name; the image ID is left.
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
    assert found["image"]["index"] == ([digest] if store is not ImageStoreKind.PODMAN else [])
    assert len(found["image"]["config"]) == (0 if store is ImageStoreKind.CONTAINERD else 1)
    assert (found["resolves_to"], found["moved"], found["behind"]) == (newest, True, 2)
    assert [(tag["tag"], tag["until"] is None) for tag in found["tags"]] == [("1.4.2", True), ("latest", False)]
    assert found["tags_by"] == "ledger"
    assert "1.4.2; was `latest`" in " ".join(text.split())


def test_a_host_by_ssh(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second daemon behind an sshd: as if it were here, beside one that is; and one that lets nobody in is told."""
    shop = Shop(registry, repository, EngineAddress.parse(docker.host), tmp_path)
    shop.publish("first")
    shop.lock()
    with (
        servers.sshd(tmp_path_factory.mktemp("sshd")) as sshd,
        servers.dockerd(tmp_path_factory.mktemp("second")) as second,
    ):
        far = Shop(registry, repository, EngineAddress.parse(f"unix://{second.address}"), tmp_path)
        far.docker("pull", far.name).checked()
        far.start()
        path = {"PATH": f"{sshd.folder}/bin:{os.environ['PATH']}"}
        there = f"ssh://{getpass.getuser()}@{sshd.address}{second.address}"
        hosts = ("--host", there, "--host", docker.host)
        told = program.run("ps", *hosts, "--json", cwd=tmp_path, environment=path)
        held = program.run("verify", "--running", "--host", there, cwd=tmp_path, environment=path)
        stranger = f"ssh://nobody-here@{sshd.address}{second.address}"
        refused = program.run("verify", "--running", "--host", stranger, cwd=tmp_path, environment=path)
        far.stop()
    found = [each for each in told.json["results"] if each["host"] == there]

    assert (told.code, held.code, refused.code) == (0, 0, 3)
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
