"""`boltseal pull --replace` on real engines: an image whose files were changed is loaded again beside the changed one."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from boltseal.engines.address import EngineAddress
from tests import servers
from tests.attacks.scrub.image import NAME, archive, base, top
from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.polling import wait_until
from tests.real.boxes import ended
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleepers
from tests.real.tools import run
from tests.servers import Server

pytestmark = pytest.mark.real
MOST_S = 30.0
"""How long an engine may take from the start of a container's process until it records the start."""


@dataclass(frozen=True, slots=True)
class Shop:
    """An engine with a running container `web` on an image of a registry. `data`: the folder of its store."""

    engine: Server
    data: Path
    name: str
    digest: str

    def docker(self, *argv: str) -> str:
        return run("docker", "-H", f"unix://{self.engine.address}", *argv).checked().strip()

    def boltseal(self, *argv: str) -> program.Run:
        """Run a command that talks to this engine."""
        return program.run(*argv, environment={"DOCKER_HOST": f"unix://{self.engine.address}"})

    def scrub(self, *argv: str) -> tuple[int, list[dict[str, Any]]]:
        done = program.run("scrub", "--root", self.data, *argv, "--json")
        return done.code, done.json["results"]

    def tamper(self) -> None:
        """Replace the program of each unpacked layer by one with another byte, and plant a file beside it."""
        found = [each for each in self.data.rglob("busybox") if each.parent.name in ("diff", "fs")]
        for each in found:
            changed = each.with_name("changed")
            shutil.copy2(each, changed)
            with changed.open("ab") as file:
                file.write(b"!")
            changed.replace(each)
            each.with_name("planted").write_bytes(b"planted")

        assert found


@contextmanager
def classic(folder: Path, registry: Registry) -> Iterator[tuple[Server, Path]]:
    with servers.dockerd(folder, driver="overlay2") as engine:
        yield engine, folder / "data"


@contextmanager
def containerd_store(folder: Path, registry: Registry) -> Iterator[tuple[Server, Path]]:
    with servers.dockerd(folder, containerd_store=True, driver="overlayfs") as engine:
        yield engine, folder / "data/containerd/daemon"


@contextmanager
def podman(folder: Path, registry: Registry) -> Iterator[tuple[Server, Path]]:
    with servers.podman(folder, plain_http=[registry.host], driver="overlay") as engine:
        yield engine, folder / "root"


