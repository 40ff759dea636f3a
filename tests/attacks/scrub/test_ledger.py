"""From a ledger's receipt to the files on a host (level L2), with a running registry and engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import servers
from tests.attacks.scrub.image import archive, base, top
from tests.cli import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]


@dataclass(frozen=True)
class Published:
    """A Docker daemon that pushed an image to boltseal, and boltseal's receipt for the tag."""

    root: Path
    name: str
    receipt: Path
    key: str
    socket: str

    def docker(self, *argv: str | Path) -> str:
        return run("docker", "-H", self.socket, *argv).checked().strip()

    def scrub(self, *more: str | Path) -> program.Run:
        return program.run("scrub", "--root", self.root, self.name, "--receipt", self.receipt, "--key", self.key, *more)


@pytest.fixture(params=["docker", "docker-containerd"])
def published(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """A published image with Docker's classic store, which has no manifests, and with containerd's."""
    tmp_path = tmp_path_factory.mktemp("l")  # a short path, because the engines' sockets are in it
    modern = request.param != "docker"
    driver = "overlayfs" if modern else "overlay2"
    with (
        servers.boltseal(tmp_path / "data") as registry,
        servers.dockerd(tmp_path / "engine", containerd_store=modern, driver=driver) as engine,
    ):
        name = f"{registry.address}/shop/app:1.4.2"
        archive(tmp_path / "image.tar", [base(), top()], name)
        host = Published(
            tmp_path / "engine/data", name, tmp_path / "app.tlog-proof", key_of(tmp_path / "data"),
            f"unix://{engine.address}",
        )  # fmt: skip
        host.docker("load", "-i", tmp_path / "image.tar")
        host.docker("push", name)
        written = program.run("ledger", "receipt", name, "-o", host.receipt)

        assert written.code == 0, written.err
        yield host


def key_of(data: Path) -> str:
    """Return the ledger's public key, as its operator hands it out."""
    shown = program.run("ledger", "key", "--data", data, "--json").json
    return str(shown["results"][0]["key"])


def test_a_receipt_proves_the_files_on_disk(published: Published) -> None:
    """A receipt links tag, entry, manifest, config, layers and files: level L2."""
    done = published.scrub()

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"holds L2: {published.name}")


def test_a_receipt_proves_without_any_network(published: Published) -> None:
    """In a network namespace without interfaces a receipt proves the files, with neither registry nor engine contacted."""
    argv = [
        "unshare",
        "--net",
        sys.executable,
        "-m",
        "boltseal",
        "scrub",
        "--root",
        str(published.root),
        published.name,
    ]
    done = subprocess.run(
        [*argv, "--receipt", str(published.receipt), "--key", published.key],
        capture_output=True, text=True, env=program.clean_environment(), check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("holds L2: ")


def test_a_tag_moved_on_this_host_differs(published: Published, tmp_path: Path) -> None:
    """A tag that was moved on this host differs from the ledger's digest, although its files are unmodified."""
    # containerd deletes the layers of an image that lost its name, even those that the load after it is building on.
    published.docker("tag", published.name, "keeps-the-layers:1")
    archive(tmp_path / "other.tar", [base(), top().replace(b"sleep", b"SLEEP")], published.name)
    published.docker("load", "-i", tmp_path / "other.tar")

    done = published.scrub()

    assert done.code == 1
    assert "\n  tag: expected " in done.out


def test_dockers_store_is_proven_by_the_registrys_manifest(published: Published) -> None:
    """Docker's classic store lacks manifests, so the registry is asked for one; offline the image could not be checked."""
    beside = published.receipt.with_name(f"{published.receipt.name}.oci")
    beside.rename(beside.with_name("elsewhere"))
    keeps_manifests = (published.root / "containerd/daemon/io.containerd.content.v1.content/blobs").exists()

    offline, fetched = published.scrub("--offline"), published.scrub()
    given = published.scrub("--offline", "--documents", beside.with_name("elsewhere"))

    assert offline.code == (0 if keeps_manifests else 3)
    assert [each.out.partition(":")[0] for each in (fetched, given)] == ["holds L2", "holds L2"]
