"""`boltseal pull` on real engines: over ssh, on a full disk, without rights, with a scrub."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.cli.program import clean_environment
from tests.images import OCI_LAYER, OCI_MANIFEST, Blob, Document, config, tarball, to_json
from tests.real.registry import ACCEPT, Registry
from tests.real.sleeper import publish, sleeper
from tests.real.tools import Docker, run
from tests.servers import Server
from tests.small_disk import small_disk

pytestmark = pytest.mark.real


def heavy(size: int) -> Document:
    """Return an image with one layer of incompressible bytes."""
    noise = b"".join(hashlib.sha256(str(at).encode()).digest() for at in range(size // 32))
    layer = Blob(gzip.compress(tarball("noise", noise), 1, mtime=0), OCI_LAYER)
    made = config([layer])
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": made.descriptor(),
        "layers": [layer.descriptor()],
    }
    return Document(to_json(body), OCI_MANIFEST, (made, layer))


@pytest.mark.parametrize("containerd_store", [False, True], ids=["classic", "containerd"])
def test_a_full_disk_is_one_line_and_nothing_is_half_done(
    registry: Registry, repository: str, tmp_path: Path, containerd_store: bool
) -> None:
    """A full disk of the engine is one error line; the tag keeps its image, and no image is added."""
    name = f"{registry.host}/{repository}:latest"
    with (
        small_disk(tmp_path / "small", "size=16m") as disk,
        servers.dockerd(disk / "engine", containerd_store=containerd_store) as engine,
    ):
        host = f"unix://{engine.address}"
        publish(registry.host, repository, "latest", sleeper("old"))
        first = program.call("pull", name, "--host", host)
        before = images_of(host)
        publish(registry.host, repository, "latest", heavy(20 * 1024 * 1024))
        full = program.call("pull", name, "--host", host)
        after, kept = images_of(host), program.call("keep", "ls", "--host", host)

    assert (first.code, full.code, full.out) == (0, 3, "")
    assert "the engine's disk is full: " in full.err
    assert "no space left on device" in full.err
    assert len(full.err.splitlines()) == 1
    assert after == before
    assert kept.err == "nothing is kept on this engine\n"


def images_of(host: str) -> list[str]:
    return sorted(run("docker", "-H", host, "images", "--all", "--digests", "--no-trunc").checked().splitlines())


def test_a_pull_works_over_ssh(docker: Docker, registry: Registry, repository: str, sshd: Server) -> None:
    """Over ssh the image is pulled and kept on the remote host and recorded locally; a scrub is refused."""
    name, host = f"{registry.host}/{repository}:latest", f"ssh://{sshd.address}{docker.host.removeprefix('unix://')}"
    for words in ("old", "new"):
        publish(registry.host, repository, "latest", sleeper(f"{repository} {words}"))
        pulled = program.call("pull", name, "--host", host)
        assert pulled.code == 0, pulled.err
    back = program.call("keep", "restore", name, "--host", host)
    scrubbed = program.call("keep", "restore", name, "--scrub", "--host", host)
    found = docker.run("image", "inspect", name, "--format", "{{.Config.Labels.words}}").checked()

    assert back.code == 0, back.err
    assert found.strip() == f"{repository} old"
    assert scrubbed.code == 3
    assert "not scrubbed: the engine at ssh://" in scrubbed.err


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An sshd whose `ssh` program comes first in PATH."""
    with servers.sshd(tmp_path / "sshd") as server:
        monkeypatch.setenv("PATH", f"{server.folder}/bin", prepend=":")
        yield server


def test_a_pulled_image_is_scrubbed_on_request(registry: Registry, repository: str, tmp_path: Path) -> None:
    """With a scrub, an image that was modified on the disk is not restored."""
    name = f"{registry.host}/{repository}:latest"
    with servers.dockerd(tmp_path / "engine") as engine:
        host, called = f"unix://{engine.address}", []
        for words in ("old", "new"):
            publish(registry.host, repository, "latest", sleeper(words))
            called.append(program.call("pull", name, "--scrub", "--host", host))
        (changed,) = (tmp_path / "engine/data/overlay2").glob("*/diff/busybox")
        with changed.open("ab") as file:
            file.write(b"evil")
        before = images_of(host)
        back = program.call("keep", "restore", name, "--scrub", "--host", host)
        after = images_of(host)

    assert [each.code for each in called] == [0, 0], called
    assert (back.code, back.out) == (1, "")
    assert "differs on disk: " in back.err
    assert " busybox: expected " in back.err
    assert after == before


def test_a_socket_without_permission_is_one_line(docker: Docker, tmp_path: Path) -> None:
    """A user outside of the engine's group gets one error line."""
    script = (
        "import os, sys\n"
        "from tests.cli import program\n"
        f"arguments = ['pull', 'localhost:5000/shop/app:1', '--host', {docker.host!r}]\n"
        "program.call(*arguments[:-1], 'unix:///nowhere.sock')\n"  # imports during a pull happen now
        "program.call('keep', 'ls', *arguments[2:])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "done = program.call(*arguments)\n"
        "sys.stdout.write(f'{int(done.code)} {done.err}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=clean_environment({"BOLTSEAL_STATE": str(tmp_path / "state"), "XDG_CONFIG_HOME": "/nonexistent"}),
    )

    assert done.stdout.startswith("3 boltseal: no permission for the engine's socket ")
    assert "join its group (`docker`) or run as root\n" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_an_image_that_vanished_from_its_registry_is_copied(
    docker: Docker, docker_containerd: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An image that its registry no longer has is copied from the engine, exactly if the store has manifests."""
    name = f"{registry.host}/{repository}:latest"
    old = publish(registry.host, repository, "latest", sleeper(f"{repository} old"))
    for engine in (docker, docker_containerd):
        assert program.call("pull", name, "--host", engine.host).code == 0
    publish(registry.host, repository, "latest", sleeper(f"{repository} new"))
    httpx2.delete(f"{registry.server.url}/v2/{repository}/manifests/{old}", trust_env=False).raise_for_status()
    with servers.boltseal(tmp_path / "own/data") as own:
        where = f"{own.address}/kept"
        copies = [
            program.call("pull", name, "--copy-to", f"{where}/{engine.name}", "--host", engine.host, "--json")
            for engine in (docker, docker_containerd)
        ]
        copied = [done.json["results"][0]["kept"]["copy"] for done in copies]
        configs = [_config(own, *each.removeprefix(f"{own.address}/").split("@")) for each in copied]

    assert configs == [sleeper(f"{repository} old").config.digest] * 2
    assert copied[1].endswith(f"@{old}")


def _config(server: Server, name: str, digest: str) -> str:
    url = f"{server.url}/v2/{name.partition(':')[0]}/manifests/{digest}"
    found: str = (
        httpx2.get(url, headers={"accept": ACCEPT}, trust_env=False).raise_for_status().json()["config"]["digest"]
    )
    return found