@pytest.fixture(params=[classic, containerd_store, podman])
def shop(
    request: pytest.FixtureRequest, registry: Registry, repository: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Each engine with a store that `scrub` reads, a pulled image of two platforms, and a container on it."""
    name = f"{registry.host}/{repository}:1.4.2"
    digest = publish(registry.host, repository, "1.4.2", sleepers("shop"))
    with request.param(tmp_path_factory.mktemp("e"), registry) as (engine, data):
        made = Shop(engine, data, name, digest)
        pulled = made.boltseal("pull", name)

        assert pulled.code == 0, pulled.err

        made.docker("run", "--detach", "--name", "web", "--network", "none", name)
        yield made
        for id_ in made.docker("ps", "--all", "--quiet", "--no-trunc").split():
            ended(EngineAddress.parse(f"unix://{engine.address}"), id_)


def inside(shop: Shop, image: str) -> str:
    """Return what a new container of an image sees: whether the planted file is there, and its program's size."""
    script = "/busybox ls / && /busybox wc -c /busybox"
    return shop.docker("run", "--rm", "--network", "none", image, "/busybox", "sh", "-c", script)


def test_a_changed_image_is_replaced_by_the_steps_that_scrub_prints(shop: Shop) -> None:
    """The steps that `scrub` prints load an image again, and leave the changed one and its container as they are."""
    shop.tamper()
    again = shop.docker("pull", f"{shop.name.rpartition(':')[0]}@{shop.digest}")
    code, (image, *_) = shop.scrub(f"{shop.name}@{shop.digest}")
    remedy = image["remedy"]
    (use,) = remedy["containers"]
    (command,) = [each["command"] for each in remedy["steps"] if " pull --replace" in each["command"]]
    typed = [each for each in shlex.split(command)[1:] if each not in ("--host", "unix:///run/podman/podman.sock")]
    replaced = shop.boltseal(*typed)

    assert (code, image["status"], "Downloaded" in again) == (1, "differs", False)
    assert use["id"] == shop.docker("inspect", "--format", "{{.Id}}", "web")
    assert use["running"] == int(shop.docker("inspect", "--format", "{{.State.Pid}}", "web"))
    started = datetime.fromisoformat(shop.docker("inspect", "--format", "{{json .State.StartedAt}}", "web").strip('"'))
    assert abs((datetime.fromisoformat(use["since"]) - started).total_seconds()) < MOST_S
    assert (remedy["digest"], remedy["digest_by"]) == (shop.digest, "the digest in the arguments")
    assert (replaced.code, replaced.out.split()[0]) == (0, "replaced"), replaced
    assert "kept the changed image" in replaced.err
    assert "keep restore" not in replaced.err
    assert "by the digest in the arguments" in " ".join(each["text"] for each in remedy["steps"])
    code, (now, *_) = shop.scrub(f"{shop.name}@{shop.digest}")
    _, everything = shop.scrub()
    assert (now["status"], now["level"]) == ("holds", "L1")
    assert "pull --replace" in now["by"]
    (evidence,) = [each for each in everything if each["what"] == "image" and each["status"] == "differs"]
    assert any("boltseal-keep-" in name for name in evidence["names"])
    assert evidence["differences"] == image["differences"]
    assert shop.docker("inspect", "--format", "{{.State.Running}}", "web") == "true"
    assert "planted" in inside(shop, evidence["id"])
    assert "planted" not in inside(shop, shop.name)


def test_an_image_that_matches_is_not_replaced(shop: Shop) -> None:
    """An image whose files match is not loaded again: nothing changes."""
    done = shop.boltseal("pull", "--replace", shop.name)

    assert (done.code, done.out.split()[0]) == (0, "here"), done


def test_a_replaced_image_that_is_changed_again_is_replaced_again(shop: Shop) -> None:
    """A copy whose files were changed as well is replaced by another copy, and both stay as evidence."""
    shop.tamper()
    first = shop.boltseal("pull", "--replace", shop.name)
    shop.tamper()
    second = shop.boltseal("pull", "--replace", "--keep", "1", shop.name)
    code, results = shop.scrub()
    images = {each["id"]: each["status"] for each in results if each["what"] == "image"}

    assert (first.code, second.code, code) == (0, 0, 1), (first, second)
    assert sorted(images.values()) == ["differs", "differs", "holds"]
    assert "evidence" in shop.boltseal("keep", "ls").out
    refused = shop.boltseal("keep", "restore", shop.name)
    assert (refused.code, "kept as evidence" in refused.err) == (1, True), refused
    assert shop.boltseal("pull", shop.name).out.split()[0] == "here"


def test_another_administrator_does_not_get_the_changed_image(shop: Shop, tmp_path: Path) -> None:
    """A pull of the digest by an administrator with another state folder leaves the name on the copy, with every image store."""
    shop.tamper()
    replaced = shop.boltseal("pull", "--replace", shop.name)
    copy = shop.docker("image", "inspect", "--format", "{{.Id}}", shop.name)
    environment = {"DOCKER_HOST": f"unix://{shop.engine.address}", "BOLTSEAL_STATE": str(tmp_path / "another")}
    by_tag = program.run("pull", shop.name, environment=environment)
    by_digest = program.run("pull", f"{shop.name}@{shop.digest}", environment=environment)
    now = shop.docker("image", "inspect", "--format", "{{.Id}}", shop.name)
    (web,) = program.run("ps", "--offline", "--json", environment=environment).json["results"]
    _, everything = shop.scrub()
    refused = program.run("keep", "restore", shop.name, environment=environment)
    listed = program.run("keep", "ls", environment=environment)
    replaced_again = program.run("pull", "--replace", shop.name, environment=environment)
    ids = {each: shop.docker("image", "inspect", "--format", "{{.Id}}", each) for each in names_of(shop)}
    changed = next(id_ for each, id_ in ids.items() if "/changed:" in each)
    kept = next(
        each for each, id_ in ids.items() if id_ == changed and "/changed:" not in each and ":boltseal-keep-" in each
    )
    refused_by_keep_tag = shop.boltseal("pull", "--replace", f"{kept}@{shop.digest}")
    last = program.run("pull", shop.name, environment=environment)

    assert replaced.code == 0, replaced
    assert now == copy
    assert web["changed_on_disk"]
    (evidence,) = [each for each in everything if each["what"] == "image" and each["status"] == "differs"]
    assert evidence["notes"] == ["kept as evidence by `boltseal pull --replace`"]
    assert "pull --replace" not in str(evidence["remedy"]["steps"])
    assert "evidence" in listed.out
    assert (refused.code, "kept as evidence" in refused.err) == (1, True), refused
    assert by_tag.code == by_digest.code == (1 if "containerd" in str(shop.data) else 0), (by_tag, by_digest)
    assert by_tag.code == 0 or f"boltseal pull --replace {shop.name}@{shop.digest}" in by_tag.err
    assert (refused_by_keep_tag.code, "by its own tag" in refused_by_keep_tag.err) == (2, True), refused_by_keep_tag
    assert (replaced_again.code, last.code, last.out.split()[0]) == (0, 0, "here"), (replaced_again, last)


def test_a_kept_image_is_verified_before_it_replaces_one_that_was_changed(shop: Shop) -> None:
    """Beside an image whose files were changed, another kept one gets its name only if its own files are verified."""
    host, _, repository = shop.name.rpartition(":")[0].partition("/")
    name = f"{host}/{repository}:latest"
    for message in ("older", "newer"):
        publish(host, repository, "latest", sleepers(message))

        assert shop.boltseal("pull", name).code == 0

    shop.tamper()
    replaced = shop.boltseal("pull", "--replace", name)
    refused = shop.boltseal("keep", "restore", name)
    verified = shop.boltseal("keep", "restore", "--scrub", name)

    assert replaced.code == 0, replaced
    assert (refused.code, "--scrub" in refused.err) == (3, True), refused
    assert (verified.code, "differs on disk" in verified.err) == (1, True), verified


def test_the_names_of_loaded_archives_are_removed(shop: Shop) -> None:
    """After a replacement the engine has the image's name and the keep tag, and no name of the loaded archive."""
    shop.tamper()
    done = shop.boltseal("pull", "--replace", shop.name)
    names = shop.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()

    assert done.code == 0
    assert [each for each in names if "boltseal-copy-" in each] == []
    assert shop.name in names


def test_an_image_of_an_engine_behind_ssh_is_not_replaced(shop: Shop, tmp_path: Path) -> None:
    """The files of an engine on another host can't be verified from here, so nothing is replaced, and no name changes."""
    host, _, repository = shop.name.rpartition(":")[0].partition("/")
    publish(host, repository, "absent", sleepers("absent"))
    shop.tamper()
    before = names_of(shop)
    with servers.sshd(tmp_path / "sshd") as far:
        address = f"ssh://root@{far.address}{shop.engine.address}"
        path = {"PATH": f"{far.folder}/bin:{os.environ['PATH']}", "DOCKER_HOST": address}
        names = (shop.name, f"{shop.name.rpartition(':')[0]}:absent")
        done = [program.run("pull", "--replace", name, environment=path) for name in names]

    assert [each.code for each in done] == [3, 3], done
    assert all("is on another host" in each.err for each in done)
    assert names_of(shop) == before


@pytest.mark.parametrize("phase", ["the layers are written", "the copy is loaded"])
def test_a_replacement_that_is_killed_is_done_by_the_next(shop: Shop, tmp_path: Path, phase: str) -> None:
    """A replacement that is killed leaves the name on the changed image, and the next one replaces it and cleans up."""
    shop.tamper()
    before, scratch = shop.docker("inspect", "--format", "{{.Id}}", shop.name), tmp_path / "scratch"
    scratch.mkdir()
    environment = {"DOCKER_HOST": f"unix://{shop.engine.address}", "TMPDIR": str(scratch)}
    with BoltsealProcess(
        ["pull", "--replace", shop.name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=program.clean_environment(environment),
        start_new_session=True,
    ) as running:
        try:
            if phase == "the layers are written":
                wait_until(lambda: [*scratch.glob("boltseal-replace-*/*")], phase)
            else:
                wait_until(lambda: any("boltseal-copy-" in name for name in names_of(shop)), phase)
        finally:
            os.killpg(running.pid, signal.SIGKILL)
    killed = shop.docker("inspect", "--format", "{{.Id}}", shop.name)
    left = [*scratch.iterdir()]
    again = program.run("pull", "--replace", shop.name, environment=environment)

    assert running.returncode == -signal.SIGKILL
    assert killed == before
    assert left != []
    assert (again.code, again.out.split()[0]) == (0, "replaced"), again
    assert "planted" not in inside(shop, shop.name)
    assert [name for name in names_of(shop) if "boltseal-copy-" in name] == []
    assert [*scratch.iterdir()] == []
    assert shop.docker("inspect", "--format", "{{.State.Running}}", "web") == "true"


def names_of(shop: Shop) -> list[str]:
    return sorted(shop.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def test_containerd_alone_unpacks_anew_only_after_the_image_was_removed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The manual steps for containerd: an import over a changed image changes nothing, one after its removal does."""
    folder = tmp_path_factory.mktemp("c")
    archive(folder / "image.tar", [base(), top()])
    run(
        "skopeo", "--insecure-policy", "copy", f"docker-archive:{folder}/image.tar",
        f"oci-archive:{folder}/oci.tar:localhost/{NAME}",
    ).checked()  # fmt: skip
    codes = []
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address, "images")
        load = (*ctr, "import", "--snapshotter", "overlayfs", folder / "oci.tar")
        run(*load).checked()
        for each in (folder / "engine/root").rglob("fs/bin/tool"):
            each.chmod(0o4755)
        for before in ((), ("rm", "--sync", f"localhost/{NAME}")):
            if before:
                run(*ctr, *before).checked()
            run(*load).checked()
            codes.append(program.run("scrub", "--root", folder / "engine/root").code)

    assert codes == [1, 0]
